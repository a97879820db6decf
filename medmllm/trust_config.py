"""Settings of what a result must be trusted for: [evaluation.subgroups] and [policy] of train.toml.

train.toml -> SubgroupSettings, PolicySettings
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, PositiveInt, ValidationInfo, field_validator

from medmllm.documents import Document

MetricName = Literal[
    "auroc", "auroc_within_folds", "auprc", "brier", "ece", "calibration_slope", "calibration_intercept",
    "balanced_accuracy", "sensitivity", "specificity", "accuracy", "log_loss", "quadratic_kappa",
    "mean_absolute_error", "ranked_probability_score", "c_index", "c_index_within_folds", "c_index_uno",
    "integrated_brier",
]  # fmt: skip
MetricOfTarget = Annotated[str, Field(pattern=rf"^({'|'.join(get_args(MetricName))})\[.+\]$")]
"""A metric of one of several targets, e.g. auroc[spiculation>=3]."""
GapName = Literal[
    "auroc_gap", "true_positive_rate_gap", "true_negative_rate_gap", "accuracy_gap", "calibration_gap", "c_index_gap",
    "brier_gap",
]  # fmt: skip
GapOfTarget = Annotated[str, Field(pattern=rf"^({'|'.join(get_args(GapName))})\[.+\]$")]
"""A gap of one of several targets, e.g. accuracy_gap[region]."""

_SHARE, _ANY = (0.0, 1.0), (-math.inf, math.inf)
RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("auroc", "auroc_within_folds", "auprc", "balanced_accuracy"), _SHARE),
    **dict.fromkeys(("sensitivity", "specificity", "accuracy", "ece", "ranked_probability_score"), _SHARE),
    **dict.fromkeys(("calibration_slope", "calibration_intercept"), _ANY),
    "brier": (0.0, 2.0),  # 1 for two classes
    **dict.fromkeys(("c_index", "c_index_within_folds", "c_index_uno"), _SHARE),
    "integrated_brier": (0.0, 1.0),
    "quadratic_kappa": (-1.0, 1.0),
    "mean_absolute_error": (0.0, math.inf),
    "log_loss": (0.0, math.inf),
    **dict.fromkeys(("auroc_gap", "true_positive_rate_gap", "true_negative_rate_gap", "accuracy_gap"), _SHARE),
    **dict.fromkeys(("c_index_gap", "brier_gap"), _SHARE),
    "calibration_gap": (0.0, 2.0),  # between an excess of 1 and one of -1
}
"""What each metric and gap can be, whatever the model."""


HEADER = "dicom:"
"""What stands before the keyword of a DICOM header that is asked for like a column."""
HEADERS: Mapping[str, str] = {
    "Manufacturer": "(0008,0070)",
    "ManufacturerModelName": "(0008,1090)",
    "MagneticFieldStrength": "(0018,0087), in T",
    "ConvolutionKernel": "(0018,1210)",
    "SliceThickness": "(0018,0050), in mm",
}
"""Headers that make groups of studies: of the scanner and the protocol, which name no person and no institution."""


def check_header(column: str) -> str:
    """Return a column's name.

    Raises:
        ValueError: It asks for a header that is not among those that make groups.
    """
    keyword = column.removeprefix(HEADER)
    if keyword == column or keyword in HEADERS:
        return column
    raise ValueError(
        f"{column!r} is none of {', '.join(HEADER + name for name in HEADERS)}: other headers may name persons, "
        "institutions or their devices, and are not read for groups. Add a column of your own to the label table"
    )


class SubgroupSettings(Document):
    """Whether the model does alike for all: groups of studies by columns of the label table, or by DICOM headers."""

    columns: tuple[Annotated[str, AfterValidator(check_header)], ...] = Field(
        description="of the label table, or DICOM headers as dicom:Manufacturer; their values stand in evaluation.json "
        "and the report; empty: no groups"
    )
    bands: dict[str, tuple[float, ...]] = Field(
        description="column of numbers -> where one band ends and the next begins, ascending"
    )
    fewest_patients: PositiveInt = Field(
        description="a group with fewer is named and not shown; nor is its sensitivity with fewer positive patients, "
        "its specificity with fewer negative ones, its AUROC with fewer of any class, its C-index with fewer that have "
        "the event"
    )

    @field_validator("bands")
    @classmethod
    def _is_of_a_column_and_ascending(
        cls, bands: dict[str, tuple[float, ...]], info: ValidationInfo
    ) -> dict[str, tuple[float, ...]]:
        columns = info.data.get("columns", tuple(bands))  # absent when it is itself wrong
        for name, edges in bands.items():
            if name not in columns:
                raise ValueError(f"{name!r} is none of columns")
            if not edges or any(low >= high for low, high in pairwise(edges)):
                raise ValueError(f"the bands of {name!r} are ascending numbers, at least one")
        return bands


class PolicySettings(Document):
    """What the packaged arm must fulfil out of fold; estimates are judged, not their intervals. Empty asks nothing.

    Of several targets each must; `METRIC[TARGET]` or `GAP[TARGET]` sets the bound of one apart.
    """

    least: dict[MetricName | MetricOfTarget, float] = Field(description="metric -> smallest value")
    most: dict[MetricName | MetricOfTarget, float] = Field(description="metric -> largest value")
    gap: dict[GapName | GapOfTarget, float] = Field(
        description="largest difference between groups, in every column of subgroups"
    )
    may_not_ignore: tuple[Literal["image", "text", "recording", "table"], ...] = Field(
        description="modalities; see evaluation.permutations"
    )
