"""Build one Volume from the files of one DICOM series.

    files -> headers -> slices in order -> stored values -> rescaled values (HU for CT) -> Volume

Only what the headers say: no windowing, and resampling only on request (see dicom_regrid). Else a series that is not
one regular grid is refused, and the index says which and why; a tilted gantry's stack keeps its shear in the affine:
voxels stay where they were measured.
Geometry: DICOM PS3.3 C.7.6.2.1.1. Rescale: PS3.3 C.11.1.
"""

import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medmllm.errors import DicomError
from medmllm.ingest.dicom_frames import frames_of
from medmllm.ingest.dicom_header import read_header
from medmllm.ingest.dicom_pixels import FileCache, read_slice
from medmllm.ingest.dicom_regrid import Regrid
from medmllm.ingest.dicom_stack import Stack, arrange
from medmllm.records import FloatArray, Volume

log = logging.getLogger(__name__)
LARGE_PAGE_BYTES = 2 * 2**20  # of x86-64 and most ARM systems
THREADS = min(4, os.cpu_count() or 1)  # codecs and disks let others run meanwhile


def read_series(files: Sequence[Path], frames: Sequence[int] = (), *, regrid: Regrid = "never") -> Volume:
    """Read the slices of one series, in any order, into one volume.

    Args:
        files: The files of the series; a multi-frame file once per frame.
        frames: Which frame of each file; empty for files of one slice each.
        regrid: Which stacks to bring onto an upright, regular grid; the log says which were.

    Returns:
        Voxels (column, row, slice) float32 after rescale, slices along the normal row x column; RAS+ mm.

    Raises:
        DicomError: A file is unreadable or not a slice of a volume.
        GeometryError: The slices are not one regular grid.
    """
    if not files:
        raise DicomError("the series has no files")
    found = {file: frames_of(read_header(file)) for file in dict.fromkeys(files)}
    numbers = frames or [0] * len(files)
    stack = arrange([found[file][number] for file, number in zip(files, numbers, strict=True)], regrid=regrid)
    for code, reason in stack.warnings if stack.evening or stack.upright else ():
        log.warning("%s: %s", code, reason)
    return read_stack(stack)


def read_stack(stack: Stack) -> Volume:
    """Read the voxels of slices that are already known to make a grid.

    Raises:
        DicomError: The pixels of a slice are damaged; says which slice, the first of them.
    """
    first, count = stack.slices[0], len(stack.slices)
    voxels = _fresh((count, first.rows, first.columns))
    cache = FileCache()

    def read(number: int) -> None:
        try:
            read_slice(stack.slices[number], out=voxels[number], cache=cache)
        except DicomError as error:
            error.add_note(f"(slice {number} of {count})")
            raise

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(read, range(count)):  # in order, so that the first damaged slice is the one named
            pass
    if stack.evening is not None:
        voxels = stack.evening.apply(voxels)
    if stack.upright is not None:
        voxels = stack.upright.apply(voxels, float(voxels.min()) if stack.padding is None else stack.padding[0])
    return Volume(
        voxels=voxels.transpose(2, 1, 0),  # (slice, row, column) -> (x, y, z); no copy
        affine=stack.affine,
        frame_of_reference_uid=stack.frame_of_reference_uid,
        modality=first.modality,
        padding=stack.padding,
    )


def _fresh(shape: tuple[int, ...]) -> FloatArray:
    """Return an array of float32 that begins on a boundary of large pages.

    Memory is given when it is first touched: 2 MiB at once where whole large pages lie in it, else 4 KiB, 512 times.
    """
    length = math.prod(shape) * np.dtype(np.float32).itemsize
    raw = np.empty(length + LARGE_PAGE_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % LARGE_PAGE_BYTES
    return raw[start : start + length].view(np.float32).reshape(shape)
