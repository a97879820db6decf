"""A datalist or a manifest says which file belongs to which study; what it says wrong is told by line."""

import json
from pathlib import Path

import pytest

from medmllm.errors import MisuseError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.listing import Listing, read_listing
from medmllm.ingest.study_folder import StudyIndex, index_folder, read_study_note, read_volume
from tests.factories import a_volume, write_dicom_study, write_nifti

KEYS = Keyring(b"the secret of these tests")


def datalist(folder: Path, content: object) -> Listing:
    (folder / "datalist.json").write_text(json.dumps(content))
    return read_listing(folder / "datalist.json")


def manifest(folder: Path, text: str, name: str = "manifest.csv") -> Listing:
    (folder / name).write_text(text)
    return read_listing(folder / name)


def index(path: Path) -> StudyIndex:
    return index_folder(path, keyring=KEYS)


# --- MONAI datalist ------------------------------------------------------------------------


def test_a_datalist_names_images_masks_facts_and_patients(tmp_path: Path) -> None:
    listing = datalist(
        tmp_path,
        {
            "name": "a task",
            "training": [{"image": ["./a/flair.nii.gz", "a/t1.nii.gz"], "label": 1, "patient_id": "P1", "fold": 0}],
            "validation": [{"image": "b/flair.nii.gz", "label": "b/seg.nii.gz", "grade": "III"}],
            "testing": ["c.nii.gz"],
        },
    )
    assert {name: (place.study, place.channel, place.mask) for name, place in listing.places.items()} == {
        "a/flair.nii.gz": ("a/flair", "image_0000", False),
        "a/t1.nii.gz": ("a/flair", "image_0001", False),
        "b/flair.nii.gz": ("b/flair", "image", False),
        "b/seg.nii.gz": ("b/flair", "label", True),
        "c.nii.gz": ("c", "image", False),
    }
    assert {name: (study.patient, study.facts) for name, study in listing.studies.items()} == {
        "a/flair": ("P1", {"split": "training", "label": "1", "fold": "0"}),
        "b/flair": (None, {"split": "validation", "grade": "III"}),
        "c": (None, {"split": "testing"}),
    }


def test_the_studies_of_a_datalist_are_indexed_and_their_volumes_read(tmp_path: Path) -> None:
    for number, name in enumerate(("flair", "t1", "seg")):
        write_nifti(tmp_path / "data" / f"{name}.nii.gz", a_volume(seed=number))
    (tmp_path / "data" / "report.txt").write_text("HISTORY: cough")
    (tmp_path / "data" / "unlisted.nii").write_text("x")
    datalist(tmp_path, [{"id": "case 1", "patient_id": "P1", "flair": "data/flair.nii.gz", "t1": "data/t1.nii.gz",
                         "seg": "data/seg.nii.gz", "report": "data/report.txt", "label": 1}])  # fmt: skip
    found = index(tmp_path / "datalist.json")
    (study,) = found.studies
    assert (study.layout, study.patient_key, study.study_key) == ("list", KEYS.patient("P1"), KEYS.study("case 1"))
    assert dict(study.facts) == {"label": "1"}
    assert [series.description for series in study.series] == ["flair flair", "t1 t1"]
    assert {series.modality for series in study.series} == {"MR"}
    assert float(read_volume(study.series[1]).voxels.sum()) == float(a_volume(seed=1).voxels.sum())
    note = read_study_note(study)
    assert note is not None
    assert note.text == "HISTORY: cough"
    assert [problem.code for problem in found.problems] == ["mask"]


@pytest.mark.parametrize("content", ["{", '"text"', "[]", '{"training": []}', '{"training": [{"label": 1}]}', "3"])
def test_json_that_names_no_image_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "datalist.json").write_text(content)
    with pytest.raises(MisuseError, match="list"):
        read_listing(tmp_path / "datalist.json")


# --- manifest ------------------------------------------------------------------------------


def test_a_wide_manifest_has_a_column_per_series(tmp_path: Path) -> None:
    rows = ("StudY_id;patient_id;flair;mask;outcome", "S1;P1;a/f.nii.gz;a/m.nii.gz;2", "S2;;b/f.nii;;1")
    listing = manifest(tmp_path, "\n".join(rows))
    assert {name: (place.study, place.channel, place.mask) for name, place in listing.places.items()} == {
        "a/f.nii.gz": ("S1", "flair", False),
        "a/m.nii.gz": ("S1", "mask", True),
        "b/f.nii": ("S2", "flair", False),
    }
    assert {name: (study.patient, study.facts) for name, study in listing.studies.items()} == {
        "S1": ("P1", {"outcome": "2"}),
        "S2": (None, {"outcome": "1"}),
    }
    assert listing.row("S2").line == 3


