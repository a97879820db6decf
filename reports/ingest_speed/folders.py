"""Make the folders that are measured: a large CT series, its compressed copies, a mixed folder, one of hard links.

The pixels come from a real slice where a folder of them is given (or from the CT slice that pydicom brings along), put
at new positions with some noise, so that codecs have to work; every identifier is made up.
"""

import copy
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, RLELossless, generate_uid

from medmllm.ingest.synthetic_dicom import SeriesIdentity, write_ct_series
from medmllm.records import Volume

SIDE = 512
NOISE_HU = 12.0
CODECS: dict[str, tuple[str, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "JPEG lossless": ("1.2.840.10008.1.2.4.70", lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12),
                      imagecodecs.ljpeg_decode),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    "JPEG 2000": ("1.2.840.10008.1.2.4.90",
                  lambda values: imagecodecs.jpeg2k_encode(values, codecformat="j2k", reversible=True, level=0),
                  lambda data: imagecodecs.jpeg2k_decode(data, numthreads=1)),
    "RLE": (RLELossless, lambda values: b"",  # pydicom encodes
            lambda data: np.frombuffer(imagecodecs.dicomrle_decode(data, "<u2"), dtype="<u2")),
}  # fmt: skip


def real_slice(folder: Path | None) -> Any:
    """Return HU of one CT slice, 512 rows and columns; smaller ones are repeated."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder else []
    data = pydicom.dcmread(files[len(files) // 2] if files else get_testdata_file("CT_small.dcm"))
    values = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    tiles = [-(-SIDE // size) for size in values.shape]
    return np.clip(np.tile(values, tiles)[:SIDE, :SIDE], -1000, 2500)


def write_series(folder: Path, slices: int, source: Path | None) -> list[Path]:
    """Write a CT series of `slices` slices, 1 mm apart, uncompressed explicit little endian; return its files."""
    rng = np.random.default_rng(1)
    plane = real_slice(source).T
    voxels = np.empty((SIDE, SIDE, slices), dtype=np.float32)
    for number in range(slices):
        voxels[..., number] = np.rint(plane + rng.normal(0.0, NOISE_HU, plane.shape)).clip(-1024, 3071)
    affine = np.diag([-0.7, -0.7, 1.0, 1.0])
    write_ct_series(Volume(voxels, affine, "2.25.3", "CT"), folder, SeriesIdentity("SPEED", "2.25.1", "2.25.2"))
    return sorted(folder.iterdir())


def compress_series(files: Sequence[Path], folder: Path, codec: str, slices: int) -> list[Path]:
    """Write the first slices of a series compressed; return the new files."""
    folder.mkdir(parents=True)
    syntax, encode, _ = CODECS[codec]
    for path in files[:slices]:
        data = pydicom.dcmread(path)
        values = data.pixel_array.clip(0, 4095).astype(np.uint16)  # as stored: HU + 1024
        data.BitsStored, data.HighBit, data.PixelRepresentation, data.RescaleIntercept = 12, 11, 0, -1024
        if codec == "RLE":
            data.PixelData = values.tobytes()
            data.compress(RLELossless, generate_instance_uid=False)
        else:
            data.file_meta.TransferSyntaxUID = syntax
            data.PixelData = encapsulate([encode(values)])
            data["PixelData"].is_undefined_length = True
            data["PixelData"].VR = "OB"
        data.save_as(folder / path.name)
    return sorted(folder.iterdir())


def small_series(folder: Path, number: int, slices: int) -> None:
    """Write one series with the headers of a real CT or MR slice that pydicom brings along (100 to 250 elements)."""
    folder.mkdir(parents=True)
    data = pydicom.dcmread(get_testdata_file("MR_small.dcm" if number % 3 == 2 else "CT_small.dcm"))
    data.PatientID, data.StudyInstanceUID, data.SeriesInstanceUID = f"P{number}", f"2.25.10{number}", f"2.25.20{number}"
    place = [float(value) for value in data.ImagePositionPatient]
    for slice_number in range(slices):
        uid = f"2.25.40{number}00{slice_number}"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = uid
        data.InstanceNumber = slice_number + 1
        data.ImagePositionPatient = [place[0], place[1], round(place[2] + 2.5 * slice_number, 3)]
        data.save_as(folder / f"IM{slice_number:05d}")


def write_mixed(root: Path, files: int) -> dict[str, int]:
    """Write a folder of that many files: DICOM of several kinds, NIfTI, notes and junk; return how many of which."""
    counts = {
        "plain DICOM": files * 55 // 100,
        "implicit, JPEG-LS, report": files * 15 // 100,
        "NIfTI": files * 12 // 100,
        "notes": files * 8 // 100,
    }
    counts["junk"] = files - sum(counts.values())
    per_series = 60
    for number in range(-(-counts["plain DICOM"] // per_series)):
        left = counts["plain DICOM"] - number * per_series
        small_series(root / f"study{number}" / "images", number, min(per_series, left))
    _other_dicom(root, counts["implicit, JPEG-LS, report"])
    image = nibabel.Nifti1Image(np.random.default_rng(2).random((8, 7, 6)).astype(np.float32), np.eye(4))
    for number in range(counts["NIfTI"]):
        folder = root / f"nifti{number // 3}"
        folder.mkdir(exist_ok=True)
        nibabel.save(image, folder / f"image{number}.nii{'.gz' if number % 2 else ''}")
    for number in range(counts["notes"]):
        folder = root / f"nifti{number}"
        (folder if folder.is_dir() else root / "study0").joinpath(f"note{number}.txt").write_text("HISTORY: Made up.\n")
    rng = np.random.default_rng(3)
    for number in range(counts["junk"]):
        (root / f"junk{number}.{('bin', 'json', 'pdf')[number % 3]}").write_bytes(rng.bytes(200 + number % 700))
    return counts


def _other_dicom(root: Path, count: int) -> None:
    template = pydicom.dcmread(next((root / "study0" / "images").iterdir()))
    (root / "others").mkdir()
    values = template.pixel_array.astype(np.uint16)
    for number in range(count):
        data = copy.deepcopy(template)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        data.SeriesInstanceUID = f"2.25.9{number % 3}{number // 180}"
        data.ImagePositionPatient = [0, 0, number // 3]
        if number % 3 == 0:
            data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        elif number % 3 == 1:
            data.file_meta.TransferSyntaxUID = CODECS["JPEG-LS"][0]
            data.add_new("PixelData", "OB", encapsulate([imagecodecs.jpegls_encode(values)]))
            data["PixelData"].is_undefined_length = True
        else:
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
            del data.Rows, data.Columns, data.PixelData
        implicit = number % 3 == 0
        pydicom.dcmwrite(root / "others" / f"{number}", data, implicit_vr=implicit, little_endian=True,
                         enforce_file_format=True)  # fmt: skip


def write_links(root: Path, source: Path, files: int) -> None:
    """Fill a folder with that many hard links to the files of a smaller one, a subfolder per round."""
    originals = sorted(path for path in source.rglob("*") if path.is_file())
    for number in range(files):
        turn, which = divmod(number, len(originals))
        place = root / f"round{turn}" / originals[which].relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals[which], place)


def read_once(root: Path) -> int:
    """Read every file, so that its bytes are in the page cache; return how many bytes there are."""
    return sum(len(path.read_bytes()) for path in root.rglob("*") if path.is_file())


def remove(root: Path) -> None:
    """Remove a folder that was made here."""
    shutil.rmtree(root)


def said(value: object) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(value) + "\n"
