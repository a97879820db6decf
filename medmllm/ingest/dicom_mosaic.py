"""Cut a Siemens mosaic, one image that tiles all slices of a volume, into its slices.

    DicomHeader of a mosaic -> CSA header: how many tiles, along which direction -> one DicomHeader per tile

The tiles fill a square from its upper left, row by row, and follow each other along the CSA header's
SliceNormalVector by Spacing Between Slices. Image Position (Patient) is where the first voxel of the *whole* image
would lie, had it the centre of a slice: it is brought back to the first slice's own corner. Without the CSA header
(an anonymiser drops it) neither the number nor the direction is known, and the image stays one refused mosaic.
Arithmetic: nibabel, "DICOM mosaic" and "Siemens format DICOM"; private tags (0029,xx10) and (0019,xx0A).
"""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pydicom

from medmllm.errors import DicomError, GeometryError
from medmllm.geometry import slice_normal
from medmllm.ingest.dicom_header import DicomHeader
from medmllm.ingest.dicom_stream import DICOM_FAILURES, HEADER_INFLATES_TO, data_set_stream
from medmllm.ingest.opening import one_error, open_regular
from medmllm.records import FloatArray

with warnings.catch_warnings():  # it says that its DICOM readers are experimental; only its parser is used here
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

MOSAIC = "MOSAIC"  # the word of Image Type (0008,0008)
TILE = "TILE"  # what a slice that was cut out of a mosaic has in its place
MOST_TILES = 2**12
PARALLEL = 1e-3  # largest deviation of |SliceNormalVector . normal| from 1


@dataclass(frozen=True, slots=True)
class Tiling:
    """What the private header of a mosaic says of its tiles."""

    tiles: int  # that hold a slice; the last ones of the square may be empty
    direction: tuple[float, float, float]  # from each tile to the next; unit vector, LPS
    gap_mm: float  # Spacing Between Slices (0018,0088); Slice Thickness does not tell how far the next slice lies

    @property
    def across(self) -> int:
        """How many tiles lie beside each other, and below each other."""
        return math.isqrt(self.tiles - 1) + 1


def is_mosaic(header: DicomHeader) -> bool:
    """Return whether a file is a mosaic of one time point that has a place."""
    placed = header.position is not None and header.orientation is not None and header.pixel_spacing_mm is not None
    return MOSAIC in header.image_type and header.frames == 1 and placed


def tiles_of(header: DicomHeader) -> tuple[DicomHeader, ...]:
    """Return one header per slice of a mosaic; the header as it is when its tiles cannot be placed.

    Raises:
        DicomError: The private header is damaged.
    """
    tiling = read_tiling(header)
    if tiling is None:
        return (header,)
    assert header.orientation and header.position and header.pixel_spacing_mm  # for the type checker: see is_mosaic
    rows, rows_left = divmod(header.rows, tiling.across)
    columns, columns_left = divmod(header.columns, tiling.across)
    along = _along(header.orientation, tiling.direction)
    if rows_left or columns_left or along is None:
        return (header,)
    first = first_position(header, rows, columns)
    number = header.instance
    return tuple(
        replace(
            header,
            rows=rows,
            columns=columns,
            position=_as_position(first + tile * tiling.gap_mm * along),
            image_type=tuple(TILE if word == MOSAIC else word for word in header.image_type),
            instance=None if number is None else number * tiling.tiles + tile,
            frame=tile,
            tiles_across=tiling.across,
        )
        for tile in range(tiling.tiles)
    )


def first_position(header: DicomHeader, rows: int, columns: int) -> FloatArray:
    """Return where the first voxel of the first tile lies; shape (3,), mm, LPS.

    The scanner writes where the corner would be if the whole image were one slice about the same centre.

    Args:
        header: Of the mosaic.
        rows: Of one tile.
        columns: Of one tile.
    """
    assert header.orientation and header.position and header.pixel_spacing_mm
    directions = np.array(header.orientation)
    between_rows, between_columns = header.pixel_spacing_mm
    right = directions[:3] * between_columns * (header.columns - columns) / 2
    down = directions[3:] * between_rows * (header.rows - rows) / 2
    return np.array(header.position) + right + down


def read_tiling(header: DicomHeader) -> Tiling | None:
    """Return what the CSA header of a file says; None when it has none, or does not say.

    Raises:
        DicomError: It is damaged.
    """
    doing = "the Siemens CSA header of a mosaic cannot be parsed"
    with open_regular(header.file) as file, one_error(DicomError, doing, also=(*DICOM_FAILURES, csareader.CSAError)):
        stream, force, _ = data_set_stream(file, HEADER_INFLATES_TO)
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=force)
        csa = csareader.get_csa_header(data)
        if csa is None:
            return None
        tiles, direction = csareader.get_n_mosaic(csa), csareader.get_slice_normal(csa)
        gap_mm = float(data.get("SpacingBetweenSlices") or 0)
        if not tiles or direction is None or not 0 < tiles <= MOST_TILES or not 0 < gap_mm < math.inf:
            return None
        return Tiling(int(tiles), _as_position(direction), gap_mm)


def _along(orientation: tuple[float, ...], direction: tuple[float, float, float]) -> FloatArray | None:
    """Return the exact normal with the sign of the recorded one; None when the two are not parallel."""
    try:
        normal = slice_normal(np.array(orientation))
    except GeometryError:
        return None
    cosine = float(normal @ np.array(direction))
    return math.copysign(1.0, cosine) * normal if abs(abs(cosine) - 1) <= PARALLEL else None


def _as_position(vector: FloatArray) -> tuple[float, float, float]:
    x, y, z = (float(part) for part in vector)
    return x, y, z
