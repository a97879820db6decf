"""Explain one study's logit by Integrated Gradients, over voxels, words, sounds and cells of a table.

    networks, one Sample per network -> straight line from baseline to study -> gradients along it
    -> mean over networks -> Explanation, with its completeness error stated

Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, by Captum. The logit is the
ensemble's: the mean over networks of their calibrated logits, before any isotonic curve; each fold has as many of them.
Attribution is linear in the logit, so the mean of the networks' attributions adds up to it.

What is not part of the study gets exactly 0: missing channels and missing modalities. Special tokens
([CLS], [SEP]) are the same at both ends of the line and get exactly 0 too.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch
from monai.data import MetaTensor

from medmllm.attribution.baseline import Line, lay_line
from medmllm.attribution.integration import integrate
from medmllm.attribution.modalities import modality_shares, modality_sums
from medmllm.attribution.overlay import to_source_grid
from medmllm.config import ExplainSettings
from medmllm.errors import AttributionError
from medmllm.model_documents import Task
from medmllm.models.classifier import StudyClassifier
from medmllm.models.package import ModelPackage
from medmllm.preprocessing.stored_image import load_image
from medmllm.records import (
    CellAttribution,
    ChannelAttribution,
    Explanation,
    FloatArray,
    Sample,
    SeriesReference,
    Volume,
    WordAttribution,
)

logger = logging.getLogger(__name__)

METHOD = "Integrated Gradients (Captum, Gauss-Legendre on adaptive segments), mean over the fold models"
WordSpan = tuple[int, int, str]  # start and end in Note.text, section


def class_to_explain(task: Task, predicted: int) -> int:
    """Return the class whose logit is explained: the positive one of a binary task, else the predicted one.

    So red always raises the risk in binary tasks, whatever was predicted; and of an event, as its logit is the log of
    the cumulative hazard.
    """
    return 1 if task.kind in ("binary", "survival") else predicted


def explain_study(
    package: ModelPackage,
    samples: Sequence[Sample],
    *,
    volumes: Mapping[str, Volume],
    series: Mapping[str, SeriesReference],
    explained_class: int,
    settings: ExplainSettings,
) -> Explanation:
    """Return how the ensemble's logit of one study came about.

    Steps are added to `settings.steps` until each fold's attributions sum to the change of its logit within
    `settings.completeness` of the ensemble's change, or `settings.max_steps` are spent: then the finest result
    is kept, and its completeness error says so. Runs in float32 where the networks lie; they are left as they were.

    Args:
        package: The fold models, their temperatures and the mean training image.
        samples: The study as each fold sees it, in the order of the package's folds: one image, but
            tokens of the fold's own tokenizer.
        volumes: By channel name, as read: the image was made from these.
        series: By channel name; gives the keys.
        explained_class: Index into the task's classes; of a binary task, class 0 has the negative logit of class 1.
        settings: Steps and the completeness asked for.

    Raises:
        AttributionError: A logit or an attribution is not finite (`not_finite`), or the sample holds nothing that
            the model reads (`nothing_to_explain`).
        PackageError: The package has no mean training image.
    """
    with _frozen([member.network for member in package.folds]):
        lines = [
            lay_line(package, fold, sample, explained_class)
            for fold, sample in enumerate(_one_per_fold(package, samples))
        ]
        table = package.card.contract.table
        columns = () if table is None else tuple(column.name for column in table.columns)
        explanation, image = _explain(lines, samples, columns, explained_class, settings)
    return replace(explanation, channels=_on_source_grids(package, samples[0], image, volumes, series))


def _one_per_fold(package: ModelPackage, samples: Sequence[Sample]) -> Sequence[Sample]:
    if len(samples) != len(package.folds) or len({sample.study_key for sample in samples}) != 1:
        raise AttributionError(
            f"{len(samples)} samples for {len(package.folds)} fold models: give one per fold, all of one study",
            code="samples_do_not_fit",
        )
    return samples


# --- the mean over folds -------------------------------------------------------------------


def _explain(
    lines: Sequence[Line],
    samples: Sequence[Sample],
    columns: Sequence[str],
    explained_class: int,
    settings: ExplainSettings,
) -> tuple[Explanation, FloatArray]:
    """Return the explanation without its channels, and the image's attribution on the model's grid.

    The latter has shape (channels, x, y, z), float64, logit units; it is empty without an image.
    """
    logit, baseline_logit = _mean_logit(lines, 1.0), _mean_logit(lines, 0.0)
    tolerance = settings.completeness * abs(logit - baseline_logit)
    image = np.zeros((0, 1, 1, 1)) if samples[0].image is None else np.zeros(tuple(load_image(samples[0].image).shape))
    words: dict[WordSpan, float] = {}
    cells, sound = np.zeros(len(columns)), np.zeros(1)
    steps = 0
    for line, sample in zip(lines, samples, strict=True):
        integral = integrate(line, settings, tolerance=tolerance)
        found = dict(zip(line.modalities, integral.attributions, strict=True))
        image += found.get("image", 0.0) / len(lines)
        for span, attribution in _word_sums(sample, found.get("text")).items():
            words[span] = words.get(span, 0.0) + attribution / len(lines)
        sound = sound + found.get("recording", np.zeros(1)) / len(lines)
        cells += found["table"].sum(axis=1) / len(lines) if "table" in found else 0.0
        steps = max(steps, integral.steps)
    every = {"image": image, "text": np.array(list(words.values())), "recording": sound, "table": cells}
    read = {name: every[name] for name in lines[0].network.modalities}
    sums = modality_sums(read)
    explanation = Explanation(
        study_key=samples[0].study_key,
        explained_class=explained_class,
        channels=(),
        words=tuple(WordAttribution(*span, attribution) for span, attribution in sorted(words.items())),
        modality_shares=modality_shares(read),
        modality_sums=sums,
        method=METHOD,
        baseline=lines[0].baseline,
        steps=steps,
        logit=logit,
        baseline_logit=baseline_logit,
        convergence_delta=sum(sums.values()) - (logit - baseline_logit),
        cells=_cells(columns, cells, samples),
    )
    _check_complete(explanation, settings)
    return explanation, image


def _mean_logit(lines: Sequence[Line], fraction: float) -> float:
    """Return the ensemble's logit at a point of the line."""
    with torch.no_grad():
        return sum(float(line.logit(*line.point([fraction]))) for line in lines) / len(lines)


