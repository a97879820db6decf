"""Pydantic documents of times to an event: parts of evaluation.json, and one scored study's share of its files.

calibration at horizons, curves of risk groups -> parts of `result_documents.EvaluationDocument`
"""

from pydantic import Field, NonNegativeFloat, PositiveFloat

from medmllm.documents import Document, Probability


class CalibrationGroupDocument(Document):
    """The studies of one quarter by predicted risk: what was predicted, and what came."""

    n: int = Field(ge=0, description="studies")
    predicted: Probability = Field(description="mean predicted share with the event by the horizon")
    observed: Probability = Field(description="share with the event by the horizon, by Kaplan-Meier")
    low: Probability | None = Field(description="interval by Greenwood, studies taken as independent")
    high: Probability | None


class HorizonCalibrationDocument(Document):
    """Predicted and observed shares with the event by one horizon."""

    horizon: PositiveFloat
    groups: tuple[CalibrationGroupDocument, ...] = Field(description="quarters by predicted risk, lowest first")


class RiskGroupDocument(Document):
    """The Kaplan-Meier curve of the studies above or below their fold's median risk."""

    name: str
    n: int = Field(ge=0, description="studies")
    events: int = Field(ge=0)
    times: tuple[float, ...]
    event_free: tuple[Probability, ...] = Field(description="share without the event until each time")
    low: tuple[Probability | None, ...] = Field(description="interval by Greenwood, studies taken as independent")
    high: tuple[Probability | None, ...]
    at_risk: tuple[int, ...] = Field(description="studies still followed without the event just before each time")


class SurvivalArmDocument(Document):
    """What one arm's risks are worth, out of fold, beside its metrics."""

    arm: str
    calibration: tuple[HorizonCalibrationDocument, ...]
    risk_groups: tuple[RiskGroupDocument, ...] = Field(
        description="cut at the median risk of each fold's tuning part; lower risk first"
    )
    logrank_p: Probability | None = Field(
        description="of the two curves being one, studies taken as independent; null: a group is empty"
    )


class SurvivalEstimateDocument(Document):
    """What the model says of one scored study's time to the event."""

    event_free: dict[str, Probability] = Field(description="probability of no event until each horizon, with its unit")
    median_time: NonNegativeFloat | None = Field(
        description="by which the event is as likely as not, in time_unit; null: after the largest horizon"
    )
    time_unit: str
