"""Explain one study's logit by Integrated Gradients, over the voxels and the note's words together.

    fold models, one Sample per fold -> straight line from baseline to study -> gradients along it
    -> mean over folds -> Explanation, with its completeness error stated

Sundararajan, Taly & Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, by Captum, with
Gauss-Legendre quadrature. The logit is the ensemble's: the mean over folds of logit / temperature.
Attribution is linear in the logit, so the mean of the folds' attributions adds up to it.

What is not part of the study gets exactly 0: missing channels, missing modalities, padding. Special
tokens ([CLS], [SEP]) are the same at both ends of the line and get exactly 0 too.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from captum.attr import IntegratedGradients
from monai.data import MetaTensor

from medmllm.attribution.baseline import Line, lay_line
from medmllm.attribution.modalities import modality_shares, modality_sums
from medmllm.attribution.overlay import to_source_grid
from medmllm.config import ExplainSettings
from medmllm.documents import Task
from medmllm.errors import AttributionError
from medmllm.models.classifier import StudyClassifier
from medmllm.models.package import ModelPackage
from medmllm.records import (
    ChannelAttribution,
    Explanation,
    FloatArray,
    Sample,
    SeriesReference,
    Volume,
    WordAttribution,
)

logger = logging.getLogger(__name__)

METHOD = "Integrated Gradients (Captum, Gauss-Legendre), mean over the fold models"
MOST_ROWS = 32  # points of the line per forward pass
MOST_VALUES = 2**20  # voxels, or embedding values, per forward pass: one volume of 96 x 96 x 96 at a time

WordSpan = tuple[int, int, str]  # start and end in Note.text, section


def class_to_explain(task: Task, predicted: int) -> int:
    """Return the class whose logit is explained: the positive one of a binary task, else the predicted one.

    So red always raises the risk in binary tasks, whatever was predicted.
    """
    return 1 if task.kind == "binary" else predicted


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

    Steps are doubled from `settings.steps` until the completeness error is at most
    `settings.completeness`, or `settings.max_steps` is reached: then the most complete result is kept,
    and its error says so. Runs in float32 where the networks lie; they are left as they were.

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
        best = _adapt(lines, samples, explained_class, settings)
    return replace(best.explanation, channels=_on_source_grids(package, samples[0], best.image, volumes, series))


def _one_per_fold(package: ModelPackage, samples: Sequence[Sample]) -> Sequence[Sample]:
    if len(samples) != len(package.folds) or len({sample.study_key for sample in samples}) != 1:
        raise AttributionError(
            f"{len(samples)} samples for {len(package.folds)} fold models: give one per fold, all of one study",
            code="samples_do_not_fit",
        )
    return samples


# --- gradients along the line --------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """The ensemble's attributions for one number of steps."""

    explanation: Explanation  # without channels yet
    image: FloatArray  # (channels, x, y, z), float64, model grid, logit units; empty without an image

    @property
    def error(self) -> float:
        """The completeness error."""
        return self.explanation.completeness_error


def _adapt(
    lines: Sequence[Line], samples: Sequence[Sample], explained_class: int, settings: ExplainSettings
) -> _Attempt:
    """Double the steps until the attributions are complete enough; return the most complete attempt."""
    steps = min(settings.steps, settings.max_steps)
    best = _attempt(lines, samples, explained_class, steps)
    while best.error > settings.completeness and steps < settings.max_steps:
        steps = min(2 * steps, settings.max_steps)
        best = min(best, _attempt(lines, samples, explained_class, steps), key=lambda attempt: attempt.error)
    if not np.isfinite(best.error):
        raise AttributionError(
            "the logits of study and baseline are equal, so the completeness error of the attributions has no value",
            code="not_finite",
        )
    if best.error > settings.completeness:
        logger.warning(
            "study %s: the attributions miss the change of the logit by %.2f %% after %d steps (bound %.2f %%)",
            samples[0].study_key,
            100 * best.error,
            steps,
            100 * settings.completeness,
        )
    return best


def _attempt(lines: Sequence[Line], samples: Sequence[Sample], explained_class: int, steps: int) -> _Attempt:
    """Return the mean over folds of the attributions with this many steps."""
    image = np.zeros((0, 1, 1, 1)) if samples[0].image is None else np.zeros(tuple(samples[0].image.shape))
    words: dict[WordSpan, float] = {}
    logit = baseline_logit = 0.0
    for line, sample in zip(lines, samples, strict=True):
        found = dict(zip(line.modalities, _integrate(line, steps), strict=True))
        if "image" in found:
            image += found["image"][0] / len(lines)
        for span, attribution in _word_sums(sample, found.get("text")).items():
            words[span] = words.get(span, 0.0) + attribution / len(lines)
        with torch.no_grad():
            logit += float(line.logit(*line.end)) / len(lines)
            baseline_logit += float(line.logit(*line.start)) / len(lines)
    every = {"image": image, "text": np.array(list(words.values()))}
    read = {name: every[name] for name in lines[0].network.modalities}
    sums = modality_sums(read)
    delta = sum(sums.values()) - (logit - baseline_logit)
    if not np.isfinite([logit, baseline_logit, delta]).all():
        raise AttributionError("a logit or an attribution is not a finite number", code="not_finite")
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
        convergence_delta=delta,
    )
    return _Attempt(explanation, image)


def _integrate(line: Line, steps: int) -> list[FloatArray]:
    """Return the integrated gradients of one fold, float64, shaped as the line's ends."""
    largest = max(tensor.numel() for tensor in line.end)
    found = IntegratedGradients(line.logit).attribute(
        line.end,
        baselines=line.start,
        n_steps=steps,
        method="gausslegendre",
        internal_batch_size=max(1, min(MOST_ROWS, MOST_VALUES // largest)),
    )
    return [part.detach().cpu().double().numpy() for part in found]


def _word_sums(sample: Sample, text: FloatArray | None) -> dict[WordSpan, float]:
    """Merge a fold's attributions, (1, tokens, width), word by word."""
    if text is None:
        return {}
    pieces = text[0].sum(axis=1)
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
