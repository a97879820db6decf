"""Read the b-values that lie beside a 4D NIfTI file, one per volume, as FSL and BIDS keep them.

    dwi.nii.gz, dwi.bval -> "DiffusionBValue=1000" of each volume, as parts of a DICOM series are told apart

Numbers in one row (BIDS 1.10, diffusion imaging data; FSL's bvals); in a column they are taken as well. A file that
holds anything else, or not one number for each volume, tells nothing and is remarked.
"""

import math
import re
from pathlib import Path

from medmllm.errors import IngestError, NiftiError
from medmllm.ingest.dicom_apart import short_number
from medmllm.ingest.opening import one_error, open_regular

LARGEST_BYTES = 1 << 20
_ENDING = re.compile(r"\.(?:nii|hdr|img)(?:\.gz)?$", re.IGNORECASE)


def bvalues_beside(image: Path, volumes: int) -> tuple[list[str], str]:
    """Return what tells each volume of an image apart, and why nothing does although there is a file of b-values.

    Args:
        image: The NIfTI file.
        volumes: That it holds.

    Returns:
        As many texts as volumes, empty ones where nothing is told; and the reason, mostly empty.
    """
    nothing = [""] * volumes
    beside = image.with_name(_ENDING.sub("", image.name) + ".bval")
    if volumes < 2 or not beside.exists():
        return nothing, ""
    try:
        with open_regular(beside) as stream, one_error(NiftiError, "it cannot be read"):
            found = [float(word) for word in stream.read(LARGEST_BYTES).decode("ascii").split()]
    except IngestError:
        return nothing, "the .bval file beside it cannot be read as numbers, and was not used"
    if len(found) != volumes:
        return nothing, f"the .bval file beside it has {len(found)} b-values for {volumes} volumes, and was not used"
    if not all(math.isfinite(value) and value >= 0 for value in found):
        return nothing, "the .bval file beside it holds a number that is no b-value, and was not used"
    told = [short_number(str(value)) for value in found]
    return [f"DiffusionBValue={value}" if value else "" for value in told], ""