def test_a_long_manifest_has_a_row_per_series(tmp_path: Path) -> None:
    text = "study_id,path,channel,grade\nS1,a.nii,flair,3\nS1,b.nii,t1,3\n"
    listing = manifest(tmp_path, text)
    assert [(place.study, place.channel) for place in listing.places.values()] == [("S1", "flair"), ("S1", "t1")]
    assert listing.studies["S1"].facts == {"grade": "3"}


def test_a_manifest_may_name_folders_of_dicom_files(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "data" / "first", patient="MEIER", note="HISTORY: cough")
    write_dicom_study(tmp_path / "data" / "second", a_volume(seed=2), patient="HUBER", study=2, note=None)
    (tmp_path / "manifest.csv").write_text("study_id,path,outcome\n7,data/first,1\n8,data/second,0\n")
    found = index(tmp_path / "manifest.csv")
    assert [study.study_key for study in found.studies] == [KEYS.study("7"), KEYS.study("8")]
    assert [(len(study.series), len(study.notes), dict(study.facts)) for study in found.studies] == [
        (1, 1, {"outcome": "1"}),
        (1, 0, {"outcome": "0"}),
    ]
    assert read_volume(found.studies[0].series[0]).voxels.shape == (6, 5, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("study_id,outcome\nS1,2\n", "no column of the manifest holds paths"),
        ("name,flair\nS1,a.nii\n", "none of the columns study_id"),
        ("study_id,flair\nS1\n", "line 2 of the manifest has 1 cells"),
        ("study_id,flair\n,a.nii\n", "line 2 of the manifest names no study"),
        ("study_id,patient_id,flair\nS1,P1,a.nii\nS1,P2,b.nii\n", "lines 2 and 3 of the list give one study two"),
        ("study_id,flair\nS1,a.nii\nS2,a.nii\n", "lines 2 and 3 of the list give one file to two studies"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_told_by_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(MisuseError, match=said):
        manifest(tmp_path, text)


def test_a_file_that_is_no_list_is_a_misuse(tmp_path: Path) -> None:
    (tmp_path / "scan.dcm").write_text("x")
    with pytest.raises(MisuseError, match="give a folder, a MONAI datalist"):
        read_listing(tmp_path / "scan.dcm")


def test_a_line_that_names_no_file_makes_no_study_and_is_told(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", a_volume())
    (tmp_path / "c.txt").write_text("HISTORY: cough")
    text = "study_id,flair,report,mask,age\nS1,a.nii,,,40\nS2,,,,50\nS3,,c.txt,,60\nS4,,,m.nii,70\n"
    (tmp_path / "manifest.csv").write_text(text)
    write_nifti(tmp_path / "m.nii", a_volume())
    found = index(tmp_path / "manifest.csv")
    assert {study.study_key for study in found.studies} == {KEYS.study("S1"), KEYS.study("S3")}
    told = [(p.code, p.where_key, p.reason) for p in found.problems if p.code == "line_without_study"]
    assert told == [
        ("line_without_study", KEYS.study(name), f"line {line} of the list names no image, note or recording")
        for name, line in (("S2", 3), ("S4", 5))
    ]


def test_an_entry_of_a_datalist_without_an_image_or_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", a_volume())
    entries = [
        {"image": "a.nii"},
        {"outcome": 1},
        {"image": "../b.nii"},
        {"id": "S4", "outcome": 0},
        {"label": "m.nii"},
    ]
    datalist(tmp_path, {"training": entries, "roi": [96, 96]})
    found = index(tmp_path / "datalist.json")
    assert len(found.studies) == 1
    told = sorted(p.reason for p in found.problems if p.code == "line_without_study")
    assert told == [
        "line 2 of the list names neither a study nor an image, note or recording",
        "line 4 of the list names no image, note or recording",
        "line 5 of the list names neither a study nor an image, note or recording",
    ]
    assert [p.code for p in found.problems if p.severity == "refused"] == ["outside_root"]


def test_paths_out_of_the_folder_are_refused_by_line_and_cost_nothing_else(tmp_path: Path) -> None:
    write_nifti(tmp_path / "root" / "a.nii", a_volume())
    write_nifti(tmp_path / "outside.nii", a_volume())
    text = f"study_id,flair\nS1,a.nii\nS2,../outside.nii\nS3,{tmp_path}/outside.nii\nS4,{tmp_path}/root/a2.nii\n"
    (tmp_path / "root" / "manifest.csv").write_text(text)
    found = index(tmp_path / "root" / "manifest.csv")
    assert [study.study_key for study in found.studies] == [KEYS.study("S1")]
    assert [(problem.code, problem.severity) for problem in found.problems] == [
        ("listed_file_missing", "refused"),
        ("outside_root", "refused"),
        ("outside_root", "refused"),
    ]
    assert ["line 3" in found.problems[1].reason, "line 4" in found.problems[2].reason] == [True, True]
    assert all("outside.nii" not in problem.reason for problem in found.problems)
