"""Refuse DICOM objects that may show or hold a name where no header rule reaches it.

    Dataset -> accepted, or a DicomError with the reason

Text in the pixels (ultrasound, secondary captures, screen shots, dose pages, scanned film, colour maps, overlays in
unused bits) and objects that are no images (reports, documents, curves, videos) are refused unless the settings take
them. Burned In Annotation: DICOM PS3.3 C.7.6.1.1; Conversion Type: C.8.6.1; overlays in pixel bits: PS3.3 C.9.2 (2004).
"""

from pydicom.dataset import Dataset
from pydicom.uid import UID_dictionary

from medmllm.deidentify_config import DicomRules
from medmllm.errors import DicomError
from medmllm.ingest.dicom_header import element_text

SCREENS = frozenset(
    {"SCREEN SAVE", "SCREENSAVE", "SCREEN", "DOSE_INFO", "DOSE INFO", "DOSE REPORT", "PASTED", "CAPTURE"}
)
SCANNED = frozenset({"DF", "SD", "SI", "DI", "DRW", "DV", "SYN", "WSD"})
GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})


def check_object(data: Dataset, rules: DicomRules) -> None:
    """Hold an object against the policy.

    Raises:
        DicomError: `object_not_taken`, `modality_not_taken`, `burned_in_annotation`, `screen_capture`, `colour_image`
            or `overlay_in_pixels`.
    """
    _check_class(element_text(data, "SOPClassUID") or "", rules)
    modality = (element_text(data, "Modality") or "").upper()
    if modality in rules.refused_modalities:
        raise DicomError(
            f"images of modality {modality} often have a name burned in: look at them, then take {modality} out of "
            "refused_modalities in [dicom]",
            code="modality_not_taken",
        )
    if "burned_in" not in rules.take_anyway and (element_text(data, "BurnedInAnnotation") or "").upper() == "YES":
        raise _refusal("burned_in_annotation", "the header says that text is burned into the pixels", "burned_in")
    types = {part.strip().upper() for part in (element_text(data, "ImageType") or "").split("\\")}
    converted = (element_text(data, "ConversionType") or "").upper()
    if "screen" not in rules.take_anyway and (types & SCREENS or converted in SCANNED):
        raise _refusal("screen_capture", "this is a screen shot, dose page or scanned film", "screen")
    if "colour" not in rules.take_anyway and _is_colour(data):
        raise _refusal(
            "colour_image", "colour images of these modalities are screen shots and maps with text", "colour"
        )
    if "overlay_bits" not in rules.take_anyway and _has_overlay_bits(data):
        raise _refusal("overlay_in_pixels", "an overlay, which may be text, lies in unused pixel bits", "overlay_bits")


def shows_a_face(data: Dataset) -> bool:
    """Return whether the header says that the images would let a person be recognised."""
    return (element_text(data, "RecognizableVisualFeatures") or "").upper() == "YES"


def _check_class(sop_class: str, rules: DicomRules) -> None:
    if sop_class in rules.objects:
        return
    name = (
        UID_dictionary.get(sop_class, ("an object of an unknown class",))[0] if sop_class else "an object of no class"
    )
    raise DicomError(
        f"{name} is not among the objects that are taken: its kind often has a name in it where no header rule "
        "reaches. If you have looked at it, add its SOP class to objects in [dicom].",
        code="object_not_taken",
    )


def _is_colour(data: Dataset) -> bool:
    samples, kind = element_text(data, "SamplesPerPixel") or "1", element_text(data, "PhotometricInterpretation")
    return samples != "1" or (kind or "MONOCHROME2").upper() not in GREY


def _has_overlay_bits(data: Dataset) -> bool:
    """Return whether an overlay plane has no data of its own: then it lies in the pixels' unused bits."""
    groups = range(0x6000, 0x6020, 2)
    return any((group, 0x0010) in data and (group, 0x3000) not in data for group in groups)


def _refusal(code: str, what: str, word: str) -> DicomError:
    return DicomError(
        f"{what}: look at it, and add '{word}' to take_anyway in [dicom] to take it all the same", code=code
    )
