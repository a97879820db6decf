"""Write RUN/report.html: how the arms of a cross-validated training run did, out of fold.

    EvaluationDocument + figures + ModelCard -> one HTML file

Every number of a table is evaluation.json's. At the top stands how the packaged arm did, then gains whose interval
lies above zero, then the document's remarks; a difference whose interval includes zero is never called a gain.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmllm.config import TrainConfig
from medmllm.evaluation.remarks import NAMES
from medmllm.evaluation.resampling import level
from medmllm.model_documents import ModelCard
from medmllm.reporting.page import write_page
from medmllm.reporting.search_tables import SearchTable, search_tables
from medmllm.reporting.training_figures import TrainingFigures
from medmllm.result_documents import EvaluationDocument, MetricDocument, TargetEvaluation

METRICS = {
    "auroc": ("AUROC", "chance that a study of a class ranks above one of another; 0.5 is guessing, 1 is perfect"),
    "auroc_within_folds": ("AUROC within folds", "the same, but only studies of one fold model are compared"),
    "auprc": ("AUPRC", "mean precision over all thresholds; guessing gives the share of positives"),
    "brier": ("Brier score", "mean squared error of the probabilities; 0 is perfect, smaller is better"),
    "ece": ("Calibration error (ECE)", "mean gap between probability and observed frequency; smaller is better"),
    "calibration_slope": ("Calibration slope", "1 is ideal; below 1 probabilities are too extreme"),
    "calibration_intercept": ("Calibration intercept", "0 is ideal; below 0 probabilities are too high"),
    "sensitivity": ("Sensitivity", "share of positives found at the operating point"),
    "specificity": ("Specificity", "share of negatives cleared at the operating point"),
    "accuracy": ("Accuracy", "share of studies put into the right class"),
    "balanced_accuracy": ("Balanced accuracy", "mean share found of each class"),
    "log_loss": ("Log loss", "mean surprise in nats; smaller is better"),
    "quadratic_kappa": ("Quadratic kappa", "agreement beyond chance, a miss counts by its square; 1 is perfect"),
    "mean_absolute_error": ("Mean absolute error", "classes between truth and prediction; smaller is better"),
    "ranked_probability_score": ("Ranked probability score", "mean squared error over all cuts; 0 is perfect"),
    "c_index": ("C-index (Harrell)", "share of pairs in which the higher risk had its event first; 0.5 is guessing"),
    "c_index_within_folds": ("C-index within folds", "the same, but only studies of one fold model are compared"),
    "c_index_uno": ("C-index (Uno)", "weighted so that it does not depend on who was censored"),
    "integrated_brier": ("Integrated Brier score", "mean squared error up to the largest horizon; 0 is perfect"),
    "risk_excess": ("Events beyond risk", "share of events that came less that predicted; 0 is ideal"),
    "calibration_excess": ("Events beyond probability", "events less what the probabilities add up to, per study"),
}


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric across the arms."""

    name: str
    meaning: str
    cells: tuple[MetricDocument | None, ...]  # one per arm


@dataclass(frozen=True, slots=True)
class TargetPart:
    """What the page tells of one target, or of the means over several."""

    told: TargetEvaluation
    number: str  # ends the ids of its headings; empty where there is one target
    lines: tuple[MetricLine, ...]
    differences: tuple[tuple[str, MetricDocument], ...]  # in words, the difference
    figures: TrainingFigures | None


@dataclass(frozen=True, slots=True)
class TrainingPage:
    """What the template training.html.j2 reads."""

    evaluation: EvaluationDocument
    card: ModelCard
    settings: TrainConfig | None
    means: TargetPart | None  # over several targets
    targets: tuple[TargetPart, ...]
    results: tuple[str, ...]  # of the packaged arm, in words
    gains: tuple[str, ...]
    labels: Mapping[str, str]  # metric -> how it is called
    searched: tuple[SearchTable, ...]  # one per arm; none where nothing was searched


