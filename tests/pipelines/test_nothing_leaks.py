"""What identifies a patient comes through no command: not into results, not into the index, not into any log.

One training study and one scored study are full of planted identifiers (tests/deidentify_made_up.py), in headers, in
the note, in file and folder names; some stand in all training notes. Every command runs over them with all
log levels on.
"""

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from medmllm.cli import app
from tests.deidentify_made_up import PLANTED, leaks, plant_identifiers, planted_note
from tests.factories import write_small_cohort
from tests.pipelines.runs import CT_SETTINGS, EXPLAINED, Outcome, invoke, score, site_key, train

NOT_IN_THESE_STUDIES = frozenset(
    key for key in PLANTED if "NIfTI" in key or key in ("sidecar", "recording", "label table")
)
GONE = frozenset(
    {"original study UID", "name in the gzip head"}
)  # these studies keep their own UIDs, and are not zipped
WORDS = {key: word for key, word in PLANTED.items() if key not in NOT_IN_THESE_STUDIES | GONE}


IN_EVERY_NOTE = (
    f"\nDictated by: Octavia {PLANTED['note: signature']}, MD, on 17.04.1953, phone {PLANTED['telephone']}.\n"
    f"{PLANTED['physician']} was informed, and so was {PLANTED['other patient name'].upper()}.\n"
)
"""What all training notes share; that the last two are people, only the planted study's headers tell."""


def plant(study: Path) -> None:
    """Fill one study of the cohort with identifiers, and name its files and folder after its patient."""
    for number, file in enumerate(
        sorted(path for path in study.rglob("*") if path.is_file() and path.suffix != ".txt")
    ):
        plant_identifiers(file, own_uids=True)
        file.rename(file.with_name(f"{PLANTED['file name']}{number}.dcm"))
    (note,) = study.rglob("note.txt")
    note.write_text(note.read_text() + planted_note())
    study.rename(study.with_name(f"{PLANTED['folder name']} {study.name}"))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cohort with one planted patient on either side."""
    folder = write_small_cohort(tmp_path_factory.mktemp("planted") / "cohort")
    for side in ("training", "scoring"):
        studies = folder / side / "studies"
        plant(next(place for place in sorted(studies.iterdir()) if _reads(place)))
    for note in (folder / "training").rglob("note.txt"):
        note.write_text(note.read_text() + IN_EVERY_NOTE)
    return folder


def _reads(place: Path) -> bool:
    """Say whether this folder holds one whole study with a note."""
    uids = {
        pydicom.dcmread(file).StudyInstanceUID for file in place.rglob("*") if file.is_file() and file.suffix != ".txt"
    }
    return len(uids) == 1 and len(list(place.rglob("note.txt"))) == 1


def said_and_left(outcome: Outcome, *folders: Path) -> list[str]:
    """Return what of the planted words was said or lies in a folder."""
    said = outcome.said.casefold()
    found = [key for key, word in PLANTED.items() if word.casefold() in said]
    return sorted({*found, *(key for folder in folders for key in leaks(folder))})


def test_the_planted_words_are_all_in_the_input(cohort: Path) -> None:
    for side in ("training", "scoring"):
        assert set(WORDS) <= set(leaks(cohort / side / "studies"))
    assert len(WORDS) >= 30


def test_index_select_and_quality_let_nothing_through(cohort: Path, tmp_path: Path) -> None:
    studies = cohort / "scoring" / "studies"
    damaged = tmp_path / "studies"
    shutil.copytree(studies, damaged)
    (next(damaged.glob(f"{PLANTED['folder name']}*")) / f"{PLANTED['file name']}-cut.dcm").write_bytes(
        next(damaged.rglob(f"{PLANTED['file name']}0.dcm")).read_bytes()[:900]
    )
    config = tmp_path / "settings.toml"
    config.write_text(CT_SETTINGS)
    for name, verb in (
        ("index", ["index", damaged]),
        ("select", ["select", damaged, "--config", config]),
        ("quality", ["quality", damaged]),
    ):
        outcome = invoke(*verb, "--out", tmp_path / name)
        assert outcome.code in (0, 3), outcome.said
        assert said_and_left(outcome, tmp_path / name) == []


def test_deidentify_lets_nothing_through(cohort: Path, tmp_path: Path) -> None:
    outcome = invoke("deidentify", cohort / "scoring" / "studies", "--out", tmp_path / "out")
    assert outcome.code in (0, 3), outcome.said
    assert said_and_left(outcome, tmp_path / "out") == []
    assert len(list((tmp_path / "out").rglob("*.dcm"))) > 20


def test_train_score_and_explain_let_nothing_through(cohort: Path, tmp_path: Path) -> None:
    with site_key(tmp_path):
        training = cohort / "training"
        roomy = ("--set", "text.tiny_vocabulary=2000")  # for all words that two patients' notes share
        outcome = train(training / "studies", training / "labels.csv", tmp_path / "run", *roomy, settings=CT_SETTINGS)
        assert outcome.code == 0, outcome.said
        assert said_and_left(outcome, tmp_path / "run") == []
        outcome = score(cohort / "scoring" / "studies", tmp_path / "run" / "model", tmp_path / "scored", *EXPLAINED)
    assert outcome.code in (0, 3), outcome.said
    assert said_and_left(outcome, tmp_path / "scored") == []
    pages = [page.read_text() for page in (tmp_path / "scored" / "studies").rglob("report.html")]
    masked = [page for page in pages if "XXXX" in page]
    assert len(masked) == 1  # the planted one
    assert "mass" in masked[0]  # what is the matter stays
    (vocabulary,) = (tmp_path / "run" / "model" / "tokenizer").glob("fold_0/tokenizer.json")
    assert "informed" in json.loads(vocabulary.read_text())["model"]["vocab"]


def test_an_error_that_nobody_foresaw_names_nobody(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("medmllm.ingest.naming.add_series", break_down)
    result = CliRunner().invoke(app, ["index", str(cohort / "scoring" / "studies"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, MemoryError)
    shown = result.output.casefold() + repr(result.exception).casefold()
    assert [key for key, word in PLANTED.items() if word.casefold() in shown] == []
    assert leaks(tmp_path / "out") == []
