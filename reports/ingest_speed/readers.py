"""Do one thing once, in this process alone, and say on one line how long it took and how much memory.

    python -m reports.ingest_speed.readers NAME FOLDER -> {"seconds": ..., "peak_bytes": ..., "sum": ...}

Imports come before the clock starts. `peak_bytes` is the most memory held while reading, less what was held before.
`sum` is the sum of all voxels, by which the readers are held against each other: a fast wrong answer does not count.
"""

import csv
import importlib
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from reports.ingest_speed.folders import CODECS, said

CORES = 2
TOUCHED_BYTES = 2 * 2**30  # more than any reader holds
TAGS = ("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope",
        "RescaleIntercept", "SeriesInstanceUID")  # fmt: skip


def files_of(folder: Path) -> list[Path]:
    """Return the files right in a folder, by name."""
    return sorted(folder.iterdir())


# --- one uncompressed series to float32 HU with an affine


def byte_limit(folder: Path) -> Any:
    """The least that can be done: read each file whole, view its last half MiB as pixels, scale into place."""
    files = files_of(folder)
    out = np.empty((len(files), 512, 512), dtype=np.float32)
    for number, path in enumerate(files):
        handle = os.open(path, os.O_RDONLY)
        data = os.read(handle, os.fstat(handle).st_size)
        os.close(handle)
        stored = np.frombuffer(data, dtype="<i2", offset=len(data) - 512 * 512 * 2).reshape(512, 512)
        np.add(stored, np.float32(-1024.0), out=out[number], dtype=np.float32)
    return out


def medmllm(folder: Path) -> Any:
    """Headers, order and pixels of one series."""
    from medmllm.ingest.dicom import read_series

    return read_series(files_of(folder)).voxels


def medmllm_index_and_read(folder: Path) -> Any:
    """The whole way: index the folder, then read the one series in it."""
    from medmllm.ingest.judged import load

    ((voxels, _),) = load(str(folder))
    return voxels


def pydicom(folder: Path) -> Any:
    """Headers first, slices sorted along the normal, then the pixels of each into one array."""
    import pydicom

    headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS)) for path in files_of(folder)]
    normal = np.cross(headers[0].ImageOrientationPatient[:3], headers[0].ImageOrientationPatient[3:])
    headers.sort(key=lambda data: float(np.dot(normal, data.ImagePositionPatient)))
    out = np.empty((len(headers), headers[0].Rows, headers[0].Columns), dtype=np.float32)
    for number, header in enumerate(headers):
        values = pydicom.dcmread(header.filename).pixel_array
        out[number] = values * np.float32(header.RescaleSlope) + np.float32(header.RescaleIntercept)
    return out


def dicomsdl(folder: Path) -> Any:
    """The same with dicomsdl."""
    import dicomsdl

    opened = [dicomsdl.open(str(path)) for path in files_of(folder)]
    opened.sort(key=lambda data: data.ImagePositionPatient[2])
    out = np.empty((len(opened), opened[0].Rows, opened[0].Columns), dtype=np.float32)
    for number, data in enumerate(opened):
        out[number] = data.pixelData()
    return out


def peer(name: str) -> Callable[[Path], Any]:
    """Return a reader of reports.peers."""

    def read(folder: Path) -> Any:
        from reports.peers.readers import TOOLS

        ((voxels, _),) = TOOLS[name][0]("series", folder)
        return np.asarray(voxels, dtype=np.float32)

    return read


# --- the same compressed: the decoder alone, on both cores


def decoder_alone(codec: str) -> Callable[[Path], Any]:
    """Decode all frames, which are in memory before the clock starts, and do nothing else."""

    def read(folder: Path) -> Any:
        from pydicom import dcmread
        from pydicom.encaps import generate_frames

        frames = [next(generate_frames(dcmread(path).PixelData, number_of_frames=1)) for path in files_of(folder)]
        decode = CODECS[codec][2]

        def all_frames() -> Any:
            with ThreadPoolExecutor(CORES) as pool:
                return list(pool.map(decode, frames))

        return all_frames

    return read


def decoder_and_scaling(codec: str) -> Callable[[Path], Any]:
    """Decode all frames, which are in memory before the clock starts, each scaled into its place of one volume."""

    def read(folder: Path) -> Any:
        from pydicom import dcmread
        from pydicom.encaps import generate_frames

        frames = [next(generate_frames(dcmread(path).PixelData, number_of_frames=1)) for path in files_of(folder)]
        decode = CODECS[codec][2]

        def all_frames() -> Any:
            out = np.empty((len(frames), 512, 512), dtype=np.float32)

            def one(number: int) -> None:
                stored = decode(frames[number]).reshape(512, 512)
                np.add(stored, np.float32(-1024.0), out=out[number], dtype=np.float32)

            with ThreadPoolExecutor(CORES) as pool:
                list(pool.map(one, range(len(frames))))
            return out

        return all_frames

    return read


