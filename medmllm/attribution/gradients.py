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
from torch import Tensor

from medmllm.attribution.modalities import modality_shares, modality_sums
from medmllm.attribution.overlay import to_source_grid
from medmllm.config import ExplainSettings
from medmllm.documents import Task
from medmllm.errors import AttributionError, PackageError
from medmllm.models.classifier import StudyClassifier
from medmllm.models.package import FoldNetwork, ModelPackage
from medmllm.preprocessing.sample import collate, to_device
from medmllm.records import (
    MODALITIES,
    Batch,
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
            _line(package, fold, sample, explained_class) for fold, sample in enumerate(_one_per_fold(package, samples))
        ]
        best = _adapt(lines, samples, settings)
    channels = _on_source_grids(package, samples[0], best.image, volumes, series)
    attributions = {"image": best.image, "text": np.array([word.attribution for word in best.words])}
    read = {name: attributions[name] for name in package.folds[0].network.modalities}
    return Explanation(
        study_key=samples[0].study_key,
        explained_class=explained_class,
        channels=channels,
        words=best.words,
        modality_shares=modality_shares(read),
        modality_sums=modality_sums(read),
        method=METHOD,
        baseline=_baseline_in_words(package.folds[0], lines[0].modalities),
        steps=best.steps,
        logit=best.logit,
        baseline_logit=best.baseline_logit,
        convergence_delta=best.delta,
    )


def _one_per_fold(package: ModelPackage, samples: Sequence[Sample]) -> Sequence[Sample]:
    if len(samples) != len(package.folds) or len({sample.study_key for sample in samples}) != 1:
        raise AttributionError(
            f"{len(samples)} samples for {len(package.folds)} fold models: give one per fold, all of one study",
            code="samples_do_not_fit",
        )
    return samples


# --- the line from baseline to study -------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """One fold's way from the baseline to the study, over the modalities that the study has."""

    network: StudyClassifier
    batch: Batch  # the study alone
    embedded: Tensor | None  # (1, tokens, width); None without a text encoder
    modalities: tuple[str, ...]
    start: tuple[Tensor, ...]  # one per modality: (1, channels, x, y, z) or (1, tokens, width)
    end: tuple[Tensor, ...]
    output: int
    factor: float  # sign of the class / temperature

    def logit(self, *inputs: Tensor) -> Tensor:
        """Return the explained logit, shape (rows,), at points given by one tensor per modality."""
        given = dict(zip(self.modalities, inputs, strict=True))
        rows = len(inputs[0])
        batch = _repeat(self.batch, rows)
        embedded = given.get("text", None if self.embedded is None else _rows(self.embedded, rows))
        logits = self.network.forward_embedded(batch, given.get("image", batch.image), embedded)
        return logits[:, self.output] * self.factor


def _rows(tensor: Tensor, rows: int) -> Tensor:
    return tensor.expand(rows, *tensor.shape[1:])


def _repeat(batch: Batch, rows: int) -> Batch:
    """Return one study's batch as `rows` equal rows, without copying."""
    return replace(
        batch,
        study_keys=batch.study_keys * rows,
        image=_rows(batch.image, rows),
        channel_present=_rows(batch.channel_present, rows),
        token_ids=_rows(batch.token_ids, rows),
        token_mask=_rows(batch.token_mask, rows),
        present=_rows(batch.present, rows),
        target=None,
    )


def _line(package: ModelPackage, fold: int, sample: Sample, explained_class: int) -> _Line:
    member, card = package.folds[fold], package.card
    network = member.network
    device = next(network.parameters()).device
    batch = to_device(collate([sample], card.contract, pad_token_id=member.pad_token_id), device)
    embedded = None if network.text_encoder is None else network.text_encoder.embed(batch.token_ids)
    here = tuple(name for name in network.modalities if bool(batch.present[0, MODALITIES.index(name)]))
    start, end = [], []
    for name in here:
        if name == "image":
            start.append(_background(package, batch))
            end.append(batch.image)
        else:
            assert embedded is not None
            start.append(_words_hidden(member, sample, embedded))
            end.append(embedded)
    if not here:
        raise AttributionError(
            "the study has nothing that the model reads: there is nothing to explain", code="nothing_to_explain"
        )
    binary = card.task.kind == "binary"
    return _Line(
        network=network,
        batch=batch,
        embedded=embedded,
        modalities=here,
        start=tuple(start),
        end=tuple(end),
        output=0 if binary else explained_class,
        factor=(-1.0 if binary and explained_class == 0 else 1.0) / card.folds[fold].temperature,
    )