def write_training_report(
    path: Path,
    *,
    evaluation: EvaluationDocument,
    figures: Sequence[TrainingFigures],
    card: ModelCard,
    settings: TrainConfig | None = None,
) -> None:
    """Write the report of one training run as one HTML file that loads nothing.

    Args:
        path: RUN/report.html; its folder exists.
        evaluation: Every number in a table comes from here.
        figures: As of `draw_figures`, of each target.
        card: The packaged model.
        settings: The resolved settings, for the summary.
    """
    page = TrainingPage(
        evaluation=evaluation,
        card=card,
        settings=settings,
        means=_part(evaluation) if evaluation.targets else None,
        targets=tuple(
            _part(told, own, str(number) if evaluation.targets else "")
            for number, (told, own) in enumerate(zip(evaluation.each, figures, strict=True), start=1)
        ),
        results=tuple(_results(evaluation, card.arm)),
        gains=tuple(_gains(evaluation)),
        labels={name: label for name, (label, _) in METRICS.items()} | _labels_of_groups(evaluation),
        searched=search_tables(evaluation.search),
    )
    write_page(path, "training.html.j2", synthetic=evaluation.synthetic or card.synthetic, page=page)


def _part(told: TargetEvaluation, figures: TrainingFigures | None = None, number: str = "") -> TargetPart:
    differences = tuple((_describe(metric), metric) for metric in told.differences)
    return TargetPart(told, number, metric_lines(told), differences, figures)


def _labels_of_groups(evaluation: EvaluationDocument) -> dict[str, str]:
    """Return how metrics of groups are called, those of one horizon too: brier[365 days]."""
    groups = [group for told in evaluation.each for found in told.subgroups for group in found.groups]
    return {name: _label(name) for group in groups for name in group.metrics}


def _results(evaluation: EvaluationDocument, arm: str) -> Iterator[str]:
    """Yield how an arm did, also for each of several targets, in words."""
    for start, told in _told(evaluation):
        metrics = [
            m for own in told.arms if own.arm == arm for m in own.metrics if m.name in NAMES and m.group == "all"
        ]
        for metric in metrics:
            what = f"{start}{NAMES[metric.name]} of the {arm} arm, out of fold"
            if metric.estimate is None:
                yield f"{what}, is not defined."
            elif metric.low is None or metric.high is None:
                yield f"{what}: {metric.estimate:.3f} (no interval)."
            else:
                interval = f"{level(evaluation.confidence)} interval {metric.low:.3f} to {metric.high:.3f}"
                yield f"{what}: {metric.estimate:.3f} ({interval})."


def _told(evaluation: EvaluationDocument) -> Iterator[tuple[str, TargetEvaluation]]:
    """Yield what is told of all targets and of each of several, with the words that say which."""
    yield "Mean over the targets: " if evaluation.targets else "", evaluation
    for own in evaluation.targets:
        yield f"{own.task.target}: ", own


def _gains(evaluation: EvaluationDocument) -> Iterator[str]:
    """Yield what fusion gains, also for each of several targets, in words."""
    for start, told in _told(evaluation):
        for metric in told.differences:
            gain = _gain(metric, evaluation.confidence)
            if gain is not None:
                yield start + gain


def metric_lines(told: TargetEvaluation) -> tuple[MetricLine, ...]:
    """Return the metrics over all studies, one line each, in the order of their first arm."""
    tables = [{m.name: m for m in arm.metrics if m.group == "all"} for arm in told.arms]
    names = list(dict.fromkeys(name for table in tables for name in table))
    lines = []
    for name in names:
        lines.append(MetricLine(*label_of(name), tuple(table.get(name) for table in tables)))
    return tuple(lines)


def label_of(name: str) -> tuple[str, str]:
    """Return a metric's label and what it means; of one cut or class, `auroc[>=3]`, the cut is in the label.

    >>> label_of("auroc[>=3]")
    ('AUROC [>=3]', '')
    """
    plain, bracket, rest = name.partition("[")
    label, meaning = METRICS.get(plain, (plain.replace("_", " "), ""))
    return (f"{label} [{rest}", "") if bracket else (label, meaning)


def _label(name: str) -> str:
    return label_of(name)[0]


def _describe(metric: MetricDocument) -> str:
    return f"{_label(metric.name)}: fused minus {metric.group}"


def _gain(metric: MetricDocument, confidence: float) -> str | None:
    """Return what a paired difference shows in words, when its interval lies above zero.

    What the numbers do not support is said by the document's remarks, in one wording.
    """
    if metric.estimate is None or metric.low is None or metric.high is None or metric.low <= 0:
        return None
    numbers = f"{metric.estimate:+.3f}, {level(confidence)} interval {metric.low:+.3f} to {metric.high:+.3f}"
    return f"Fused has a higher {_label(metric.name)} than {metric.group}-only on the same patients ({numbers})."
