"""Take a multi-frame DICOM object apart into frames that look like slices.

    DicomHeader of a file -> functional groups -> one DicomHeader per frame

Each frame has its own place, spacing and rescale, from the functional groups that it has for itself or shares with
the others (DICOM PS3.3 C.7.6.16). Frames without a place are refused, never stacked by their order.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword

from medmllm.errors import DicomError
from medmllm.ingest.dicom_header import APART, DicomHeader, element_text
from medmllm.ingest.dicom_mosaic import MOSAIC, is_mosaic, tiles_of
from medmllm.ingest.dicom_nuclear import NUCLEAR_TAGS, is_reconstructed, slices_of
from medmllm.ingest.dicom_stream import DICOM_FAILURES, HEADER_INFLATES_TO, data_set_stream
from medmllm.ingest.dicom_values import numbers_of
from medmllm.ingest.opening import one_error, open_regular
from medmllm.ingest.technique import ToldTechnique, plain_kernel, plain_number

MOST_FRAMES = 2**16
HEADER_BYTES, FRAME_BYTES = 2**21, 2**14  # a parser takes seconds for millions of empty items
GROUPS = (
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence",
    "ContrastBolusAgentSequence",
)  # fmt: skip
ENHANCED = frozenset(f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2.1", "2.2", "4.1", "4.4", "128.1", "130"))
"""Enhanced and converted CT, MR and PET: their groups count, whatever was left at the top, of one frame also."""
PLACES = frozenset(map(tag_for_keyword, ("InStackPositionNumber", "ImagePositionPatient", "ImagePositionVolume")))
# APART's attribute -> where a functional group holds the like: (sequence, keyword), the plainest first.
_IN_GROUPS = {
    "AcquisitionNumber": (("FrameContentSequence", "FrameAcquisitionNumber"),),
    "EchoTime": (("MREchoSequence", "EffectiveEchoTime"),),
    "TemporalPositionIdentifier": (("FrameContentSequence", "TemporalPositionIndex"),),
    "TriggerTime": (("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),),
    "DiffusionBValue": (("MRDiffusionSequence", "DiffusionBValue"),),
    "AcquisitionTime": (("FrameContentSequence", "FrameAcquisitionDateTime"),),
    "StackID": (("FrameContentSequence", "StackID"),),
    "FlipAngle": (("MRTimingAndRelatedParametersSequence", "FlipAngle"),),
    "RepetitionTime": (("MRTimingAndRelatedParametersSequence", "RepetitionTime"),),
    "InversionTime": (("MRModifierSequence", "InversionTimes"),),
    "KVP": (("CTXRayDetailsSequence", "KVP"),),
    "ConvolutionKernel": (("CTReconstructionSequence", "ConvolutionKernel"),),
    "ReconstructionDiameter": (("CTReconstructionSequence", "ReconstructionDiameter"),),
    "NominalPercentageOfCardiacPhase": (("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),),
    "FrameReferenceTime": (("FrameContentSequence", "FrameReferenceDateTime"),),
    "SliceThickness": (("PixelMeasuresSequence", "SliceThickness"),),
    "ComplexImageComponent": (("MRImageFrameTypeSequence", "ComplexImageComponent"),),
    "VelocityEncodingDirection": (("MRVelocityEncodingSequence", "VelocityEncodingDirection"),),
    "ASLContext": (("MRArterialSpinLabelingSequence", "ASLContext"),),
    "ImageType": (
        ("MRImageFrameTypeSequence", "FrameType"),
        ("CTImageFrameTypeSequence", "FrameType"),
        ("PETFrameTypeSequence", "FrameType"),
    ),
}


def frames_of(header: DicomHeader) -> tuple[DicomHeader, ...]:
    """Return one header per frame of a file, or tile of a mosaic: the header itself when the file is a plain slice.

    Raises:
        DicomError: `multi_frame` when the frames have no functional groups that place them; `dicom_unreadable`.
    """
    if is_mosaic(header):
        return tiles_of(header)
    if header.frames == 1 and header.position is not None and header.sop_class_uid not in ENHANCED:
        return (header,)
    if header.frames > MOST_FRAMES:
        raise DicomError(f"the object declares {header.frames:,} frames; at most {MOST_FRAMES:,} are read",
                         code="too_large")  # fmt: skip
    if header.truncated:
        return (header,)  # refused for that, whatever its groups say
    most_bytes = HEADER_BYTES + FRAME_BYTES * header.frames
    if (header.pixel_place or 0) > most_bytes:
        raise DicomError(f"the header takes {header.pixel_place:,} bytes for {header.frames} frames; at most "
                         f"{most_bytes:,} are parsed", code="too_large")  # fmt: skip
    doing = "the functional groups of a multi-frame object cannot be parsed"
    with open_regular(header.file) as file, one_error(DicomError, doing, also=DICOM_FAILURES):
        stream, force, _ = data_set_stream(file, HEADER_INFLATES_TO)
        data = pydicom.dcmread(stream, stop_before_pixels=True, force=force, specific_tags=[*GROUPS, *NUCLEAR_TAGS])
        slices = slices_of(header, data) if is_reconstructed(header) else None
        if slices is not None:
            return slices
        own, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
        if not own and header.frames == 1:
            return (header,)
        if not own or len(own) != header.frames:
            raise DicomError(
                f"the object has {header.frames} frames and {len(own or ())} groups of attributes for them: the "
                "frames have no place in the patient",
                code="multi_frame",
            )
        common = shared[0] if shared else pydicom.Dataset()
        kept = _dimensions(data.get("DimensionIndexSequence"))
        if data.get("ContrastBolusAgentSequence"):
            header = replace(header, told=replace(header.told, contrast=True))
        frames = tuple(_frame(header, number, _Groups(groups, common), kept) for number, groups in enumerate(own))
        return _without_stale_word(frames)


def _without_stale_word(frames: tuple[DicomHeader, ...]) -> tuple[DicomHeader, ...]:
    """Return frames of an object that was a mosaic without that word: Siemens XA30 cuts it and leaves the word.

    Frames that all lie at one place would be mosaics still, and keep it.
    """
    if MOSAIC not in frames[0].image_type or len({frame.position for frame in frames}) == 1:
        return frames
    kind = tuple(word for word in frames[0].image_type if word != MOSAIC)
    return tuple(replace(frame, image_type=kind) for frame in frames)


class _Groups:
    """The functional groups of one frame: its own before those that all share."""

    def __init__(self, own: pydicom.Dataset, shared: pydicom.Dataset) -> None:
        self.both = own, shared

    def items(self, sequence: str) -> Iterator[pydicom.Dataset]:
        for groups in self.both:
            found: Any = groups.get(sequence)
            if found:
                yield found[0]

    def text(self, sequence: str, keyword: str) -> str | None:
        for item in self.items(sequence):
            text = element_text(item, keyword)
            if text is not None:
                return text
        return None

    def numbers(
        self, sequence: str, keyword: str, count: int, otherwise: tuple[float, ...] | None = None
    ) -> tuple[float, ...] | None:
        """Return numbers; `otherwise` where the groups do not tell them, None where they tell something else."""
        text = self.text(sequence, keyword)
        return otherwise if text is None else numbers_of(text, count)

    def number(self, sequence: str, keyword: str, otherwise: float | None) -> float | None:
        """Return one number; `otherwise` where the groups do not tell it, NaN where they tell something else."""
        found = self.numbers(sequence, keyword, 1, () if otherwise is None else (otherwise,))
        return math.nan if found is None else next(iter(found), None)


def _dimensions(index: Any) -> tuple[int, ...] | None:
    """Return which dimensions of the index tell anything but the place of a slice; None when there is no index."""
    if not index:
        return None
    return tuple(k for k, item in enumerate(index) if item.get("DimensionIndexPointer") not in PLACES)


def _frame(header: DicomHeader, number: int, groups: _Groups, kept: tuple[int, ...] | None) -> DicomHeader:
    position = groups.numbers("PlanePositionSequence", "ImagePositionPatient", 3, header.position)
    spacing = groups.numbers("PixelMeasuresSequence", "PixelSpacing", 2, header.pixel_spacing_mm)
    depth = groups.numbers("PixelMeasuresSequence", "SpacingBetweenSlices", 1) or groups.numbers(
        "PixelMeasuresSequence", "SliceThickness", 1
    )
    return replace(
        header,
        placed=True,
        frame=number,
        position=(position[0], position[1], position[2]) if position else None,
        orientation=groups.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6, header.orientation),
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        slope=groups.number("PixelValueTransformationSequence", "RescaleSlope", header.slope),
        intercept=groups.number("PixelValueTransformationSequence", "RescaleIntercept", header.intercept),
        thickness_mm=abs(depth[0]) or None if depth else header.thickness_mm,
        acquisition=_acquisition(header, groups, kept),
        instance=number,
        told=_told(header.told, groups),
    )


def _told(told: ToldTechnique, groups: _Groups) -> ToldTechnique:
    """Return what a frame's groups tell of its technique, else what the object does."""
    administered = groups.text("ContrastBolusUsageSequence", "ContrastBolusAgentAdministered")
    return replace(
        told,
        kernel=plain_kernel(groups.text("CTReconstructionSequence", "ConvolutionKernel") or "") or told.kernel,
        contrast={"YES": True, "NO": False}.get(administered or "", told.contrast),
        thickness_mm=plain_number(groups.text("PixelMeasuresSequence", "SliceThickness") or "") or told.thickness_mm,
    )


def _acquisition(header: DicomHeader, groups: _Groups, kept: tuple[int, ...] | None) -> tuple[tuple[str, str], ...]:
    found = dict(header.acquisition)
    for keyword, places in _IN_GROUPS.items():
        texts = (groups.text(sequence, inside) for sequence, inside in places)
        found[keyword] = next((text for text in texts if text), found.get(keyword, ""))
    for item in groups.items("MRDiffusionSequence"):
        directions: Any = item.get("DiffusionGradientDirectionSequence")
        if directions:
            found["DiffusionGradientOrientation"] = element_text(directions[0], "DiffusionGradientOrientation") or ""
            break
    index = (groups.text("FrameContentSequence", "DimensionIndexValues") or "").split("\\")
    if kept is not None and len(index) > max(kept, default=0):
        found["DimensionIndexValues"] = "\\".join(index[k] for k in kept)
    return tuple((keyword, found[keyword]) for keyword in APART if found.get(keyword))
