"""`medmllm score` end to end: every study is scored or refused with a reason, and no one is named."""

import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medmllm.csv_tables import read_table
from medmllm.result_documents import ExplanationDocument, PredictionDocument, ScoringSummary
from medmllm.table_rows import ProblemRow
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import (
    EXPLAINED,
    KEYRING,
    UNTRACKED,
    Outcome,
    Trained,
    found_in_files,
    score,
    train,
)
from tests.pipelines.scored import BROKEN, KNOWN, PLANTED, ledger, originals, predictions

# --- the tables -----------------------------------------------------------------------------


def test_each_study_is_scored_or_refused_and_none_is_both(
    nifti_scored: tuple[Path, Outcome], nifti_folder: Path
) -> None:
    out, outcome = nifti_scored
    rows, (refused,) = predictions(out), ledger(out)
    names = originals(nifti_folder)
    assert sorted([*(names[row.study_key] for row in rows), names[refused.study_key]]) == sorted(names.values())
    assert names[refused.study_key] == BROKEN
    assert (refused.stage, refused.code, refused.retryable) == ("read", "nifti_unreadable", False)
    assert outcome.code == 3
    assert outcome.stdout.startswith("6 scored, 1 refused -> ")
    summary = ScoringSummary.read(out / "summary.json")
    assert (summary.scored, summary.refused, summary.explained) == (6, 1, 6)
    assert summary.refused_by_code == {"nifti_unreadable": 1}


def test_rows_are_in_the_order_of_the_original_names(nifti_scored: tuple[Path, Outcome], nifti_folder: Path) -> None:
    names = originals(nifti_folder)
    found = [names[row.study_key] for row in predictions(nifti_scored[0])]
    assert found == sorted(found)
    assert found[0] == KNOWN


def test_a_row_says_what_its_prediction_file_says(nifti_scored: tuple[Path, Outcome]) -> None:
    for row in predictions(nifti_scored[0]):
        document = PredictionDocument.read(nifti_scored[0] / "studies" / row.study_key / "prediction.json")
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


def test_what_a_study_lacks_is_not_claimed_to_be_used(nifti_scored: tuple[Path, Outcome], nifti_folder: Path) -> None:
    names = originals(nifti_folder)
    used = {names[row.study_key]: row.modalities_used for row in predictions(nifti_scored[0])}
    without_note = [name for name in names.values() if not (nifti_folder / name / "note.txt").exists()]
    assert {name for name, modalities in used.items() if modalities == "image"} == set(without_note)
    assert {modalities for name, modalities in used.items() if name not in without_note} == {"image+text"}


def test_neither_batch_size_nor_workers_change_a_number(
    nifti_scored: tuple[Path, Outcome], nifti_folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    def numbers(out: Path) -> list[list[float]]:
        return [[row.probability, row.interval_low, row.interval_high] for row in predictions(out)]

    for batch_size, workers in ((1, 1), (3, 4)):
        out = tmp_path / f"{batch_size}"
        score(nifti_folder, nifti_run.run / "model", out, "--batch-size", batch_size, "--workers", workers)
        assert [row.study_key for row in predictions(out)] == [row.study_key for row in predictions(nifti_scored[0])]
        np.testing.assert_allclose(
            numbers(out), numbers(nifti_scored[0]), rtol=1e-5, atol=1e-6
        )  # float32 sums in another order
        assert ledger(out) == ledger(nifti_scored[0])


def test_studies_of_the_training_cohort_are_flagged(nifti_scored: tuple[Path, Outcome], nifti_folder: Path) -> None:
    names = originals(nifti_folder)
    assert [names[row.study_key] for row in predictions(nifti_scored[0]) if row.training_patient] == [KNOWN]
    assert (nifti_scored[0] / "index.html").read_text().count("in the training cohort") == 1


def test_a_folder_of_good_studies_exits_0(nifti_folder: Path, nifti_run: Trained, tmp_path: Path) -> None:
    shutil.copytree(nifti_folder / "next-case-000-0", tmp_path / "studies" / "one")
    (tmp_path / "studies" / "remarks.xyz").write_text("no image")
    outcome = score(tmp_path / "studies", nifti_run.run / "model", tmp_path / "out")
    assert (outcome.code, len(predictions(tmp_path / "out")), ledger(tmp_path / "out")) == (0, 1, [])
    assert [row.severity for row in read_table(tmp_path / "out" / "problems.csv", ProblemRow)] == ["ignored"]


@pytest.mark.parametrize("arm", ["image", "text"])
def test_the_arms_of_one_modality_read_that_modality_alone(
    nifti_folder: Path, nifti_run: Trained, tmp_path: Path, arm: str
) -> None:
    outcome = score(nifti_folder, nifti_run.run / f"model_{arm}", tmp_path / "out")
    assert outcome.code == 3
    assert {row.modalities_used for row in predictions(tmp_path / "out")} == {arm}
    names = originals(nifti_folder)
    refused = {names[row.study_key]: row.code for row in ledger(tmp_path / "out")}
    if arm == "image":
        assert refused == {BROKEN: "nifti_unreadable"}
    else:  # the broken image is not looked at
        without_note = next(name for name in names.values() if not (nifti_folder / name / "note.txt").exists())
        assert refused == {without_note: "nothing_to_read"}


# --- explanations and pages -----------------------------------------------------------------


def test_an_explained_study_has_four_files_and_its_map_lies_on_the_series_own_grid(
    nifti_scored: tuple[Path, Outcome], nifti_folder: Path
) -> None:
    names = originals(nifti_folder)
    for row in predictions(nifti_scored[0]):
        home = nifti_scored[0] / "studies" / row.study_key
        assert {path.name for path in home.iterdir()} == {
            "prediction.json", "explanation.json", "attribution.nii.gz", "report.html",
        }  # fmt: skip
        source = nibabel.load(nifti_folder / names[row.study_key] / "image.nii.gz")
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


def test_the_refused_study_has_no_folder(nifti_scored: tuple[Path, Outcome]) -> None:
    keys = {path.name for path in (nifti_scored[0] / "studies").iterdir()}
    assert keys == {row.study_key for row in predictions(nifti_scored[0])}


def test_every_link_leads_to_a_file_that_is_there_and_no_page_loads_from_elsewhere(
    nifti_scored: tuple[Path, Outcome],
) -> None:
    out, _ = nifti_scored
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


def test_nothing_that_names_anyone_is_written_or_said(nifti_scored: tuple[Path, Outcome], nifti_folder: Path) -> None:
    out, outcome = nifti_scored
    names = {"next-case", KNOWN, "image.nii", str(nifti_folder)}
    assert found_in_files(out, names) == []
    noted = {PLANTED, PLANTED.lower(), "Made up,", "signs"}
    assert found_in_files(out, noted, but=["report.html"]) == []
    planted = [page for page in out.rglob("report.html") if PLANTED in page.read_text()]
    assert len(planted) == 1
    words = re.compile("|".join(map(re.escape, names | noted)))
    assert not words.search(outcome.said)
    assert "Scoring studies" in outcome.stderr


def test_a_folder_with_a_note_alone_is_scored_without_a_table(
    nifti_folder: Path, nifti_run: Trained, tmp_path: Path
) -> None:
    whole = next(study for study in sorted(nifti_folder.iterdir()) if (study / "image.nii.gz").exists())
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
