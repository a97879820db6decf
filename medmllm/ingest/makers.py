"""Name the maker of a scanner in one spelling, and nobody else.

Manufacturer (0008,0070) as typed -> a known maker, or OTHER

The attribute is free text: an archive or a converter may have put a hospital's name there, and results show the maker.
A firm that is not listed here goes by OTHER, however many studies are its own.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

OTHER = "OTHER"
UNTOLD = frozenset({"", "UNKNOWN", "NONE", "N/A", "NA", "ANONYMIZED", "ANONYMOUS", "REMOVED"})
MAKERS: Mapping[str, str] = {
    "GE": r"GE|G\.E\.|GEMS|GENERAL ELECTRIC",
    "FUJIFILM": r"FUJIFILM|FUJI",
    "UNITED IMAGING": r"UNITED IMAGING|UIH",
    **{
        name: re.escape(name)
        for name in (
            "SIEMENS", "PHILIPS", "CANON", "TOSHIBA", "HITACHI", "ACCURAY", "ACUSON", "ADAC", "AGFA", "ALOKA", "ANKE",
            "BRUKER", "CARESTREAM", "ELEKTA", "ELSCINT", "ESAOTE", "FONAR", "HOLOGIC", "HYPERFINE", "IMATRON", "KODAK",
            "KONICA", "LORAD", "MARCONI", "MEDISO", "MEDMLLM", "MINDRAY", "MINFOUND", "NEUROLOGICA", "NEUSOFT",
            "PARAMED", "PICKER", "PLANMECA", "SAMSUNG", "SHIMADZU", "SIRONA", "SONOSITE", "VAREX", "VARIAN", "VATECH",
        )
    },
}  # fmt: skip
"""Maker -> words by which it is known, in capitals. MEDMLLM is that of synthetic cohorts."""
_KNOWN = [(name, re.compile(rf"(?<![A-Z])(?:{words})(?![A-Z])")) for name, words in MAKERS.items()]


@lru_cache(1024)
def known_maker(text: str | None) -> str | None:
    """Return a maker by its name alone, OTHER for one that is not known, or None where nothing is told.

    >>> known_maker("Siemens Healthineers"), known_maker("TOSHIBA_MEC"), known_maker("St. Mary's PACS"), known_maker("")
    ('SIEMENS', 'TOSHIBA', 'OTHER', None)
    """
    plain = "" if text is None else " ".join(text.upper().split())
    if plain in UNTOLD:
        return None
    return next((name for name, words in _KNOWN if words.search(plain)), OTHER)
