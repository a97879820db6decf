"""The linkage table has its place before the long part: its folder is made, or the verb stops at once and says why."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.csv_tables import read_table
from medmllm.errors import MedmllmError
from medmllm.pipelines import index, score
from medmllm.pipelines.linkage_table import check_linkage
from medmllm.table_rows import LinkageRow
from tests.factories import write_nifti_study


def said(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.stderr.split())


@pytest.mark.parametrize("verb", ["index", "quality", "train", "score", "deidentify"])
def test_every_verb_refuses_a_place_that_cannot_be_before_it_looks_at_a_study(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies").mkdir()  # empty, which would be refused as soon as anybody looked
    (tmp_path / "taken").write_text("a file, not a folder")
    (tmp_path / "labels.csv").write_text("study_id,x\na,1\nb,0\n")
    (tmp_path / "model.json").write_text("{}")
    card = SimpleNamespace(card=SimpleNamespace(task=None))
    monkeypatch.setattr(score, "load_package", lambda *_, **__: card)  # of no use before the place is known
    monkeypatch.setattr(score, "check_target", lambda *_: None)
    own: dict[str, tuple[object, ...]] = {
        "train": ("--studies", tmp_path / "studies", "--labels", tmp_path / "labels.csv", "--target", "x"),
        "score": (tmp_path / "studies", "--model", tmp_path),
    }
    words = own.get(verb, (tmp_path / "studies",))
    code, text = said(verb, *words, "--out", tmp_path / "out", "--linkage", tmp_path / "taken" / "linkage.csv")
    assert code == 1
    for part in ("cannot write the linkage table", "folder cannot be made", "--linkage", "Choose another place"):
        assert part in text


def test_a_missing_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "in" / "KOCH", note=None)
    index.run(tmp_path / "in", out=tmp_path / "out", linkage=tmp_path / "new" / "guarded" / "linkage.csv")
    assert (tmp_path / "new" / "guarded").stat().st_mode & 0o777 == 0o700
    assert "KOCH" in {row.original for row in read_table(tmp_path / "new" / "guarded" / "linkage.csv", LinkageRow)}


def test_an_encrypted_table_of_deidentify_gets_its_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMLLM_LINKAGE_PASSPHRASE", "correct horse")
    write_nifti_study(tmp_path / "in" / "KOCH", note=None)
    table = tmp_path / "guarded" / "linkage.json"
    words = ("deidentify", tmp_path / "in", "--out", tmp_path / "shared", "--linkage", table, "--encrypt-linkage")
    assert said(*words)[0] == 0
    assert (tmp_path / "shared" / "ledger.csv").is_file()
    assert [file.name for file in table.parent.iterdir()] == ["linkage.json"]


def test_a_place_that_is_a_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "guarded").mkdir(mode=0o755)
    with pytest.raises(MedmllmError, match=r"Is a directory\. Choose another place for --linkage"):
        check_linkage(tmp_path / "guarded", tmp_path / "out")
    assert (tmp_path / "guarded").stat().st_mode & 0o777 == 0o755


def test_the_trial_leaves_nothing_behind_and_an_earlier_table_whole(tmp_path: Path) -> None:
    (tmp_path / "earlier.csv").write_text("who is who")
    for name in ("earlier.csv", "new.csv"):
        check_linkage(tmp_path / name, tmp_path / "out")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"earlier.csv": "who is who"}
