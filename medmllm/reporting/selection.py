"""Tell which series every study gives the channels of a model, and why the others lost.

    Study, StudySelection -> lines of text, rows of selection.csv, one JSON document

Keys and technical facts alone: a series description may hold a name, so it is shown only where that was asked for, and
never in a row.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from medmllm.documents import Document, SeriesKey
from medmllm.preprocessing.selection import PLAIN_NIFTI, ChannelSelection, Considered, StudySelection
from medmllm.records import SeriesReference
from medmllm.table_rows import SelectionRow

Only = Literal["all", "incomplete", "ambiguous", "refused"]
MISSING = {True: "no series fits it: the study is refused", False: "no series fits it: it is masked"}
_FIRST = {"used": 0, "refused": 1, "lost": 2}


class SelectionDocument(Document):
    """What `medmllm select --json` prints: how the studies went, and what became of every series."""

    studies: int = Field(ge=0)
    complete: int = Field(ge=0, description="every channel has a series")
    incomplete: int = Field(ge=0, description="accepted, though a channel has none")
    without: int = Field(
        ge=0, description="no channel has a series; accepted only with something else that the model reads"
    )
    ambiguous: int = Field(ge=0, description="refused: several series fit, and nothing decides")
    refused: int = Field(ge=0, description="refused: a required channel has no series, or none that can be read")
    would_be_refused: int = Field(ge=0, description="ambiguous, refused, and without anything that the model reads")
    rows: tuple[SelectionRow, ...]
    descriptions: dict[SeriesKey, str] | None = Field(
        description="Series Description or file stem by series; null unless asked for"
    )


def document(selections: Sequence[StudySelection], *, descriptions: bool) -> SelectionDocument:
    """Return everything as one document.

    Args:
        selections: Of all studies.
        descriptions: Hold the series descriptions too; they may hold identifiers.
    """
    series = [one.series for study in selections for channel in study.channels[:1] for one in channel.considered]
    return SelectionDocument(
        **_counts(selections),
        rows=tuple(row for selection in selections for row in rows(selection)),
        descriptions={one.series_key: one.description for one in series if one.description} if descriptions else None,
    )


def _counts(selections: Sequence[StudySelection]) -> dict[str, int]:
    outcomes = Counter(selection.outcome for selection in selections)
    return {
        "studies": len(selections),
        **{name: outcomes[name] for name in ("complete", "incomplete", "without", "ambiguous", "refused")},
        "would_be_refused": sum(selection.is_refused for selection in selections),
    }


def rows(selection: StudySelection) -> Iterator[SelectionRow]:
    """Yield the rows of selection.csv for one study: per channel, the series used comes first."""
    for channel in selection.channels:
        if not any(one.outcome != "lost" for one in channel.considered):
            yield SelectionRow(
                study_key=selection.study_key, channel=channel.channel, series_key=None, outcome="missing",
                why=MISSING[channel.refusal is not None],
            )  # fmt: skip
        for one in _in_order(channel):
            yield SelectionRow(
                study_key=selection.study_key, channel=channel.channel, series_key=one.series.series_key,
                outcome=one.outcome, why=one.why,
            )  # fmt: skip


def text(selections: Sequence[StudySelection], *, only: Only, descriptions: bool) -> str:
    """Return what to print: the studies asked for, one line per series and channel, and a summary of all.

    Args:
        selections: Of all studies.
        only: Which studies to show: all; `incomplete`: those where a channel has no series, for whatever reason;
            `ambiguous`; `refused`: those that a run would refuse, the ambiguous among them.
        descriptions: Show the series descriptions too; they may hold identifiers.
    """
    lines = []
    for selection in selections:
        if _is_shown(selection, only):
            lines += [*_study_lines(selection, descriptions=descriptions), ""]
    return "\n".join([*lines, *_summary(selections)])


def technical_facts(series: SeriesReference) -> str:
    """Return what a series is like in one line, without anything that may name a patient."""
    technique, size, spacing = series.technique, series.shape, series.spacing_mm
    facts = (
        series.modality or "modality unknown",
        "x".join(map(str, size)) if size else "size unknown",
        f"{'x'.join(f'{length:.2f}' for length in spacing)} mm" if spacing else "spacing unknown",
        technique.plane,
        technique.kernel and f"kernel {technique.kernel}",
        technique.contrast_word and f"contrast {technique.contrast_word}",
        technique.thickness_mm and f"{technique.thickness_mm:g} mm thick",
        technique.apart,
    )
    return ", ".join(fact for fact in facts if fact)


def _is_shown(selection: StudySelection, only: Only) -> bool:
    if only == "incomplete":
        return selection.outcome != "complete"
    if only == "ambiguous":
        return selection.outcome == "ambiguous"
    return only == "all" or selection.is_refused


def _in_order(channel: ChannelSelection) -> list[Considered]:
    return sorted(channel.considered, key=lambda one: _FIRST[one.outcome])


def _study_lines(selection: StudySelection, *, descriptions: bool) -> Iterator[str]:
    word = "without a series" if selection.outcome == "without" else selection.outcome
    code = selection.refusal.code if selection.refusal else "nothing_to_read"
    yield f"{selection.study_key}: {word}{f' ({code})' if selection.is_refused else ''}"
    widest = max(len(channel.channel) for channel in selection.channels)
    described = {one.series.series_key: one.series for channel in selection.channels for one in channel.considered}
    for row in rows(selection):
        start = f"  {row.channel:<{widest}}  {row.outcome:<7}"
        if row.series_key is None:
            yield f"{start}  {row.why}"
            continue
        series = described[row.series_key]
        quoted = f", {series.description!r}" if descriptions and series.description else ""
        yield f"{start}  {row.series_key}  {technical_facts(series)}{quoted}{f': {row.why}' if row.why else ''}"


def _summary(selections: Sequence[StudySelection]) -> Iterator[str]:
    counts = _counts(selections)
    yield (
        "{studies} studies: {complete} complete, {incomplete} lack a channel, {without} without any series, "
        "{ambiguous} ambiguous, {refused} refused".format(**counts)
    )
    unused = []
    names = [channel.channel for channel in selections[0].channels] if selections else []
    for number, name in enumerate(names):
        channels = [selection.channels[number] for selection in selections]
        chosen = sum(channel.chosen is not None for channel in channels)
        codes = Counter(channel.refusal.code for channel in channels if channel.refusal)
        rest = [f"{code} in {count}" for code, count in sorted(codes.items())]
        masked = len(channels) - chosen - codes.total()
        rest += [f"masked in {masked}"] if masked else []
        unused += [] if chosen else [name]
        yield f"  {name}: " + ", ".join([f"used in {chosen}", *rest])
    considered = [one for selection in selections for channel in selection.channels for one in channel.considered]
    yield from _remarks(considered, unused, ambiguous=counts["ambiguous"] > 0)
    yield "A run would refuse {would_be_refused} of {studies} studies for their series.".format(**counts)


def _remarks(considered: Sequence[Considered], unused: Sequence[str], *, ambiguous: bool) -> Iterator[str]:
    damaged = {one.series.series_key: one.series.refusal for one in considered if one.outcome == "refused"}
    codes = Counter(refusal.code for refusal in damaged.values() if refusal)
    if codes:
        counted = ", ".join(f"{code} {count}" for code, count in codes.most_common())
        yield f"  series that fit and cannot be read: {counted}"
    for name in unused:
        yield f"  hint: no study gives channel '{name}' a series: are its rules right?"
    if ambiguous:
        yield "  hint: ambiguous: narrow the rules of [image.channels], or say what decides: prefer = [...]"
    if any("does not tell its modality" in one.why and one.series.kind == "nifti" for one in considered):
        yield f"  hint: {PLAIN_NIFTI}"
