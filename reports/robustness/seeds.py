"""Small valid files to damage: made-up ones that carry planted identifiers, and real ones where a folder is given.

    [folders of real files] -> {"dicom": seeds, "nifti": seeds}, the same ones in the same order each time

A seed is one input: its files by name, mostly one; a NIfTI pair has two.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.factories import a_volume, write_dicom_study

NAME, NUMBER, FILE = "Zyxquorra^Vexlin", "MRN7731904Q", "zyxfilename"
PLANTED = ("zyxquorra", "vexlin", "mrn7731904q", "zyxfilename", "19070213")
MOST_SEED_BYTES = 600_000
MOST_PER_FOLDER = 3
ROWS, COLUMNS = 33, 40  # some encoders want more than a few rows


@dataclass(frozen=True, slots=True)
class Seed:
    """One valid input."""

    name: str
    files: tuple[tuple[str, bytes], ...]  # (file name, content); the header of a pair first


def make_seeds(folders: Sequence[Path] = ()) -> dict[str, list[Seed]]:
    """Return all seeds by kind: the made-up ones, then those found below the folders."""
    with tempfile.TemporaryDirectory() as scratch:
        made = {"dicom": list(_made_dicom(Path(scratch))), "nifti": list(_made_nifti(Path(scratch)))}
    for folder in folders:
        for kind, seed in _found(folder):
            made[kind].append(seed)
    return made


# --- DICOM


def _made_dicom(scratch: Path) -> Iterator[Seed]:
    write_dicom_study(scratch, a_volume((COLUMNS, ROWS, 2)), patient=NUMBER, note=None)
    path = scratch / "0001.dcm"
    for name, change in _CHANGES.items():
        data = pydicom.dcmread(path)
        data.PatientName, data.PatientID, data.PatientBirthDate = NAME, NUMBER, "19070213"
        data.StudyDescription = f"{NAME} {NUMBER}"
        kept = change(data)
        out = scratch / "out.dcm"
        if kept is None:
            data.save_as(out)
            kept = out.read_bytes()
        yield Seed(f"made {name}", ((f"{FILE}.dcm", kept),))


def _compress(syntax: str, encode: Callable[[Any], bytes], fragments: int = 1) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        values = (np.frombuffer(data.PixelData, "<i2").reshape(ROWS, COLUMNS) & 0xFFF).astype(np.uint16)
        data.file_meta.TransferSyntaxUID = UID(syntax)
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, 0
        data.PixelData = encapsulate([encode(values)], fragments_per_frame=fragments)
        data["PixelData"].is_undefined_length = True
        data["PixelData"].VR = "OB"

    return change


def _syntax(syntax: UID) -> Callable[[Dataset], bytes]:
    def change(data: Dataset) -> bytes:
        buffer = pydicom.filebase.DicomBytesIO()
        data.file_meta.TransferSyntaxUID = syntax
        data["PixelData"].VR = "OW"
        for _ in data.iterall():
            pass  # decoded, so that it is encoded anew
        pydicom.dcmwrite(buffer, data, force_encoding=True, implicit_vr=syntax.is_implicit_VR,
                         little_endian=syntax.is_little_endian)  # fmt: skip
        return buffer.getvalue()

    return change


def _rle(data: Dataset) -> None:
    data.compress(RLELossless, generate_instance_uid=False)


def _bare(data: Dataset) -> bytes:
    return (
        _syntax(ImplicitVRLittleEndian)(data)[132:].partition(b"\x08\x00\x05\x00")[2].join((b"\x08\x00\x05\x00", b""))
    )


def _private(data: Dataset) -> None:
    block = data.private_block(0x0009, "MADE UP", create=True)
    block.add_new(1, "OB", bytes(range(256)))
    block.add_new(2, "LO", NAME)
    item = Dataset()
    item.PatientID, item.ReferencedSOPInstanceUID = NUMBER, "1.2.3"
    outer = Dataset()
    outer.ReferencedImageSequence = DicomSequence([item, item])
    data.ReferencedStudySequence = DicomSequence([outer])


def _bits(allocated: int) -> Callable[[Dataset], None]:
    def change(data: Dataset) -> None:
        values = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS)
        data.BitsAllocated, data.BitsStored, data.HighBit = allocated, allocated, allocated - 1
        data.PixelRepresentation = 0
        data.PixelData = (values % 2**allocated).astype(f"<u{allocated // 8}").tobytes()
        data["PixelData"].VR = "OB" if allocated == 8 else "OW"

    return change


def _colour(data: Dataset) -> None:
    _bits(8)(data)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.PixelData = data.PixelData * 3


def _lut(data: Dataset) -> None:
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [256, 0, 16], "US"
    table.add_new("LUTData", "US", list(range(256)))
    data.ModalityLUTSequence = DicomSequence([table])


def _overlay(data: Dataset) -> None:
    data.add_new(0x60000010, "US", ROWS)
    data.add_new(0x60000011, "US", COLUMNS)
    data.add_new(0x60003000, "OW", bytes(ROWS * COLUMNS // 8 + 1))


def _film(data: Dataset) -> None:
    data.NumberOfFrames = 4
    data.PixelData = data.PixelData * 4


def _item(sequence: str, **values: Any) -> Dataset:
    outer, inner = Dataset(), Dataset()
    for keyword, value in values.items():
        setattr(inner, keyword, value)
    setattr(outer, sequence, DicomSequence([inner]))
    return outer


def _enhanced(data: Dataset) -> None:
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    data.Modality, data.NumberOfFrames, data.PixelData = "MR", 4, data.PixelData * 4
    del data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
    shared = _item("PixelMeasuresSequence", PixelSpacing=[3.0, 2.0], SliceThickness=9.0)
    shared.update(_item("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]))
    data.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames = []
    for number in range(4):
        groups = _item("PlanePositionSequence", ImagePositionPatient=[1, 2, 5 * (number // 2)])
        groups.update(_item("FrameContentSequence", TemporalPositionIndex=number % 2 + 1))
        groups.update(_item("PixelValueTransformationSequence", RescaleSlope=number + 1, RescaleIntercept=-1))
        frames.append(groups)
    data.PerFrameFunctionalGroupsSequence = DicomSequence(frames)


def _ljpeg(values: Any) -> bytes:
    return imagecodecs.ljpeg_encode(values, bitspersample=12)


def _j2k(values: Any) -> bytes:
    return imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True, level=0, resolutions=1)


_CHANGES: dict[str, Callable[[Dataset], bytes | None]] = {
    "plain": lambda data: None,
    "private and nested": _private,
    "implicit": _syntax(ImplicitVRLittleEndian),
    "big endian": _syntax(ExplicitVRBigEndian),
    "deflated": _syntax(DeflatedExplicitVRLittleEndian),
    "without preamble": _bare,
    "rle": _rle,
    "jpeg lossless": _compress("1.2.840.10008.1.2.4.70", _ljpeg),
    "jpeg-ls": _compress("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
    "jpeg 2000": _compress("1.2.840.10008.1.2.4.90", _j2k),
    "jpeg 2000 in fragments": _compress("1.2.840.10008.1.2.4.90", _j2k, fragments=3),
    "htj2k": _compress("1.2.840.10008.1.2.4.201", imagecodecs.htj2k_encode),
    "8 bits": _bits(8),
    "32 bits": _bits(32),
    "colour": _colour,
    "modality lut": _lut,
    "overlay": _overlay,
    "film": _film,
    "enhanced": _enhanced,
}


# --- NIfTI


def _made_nifti(scratch: Path) -> Iterator[Seed]:
    rng = np.random.default_rng(4)
    affine = a_volume((7, 6, 5), turn_deg=20.0).affine
    kinds = {
        "int16": (np.int16, (7, 6, 5), "a.nii"),
        "float32 gz": (np.float32, (7, 6, 5), "a.nii.gz"),
        "uint8 4D gz": (np.uint8, (5, 4, 3, 6), "a.nii.gz"),
        "float64 2D": (np.float64, (5, 4), "a.nii"),
        "pair": (np.int16, (7, 6, 5), "a.img"),
        "nifti-2": (np.int32, (7, 6, 5), "a.nii"),
        "nifti-2 gz": (np.float32, (7, 6, 5), "a.nii.gz"),
        "big endian": (np.dtype(">i2"), (7, 6, 5), "a.nii"),
        "colour": (np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]), (7, 6, 5), "a.nii"),
    }
    for number, (name, (kind, shape, file)) in enumerate(kinds.items()):
        folder = scratch / f"nifti{number}"
        folder.mkdir()
        stored = rng.integers(0, 200, (*shape, 3)).astype(np.uint8)
        voxels = stored.view(kind)[..., 0] if name == "colour" else stored[..., 0].astype(kind)
        image: Any = {
            "nifti-2": nibabel.Nifti2Image,
            "nifti-2 gz": nibabel.Nifti2Image,
            "pair": nibabel.Nifti1Pair,
        }.get(name, nibabel.Nifti1Image)(voxels, affine)
        if name == "big endian":
            image = nibabel.Nifti1Image(voxels, affine, nibabel.Nifti1Header(endianness=">"))
        image.header["descrip"] = f"{NAME} {NUMBER}".encode()
        if image.header.structarr.dtype.names and "db_name" in image.header.structarr.dtype.names:
            image.header["db_name"] = NUMBER.encode()
        image.header.set_slope_inter(*((0.5, -100) if kind is np.int16 else (1, 0)))
        nibabel.save(image, folder / file)
        files = sorted(folder.iterdir(), key=lambda path: path.suffix != ".hdr")
        yield Seed(f"made {name}", tuple((path.name.replace("a.", f"{FILE}."), path.read_bytes()) for path in files))


# --- real ones


def _found(folder: Path) -> Iterator[tuple[str, Seed]]:
    """Yield (kind, seed) for the first few small files of each folder, under a name that says nothing of theirs."""
    taken: dict[Path, int] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        if taken.get(path.parent, 0) >= MOST_PER_FOLDER or not 132 < path.stat().st_size <= MOST_SEED_BYTES:
            continue
        name = path.name.lower()
        content = path.read_bytes()
        if name.endswith((".nii", ".nii.gz")):
            kind, files = "nifti", ((f"{FILE}.nii{'.gz' if name.endswith('.gz') else ''}", content),)
        elif name.endswith(".hdr") and path.with_suffix(".img").exists():
            image = path.with_suffix(".img").read_bytes()
            kind, files = "nifti", ((f"{FILE}.hdr", content), (f"{FILE}.img", image))
        elif content[128:132] == b"DICM" or content[:4] in (b"\x08\0\x05\0", b"\x08\0\0\0", b"\x08\0\x08\0"):
            kind, files = "dicom", ((f"{FILE}.dcm", content),)
        else:
            continue
        taken[path.parent] = taken.get(path.parent, 0) + 1
        yield kind, Seed(str(path.relative_to(folder)), files)
