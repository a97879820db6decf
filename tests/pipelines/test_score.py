"""`medmllm score` end to end: every study is scored or refused with a reason, and no one is named."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medmllm.csv_tables import read_table
from medmllm.ingest.dicom_regrid import Regrid
from medmllm.ingest.keys import Keyring
from medmllm.models.classifier import StudyClassifier
from medmllm.records import SeriesReference, Volume
from medmllm.result_documents import ExplanationDocument, PredictionDocument, ScoringSummary
from medmllm.table_rows import LedgerRow, PredictionRow, ProblemRow
from medmllm.training import cohort
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import (
    EXPLAINED,
    SECRET,
    UNTRACKED,
    Outcome,
    Trained,
    cut_image,
    found_in_files,
    rename_studies,
    score,
    site_key,
    train,
)

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))
PLANTED = "Gobemouche"  # stands in one note of the scoring folder
BROKEN = "next-case-003-0"
KNOWN = "case-002-0"  # a study of the training cohort


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, nifti_run: Trained) -> Path:
    """Seven NIfTI studies: six new ones, of which one is broken and one has no note, and one from the training."""
    root = tmp_path_factory.mktemp("score")
    write_nifti_cohort(root, patients=4, seed=9, without_note=[2])
    rename_studies(root / "studies", "next-")
    cut_image(root / "studies" / BROKEN)
    with (root / "studies" / "next-case-003-1" / "note.txt").open("a") as note:
        note.write(f"Seen with {PLANTED}.\n")
    shutil.copytree(nifti_run.studies / KNOWN, root / "studies" / KNOWN)
    return root / "studies"


@pytest.fixture(scope="session")
def scored(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, nifti_run: Trained
) -> Iterator[tuple[Path, Outcome]]:
    """The folder, scored and explained once."""
    root = tmp_path_factory.mktemp("scored")
    with site_key(root):
        yield root / "out", score(folder, nifti_run.run / "model", root / "out", *EXPLAINED)


def predictions(out: Path) -> list[PredictionRow]:
    return read_table(out / "predictions.csv", PredictionRow)


def ledger(out: Path) -> list[LedgerRow]:
    return read_table(out / "ledger.csv", LedgerRow)


def originals(folder: Path) -> dict[str, str]:
    """Study key -> name of its folder."""
    return {KEYRING.study(study.name): study.name for study in folder.iterdir()}


# --- the tables -----------------------------------------------------------------------------


def test_each_study_is_scored_or_refused_and_none_is_both(scored: tuple[Path, Outcome], folder: Path) -> None:
    out, outcome = scored
    rows, (refused,) = predictions(out), ledger(out)
    names = originals(folder)
    assert sorted([*(names[row.study_key] for row in rows), names[refused.study_key]]) == sorted(names.values())
    assert names[refused.study_key] == BROKEN
    assert (refused.stage, refused.code, refused.retryable) == ("read", "nifti_unreadable", False)
    assert outcome.code == 3
    assert outcome.stdout.startswith("6 scored, 1 refused -> ")
    summary = ScoringSummary.read(out / "summary.json")
    assert (summary.scored, summary.refused, summary.explained) == (6, 1, 6)
    assert summary.refused_by_code == {"nifti_unreadable": 1}


def test_rows_are_in_the_order_of_the_original_names(scored: tuple[Path, Outcome], folder: Path) -> None:
    names = originals(folder)
    found = [names[row.study_key] for row in predictions(scored[0])]
    assert found == sorted(found)
    assert found[0] == KNOWN


def test_a_row_says_what_its_prediction_file_says(scored: tuple[Path, Outcome]) -> None:
    for row in predictions(scored[0]):
        document = PredictionDocument.read(scored[0] / "studies" / row.study_key / "prediction.json")
        assert row.probability == document.probability == document.probabilities["1"]
        assert sum(row.probabilities.values()) == pytest.approx(1)
        assert row.probability == pytest.approx(1 / (1 + np.exp(-document.logits[0])))
        assert row.predicted == document.predicted == str(int(row.probability >= document.operating_point))
        assert row.interval_low <= row.interval_high
        assert (row.interval_low, row.interval_high) == document.interval
        assert row.weights_digest == document.weights_digest
        assert document.conformal_set is not None
        assert {name for name, kept in row.conformal_set.items() if kept} == set(document.conformal_set)
        assert row.abstained == (len(document.conformal_set) != 1)


def test_what_a_study_lacks_is_not_claimed_to_be_used(scored: tuple[Path, Outcome], folder: Path) -> None:
    names = originals(folder)
    used = {names[row.study_key]: row.modalities_used for row in predictions(scored[0])}
    without_note = [name for name in names.values() if not (folder / name / "note.txt").exists()]
    assert {name for name, modalities in used.items() if modalities == "image"} == set(without_note)
    assert {modalities for name, modalities in used.items() if name not in without_note} == {"image+text"}


def test_neither_batch_size_nor_workers_change_a_number(
    scored: tuple[Path, Outcome], folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    def numbers(out: Path) -> list[list[float]]:
        return [[row.probability, row.interval_low, row.interval_high] for row in predictions(out)]

    for batch_size, workers in ((1, 1), (3, 4)):
        out = tmp_path / f"{batch_size}"
        score(folder, nifti_run.run / "model", out, "--batch-size", batch_size, "--workers", workers)
        assert [row.study_key for row in predictions(out)] == [row.study_key for row in predictions(scored[0])]
        np.testing.assert_allclose(
            numbers(out), numbers(scored[0]), rtol=1e-5, atol=1e-6
        )  # float32 sums in another order
        assert ledger(out) == ledger(scored[0])


def test_studies_of_the_training_cohort_are_flagged(scored: tuple[Path, Outcome], folder: Path) -> None:
    names = originals(folder)
    assert [names[row.study_key] for row in predictions(scored[0]) if row.training_patient] == [KNOWN]
    assert (scored[0] / "index.html").read_text().count("in the training cohort") == 1


def test_a_folder_of_good_studies_exits_0(folder: Path, nifti_run: Trained, tmp_path: Path) -> None:
    shutil.copytree(folder / "next-case-000-0", tmp_path / "studies" / "one")
    (tmp_path / "studies" / "remarks.xyz").write_text("no image")
    outcome = score(tmp_path / "studies", nifti_run.run / "model", tmp_path / "out")
    assert (outcome.code, len(predictions(tmp_path / "out")), ledger(tmp_path / "out")) == (0, 1, [])
    assert [row.severity for row in read_table(tmp_path / "out" / "problems.csv", ProblemRow)] == ["ignored"]


@pytest.mark.parametrize("arm", ["image", "text"])
def test_the_arms_of_one_modality_read_that_modality_alone(
    folder: Path, nifti_run: Trained, tmp_path: Path, arm: str
) -> None:
    outcome = score(folder, nifti_run.run / f"model_{arm}", tmp_path / "out")
    assert outcome.code == 3
    assert {row.modalities_used for row in predictions(tmp_path / "out")} == {arm}
    names = originals(folder)
    refused = {names[row.study_key]: row.code for row in ledger(tmp_path / "out")}
    if arm == "image":
        assert refused == {BROKEN: "nifti_unreadable"}
    else:  # the broken image is not looked at
        without_note = next(name for name in names.values() if not (folder / name / "note.txt").exists())
        assert refused == {without_note: "nothing_to_read"}


# --- explanations and pages -----------------------------------------------------------------


def test_an_explained_study_has_four_files_and_its_map_lies_on_the_series_own_grid(
    scored: tuple[Path, Outcome], folder: Path
) -> None:
    names = originals(folder)
    for row in predictions(scored[0]):
        home = scored[0] / "studies" / row.study_key
        assert {path.name for path in home.iterdir()} == {
            "prediction.json", "explanation.json", "attribution.nii.gz", "report.html",
        }  # fmt: skip
        source = nibabel.load(folder / names[row.study_key] / "image.nii.gz")
        found = nibabel.load(home / "attribution.nii.gz")
        assert found.shape == source.shape
        np.testing.assert_array_equal(found.affine, source.affine)
        explained = ExplanationDocument.read(home / "explanation.json")
        assert explained.completeness_error <= 0.01
        assert explained.logit == pytest.approx(PredictionDocument.read(home / "prediction.json").logits[0], abs=1e-4)
        total = explained.logit - explained.baseline_logit + explained.convergence_delta
        assert sum(explained.modality_sums.values()) == pytest.approx(total, abs=1e-5)
        words = [word.attribution for word in explained.words]
        assert sum(words) == pytest.approx(explained.modality_sums.get("text", 0.0), abs=1e-5)
        assert np.abs(np.asarray(found.dataobj)).max() > 0


def test_the_refused_study_has_no_folder(scored: tuple[Path, Outcome]) -> None:
    keys = {path.name for path in (scored[0] / "studies").iterdir()}
    assert keys == {row.study_key for row in predictions(scored[0])}


def test_every_link_leads_to_a_file_that_is_there_and_no_page_loads_from_elsewhere(
    scored: tuple[Path, Outcome],
) -> None:
    out, _ = scored
    pages = [out / "index.html", *out.glob("studies/*/report.html")]
    assert len(pages) == 7
    followed = 0
    for page in pages:
        text = page.read_text()
        for link in re.findall(r'(?:href|src)="([^"]*)"', text):
            if link.startswith("data:"):
                continue
            target, _, anchor = link.partition("#")
            assert not re.match(r"[a-z]+:|//", target), link
            if target:
                assert (page.parent / target).exists(), link
                followed += 1
            elif anchor:
                assert f'id="{anchor}"' in text, link
    assert followed >= 12
    index = (out / "index.html").read_text()
    for row in predictions(out):
        assert f'href="studies/{row.study_key}/report.html"' in index
    for refused in ledger(out):
        assert refused.study_key in index
        assert refused.code in index


# --- no one is named ------------------------------------------------------------------------


def test_nothing_that_names_anyone_is_written_or_said(scored: tuple[Path, Outcome], folder: Path) -> None:
    out, outcome = scored
    names = {"next-case", KNOWN, "image.nii", str(folder)}
    assert found_in_files(out, names) == []
    noted = {PLANTED, PLANTED.lower(), "Made up,", "signs"}
    assert found_in_files(out, noted, but=["report.html"]) == []
    planted = [page for page in out.rglob("report.html") if PLANTED in page.read_text()]
    assert len(planted) == 1
    words = re.compile("|".join(map(re.escape, names | noted)))
    assert not words.search(outcome.said)
    assert "Scoring studies" in outcome.stderr


# --- what goes wrong with one study ---------------------------------------------------------


def test_an_unforeseen_error_costs_its_study_alone_and_its_message_is_kept_back(
    scored: tuple[Path, Outcome], folder: Path, nifti_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = KEYRING.study("next-case-001-0")
    image = folder / "next-case-001-0" / "image.nii.gz"

    def read(reference: SeriesReference, *, regrid: Regrid) -> Volume:
        if image in reference.files:
            raise ZeroDivisionError("patient Huber")
        return READ_VOLUME(reference, regrid=regrid)

    monkeypatch.setattr(cohort, "read_volume", read)
    outcome = score(folder, nifti_run.run / "model", tmp_path / "out")
    refused = {row.study_key: row for row in ledger(tmp_path / "out")}
    assert refused.keys() == {victim, KEYRING.study(BROKEN)}
    assert (refused[victim].stage, refused[victim].code) == ("read", "unforeseen")
    assert "ZeroDivisionError" in refused[victim].reason
    others = [row for row in predictions(scored[0]) if row.study_key != victim]
    assert [row.study_key for row in predictions(tmp_path / "out")] == [row.study_key for row in others]
    assert outcome.code == 3
    assert victim in outcome.log
    assert "Huber" not in outcome.said
    assert found_in_files(tmp_path / "out", ["Huber"]) == []


READ_VOLUME = cohort.read_volume


def test_a_batch_that_fails_as_a_whole_costs_its_culprit_alone(
    scored: tuple[Path, Outcome], folder: Path, nifti_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    culprit = KEYRING.study("next-case-002-0")
    forward = StudyClassifier.forward

    def failing(self: StudyClassifier, batch: Any, *more: Any, **named: Any) -> Any:
        if culprit in batch.study_keys:
            raise RuntimeError("out of memory at Huber")
        return forward(self, batch, *more, **named)

    monkeypatch.setattr(StudyClassifier, "forward", failing)
    outcome = score(folder, nifti_run.run / "model", tmp_path / "out", "--batch-size", 16)
    refused = {row.study_key: (row.stage, row.code, row.retryable) for row in ledger(tmp_path / "out")}
    assert refused[culprit] == ("predict", "unforeseen", True)
    assert len(refused) == 2
    rows = {row.study_key: row.probability for row in predictions(tmp_path / "out")}
    expected = {row.study_key: row.probability for row in predictions(scored[0]) if row.study_key != culprit}
    assert rows == pytest.approx(expected, rel=1e-5)
    assert "Huber" not in outcome.said


def test_a_failing_explanation_leaves_the_score_and_is_told_in_the_report(
    folder: Path, nifti_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "next-case-000-0", tmp_path / "studies" / "one")

    def fail(*args: Any, **named: Any) -> None:
        raise ValueError("Huber")

    monkeypatch.setattr("medmllm.scoring.study_folder.explain_study", fail)
    outcome = score(tmp_path / "studies", nifti_run.run / "model", tmp_path / "out", *EXPLAINED)
    assert outcome.code == 0
    assert "Huber" not in outcome.said
    (row,) = predictions(tmp_path / "out")
    home = tmp_path / "out" / "studies" / row.study_key
    assert {path.name for path in home.iterdir()} == {"prediction.json", "report.html"}
    assert "ValueError" in (home / "report.html").read_text()
    assert ScoringSummary.read(tmp_path / "out" / "summary.json").explained == 0


# --- misuse and damage ----------------------------------------------------------------------


def test_results_are_written_over_only_when_asked_and_nothing_of_before_remains(
    folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    for name in ("next-case-000-0", "next-case-001-0"):
        shutil.copytree(folder / name, tmp_path / "studies" / name)
    model, out = nifti_run.run / "model", tmp_path / "out"
    assert score(tmp_path / "studies", model, out, *EXPLAINED).code == 0
    again = score(tmp_path / "studies", model, out)
    assert again.code == 2
    assert "already holds predictions.csv" in again.stderr
    shutil.rmtree(tmp_path / "studies" / "next-case-001-0")
    assert score(tmp_path / "studies", model, out, "--overwrite").code == 0
    (row,) = predictions(out)
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "predictions.csv", "ledger.csv", "quality.csv", "problems.csv", "summary.json", "index.html",
        f"studies/{row.study_key}/prediction.json",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["model", "studies", "device", "key"])
def test_misuse_exits_2_with_one_line_and_no_result(
    what: str, folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    model = tmp_path / "absent" if what == "model" else nifti_run.run / "model"
    studies = tmp_path / "absent" if what == "studies" else folder
    more = {"device": ("--device", "tpu"), "key": ("--set", "batchsize=3")}.get(what, ())
    outcome = score(studies, model, tmp_path / "out", *more)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert outcome.stderr.splitlines()[-1].startswith("medmllm: ")
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_changed_weights_are_refused_before_any_study_is_read(folder: Path, nifti_run: Trained, tmp_path: Path) -> None:
    shutil.copytree(nifti_run.run / "model", tmp_path / "model")
    weights = tmp_path / "model" / "fold_1.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    outcome = score(folder, tmp_path / "model", tmp_path / "out")
    assert outcome.code == 1
    assert "fold_1.safetensors of the model package was changed" in outcome.stderr
    assert not (tmp_path / "out" / "predictions.csv").exists()


def test_a_folder_without_any_study_fails_and_says_what_is_there_instead(nifti_run: Trained, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "remarks.xyz").write_text("no image")
    outcome = score(tmp_path / "studies", nifti_run.run / "model", tmp_path / "out")
    assert outcome.code == 1
    assert "holds no study" in outcome.stderr
    assert len(read_table(tmp_path / "out" / "problems.csv", ProblemRow)) == 1


def test_a_folder_with_a_note_alone_is_scored_without_a_table(folder: Path, nifti_run: Trained, tmp_path: Path) -> None:
    whole = next(study for study in sorted(folder.iterdir()) if (study / "image.nii.gz").exists())
    for name in ("with_image", "another", "note_alone"):
        shutil.copytree(whole, tmp_path / "studies" / name)
    (tmp_path / "studies" / "note_alone" / "image.nii.gz").unlink()
    outcome = score(tmp_path / "studies", nifti_run.run / "model", tmp_path / "out")
    assert outcome.code == 0, outcome.said
    used = {row.study_key: row.modalities_used for row in predictions(tmp_path / "out")}
    assert used[KEYRING.study("note_alone")] == "text"
    assert used[KEYRING.study("with_image")] == "image+text"


# --- more than two classes ------------------------------------------------------------------


def test_three_classes_work_from_the_table_to_the_explained_study(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=12, classes=3)
    studies = tmp_path / "data" / "studies"
    assert train(studies, labels, tmp_path / "run", *UNTRACKED).code == 0
    shutil.copytree(studies / "case-002-0", tmp_path / "new" / "one")
    outcome = score(tmp_path / "new", tmp_path / "run" / "model", tmp_path / "out", *EXPLAINED)
    assert outcome.code == 0
    (row,) = predictions(tmp_path / "out")
    assert list(row.probabilities) == ["0", "1", "2"]
    assert sum(row.probabilities.values()) == pytest.approx(1)
    assert row.predicted == max(row.probabilities, key=lambda name: row.probabilities[name])
    assert row.probability == row.probabilities[row.predicted]
    home = tmp_path / "out" / "studies" / row.study_key
    logits = np.array(PredictionDocument.read(home / "prediction.json").logits)
    np.testing.assert_allclose(list(row.probabilities.values()), np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)
    assert ExplanationDocument.read(home / "explanation.json").explained_class == row.predicted
