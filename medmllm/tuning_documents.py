"""The form of what a fold's tuning part decides: calibration, operating point, conformal thresholds.

    raw logits and truth of a tuning part -> TuningDecisions -> a part of model.json -> calibrated logits, decisions

The rules of `medmllm.documents` hold.
"""

from itertools import pairwise

from pydantic import Field, PositiveFloat, ValidationInfo, field_validator

from medmllm.documents import Document, Probability


class IsotonicMap(Document):
    """A rising curve from probability to calibrated probability: straight between its knots, flat outside them."""

    given: tuple[Probability, ...] = Field(min_length=1, description="strictly rising")
    calibrated: tuple[Probability, ...] = Field(description="one per `given`, never falling")

    @field_validator("calibrated")
    @classmethod
    def _rises_with_given(cls, calibrated: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        given = info.data.get("given", calibrated)  # absent when it is itself wrong
        if len(calibrated) != len(given):
            raise ValueError(f"{len(given)} knots want as many values")
        falls = any(high < low for low, high in pairwise(calibrated))
        if falls or any(high <= low for low, high in pairwise(given)):
            raise ValueError("the knots of a curve rise")
        return calibrated


class FoldSurvival(Document):
    """The intervals of one fold, whose networks give a logit of the hazard in each."""

    bounds: tuple[PositiveFloat, ...] = Field(
        min_length=1, description="upper bounds of the intervals, the first of which starts at 0; rising"
    )
    everybody: tuple[float, ...] = Field(
        description="logit of the hazard of all studies outside the test part, one per interval: what the temperature "
        "draws a study's logits towards"
    )

    @field_validator("everybody")
    @classmethod
    def _fits_rising_bounds(cls, everybody: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        bounds = info.data.get("bounds", everybody)  # absent when it is itself wrong
        if len(everybody) != len(bounds):
            raise ValueError(f"{len(bounds)} intervals want as many logits")
        if any(second <= first for first, second in pairwise(info.data.get("bounds", ()))):
            raise ValueError("the bounds of intervals rise")
        return everybody


class TuningDecisions(Document):
    """What a fold's tuning part decides for a target: calibration, operating point, conformal thresholds."""

    temperature: PositiveFloat = Field(description="logits are divided by this; fitted on the fold's tuning part")
    offsets: tuple[float, ...] | None = Field(
        default=None,
        description="then added to them, one per logit: takes back what class weights, or drawing classes alike, did "
        "to the odds; null: nothing",
    )
    isotonic: tuple[IsotonicMap, ...] | None = Field(
        default=None,
        description="then followed by the probability of the positive class, or of each class, which are scaled to sum "
        "to 1; null: temperature alone",
    )
    threshold: Probability = Field(
        description="operating point (Youden's J) on the fold's tuning part; 0.5 when not binary; survival: the tuning "
        "part's median risk"
    )
    conformal_thresholds: tuple[Probability, ...] | None = Field(
        default=None,
        description="per class, largest 1 - probability at which it stays in the set; from the fold's tuning part",
    )
    survival: FoldSurvival | None = Field(
        default=None, description="of a time alone; temperature then divides the distance from everybody's logits"
    )
