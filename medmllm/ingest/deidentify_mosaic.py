"""Keep of a mosaic's private header the two numbers without which its tiles have no place.

    data set with a Siemens CSA header -> NumberOfImagesInMosaic, SliceNormalVector -> a new CSA header of these alone

The original one is dropped like all private attributes: it holds hundreds of values, texts among them.
Format: nibabel, "Siemens format DICOM", CSA2. Retain Safe Private Option: PS3.15 E.3.10.
"""

import math
import struct
import warnings
from collections.abc import Iterator, Sequence

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from medmllm.ingest.deidentify_identifiers import ELEMENT_FAILURES

with warnings.catch_warnings():  # it says that its DICOM readers are experimental; only its parser is used here
    warnings.simplefilter("ignore")
    from nibabel.nicom import csareader

CREATOR_PLACE, HEADER_PLACE, CREATOR = 0x00290010, 0x00291010, "SIEMENS CSA HEADER"
MOST_TILES = 2**12
_CHECK = 77  # what the format writes after each tag


def keep_tiling(data: Dataset) -> Iterator[DataElement]:
    """Yield a private creator and a CSA header that tells how a mosaic is tiled, and nothing else."""
    if "MOSAIC" not in (data.get("ImageType") or ()):
        return
    try:
        csa = csareader.get_csa_header(data)
        tiles = csareader.get_n_mosaic(csa) if csa else None
        direction = csareader.get_slice_normal(csa) if csa else None
    except (*ELEMENT_FAILURES, csareader.CSAError):
        return
    if not tiles or direction is None or not 0 < tiles <= MOST_TILES or not all(map(math.isfinite, direction)):
        return
    told = csa_header({
        "NumberOfImagesInMosaic": ("US", [str(int(tiles))]),
        "SliceNormalVector": ("FD", [f"{float(cosine):.8f}" for cosine in direction]),
    })  # fmt: skip
    yield DataElement(CREATOR_PLACE, "LO", CREATOR, validation_mode=config.IGNORE)
    yield DataElement(HEADER_PLACE, "OB", told, validation_mode=config.IGNORE)


def csa_header(tags: dict[str, tuple[str, Sequence[str]]]) -> bytes:
    """Return a CSA2 header of tags: name -> (VR, values as text)."""
    parts = [b"SV10\4\3\2\1", struct.pack("<II", len(tags), _CHECK)]
    for name, (vr, values) in tags.items():
        head = struct.pack("<64si4siii", name.encode(), len(values), vr.encode(), 0, len(values), _CHECK)
        parts.append(head)
        for value in values:
            text = value.encode() + b"\0"
            parts += [struct.pack("<4i", len(text), len(text), _CHECK, len(text)), text, bytes(-len(text) % 4)]
    whole = b"".join(parts)
    return whole + bytes(len(whole) % 2)
