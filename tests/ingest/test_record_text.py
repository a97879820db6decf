"""What was recognised of a file survives being written down."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from medmllm.ingest import record_text
from medmllm.ingest.recognise import Kind, recognise
from medmllm.ingest.walk import FoundFile, walk
from tests.factories import a_volume, write_dicom_study, write_nifti


def found(root: Path, name: str) -> FoundFile:
    return next(file for file in walk(root) if isinstance(file, FoundFile) and file.name == name)


def test_a_dicom_header_comes_back_whole(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, patient="MEIER", note=None)
    item = recognise(found(tmp_path, "0002.dcm"))
    again = record_text.read(record_text.write(item), item.found, item.kind)
    assert len(item.dicom) == len(again.dicom) == 1
    for field in fields(item.dicom[0]):
        assert getattr(again.dicom[0], field.name) == getattr(item.dicom[0], field.name), field.name
    assert again.dicom[0].patient_id == "MEIER"


def test_a_nifti_header_comes_back_whole(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", a_volume())
    item = recognise(found(tmp_path, "a.nii.gz"))
    again = record_text.read(record_text.write(item), item.found, item.kind)
    assert item.nifti is not None
    assert again.nifti is not None
    assert np.array_equal(again.nifti.affine, item.nifti.affine)
    assert (again.nifti.shape, again.nifti.warnings, again.nifti.volumes) == (item.nifti.shape, item.nifti.warnings, 1)


@pytest.mark.parametrize("description", ["Größe 8½ 胸部", "half \ud800 a pair"])
def test_text_of_any_kind_comes_back(tmp_path: Path, description: str) -> None:
    write_dicom_study(tmp_path, note=None)
    item = recognise(found(tmp_path, "0002.dcm"))
    item = replace(item, dicom=(replace(item.dicom[0], description=description),))
    assert record_text.read(record_text.write(item), item.found, item.kind).dicom[0].description == description


@pytest.mark.parametrize(("name", "content"), [("a.nii", b"damaged"), ("a.pdf", b"%PDF"), ("a.dcm", b"")])
def test_refusals_and_problems_come_back(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    item = recognise(found(tmp_path, name))
    assert record_text.read(record_text.write(item), item.found, item.kind) == item
    assert item.refusal or item.problem


def test_the_records_of_the_hard_cases_come_back_whole(shared: Path) -> None:
    for file in walk(shared / "torture" / "open"):
        if isinstance(file, FoundFile):
            item = recognise(file)
            again = record_text.read(record_text.write(item), item.found, item.kind)
            assert record_text.write(again) == record_text.write(item)
            assert [header.position for header in again.dicom] == [header.position for header in item.dicom]


def test_kinds_are_written_by_their_names() -> None:
    assert {Kind(kind.value) for kind in Kind} == set(Kind)
