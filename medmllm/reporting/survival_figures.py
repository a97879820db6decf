"""Draw what came of the studies at higher and at lower risk, and whether as many had the event as was predicted.

SurvivalArmDocument of each arm -> TrainingFigure: Kaplan-Meier curves; observed against predicted shares
"""

from collections.abc import Iterator
from dataclasses import replace

from medmllm.evaluation.resampling import level
from medmllm.reporting.page import three_digits
from medmllm.reporting.training_figures import FRAME, TrainingFigure, TrainingFigures, draw, draw_learning, path
from medmllm.result_documents import TargetEvaluation
from medmllm.survival_documents import HorizonCalibrationDocument, RiskGroupDocument, SurvivalArmDocument

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the times: where the axis is marked."""


def draw_survival(told: TargetEvaluation, *, confidence: float, repeats: int = 1) -> TrainingFigures:
    """Return the figures of a time to an event: of each arm its curves, and its calibration at the largest horizon.

    Args:
        told: Its result.
        confidence: Level of the intervals.
        repeats: Of the cross-validation; the figures are of the first, a learning curve is of all.
    """
    asked = told.task.survival
    assert asked is not None  # of a time to an event alone
    figures: list[TrainingFigure] = []
    for number, arm in enumerate(told.survival):
        figures.append(_kaplan_meier(arm, asked.event, asked.time_unit))
        figures.append(_calibration(number, arm.arm, arm.calibration[-1], asked.time_unit, confidence))
    first = f". Of the first of {repeats} repeats" if repeats > 1 else ""
    learning = draw_learning(told.learning_curve, confidence, repeats)
    return TrainingFigures(tuple(replace(own, caption=own.caption + first) for own in figures), None, learning)


def step_points(group: RiskGroupDocument, end: float) -> Iterator[tuple[float, float]]:
    """Yield the corners of a Kaplan-Meier curve in a unit square, level until each new time.

    It ends where nobody of the group is followed any more: what comes then is not known.
    """
    before = 1.0
    for time, share, followed in zip(group.times, group.event_free, group.at_risk, strict=True):
        yield time / end, before
        yield time / end, share
        before = share
        if not followed:
            return


def still_followed(group: RiskGroupDocument) -> list[int]:
    """Return the studies at risk at the ends of each quarter of the times, the start included."""
    last = len(group.at_risk) - 1
    return [group.at_risk[round(part * last)] for part in QUARTERS]


def quarter_ticks(end: float) -> list[tuple[float, str]]:
    """Return where the axis of times is marked, as shares of its length, and with which times.

    >>> quarter_ticks(1372.0)
    [(0.0, '0'), (0.25, '343'), (0.5, '686'), (0.75, '1029'), (1.0, '1372')]
    """
    return [(part, three_digits(part * end)) for part in QUARTERS]


def _kaplan_meier(arm: SurvivalArmDocument, event: str, unit: str) -> TrainingFigure:
    end = max((group.times[-1] for group in arm.risk_groups), default=1.0)
    curves = [(group.name, path(tuple(step_points(group, end)))) for group in arm.risk_groups]
    ticks = quarter_ticks(end)
    told = "; ".join(f"{group.name}: {group.events} of {group.n}" for group in arm.risk_groups)
    return TrainingFigure(
        f"kaplan_meier_{arm.arm}",
        f"Kaplan-Meier curves of the {arm.arm} arm's groups; with the event {told}",
        f"Share without “{event}” by Kaplan-Meier, {arm.arm}: studies at higher and at lower risk than the median of "
        f"their fold's tuning part. Followed without it until {', '.join(text for _, text in ticks)} {unit}: "
        + "; ".join(f"{group.name} {', '.join(map(str, still_followed(group)))}" for group in arm.risk_groups),
        draw("kaplan_meier", curves, ticks, unit, FRAME),
    )


def _calibration(
    number: int, arm: str, told: HorizonCalibrationDocument, unit: str, confidence: float
) -> TrainingFigure:
    points = [
        (g.predicted, g.observed, g.observed if g.low is None else g.low, g.observed if g.high is None else g.high)
        for g in told.groups
    ]
    words = "; ".join(f"predicted {g.predicted:.2f}, observed {g.observed:.2f} in {g.n}" for g in told.groups)
    return TrainingFigure(
        f"event_share_{arm}",
        f"Calibration of the {arm} arm at {told.horizon:g} {unit}: {words}",
        f"Share with the event by {told.horizon:g} {unit}, {arm}: predicted, and observed by Kaplan-Meier, in quarters "
        f"by risk; bars {level(confidence)} intervals. On the diagonal is calibrated",
        draw("quarters", number, points, FRAME),
    )
