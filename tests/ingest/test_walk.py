"""Every file under the root is found once, in order; nothing outside it is."""

import os
from pathlib import Path

import pytest

from medmllm.errors import MisuseError
from medmllm.ingest import walk as walk_module
from medmllm.ingest.walk import walk


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

    problem = walk_module._look(Gone(), "gone")  # type: ignore[arg-type]
    assert isinstance(problem, walk_module.FileProblem)
    assert (problem.code, problem.retryable) == ("unreadable", True)


def test_a_problem_does_not_show_its_path(tmp_path: Path) -> None:
    (tmp_path / "MEIER").symlink_to(tmp_path)
    _, problems = walk(tmp_path)
    assert "MEIER" not in repr(problems)
