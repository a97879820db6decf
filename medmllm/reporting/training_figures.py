"""Draw the figures of a training, for its report and as files of their own.

    evaluation, out-of-fold probabilities -> TrainingFigure -> report.html, or RUN/figures/NAME.svg

Of several repeats of the cross-validation each is a thin line, and their mean the bold one.

A file is drawn in the colours of a light page, with its caption in it and no custom properties, which programs other
than browsers do not know.
"""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from markupsafe import Markup

from medmllm.evaluation.cohort import OutOfFold
from medmllm.evaluation.discrimination import IntArray
from medmllm.evaluation.resampling import level
from medmllm.model_documents import Task
from medmllm.records import FloatArray
from medmllm.reporting.curves import (
    Points,
    ReliabilityPoint,
    decision_chart,
    learning_chart,
    mean_curve,
    reliability_points,
    roc_points,
)
from medmllm.reporting.page import environment, write_page
from medmllm.result_documents import TargetEvaluation
from medmllm.trust_documents import DecisionCurveDocument, LearningCurveDocument

FIGURES = "figures"  # folder in RUN
CAPTION_LETTERS = 54  # that fit side by side under a figure
LINE_HEIGHT = 13  # of a caption, SVG units


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a chart's unit square lies, SVG units."""

    left: float
    top: float
    side: float


Said = tuple[str, Sequence[FloatArray]]
"""An arm, and its probabilities in each repeat of the cross-validation; shape (studies, classes)."""

FRAME = Frame(left=58, top=10, side=250)


@dataclass(frozen=True, slots=True)
class TrainingFigure:
    """One figure."""

    name: str  # of its file
    label: str  # for those who cannot see it
    caption: str
    drawing: Markup = field(repr=False)  # SVG, without the element around it
    width: int = 322
    height: int = 306


@dataclass(frozen=True, slots=True)
class TrainingFigures:
    """The figures of a training, by the section that shows them."""

    curves: tuple[TrainingFigure, ...]  # ROC, then the reliability of each arm
    decision: TrainingFigure | None  # binary alone
    learning: TrainingFigure | None  # where it was asked for

    @property
    def all(self) -> tuple[TrainingFigure, ...]:
        """All of them, in the order of the report."""
        return (*self.curves, *filter(None, [self.decision, self.learning]))

    def named(self, end: str) -> "TrainingFigures":
        """Return the same figures with an ending to the names of their files."""

        def one(figure: TrainingFigure | None) -> TrainingFigure | None:
            return figure and replace(figure, name=figure.name + end)

        curves = tuple(replace(figure, name=figure.name + end) for figure in self.curves)
        return TrainingFigures(curves, one(self.decision), one(self.learning))


@dataclass(frozen=True, slots=True)
class Line:
    """One arm's curve, as SVG paths."""

    name: str
    path: str  # of the mean over the repeats, where there are several
    repeats: tuple[str, ...] = ()  # of each of them


@dataclass(frozen=True, slots=True)
class FigurePage:
    """What the template figure.svg.j2 reads."""

    figure: TrainingFigure
    style: Markup
    lines: tuple[str, ...]  # of the caption
    height: int  # with the caption


def draw_figures(
    told: TargetEvaluation,
    arms: Sequence[OutOfFold],
    targets: IntArray,
    patients: Sequence[str],
    *,
    confidence: float,
    synthetic: bool = False,
    more: Sequence[Sequence[OutOfFold]] = (),
) -> TrainingFigures:
    """Return the figures of one target.

    Args:
        told: Its result.
        arms: What each arm said of every study.
        targets: True class index of the same studies; shape (studies,).
        patients: Patient of each of them.
        confidence: Level of the intervals.
        synthetic: The studies are.
        more: What the arms said in each further repeat of the cross-validation.
    """
    said = [(arm.arm, [own[k].probabilities for own in (arms, *more)]) for k, arm in enumerate(arms)]
    curves = (
        _roc(told.task, said, targets),
        *_reliability(told.task, said, targets, patients, confidence=confidence, synthetic=synthetic),
    )
    decision = _decision(told.decision_curves, told.task.classes[-1])
    return TrainingFigures(curves, decision, draw_learning(told.learning_curve, confidence, 1 + len(more)))


