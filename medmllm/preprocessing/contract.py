"""Refuse what the model was not trained on.

training volumes -> what they were like -> AcceptedRange -> check of a new volume
"""

from collections.abc import Sequence, Sized
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from medmllm.documents import AcceptedRange, ChannelAcceptance, PreprocessingContract
from medmllm.errors import ContractError
from medmllm.records import Volume

MOST_VOXELS = 2_000_000  # percentiles are taken on a regular subset of larger volumes
AXES = ("right-left", "anterior-posterior", "superior-inferior")


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """What one volume is like, in RAS axis order."""

    modality: str | None
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    low: float  # 1st percentile of the voxels
    high: float  # 99th percentile


def measure(volume: Volume) -> VolumeFacts:
    """Return what a volume is like; axes are those closest to RAS."""
    order = np.argsort(nib.orientations.io_orientation(volume.affine)[:, 0])
    spacing = np.array(volume.spacing_mm)[order]
    extent = spacing * np.array(volume.voxels.shape)[order]
    step = max(1, round((volume.voxels.size / MOST_VOXELS) ** (1 / 3)))
    low, high = np.percentile(volume.voxels[::step, ::step, ::step], [1, 99])
    return VolumeFacts(volume.modality, _triple(spacing), _triple(extent), float(low), float(high))


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def accept(facts: Sequence[VolumeFacts], *, margin: float) -> ChannelAcceptance:
    """Return the ranges that a new volume must lie in.

    Args:
        facts: The training cohort's volumes of one channel; at least one.
        margin: How far beyond the cohort's range a volume may lie. Lengths are widened by the factor
            `1 + margin` on either side, intensities by `margin` times their range.
    """

    def lengths(values: list[float]) -> AcceptedRange:
        return AcceptedRange(low=min(values) / (1 + margin), high=max(values) * (1 + margin))

    low, high = min(f.low for f in facts), max(f.high for f in facts)
    slack = margin * (high - low)
    return ChannelAcceptance(
        modalities=tuple(sorted({f.modality for f in facts}, key=str)),
        extent_mm=_three([lengths([f.extent_mm[axis] for f in facts]) for axis in range(3)]),
        spacing_mm=_three([lengths([f.spacing_mm[axis] for f in facts]) for axis in range(3)]),
        intensity=AcceptedRange(low=low - slack, high=high + slack),
    )


def _three(ranges: list[AcceptedRange]) -> tuple[AcceptedRange, AcceptedRange, AcceptedRange]:
    x, y, z = ranges
    return x, y, z


def check_volume(volume: Volume, name: str, accepted: ChannelAcceptance) -> None:
    """Refuse a volume far from what the channel was trained on.

    Raises:
        ContractError: Names the channel, the value and the accepted range.
    """
    facts = measure(volume)
    if facts.modality not in accepted.modalities:
        known = ", ".join(modality or "unknown" for modality in accepted.modalities)
        raise ContractError(
            f"channel '{name}': the series has modality {facts.modality or 'unknown'}, "
            f"the model was trained on {known}.",
            code="wrong_modality",
        )
    for axis in range(3):
        for what, value, bound in (
            ("extent", facts.extent_mm[axis], accepted.extent_mm[axis]),
            ("spacing", facts.spacing_mm[axis], accepted.spacing_mm[axis]),
        ):
            if not bound.low <= value <= bound.high:
                raise ContractError(
                    f"channel '{name}': the {AXES[axis]} {what} is {value:.2f} mm, the model accepts "
                    f"{bound.low:.2f} to {bound.high:.2f} mm (its training cohort and a margin).",
                    code=f"{what}_out_of_range",
                )
    # Asked this way round, so that values that are no numbers (NaN) are refused too.
    if not (facts.low >= accepted.intensity.low and facts.high <= accepted.intensity.high):
        raise ContractError(
            f"channel '{name}': the 1st and 99th percentiles of the values are {facts.low:.0f} and {facts.high:.0f}, "
            f"the model accepts {accepted.intensity.low:.0f} to {accepted.intensity.high:.0f}. Is the unit (HU) right?",
            code="intensity_out_of_range",
        )


def check_present(
    contract: PreprocessingContract,
    channels: Sized,
    *,
    has_note: bool,
    has_recording: bool = False,
    has_values: bool = False,
) -> None:
    """Refuse a study that gives the model nothing to read, or lacks something else than a channel that it requires.

    Raises:
        ContractError: `no_note`, `no_recording`, `no_table_row` or `nothing_to_read`.
    """
    if contract.text is not None and contract.text.required and not has_note:
        raise ContractError("the model requires a note, and the study has none that it can read.", code="no_note")
    if contract.recording is not None and contract.recording.required and not has_recording:
        raise ContractError("the model requires a recording, and the study has none.", code="no_recording")
    if contract.table is not None and contract.table.required and not has_values:
        columns = ", ".join(column.name for column in contract.table.columns)
        raise ContractError(
            f"the model requires a value in one of the table's columns {columns}, and the study has none.",
            code="no_table_row",
        )
    reads_image = contract.image is not None and bool(channels)
    reads_text = contract.text is not None and has_note
    reads_sound = contract.recording is not None and has_recording
    reads_table = contract.table is not None and has_values
    if not (reads_image or reads_text or reads_sound or reads_table):
        raise nothing_to_read(contract)


def nothing_to_read(contract: PreprocessingContract) -> ContractError:
    """Return the error of a study that gives the model nothing."""
    more = "" if contract.recording is None else " and no recording"
    more += "" if contract.table is None else ", and no value in the table's columns,"
    return ContractError(f"the study has no series and no note{more} that the model can read.", code="nothing_to_read")