def _check_complete(explanation: Explanation, settings: ExplainSettings) -> None:
    error = explanation.completeness_error
    if not np.isfinite(error):
        raise AttributionError(
            "the logits of study and baseline are equal, so the completeness error of the attributions has no value",
            code="not_finite",
        )
    if error > settings.completeness:
        logger.warning(
            "study %s: the attributions miss the change of the logit by %.2f %% after %d steps (bound %.2f %%)",
            explanation.study_key,
            100 * error,
            explanation.steps,
            100 * settings.completeness,
        )


def _cells(columns: Sequence[str], sums: FloatArray, samples: Sequence[Sample]) -> tuple[CellAttribution, ...]:
    """Return the attribution of each cell that any fold's model reads."""
    read = [sample.cell_present for sample in samples if sample.table is not None]
    return tuple(
        CellAttribution(column, float(sums[k])) for k, column in enumerate(columns) if any(cells[k] for cells in read)
    )


def _word_sums(sample: Sample, text: FloatArray | None) -> dict[WordSpan, float]:
    """Merge a fold's attributions, (tokens, width), word by word."""
    if text is None:
        return {}
    pieces = text.sum(axis=1)
    return {(word.start, word.end, word.section): float(pieces[list(word.pieces)].sum()) for word in sample.words}


@contextmanager
def _frozen(networks: Sequence[StudyClassifier]) -> Iterator[None]:
    """Hold networks in evaluation mode without gradients of their weights, in plain float32; put all back."""
    training = [(network, network.training) for network in networks]
    wanted = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    device = next(networks[0].parameters()).device
    try:
        for network in networks:
            network.eval()
        for parameter in wanted:
            parameter.requires_grad_(False)
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for network, was in training:
            network.train(was)


# --- back to the study ---------------------------------------------------------------------


def _on_source_grids(
    package: ModelPackage,
    sample: Sample,
    attribution: FloatArray,
    volumes: Mapping[str, Volume],
    series: Mapping[str, SeriesReference],
) -> tuple[ChannelAttribution, ...]:
    contract = package.card.contract
    if sample.image is None or contract.image is None:
        return ()
    assert isinstance(sample.image, MetaTensor)
    affine = np.asarray(sample.image.affine, dtype=np.float64)
    return tuple(
        ChannelAttribution(
            channel=name,
            series_key=series[name].series_key,
            source=volumes[name],
            attribution=to_source_grid(attribution[number], affine, volumes[name]),
        )
        for number, name in enumerate(contract.image.channels)
        if sample.channel_present[number]
    )
