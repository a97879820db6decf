"""Every file under the root is found once, in order; nothing outside it is."""

import os
from pathlib import Path

import pytest

from medmllm.errors import MisuseError
from medmllm.ingest import walk as walk_module
from medmllm.ingest.walk import FileProblem, FoundFile
from medmllm.ingest.walk import walk as walk_lazily


def walk(root: Path) -> tuple[list[FoundFile], list[FileProblem]]:
    """Return the files and the problems of a walk."""
    entries = list(walk_lazily(root))
    files = [entry for entry in entries if isinstance(entry, FoundFile)]
    return files, [entry for entry in entries if isinstance(entry, FileProblem)]


def test_files_are_found_in_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/2", "a/z/1", "a/10", "c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"xyz")
    files, problems = walk(tmp_path)
    assert [found.relative for found in files] == ["a/10", "a/z/1", "b/2", "c"]
    assert [found.folder for found in files] == ["a", "a/z", "b", ""]
    assert [found.name for found in files] == ["10", "1", "2", "c"]
    assert {found.size for found in files} == {3}
    assert problems == []


def test_links_and_pipes_are_problems_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("x")
    root = tmp_path / "root"
    root.mkdir()
    (root / "to_folder").symlink_to(outside)
    (root / "to_file").symlink_to(outside / "secret.txt")
    (root / "circle").symlink_to(root)
    (root / "broken").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe")
    files, problems = walk(root)
    assert files == []
    assert {problem.relative: problem.code for problem in problems} == {
        "broken": "symbolic_link",
        "circle": "symbolic_link",
        "pipe": "not_a_file",
        "to_file": "symbolic_link",
        "to_folder": "symbolic_link",
    }


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert [found.relative for found in walk(tmp_path / "link")[0]] == ["a"]


def test_a_closed_folder_is_a_problem_that_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a").write_text("x")
    listing = os.scandir

    def scandir(path: Path) -> object:  # root may list everything, so chmod would not do
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(walk_module.os, "scandir", scandir)
    files, problems = walk(tmp_path)
    assert [found.relative for found in files] == ["open/a"]
    assert [(p.code, p.severity, p.retryable) for p in problems] == [("unreadable_folder", "refused", True)]


def test_a_root_that_cannot_be_listed_is_a_misuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Path) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(walk_module.os, "scandir", scandir)
    with pytest.raises(MisuseError, match="cannot be listed: Permission denied"):
        walk(tmp_path)


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_root_that_is_no_folder_is_a_misuse(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MisuseError, match="not there, or is not a folder"):
        walk(tmp_path / name)


def test_a_file_that_vanishes_while_looked_at_is_a_problem(tmp_path: Path) -> None:
    class Gone:
        name = "gone"
        path = str(tmp_path / "gone")

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise FileNotFoundError(2, "No such file or directory")

    problem = walk_module.look(Gone(), "gone")  # type: ignore[arg-type]
    assert isinstance(problem, walk_module.FileProblem)
    assert (problem.code, problem.retryable) == ("unreadable", True)


def test_a_problem_does_not_show_its_path(tmp_path: Path) -> None:
    (tmp_path / "MEIER").symlink_to(tmp_path)
    _, problems = walk(tmp_path)
    assert "MEIER" not in repr(problems)


def test_nothing_is_listed_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1").write_text("x")
    listed: list[str] = []
    listing = os.scandir

    def scandir(path: Path) -> object:
        listed.append(Path(path).name)
        return listing(path)

    monkeypatch.setattr(walk_module.os, "scandir", scandir)
    first = next(walk_lazily(tmp_path))
    assert isinstance(first, FoundFile)
    assert first.relative == "a/1"
    assert "b" not in listed


def test_what_lies_beside_the_subjects_of_a_bids_tree_is_no_raw_image(tmp_path: Path) -> None:
    for name in ("tree/sub-1/anat/a", "tree/derivatives/x/sub-1/b", "tree/code/c", "other/derivatives/d"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("x")
    files, problems = walk(tmp_path)
    assert [found.relative for found in files] == ["other/derivatives/d", "tree/sub-1/anat/a"]
    assert [(problem.relative, problem.code) for problem in problems] == [
        ("tree/code/c", "bids_not_raw"),
        ("tree/derivatives/x/sub-1/b", "bids_not_raw"),
    ]


def test_a_list_is_walked_alone_and_never_out_of_the_folder(tmp_path: Path) -> None:
    for name in ("root/a.nii", "root/b/1.dcm", "root/b/c/2.dcm", "root/unlisted", "outside/secret.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    listed = ["a.nii", "b", "gone.nii", "link/secret.nii", "link"]
    entries = list(walk_module.walk_listed(tmp_path / "root", listed))
    files = [entry.relative for entry in entries if isinstance(entry, FoundFile)]
    assert files == ["a.nii", "b/1.dcm", "b/c/2.dcm"]
    assert {(entry.relative, entry.code) for entry in entries if isinstance(entry, FileProblem)} == {
        ("gone.nii", "listed_file_missing"),
        ("link", "symbolic_link"),
        ("link/secret.nii", "symbolic_link"),
    }
