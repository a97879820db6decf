"""Lay the straight line that Integrated Gradients follow: from a baseline that says nothing to the study.

    package, fold, Sample -> Line: both ends, and the explained logit at any point between

The image starts as the mean training image, the note as [MASK] in place of every word piece ([PAD] where a
tokenizer has no [MASK]), a recording at its mean level everywhere, the row of the table with all its cells missing.
Whatever is not part of the study, and special tokens, are the same at both ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from medmllm.errors import AttributionError, PackageError
from medmllm.evaluation.survival_curve import parts_until
from medmllm.model_documents import FoldModel, ModelCard, Place
from medmllm.models.classifier import StudyClassifier
from medmllm.models.package import FoldNetwork, ModelPackage
from medmllm.models.survival_head import log_hazard_until
from medmllm.preprocessing.sample import collate, to_device
from medmllm.records import MODALITIES, Batch, Sample
from medmllm.tuning_documents import TuningDecisions


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One fold's way from the baseline to the study, over the modalities that the study has."""

    network: StudyClassifier
    batch: Batch  # the study alone
    embedded: Tensor | None  # (1, tokens, width); None without a text encoder
    modalities: tuple[str, ...]  # those that the model reads and the study has
    start: tuple[Tensor, ...]  # one per modality: (1, channels, x, y, z), (1, tokens, width) ...
    end: tuple[Tensor, ...]
    output: int
    factor: float  # sign of the class / temperature
    shift: float  # the calibration's offset, with that sign
    baseline: str  # what the line starts from, in words
    of_hazards: Callable[[Tensor], Tensor] | None = None  # of a time to an event, in place of output and factor

    def point(self, fractions: Sequence[float]) -> tuple[Tensor, ...]:
        """Return points of the line, one row per fraction; 0 is the start and 1 the end, both exactly."""
        points = []
        for start, end in zip(self.start, self.end, strict=True):
            weights = torch.tensor(fractions, dtype=start.dtype, device=start.device)
            points.append(torch.lerp(start, end, weights.view(-1, *[1] * (start.ndim - 1))))
        return tuple(points)

    def logit(self, *inputs: Tensor) -> Tensor:
        """Return the explained logit, shape (rows,), at points given by one tensor per modality."""
        given = dict(zip(self.modalities, inputs, strict=True))
        rows = len(inputs[0])
        batch = _repeat(self.batch, rows)
        embedded = given.get("text", None if self.embedded is None else _rows(self.embedded, rows))
        image = given.get("image", batch.image)
        logits = self.network.forward_embedded(
            batch, image, embedded, recording=given.get("recording"), cells=given.get("table")
        )
        if self.of_hazards is not None:
            return self.of_hazards(logits)
        return logits[:, self.output] * self.factor + self.shift


def lay_line(package: ModelPackage, fold: int, sample: Sample, explained_class: int) -> Line:
    """Return one fold's line, on the device of its network.

    Args:
        package: Gives network, temperature and the mean training image.
        fold: Index into the package's folds.
        sample: The study, tokenised by this fold's tokenizer.
        explained_class: Index into the task's classes; of a binary target, the first class has the negative logit of
            the second.

    Raises:
        AttributionError: The sample holds nothing that the network reads (`nothing_to_explain`).
        PackageError: The package has no mean training image.
    """
    member, card = package.folds[fold], package.card
    network = member.network
    device = next(network.parameters()).device
    batch = to_device(collate([sample], card.contract, pad_token_id=member.pad_token_id), device)
    embedded = None if network.text_encoder is None else network.text_encoder.embed(batch.token_ids)
    here = tuple(name for name in network.modalities if bool(batch.present[0, MODALITIES.index(name)]))
    if not here:
        raise AttributionError(
            "the study has nothing that the model reads: there is nothing to explain", code="nothing_to_explain"
        )
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    if "image" in here:
        ends["image"] = (_mean_image(package, batch), batch.image)
    if "text" in here and embedded is not None:
        ends["text"] = (_words_hidden(member, sample, embedded), embedded)
    if "recording" in here:
        assert batch.recording is not None
        ends["recording"] = (torch.zeros_like(batch.recording), batch.recording)  # standardised: 0 is its mean
    if "table" in here:
        ends["table"] = (_cells_hidden(network, batch), network.embed_cells(batch))
    places = card.task.places_in(_width(card, card.folds[fold]))
    number = next(k for k, place in enumerate(places) if explained_class < place.classes.stop)
    place, own = places[number], card.folds[fold].decisions(card.task)[number]
    output, sign = place.output_of(explained_class)
    return Line(
        network=network,
        batch=batch,
        embedded=embedded,
        modalities=here,
        start=tuple(ends[name][0] for name in here),
        end=tuple(ends[name][1] for name in here),
        output=output,
        factor=sign / own.temperature,
        shift=0.0 if own.offsets is None else sign * own.offsets[output - place.outputs.start],
        baseline=_in_words(member, here),
        of_hazards=_of_hazards(place, own),
    )


def _width(card: ModelCard, fold: FoldModel) -> int:
    """Return how many logits a fold's network gives: of a time to an event, one per interval."""
    return card.task.outputs if fold.timeline is None else card.task.outputs - 1 + len(fold.timeline.bounds)


def _of_hazards(place: Place, decided: TuningDecisions) -> Callable[[Tensor], Tensor] | None:
    """Return how logits become the log cumulative hazard at the largest horizon; None for targets with classes."""
    asked, timeline = place.task.survival, decided.survival
    if asked is None or timeline is None:
        return None
    parts = parts_until(timeline.bounds, asked.horizons[-1:])[:, 0].tolist()
    until = partial(log_hazard_until, everybody=timeline.everybody, temperature=decided.temperature, parts=parts)
    return lambda logits: until(logits[:, place.outputs])


def _in_words(member: FoldNetwork, modalities: Sequence[str]) -> str:
    said = {
        "image": "the mean training image",
        "text": f"the note with {_blank_token(member)[1]} in place of every word piece",
        "recording": "each recording at its mean level in every band and frame",
        "table": "the row of the table with every cell missing",
    }
    return " and ".join(said[name] for name in modalities)


def _mean_image(package: ModelPackage, batch: Batch) -> Tensor:
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


def _cells_hidden(network: StudyClassifier, batch: Batch) -> Tensor:
    """Return the embeddings of a row whose cells are all missing, (1, columns, width)."""
    assert batch.cell_present is not None
    return network.embed_cells(replace(batch, cell_present=torch.zeros_like(batch.cell_present)))


def _blank_token(member: FoldNetwork) -> tuple[int, str]:
    """Return the id and name of the token that stands for no word."""
    tokenizer = member.tokenizer
    if tokenizer is None or tokenizer.mask_token_id is None:
        return member.pad_token_id, "[PAD]"
    return int(tokenizer.mask_token_id), str(tokenizer.mask_token)


def _rows(tensor: Tensor, rows: int) -> Tensor:
    return tensor.expand(rows, *tensor.shape[1:])


def _rows_if(tensor: Tensor | None, rows: int) -> Tensor | None:
    return None if tensor is None else _rows(tensor, rows)


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
        note_features=None,
        recording=_rows_if(batch.recording, rows),
        recording_mask=_rows_if(batch.recording_mask, rows),
        table=_rows_if(batch.table, rows),
        cell_present=_rows_if(batch.cell_present, rows),
    )
