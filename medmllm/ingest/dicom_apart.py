"""Say by numbers what tells the parts of one DICOM series from each other, for rules that choose one.

    headers of every part -> "DiffusionBValue=1000, EchoTime=90" for each

Only numbers of the acquisition and words of the standard are told, since results show them; a part whose slices do not
all say the same of an attribute is told nothing of it.
"""

from collections.abc import Sequence

from medmllm.ingest.dicom_header import DicomHeader

NUMBERS = (
    "DiffusionBValue", "EchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "RepetitionTime",
    "TemporalPositionIdentifier", "TriggerTime", "NominalPercentageOfCardiacPhase", "FrameReferenceTime", "KVP",
    "SliceThickness", "ReconstructionDiameter", "AcquisitionNumber", "SeriesNumber",
)  # fmt: skip
LARGEST = 1e6  # a longer number may be a date or a person's
WORDS = frozenset({
    "ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY", "M", "MAGNITUDE", "P", "PHASE", "R", "REAL", "I", "IMAGINARY",
    "MIXED", "ADC", "FA", "TRACEW", "DIFFUSION", "WATER", "FAT", "IN_PHASE", "OUT_PHASE", "OPP_PHASE", "VELOCITY",
    "LABEL", "CONTROL", "M_ZERO_SCAN", "MPR", "MIN IP", "MAX IP", "AVERAGE",
})  # fmt: skip
"""Of Image Type, Complex Image Component and ASL Context; any other word might be somebody's own."""
_OF_WORDS = ("ImageType", "ComplexImageComponent", "ASLContext")


def told_apart(parts: Sequence[Sequence[DicomHeader]]) -> list[str]:
    """Return, for each part of a series, the values in which it differs from others; empty where headers tell none."""
    said = [_said(headers) for headers in parts]
    told: list[list[str]] = [[] for _ in parts]
    for keyword in (*NUMBERS, *_OF_WORDS):
        values = [each.get(keyword, "") for each in said]
        if len(set(values)) < 2:
            continue
        shown = [_words(value, values) if keyword in _OF_WORDS else short_number(value) for value in values]
        if len(set(shown)) < 2:
            continue  # one number spelt in two ways: 90 and 90.0
        for lines, value in zip(told, shown, strict=True):
            lines += [f"{keyword}={value}"] if value else []
    return [", ".join(lines) for lines in told]


def _said(headers: Sequence[DicomHeader]) -> dict[str, str]:
    """Return what all these images say alike."""
    alike = set(headers[0].acquisition)
    for header in headers[1:]:
        alike.intersection_update(header.acquisition)
    return dict(alike)


def short_number(text: str) -> str:
    """Return a number as short as it can be written; nothing for what is none, or too long to be shown.

    >>> [short_number(text) for text in ("1000.0", "90", "-0.0", "19510317", "nan", "MEIER")]
    ['1000', '90', '0', '', '', '']
    """
    try:
        number = float(text) + 0.0  # never -0
    except ValueError:
        return ""
    return f"{number:.6g}" if abs(number) < LARGEST else ""


def _words(text: str, others: Sequence[str]) -> str:
    """Return the words of the standard that this value has and not all of the others do.

    >>> _words("ORIGINAL\\\\PRIMARY\\\\P", ["ORIGINAL\\\\PRIMARY\\\\M", "ORIGINAL\\\\PRIMARY\\\\P"])
    'P'
    """
    common = set.intersection(*(set(other.split("\\")) for other in others))
    return "\\".join(word for word in text.split("\\") if word in WORDS and word not in common)