def _background(package: ModelPackage, batch: Batch) -> Tensor:
    """Return the mean training image, (1, channels, x, y, z); a missing channel's stored value stays as it is."""
    if package.background is None:
        raise PackageError("the model package has no background.safetensors: the attribution baseline is missing.")
    mean = package.background.to(batch.image)[None]
    return torch.where(batch.channel_present[:, :, None, None, None], mean, batch.image)


def _words_hidden(member: FoldNetwork, sample: Sample, embedded: Tensor) -> Tensor:
    """Return the embeddings with every piece of every word replaced by the blank token's, (1, tokens, width)."""
    assert member.network.text_encoder is not None
    token, _ = _blank_token(member)
    blank = member.network.text_encoder.embed(torch.tensor([[token]], device=embedded.device))
    content = torch.zeros(embedded.shape[1], dtype=torch.bool, device=embedded.device)
    content[[piece for word in sample.words for piece in word.pieces]] = True
    return torch.where(content[None, :, None], blank, embedded)


def _blank_token(member: FoldNetwork) -> tuple[int, str]:
    """Return the id and name of the token that stands for no word: [MASK], or [PAD] without one."""
    mask = None if member.tokenizer is None else member.tokenizer.mask_token_id
    return (int(mask), "[MASK]") if mask is not None else (member.pad_token_id, "[PAD]")


def _baseline_in_words(member: FoldNetwork, modalities: Sequence[str]) -> str:
    said = {
        "image": "the mean training image",
        "text": f"the note with every word piece replaced by {_blank_token(member)[1]}, special tokens kept",
    }
    return " and ".join(said[name] for name in modalities)


# --- gradients along the line --------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """The ensemble's attributions for one number of steps."""

    image: FloatArray  # (channels, x, y, z), float64, model grid, logit units; all 0 without an image
    words: tuple[WordAttribution, ...]  # in the order of the note
    steps: int
    logit: float
    baseline_logit: float

    @property
    def delta(self) -> float:
        """What the attributions sum to beyond the change of the logit."""
        total = float(self.image.sum()) + sum(word.attribution for word in self.words)
        return total - (self.logit - self.baseline_logit)

    @property
    def error(self) -> float:
        """|delta| as a fraction of the change; see Explanation.completeness_error."""
        change = abs(self.logit - self.baseline_logit)
        return 0.0 if self.delta == 0 else abs(self.delta) / change if change > 0 else float("inf")


def _adapt(lines: Sequence[_Line], samples: Sequence[Sample], settings: ExplainSettings) -> _Attempt:
    """Double the steps until the attributions are complete enough; return the most complete attempt."""
    steps = min(settings.steps, settings.max_steps)
    best = _attempt(lines, samples, steps)
    while best.error > settings.completeness and steps < settings.max_steps:
        steps = min(2 * steps, settings.max_steps)
        best = min(best, _attempt(lines, samples, steps), key=lambda attempt: attempt.error)
    if not np.isfinite(best.error):
        raise AttributionError(
            "the logits of study and baseline are equal, so the completeness error of the attributions has no value",
            code="not_finite",
        )
    if best.error > settings.completeness:
        logger.warning(
            "%s: completeness error %.2f %% after %d steps (bound %.2f %%)",
            samples[0].study_key, 100 * best.error, steps, 100 * settings.completeness,
        )  # fmt: skip
    return best


def _attempt(lines: Sequence[_Line], samples: Sequence[Sample], steps: int) -> _Attempt:
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
    ordered = tuple(WordAttribution(*span, attribution) for span, attribution in sorted(words.items()))
    attempt = _Attempt(image, ordered, steps, logit, baseline_logit)
    if not np.isfinite([logit, baseline_logit, attempt.delta]).all():
        raise AttributionError("a logit or an attribution is not a finite number", code="not_finite")
    return attempt


def _integrate(line: _Line, steps: int) -> list[FloatArray]:
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
