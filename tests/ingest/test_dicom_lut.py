"""Modality LUTs: values by table, at its edges, and the tables that are refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian

from medmllm.errors import DicomError
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_pixels import read_slice
from tests.factories import edit_dicom
from tests.ingest.dicom_slices import write_slice

STORED = np.array([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]] + [[40000, 65535, 3, 4, 5, 6]] * 3, dtype=np.uint16)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One slice of 5 rows and 6 columns that holds STORED, slope 2 and intercept -1024."""
    return write_slice(tmp_path, STORED, BitsStored=16, HighBit=15, RescaleSlope=2, RescaleIntercept=-1024)


def with_table(file: Path, descriptor: list[int], entries: bytes | list[int], vr: str, **elements: object) -> Path:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    item.add_new("LUTData", vr, entries)
    edit_dicom(file.parent, only=[0], ModalityLUTSequence=Sequence([item]), **elements)
    return file


def test_values_come_from_the_table_and_not_from_the_rescale_beside_it(file: Path) -> None:
    with_table(file, [4, 3, 16], [100, 500, 0, 65535], "US")
    values = read_slice(read_header(file))
    assert values.dtype == np.float32
    # 3 -> 100, 4 -> 500, 5 -> 0, 6 -> 65535; what lies below gets the first entry, what lies above the last.
    assert values[0].tolist() == [100, 100, 100, 100, 500, 0]
    assert values[1].tolist() == [65535] * 6
    assert values[2].tolist() == [65535, 65535, 100, 500, 0, 65535]


@pytest.mark.parametrize("descriptor", [[3, -2, 16], [3, 65534, 16]], ids=["as SS", "as US"])
def test_the_first_value_is_signed_where_the_pixels_are(file: Path, descriptor: list[int]) -> None:
    stored = np.full((5, 6), -1, dtype="<i2")
    stored[0] = [-300, -2, -1, 0, 1, 300]
    with_table(file, descriptor, [7, 8, 9], "US", PixelData=stored.tobytes(), PixelRepresentation=1)
    assert read_slice(read_header(file))[0].tolist() == [7, 7, 8, 9, 9, 9]


def test_no_entries_mean_65536(file: Path) -> None:
    table = np.arange(2**16, dtype="<u2")[::-1]
    with_table(file, [0, 0, 16], table.tobytes(), "OW")
    assert read_slice(read_header(file)).tolist() == (65535 - STORED.astype(float)).tolist()


@pytest.mark.parametrize(
    ("entries", "vr"),
    [(bytes([10, 20, 30, 0]), "OW"), ([20 << 8 | 10, 30], "US"), ([10, 20, 30], "US")],
    ids=["packed bytes", "packed words", "a word each"],
)
def test_entries_of_8_bits_are_read_packed_or_not(file: Path, entries: bytes | list[int], vr: str) -> None:
    with_table(file, [3, 0, 8], entries, vr)
    assert read_slice(read_header(file))[0].tolist() == [10, 20, 30, 30, 30, 30]


def test_a_big_endian_table_is_read(file: Path) -> None:
    with_table(file, [3, 0, 16], [258, 3, 4], "US")
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    data.PixelData = STORED.astype(">u2").tobytes()
    assert list(data.iterall())  # decoded, so that they are encoded anew
    pydicom.dcmwrite(file, data, implicit_vr=False, little_endian=False, force_encoding=True)
    assert read_slice(read_header(file))[0].tolist() == [258, 3, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("descriptor", "entries", "said"),
    [
        ([4, 0, 16], [1, 2, 3], "4 entries and has 3"),
        ([9, 0, 8], [1, 2, 3], "9 entries and has 6"),
        ([3, 0, 32], [1, 2, 3], "32 bits"),
        ([3, 0], [1, 2, 3], "ValueError"),
    ],
)
def test_a_damaged_table_is_refused(file: Path, descriptor: list[int], entries: list[int], said: str) -> None:
    with_table(file, descriptor, entries, "US")
    with pytest.raises(DicomError, match=said) as refusal:
        read_slice(read_header(file))
    assert refusal.value.code == "bad_lookup_table"


def test_an_item_without_a_table_is_refused(file: Path) -> None:
    edit_dicom(file.parent, only=[0], ModalityLUTSequence=Sequence([Dataset()]))
    with pytest.raises(DicomError) as refusal:
        read_slice(read_header(file))
    assert refusal.value.code == "bad_lookup_table"