def write_figures(folder: Path, figures: Sequence[TrainingFigures], *, synthetic: bool) -> None:
    """Write each figure as FOLDER/NAME.svg, in place of those that are there; other files stay.

    Args:
        folder: RUN/figures.
        figures: Of each target.
        synthetic: The word "synthetic" stands in each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("*.svg"):
        earlier.unlink()
    for figure in (figure for own in figures for figure in own.all):
        words = figure.caption + (" (synthetic)" if synthetic else "") + "."
        lines = tuple(textwrap.wrap(words, CAPTION_LETTERS))
        page = FigurePage(figure, _light_style(), lines, figure.height + LINE_HEIGHT * (len(lines) + 1))
        write_page(folder / f"{figure.name}.svg", "figure.svg.j2", synthetic=synthetic, page=page)


def _light_style() -> Markup:
    """Return chart.css with the first value that style.css gives each colour: that of a light page."""
    colours: dict[str, str] = {}
    for name, value in re.findall(r"(--[\w-]+):\s*([^;}]+);", environment().get_template("style.css").render()):
        colours.setdefault(name, value)
    rules = environment().get_template("chart.css").render()
    return Markup(re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], rules))


def draw(macro: str, *arguments: object) -> Markup:
    """Return what a macro of charts.svg.j2 draws."""
    drawn: Markup = getattr(environment().get_template("charts.svg.j2").module, macro)(*arguments)
    return drawn


def _roc(task: Task, arms: Sequence[Said], targets: IntArray) -> TrainingFigure:
    ordered = task.kind == "ordinal"
    lines = []
    for name, repeats in arms:
        each = [roc_points(own, targets, ordered=ordered) for own in repeats]
        lines.append(line(name, mean_curve(each) if len(each) > 1 else each[0], each))
    of_what = (
        "mean of the curves of all cuts, “this class or higher”" if ordered else "mean of the one-versus-rest curves"
    )
    if task.kind == "binary":
        of_what = f"of “{task.classes[1]}”"
    return TrainingFigure(
        "roc",
        f"ROC curves of the arms {', '.join(name for name, _ in arms)}; the areas are in the table of the arms",
        f"ROC, {of_what}; the dashed diagonal is guessing{_of_repeats(len(arms[0][1]))}",
        draw("roc", lines, FRAME),
    )


def _reliability(
    task: Task,
    arms: Sequence[Said],
    targets: IntArray,
    patients: Sequence[str],
    *,
    confidence: float,
    synthetic: bool,
) -> tuple[TrainingFigure, ...]:
    def points_of(repeats: Sequence[FloatArray]) -> tuple[ReliabilityPoint, ...]:
        return reliability_points(repeats, targets, patients, confidence=confidence)

    points = [points_of(repeats) for _, repeats in arms]
    largest = max((point.n for own in points for point in own), default=1)
    of_what = "the likeliest class" if task.kind != "binary" else f"“{task.classes[1]}”"
    found = []
    for number, ((name, repeats), own) in enumerate(zip(arms, points, strict=True)):
        told = "; ".join(f"predicted {p.predicted:.2f}, observed {p.observed:.2f} in {p.n}" for p in own)
        each = [tuple((p.predicted, p.observed) for p in points_of([one])) for one in repeats]
        found.append(
            TrainingFigure(
                f"reliability_{name}",
                f"Reliability of the {name} arm: {told}",
                f"Reliability, {name}: probability of {of_what} in ten bins; area shows the number of studies, "
                f"bars {level(confidence)} intervals of as many patients as are in the bin. On the diagonal is "
                "calibrated" + _of_repeats(len(repeats), "points are"),
                draw("reliability", number, own, line(name, (), each).repeats, largest, FRAME, synthetic),
            )
        )
    return tuple(found)


def _decision(curves: Sequence[DecisionCurveDocument], event: str) -> TrainingFigure | None:
    chart = decision_chart(curves)
    if chart is None:
        return None
    lines = [line(name, own, each) for (name, own), each in zip(chart.arms, chart.repeats, strict=True)]
    return TrainingFigure(
        "decision_curve",
        f"Net benefit of {', '.join(name for name, _ in chart.arms)}, of treating all and of treating none; the "
        "numbers are in the table",
        f"Net benefit of treating whoever's probability of “{event}” reaches the threshold; dashed: treating all, "
        "level line: treating none. What lies deeper is drawn at the bottom" + _of_repeats(len(curves[0].repeats)),
        draw("decision", chart, lines, path(chart.treat_all), FRAME),
    )


def draw_learning(curve: LearningCurveDocument | None, confidence: float, repeats: int) -> TrainingFigure | None:
    """Return a learning curve as a figure; None without one, or where no point is defined."""
    chart = learning_chart(curve)
    if curve is None or chart is None:
        return None
    told = "; ".join(f"{mark.auroc:.3f} from {mark.patients:.0f}" for mark in chart.marks)
    return TrainingFigure(
        "learning_curve",
        f"{curve.metric} of the {curve.arm} arm by training patients: {told}",
        f"{curve.metric} of the {curve.arm} arm out of fold by the training patients of a fold, on average; bars "
        f"{level(confidence)} intervals, dashed: guessing" + (f"; mean over {repeats} repeats" if repeats > 1 else ""),
        draw("learning", chart, path(tuple((mark.x, mark.y) for mark in chart.marks)), FRAME),
    )


def _of_repeats(count: int, bold: str = "bold is") -> str:
    """Return what a caption says of several repeats; nothing of one."""
    return f". Thin lines: each of {count} repeats; {bold} their mean" if count > 1 else ""


def line(name: str, mean: Points, repeats: Sequence[Points]) -> Line:
    """Return an arm's curve, with those of the repeats where there are several."""
    return Line(name, path(mean), tuple(path(own) for own in repeats) if len(repeats) > 1 else ())


def path(points: Points) -> str:
    """Return points of the unit square as an SVG path; y grows upwards.

    >>> path(((0.0, 0.0), (1.0, 1.0)))
    'M58.0 260.0L308.0 10.0'
    """
    placed = (f"{FRAME.left + FRAME.side * x:.1f} {FRAME.top + FRAME.side * (1 - y):.1f}" for x, y in points)
    return "M" + "L".join(placed) if points else ""
