"""A training of which nearly all studies are refused says so, and keeps no image of a patient."""

import shutil
from pathlib import Path

from medmllm.training.image_cache import RUN_FOLDER
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import UNTRACKED, train


def test_refused_studies_are_named_as_the_cause_and_no_prepared_image_stays(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=9)
    images = sorted((tmp_path / "data" / "studies").rglob("image.nii.gz"))
    for image in images[:-2]:
        shutil.copy(image, image.with_name("second.nii.gz"))
    ended = train(tmp_path / "data" / "studies", labels, tmp_path / "run", *UNTRACKED)
    assert ended.code == 2
    refused = f"{len(images) - 2} of {len(images)} labelled studies were refused, {len(images) - 2} of them as"
    assert f"{refused} ambiguous_series: training_ledger.csv" in ended.stderr
    assert "Of the 2 that are left: " in ended.stderr
    assert (tmp_path / "run" / "training_ledger.csv").is_file()
    assert not (tmp_path / "run" / RUN_FOLDER).exists()


def test_notes_of_which_nothing_is_read_are_refused_before_any_arm_is_trained(tmp_path: Path) -> None:
    labels = write_nifti_cohort(tmp_path, without_note=range(1, 16))  # one note, and so none in one training part
    wrong = train(tmp_path / "studies", labels, tmp_path / "wrong", "--set", 'text.sections=["findings"]', *UNTRACKED)
    assert wrong.code == 2
    assert "none of the 1 notes has any of these" in " ".join(wrong.stderr.split())
    few = train(tmp_path / "studies", labels, tmp_path / "few", *UNTRACKED)
    assert few.code == 2
    assert "1 of 16 studies have a note that is read, and the training part" in " ".join(few.stderr.split())
    assert "Training fold models" not in wrong.stderr + few.stderr
