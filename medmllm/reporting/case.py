"""Write the report of one study: prediction, overlays, note with word heat, provenance.

    PredictionDocument (+ explanation, note, volumes) -> OUT/studies/<study_key>/report.html

Everything a report shows was computed before: it draws and words, it decides nothing. What is absent
(no note, no series, no explanation) is said in words. The page shows the note's text, so it must be
guarded as the note itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medmllm.errors import MedmllmError
from medmllm.model_documents import ModelCard
from medmllm.records import MODALITIES, ChannelAttribution, Explanation, Note, Refusal, Volume
from medmllm.reporting.explained import meaning_of_logit
from medmllm.reporting.figures import (
    CanonicalGrid,
    PlanePicture,
    attribution_scale,
    colour_bar,
    draw_planes,
    intensity_window,
)
from medmllm.reporting.page import write_page
from medmllm.result_documents import ChannelFile, ExplanationDocument, PredictionDocument, WordDocument

STRONGEST_WORDS = 5  # listed on each side
OBLIQUE_DEGREES = 5.0  # from here on the report says that planes are not quite axial, coronal, sagittal


@dataclass(frozen=True, slots=True)
class ChannelFigure:
    """What the report shows of one channel."""

    channel: str
    modality: str | None
    spacing_mm: tuple[float, float, float]
    window: tuple[float, float]
    window_source: str
    pictures: tuple[PlanePicture, ...]
    oblique_degrees: float | None  # None when the planes are as good as anatomical
    file: ChannelFile | None  # None without an explanation
    scale: float | None  # None without an explanation, or when all attributions are zero


@dataclass(frozen=True, slots=True)
class TextRun:
    """A stretch of the note: one word with its attribution, or the text between words."""

    text: str = field(repr=False)
    attribution: float | None = None  # logit units
    heat: float = 0.0  # |attribution| / largest of the note
    unread: bool = False  # explained, yet these words have no attribution: the model never saw them


@dataclass(frozen=True, slots=True)
class NoteSection:
    """A section of the note as shown."""

    name: str | None  # None: text outside every section, e.g. the headings
    runs: tuple[TextRun, ...]
    read: bool | None  # the model saw some of its words; None without an explanation
    attribution: float | None


@dataclass(frozen=True, slots=True)
class StrongWord:
    """One of the words with the largest attribution."""

    text: str = field(repr=False)
    section: str
    attribution: float


@dataclass(frozen=True, slots=True)
class CasePage:
    """What the template case.html.j2 reads."""

    prediction: PredictionDocument
    card: ModelCard
    probability_of: str
    reads: tuple[str, ...]
    missing: tuple[str, ...]
    missing_channels: tuple[str, ...]
    channels: tuple[ChannelFigure, ...]
    explanation: ExplanationDocument | None
    explanation_refusal: Refusal | None
    completeness_bound: float | None
    note_given: bool
    note_masked: bool
    note: tuple[NoteSection, ...]
    raising: tuple[StrongWord, ...]
    lowering: tuple[StrongWord, ...]
    logit_means: str  # empty without an explanation
    largest_sum: float
    image_cancels: bool  # the image moved the logit by next to nothing
    colour_bar: str  # CSS


def write_case_report(
    path: Path,
    *,
    prediction: PredictionDocument,
    card: ModelCard,
    note: Note | None = None,
    note_masked: bool = False,
    volumes: Mapping[str, Volume] | None = None,
    windows: Mapping[str, tuple[float, float]] | None = None,
    explanation: Explanation | None = None,
    explanation_document: ExplanationDocument | None = None,
    explanation_refusal: Refusal | None = None,
    completeness_bound: float | None = None,
) -> None:
    """Write one study's report as one HTML file that loads nothing.

    Args:
        path: The file, e.g. OUT/studies/<study_key>/report.html; its folder exists.
        prediction: Every number of the prediction comes from here.
        card: The model that predicted: what it reads, its display window, intended use.
        note: The study's note as it was tokenised; None when there is none or it must not be shown.
        note_masked: Identifiers were replaced by X in `note`; the page says so.
        volumes: Channel name -> series as read, for channels without attribution (no explanation).
        windows: Channel name -> lowest and highest value shown. Else the contract's window when the
            model was trained with one, else the 1st and 99th percentile of the series.
        explanation: Where the attribution maps and their series come from.
        explanation_document: The same explanation as written to explanation.json: every number comes
            from here. Given together with `explanation` or not at all.
        explanation_refusal: Why there is no explanation, when one was asked for.
        completeness_bound: Largest completeness error that passes, `ExplainSettings.completeness`.

    Raises:
        MedmllmError: The parts do not belong to one study (code `report_mismatch`).
        GeometryError: An attribution map does not lie on its series' grid.
    """
    _check_parts(prediction, explanation, explanation_document)
    reads = _modalities_read(card)
    channels = _channel_figures(card, explanation, explanation_document, volumes or {}, windows or {})
    words = None if explanation_document is None else explanation_document.words
    strong = [] if note is None else _strong_words(note, words or ())
    page = CasePage(
        prediction=prediction,
        card=card,
        probability_of=_probability_of(prediction),
        reads=reads,
        missing=tuple(name for name in reads if name not in prediction.modalities_used),
        missing_channels=_missing_channels(card, channels, prediction),
        channels=channels,
        explanation=explanation_document,
        explanation_refusal=explanation_refusal,
        completeness_bound=completeness_bound,
        note_given=note is not None,
        note_masked=note_masked,
        note=() if note is None else note_sections(note, words, _section_sums(explanation_document)),
        raising=tuple(word for word in strong if word.attribution > 0)[:STRONGEST_WORDS],
        lowering=tuple(word for word in reversed(strong) if word.attribution < 0)[:STRONGEST_WORDS],
        logit_means=(
            "" if explanation_document is None else meaning_of_logit(card, explanation_document.explained_class)
        ),
        largest_sum=_largest(explanation_document.modality_sums if explanation_document else {}),
        image_cancels=_image_cancels(explanation_document.modality_sums if explanation_document else {}),
        colour_bar=colour_bar(),
    )
    write_page(path, "case.html.j2", synthetic=prediction.synthetic or card.synthetic, page=page)


def _check_parts(
    prediction: PredictionDocument, explanation: Explanation | None, document: ExplanationDocument | None
) -> None:
    if (explanation is None) != (document is None):
        raise MedmllmError(
            "a report needs an explanation and its document together, or neither", code="report_mismatch"
        )
    if explanation is None or document is None:
        return
    if not explanation.study_key == document.study_key == prediction.study_key:
        raise MedmllmError("prediction and explanation are of different studies", code="report_mismatch")
    if [part.channel for part in explanation.channels] != [part.channel for part in document.channels]:
        raise MedmllmError("explanation and its document name different channels", code="report_mismatch")


def _probability_of(prediction: PredictionDocument) -> str:
    """Return the class that `prediction.probability` is of: the positive one, or the predicted one."""
    task = prediction.task
    name = task.classes[1] if task.kind in ("binary", "survival") else prediction.probability_of or prediction.predicted
    if not math.isclose(prediction.probabilities.get(name, math.nan), prediction.probability, abs_tol=1e-9):
        raise MedmllmError("the probability is not that of the class it should be of", code="report_mismatch")
    return name


def _modalities_read(card: ModelCard) -> tuple[str, ...]:
    contract = card.contract
    reads = {"image": contract.image, "text": contract.text, "recording": contract.recording, "table": contract.table}
    return tuple(name for name in MODALITIES if reads[name] is not None and card.arm in ("fused", name))


def _missing_channels(
    card: ModelCard, channels: Sequence[ChannelFigure], prediction: PredictionDocument
) -> tuple[str, ...]:
    """Return the channels that the model reads and this study lacks; none when no channel is shown."""
    if card.contract.image is None or not channels or "image" not in prediction.modalities_used:
        return ()
    shown = {figure.channel for figure in channels}
    return tuple(name for name in card.contract.image.channels if name not in shown)


# --- the image -----------------------------------------------------------------------------


def _channel_figures(
    card: ModelCard,
    explanation: Explanation | None,
    document: ExplanationDocument | None,
    volumes: Mapping[str, Volume],
    windows: Mapping[str, tuple[float, float]],
) -> tuple[ChannelFigure, ...]:
    figures = []
    if explanation is not None and document is not None:
        for part, file in zip(explanation.channels, document.channels, strict=True):
            figures.append(_figure(card, part.channel, part.source, windows, part=part, file=file))
    explained = {figure.channel for figure in figures}
    figures += [
        _figure(card, channel, volume, windows) for channel, volume in volumes.items() if channel not in explained
    ]
    return tuple(figures)


def _figure(
    card: ModelCard,
    channel: str,
    volume: Volume,
    windows: Mapping[str, tuple[float, float]],
    *,
    part: ChannelAttribution | None = None,
    file: ChannelFile | None = None,
) -> ChannelFigure:
    image = card.contract.image
    if channel in windows:
        window, source = windows[channel], "as asked for"
    elif image is not None and image.intensity == "window":
        window, source = image.window, "the window that the model was trained with"
    else:
        window, source = intensity_window(volume), "1st to 99th percentile of the series"
    scale = None if part is None else attribution_scale(part.attribution)
    x, y, z = volume.voxels.shape
    angle = CanonicalGrid.of(volume).obliquity_degrees
    return ChannelFigure(
        channel=channel,
        modality=volume.modality,
        spacing_mm=volume.spacing_mm,
        window=window,
        window_source=source,
        pictures=draw_planes(
            volume,
            through=(x // 2, y // 2, z // 2) if file is None else file.peak_voxel,
            window=window,
            attribution=None if part is None else part.attribution,
            scale=scale,
        ),
        oblique_degrees=angle if angle >= OBLIQUE_DEGREES else None,
        file=file,
        scale=scale,
    )


# --- the note ------------------------------------------------------------------------------


def note_sections(
    note: Note, words: Sequence[WordDocument] | None, sums: Mapping[str, float]
) -> tuple[NoteSection, ...]:
    """Cut a note into sections and each section into words and the text between them.

    Args:
        note: The note; every character of it but blank gaps between sections comes back, in order.
        words: Attributed words; None when the study was not explained.
        sums: Section name -> summed attribution.

    Raises:
        MedmllmError: A word lies outside the note, so the words are of another text.
    """
    ordered = sorted(words or (), key=lambda word: word.start)
    if any(word.start < 0 or word.end > len(note.text) for word in ordered):
        raise MedmllmError("an attributed word lies outside the note", code="report_mismatch")
    largest = max((abs(word.attribution) for word in ordered), default=0.0)
    spans: list[tuple[str | None, int, int]] = []
    cursor = 0
    for section in sorted(note.sections, key=lambda section: section.start):
        spans += [(None, cursor, section.start), (section.name, max(cursor, section.start), section.end)]
        cursor = max(cursor, section.end)
    spans.append((None, cursor, len(note.text)))
    sections = []
    for name, start, end in spans:
        body = note.text[start:end]
        if not body.strip():
            continue
        start, end = start + len(body) - len(body.lstrip("\n")), start + len(body.rstrip())
        inside = [word for word in ordered if start <= word.start < end]
        sections.append(
            NoteSection(
                name=name,
                runs=_runs(note.text, start, end, inside, largest=largest, explained=words is not None),
                read=None if words is None else bool(inside),
                attribution=sums.get(name) if name is not None and inside else None,
            )
        )
    return tuple(sections)


def _runs(
    text: str, start: int, end: int, words: Sequence[WordDocument], *, largest: float, explained: bool
) -> tuple[TextRun, ...]:
    def between(first: int, stop: int) -> TextRun:
        unread = explained and any(character.isalnum() for character in text[first:stop])
        return TextRun(text[first:stop], unread=unread)

    runs = []
    cursor = start
    for word in words:
        if word.start < cursor:
            continue  # spans that overlap: the earlier word is shown
        runs.append(between(cursor, word.start))
        stop = min(word.end, end)
        heat = abs(word.attribution) / largest if largest > 0 else 0.0
        runs.append(TextRun(text[word.start : stop], word.attribution, heat))
        cursor = stop
    runs.append(between(cursor, end))
    return tuple(run for run in runs if run.text)


def _strong_words(note: Note, words: Sequence[WordDocument]) -> list[StrongWord]:
    """Return all words, the largest attribution first."""
    ordered = sorted(words, key=lambda word: -word.attribution)
    return [StrongWord(note.text[word.start : word.end], word.section, word.attribution) for word in ordered]


def _image_cancels(sums: Mapping[str, float]) -> bool:
    """Say whether the voxels' attributions add up to less than a twentieth of what all modalities moved."""
    return "image" in sums and abs(sums["image"]) < sum(map(abs, sums.values())) / 20


def _section_sums(document: ExplanationDocument | None) -> Mapping[str, float]:
    return {} if document is None else document.section_sums


def _largest(values: Mapping[str, float]) -> float:
    return max((abs(value) for value in values.values()), default=0.0) or 1.0
