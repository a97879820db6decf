"""Settings of a time to an event, part of [task] of train.toml.

train.toml -> SurvivalSettings
"""

from itertools import pairwise
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from medmllm.documents import Document


class SurvivalSettings(Document):
    """Of kind survival alone: what ends the time, how it is learnt, and which times are asked about."""

    event: str = Field(description="column that says whether the event ended the time (1, yes, true) or was not seen")
    survival_model: Literal["discrete_time", "cox"] = Field(
        description="discrete_time: a hazard per interval; cox: one log-risk, and the baseline hazard of the training "
        "part; cox compares within batches and wants 16 studies or more in each"
    )
    intervals: PositiveInt = Field(
        description="between quantiles of the event times of each training part; of cox, in which the baseline is kept"
    )
    horizons: tuple[PositiveFloat, ...] = Field(
        min_length=1, description="times that the share without the event is told for, rising; in the column's unit"
    )
    time_unit: str = Field(min_length=1, description="of the column of times, as a word for reports")

    @field_validator("horizons")
    @classmethod
    def _rise(cls, horizons: tuple[float, ...]) -> tuple[float, ...]:
        if any(second <= first for first, second in pairwise(horizons)):
            raise ValueError(f"each horizon must be later than the one before it, got {list(horizons)}")
        return horizons
