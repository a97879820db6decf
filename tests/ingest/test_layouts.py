"""Where a file lies says which study it belongs to; nnU-Net folders are known by their dataset.json."""

import json
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import nnunet_channels
from medmllm.ingest.study_folder import StudyIndex, index_folder
from tests.factories import a_volume, write_nifti

Form = Literal["NFC", "NFD"]
KEYS = Keyring(b"the secret of these tests")


def an_nnunet_data_set(folder: Path, channels: dict[str, str]) -> None:
    for case in ("BRATS_001", "BRATS_002"):
        for channel in channels:
            write_nifti(folder / "imagesTr" / f"{case}_{int(channel):04d}.nii.gz", a_volume(seed=int(channel)))
        write_nifti(folder / "labelsTr" / f"{case}.nii.gz", a_volume())
    write_nifti(folder / "imagesTs" / "BRATS_003_0000.nii.gz", a_volume())
    (folder / "dataset.json").write_text(json.dumps({"channel_names": channels, "file_ending": ".nii.gz"}))


def originals(found: StudyIndex) -> list[str]:
    names = {row.key: row.original for row in found.linkage}
    return [names[study.study_key] for study in found.studies]


def test_an_nnunet_data_set_is_a_study_per_case_with_named_channels(tmp_path: Path) -> None:
    an_nnunet_data_set(tmp_path / "Dataset001", {"0": "FLAIR", "1": "T1"})
    found = index_folder(tmp_path, keyring=KEYS)
    assert originals(found) == ["Dataset001/BRATS_001", "Dataset001/BRATS_002", "Dataset001/BRATS_003"]
    assert {study.layout for study in found.studies} == {"nnunet"}
    assert [(series.description, series.modality) for series in found.studies[0].series] == [
        ("FLAIR BRATS_001_0000", "MR"),
        ("T1 BRATS_001_0001", "MR"),
    ]
    assert sorted(problem.code for problem in found.problems) == ["mask", "mask", "nnunet_names"]


def test_the_root_may_be_the_data_set_itself_and_ct_is_a_modality(tmp_path: Path) -> None:
    an_nnunet_data_set(tmp_path, {"0": "CT"})
    (tmp_path / "labels.csv").write_text("study_id,outcome\nBRATS_001,1\nBRATS_002,0\n")
    found = index_folder(tmp_path, keyring=KEYS)
    assert originals(found) == ["BRATS_001", "BRATS_002", "BRATS_003"]
    assert [dict(study.facts) for study in found.studies] == [{"outcome": "1"}, {"outcome": "0"}, {}]
    assert {series.modality for study in found.studies for series in study.series} == {"CT"}


def test_an_image_named_otherwise_is_refused_and_a_folder_without_dataset_json_is_a_study(tmp_path: Path) -> None:
    an_nnunet_data_set(tmp_path / "set", {"0": "CT"})
    write_nifti(tmp_path / "set" / "imagesTr" / "liver.nii.gz", a_volume())
    write_nifti(tmp_path / "plain" / "imagesTr" / "liver_0000.nii.gz", a_volume())
    found = index_folder(tmp_path, keyring=KEYS)
    assert "plain/imagesTr" in originals(found)
    assert [problem.code for problem in found.problems if problem.severity == "refused"] == ["nnunet_name"]


def test_channel_names_of_both_versions_are_read_and_damage_gives_none(tmp_path: Path) -> None:
    said = tmp_path / "dataset.json"
    for text, names in (
        ('{"channel_names": {"0": "CT"}}', {0: "CT"}),
        ('{"modality": {"0": "T1", "1": "T2"}}', {0: "T1", 1: "T2"}),
        ('{"channel_names": ["CT"]}', {}),
        ("{", {}),
    ):
        said.write_text(text)
        assert nnunet_channels(tmp_path) == names
    said.unlink()
    assert nnunet_channels(tmp_path) == {}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_bids_subject_may_be_of_letters_of_any_script(tmp_path: Path, form: Form) -> None:
    subject = unicodedata.normalize(form, "sub-Müller")
    for folder, suffix in (("anat", "T1w"), ("dwi", "dwi")):
        write_nifti(tmp_path / subject / "ses-1" / folder / f"{subject}_ses-1_{suffix}.nii.gz", a_volume())
    (study,) = index_folder(tmp_path, keyring=KEYS).studies
    assert (study.layout, len(study.series)) == ("bids", 2)


def test_folders_of_bids_with_files_of_other_names_are_remarked(tmp_path: Path) -> None:
    for folder in ("anat", "dwi"):
        write_nifti(tmp_path / "sub-0.1" / folder / f"sub-0.1_{folder}.nii.gz", a_volume())
    write_nifti(tmp_path / "plain" / "anat" / "t1.nii.gz", a_volume())
    found = index_folder(tmp_path, keyring=KEYS)
    assert {study.layout for study in found.studies} == {"folder"}
    assert [problem.severity for problem in found.problems if problem.code == "bids_name"] == ["warning"] * 2


@pytest.mark.parametrize("name", ["label-lesion_mask", "space-T1w_dseg", "probseg", "label-a_roi", "T1w", "mask_T1w"])
def test_masks_of_a_bids_tree_are_no_images(tmp_path: Path, name: str) -> None:
    write_nifti(tmp_path / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz", a_volume())
    write_nifti(tmp_path / "sub-01" / "anat" / f"sub-01_{name}.nii.gz", a_volume())
    found = index_folder(tmp_path, keyring=KEYS)
    (study,) = found.studies
    is_mask = not name.endswith("T1w")
    assert len(study.series) == (1 if is_mask else 2)
    assert [problem.code for problem in found.problems] == (["mask"] if is_mask else [])