# --- an index


def medmllm_index(folder: Path) -> Any:
    """Index a folder. The only place that knows how."""
    from medmllm.pipelines import index

    os.environ.setdefault("MEDMLLM_SITE_SECRET_FILE", str(folder.parent / "secret"))
    with tempfile.TemporaryDirectory() as out:
        return np.array([index.run(folder, out=Path(out)).series])


def pydicom_index(folder: Path) -> Any:
    """Read the headers of all files that are DICOM, and write their wanted values into a table, a row per file."""
    from medmllm.ingest.dicom_header import TAGS as WANTED

    found = 0
    with tempfile.TemporaryFile("w") as out:
        table = csv.writer(out)
        table.writerow(["file", *WANTED])
        for path, data in pydicom_headers_of(folder):
            table.writerow([path, *(data.get(keyword) for keyword in WANTED)] if data is not None else [path])
            found += data is not None
    return np.array([found])


def pydicom_headers(folder: Path) -> Any:
    """Parse the headers of all files that are DICOM, and look at no value: pydicom turns bytes into one when asked."""
    return np.array([sum(data is not None for _, data in pydicom_headers_of(folder))])


def pydicom_headers_of(folder: Path) -> Iterator[tuple[Path, Any]]:
    """Yield each file and its header, with a list of wanted tags; None for what is not DICOM."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    from medmllm.ingest.dicom_header import TAGS as WANTED

    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            yield path, pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(WANTED))
        except InvalidDicomError:
            yield path, None


def medmllm_headers(folder: Path) -> Any:
    """Read the header of each file that is DICOM, one after the other, values and all."""
    from medmllm.errors import MedmllmError
    from medmllm.ingest.dicom_header import read_header

    found = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            read_header(path)
        except MedmllmError as error:
            found += error.code == "not_an_image"  # a report, say: as much DICOM as an image
        else:
            found += 1
    return np.array([found])


READERS: dict[str, tuple[Callable[[Path], Any], Sequence[str]]] = {
    # what is called, and what is imported before the clock starts
    "byte limit": (byte_limit, ()),
    "medmllm": (medmllm, ("medmllm.ingest.dicom",)),
    "medmllm, index and read": (medmllm_index_and_read, ("medmllm.ingest.judged",)),
    "dicomsdl": (dicomsdl, ("dicomsdl",)),
    "pydicom, headers first": (pydicom, ("pydicom.pixels",)),
    "SimpleITK": (peer("SimpleITK"), ("reports.peers.readers", "SimpleITK")),
    "TorchIO": (peer("TorchIO"), ("reports.peers.readers", "torchio")),
    "dcm2niix": (peer("dcm2niix -p n"), ("reports.peers.readers", "dcm2niix", "nibabel")),
    "highdicom": (peer("highdicom"), ("reports.peers.readers", "highdicom")),
    "MONAI": (peer("MONAI"), ("reports.peers.readers", "monai.transforms")),
    "medmllm index": (medmllm_index, ("medmllm.pipelines.index",)),
    "pydicom index": (pydicom_index, ("pydicom", "medmllm.ingest.dicom_header")),
    "medmllm headers": (medmllm_headers, ("medmllm.ingest.dicom_header",)),
    "pydicom headers": (pydicom_headers, ("pydicom", "medmllm.ingest.dicom_header")),
    **{f"decoder alone, {codec}": (decoder_alone(codec), ("imagecodecs", "pydicom")) for codec in CODECS},
    **{f"decoder and scaling, {codec}": (decoder_and_scaling(codec), ("imagecodecs", "pydicom")) for codec in CODECS},
}


def memory_bytes(field: str) -> int:
    """Return VmRSS, the memory held now, or VmHWM, the most since the start or `reset_peak`."""
    (number,) = re.findall(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(number) * 1024


def main(name: str, folder: Path) -> None:
    """Measure one reading; what it says on stdout besides is thrown away."""
    out = os.fdopen(os.dup(1), "w")
    logging.disable()
    with tempfile.TemporaryFile() as elsewhere:
        for stream in (1, 2):
            os.dup2(elsewhere.fileno(), stream)
        read, modules = READERS[name]
        for module in modules:
            importlib.import_module(module)
        # A virtual machine may have to ask its host for memory that lay idle, which takes several times the reading.
        np.ones(TOUCHED_BYTES // 8)
        read_now = read(folder) if name.startswith("decoder ") else lambda: read(folder)
        held = memory_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
        began = time.perf_counter()
        result = read_now()
        seconds = time.perf_counter() - began
        peak = memory_bytes("VmHWM") - held
    total = sum(float(np.sum(part, dtype=np.float64)) for part in result)
    out.write(said({"seconds": seconds, "peak_bytes": peak, "sum": total}))
    out.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
