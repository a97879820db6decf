"""Choose a study's series for the model's channels, and say why the others were not chosen.

    Study, channels -> rules of each channel -> preference among those that fit -> StudySelection
    StudySelection -> one series per channel, or a ContractError

Only what the headers tell is asked, so a dry run, training and scoring choose alike. A series that does not tell what
a rule asks for does not fit it. Ambiguous is refused: where two series fit and no preference decides, nothing is
guessed. Which orders of preference there are stands in `documents.Preference`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medmllm.documents import Channel, ImageSettings, Preference
from medmllm.errors import ContractError
from medmllm.geometry import UNEVEN_GAPS
from medmllm.preprocessing.channel_rules import SAME_MM, as_nifti_of, mismatches, slice_count, wanted
from medmllm.records import Refusal, SeriesReference, Study

SHOWN_BY = "`medmllm select` shows why each was passed over"
PLAIN_NIFTI = "a plain NIfTI file does not say its modality: set nifti_modality to what it is, or leave modality out"

Outcome = Literal["used", "lost", "refused"]


@dataclass(frozen=True, slots=True)
class Considered:
    """What became of one series for one channel."""

    series: SeriesReference
    outcome: Outcome
    why: str


@dataclass(frozen=True, slots=True)
class ChannelSelection:
    """Which series becomes one channel, if any, and what became of the study's others."""

    channel: str
    chosen: SeriesReference | None
    considered: tuple[Considered, ...]  # every series of the study
    refusal: Refusal | None = None  # why the study cannot be used, as far as this channel goes


@dataclass(frozen=True, slots=True)
class StudySelection:
    """Which series of a study become the model's channels."""

    study_key: str
    channels: tuple[ChannelSelection, ...]
    reads_more: bool  # it has something else that the model reads: a note, a recording, a cell of the table

    @property
    def refusal(self) -> Refusal | None:
        """Why the study cannot be used, by the first channel that stops it."""
        return next((channel.refusal for channel in self.channels if channel.refusal), None)

    @property
    def outcome(self) -> Literal["complete", "incomplete", "without", "ambiguous", "refused"]:
        """Say how the study went as a whole; `without`: it is accepted, and no channel has a series."""
        if self.refusal:
            return "ambiguous" if self.refusal.code == "ambiguous_series" else "refused"
        having = sum(channel.chosen is not None for channel in self.channels)
        return "complete" if having == len(self.channels) else "incomplete" if having else "without"

    @property
    def is_refused(self) -> bool:
        """Whether a run would refuse the study for its series, or for having nothing that the model reads."""
        return self.refusal is not None or (self.outcome == "without" and not self.reads_more)


def choose_series(study: Study, settings: ImageSettings) -> dict[str, SeriesReference]:
    """Return the series of a study that become the model's channels, by channel name.

    A channel that no series fits is absent from the result.

    Raises:
        ContractError: A required channel has no series, or every series of a channel was refused
            (`no_matching_series`; the reasons are passed on), or several fit one channel, or one fits several
            (`ambiguous_series`).
    """
    selection = select_series(study, settings, reads_more=True)  # what else there is, is asked for later
    if selection.refusal:
        raise ContractError(selection.refusal.reason, code=selection.refusal.code)
    return {channel.channel: channel.chosen for channel in selection.channels if channel.chosen}


def select_series(study: Study, settings: ImageSettings, *, reads_more: bool) -> StudySelection:
    """Return what becomes of every series of a study for every channel; what cannot be decided is a refusal in it.

    Args:
        study: Of an index.
        settings: Hold the channels.
        reads_more: The study has something beside images that the model reads.
    """
    channels = [_select(study, name, settings) for name in settings.channels]
    return StudySelection(study.study_key, _one_channel_each(channels), reads_more)


def _is_mended(series: SeriesReference, settings: ImageSettings) -> bool:
    """Say whether a series that was refused for its gaps will be read after all, because the settings ask for it."""
    return settings.regrid == "uneven" and series.refusal is not None and series.refusal.code in UNEVEN_GAPS


def _select(study: Study, name: str, settings: ImageSettings) -> ChannelSelection:
    channel = settings.channels[name]
    all_series = [as_nifti_of(series, channel.nifti_modality) for series in study.series]
    why = {series.series_key: "; ".join(mismatches(series, channel)) for series in all_series}
    fitting = [series for series in all_series if not why[series.series_key]]
    usable = [series for series in fitting if series.refusal is None or _is_mended(series, settings)]
    preferred = _prefer(usable, channel.prefer)
    why |= preferred.lost
    left = preferred.left
    chosen, refusal = left[0] if len(left) == 1 else None, None
    if len(left) > 1:
        refusal = _refuse("ambiguous_series", _why_ambiguous(name, preferred))
    elif not chosen and (channel.required or fitting):  # a series that cannot be read is not a missing one
        refusal = _refuse("no_matching_series", _why_none(study, name, channel, fitting))

    def consider(series: SeriesReference) -> Considered:
        if series is chosen:
            return Considered(series, "used", f"by {', '.join(preferred.decisive)}" if preferred.decisive else "")
        if any(series is one for one in left):
            others = f"fits as well as {_keys([one for one in left if one is not series])}"
            return Considered(series, "refused", "; ".join([others, *preferred.undecided]))
        if series.refusal and not why[series.series_key]:
            return Considered(series, "refused", f"{series.refusal.code}: {series.refusal.reason}")
        return Considered(series, "lost", why[series.series_key])

    return ChannelSelection(name, chosen, tuple(map(consider, all_series)), refusal)


def _one_channel_each(channels: Sequence[ChannelSelection]) -> tuple[ChannelSelection, ...]:
    """Refuse a series that several channels chose."""
    names: dict[str, list[str]] = {}
    for channel in channels:
        if channel.chosen:
            names.setdefault(channel.chosen.series_key, []).append(channel.channel)

    def check(channel: ChannelSelection) -> ChannelSelection:
        key = channel.chosen.series_key if channel.chosen else ""
        if len(names.get(key, ())) < 2:
            return channel
        several = f"matches {len(names[key])} channels ({', '.join(names[key])})"
        refusal = _refuse(
            "ambiguous_series",
            f"series {key} {several}: narrow their rules in [image.channels], so that a series fits one of them.",
        )
        considered = tuple(
            Considered(one.series, "refused", several) if one.series is channel.chosen else one
            for one in channel.considered
        )
        return replace(channel, chosen=None, considered=considered, refusal=refusal)

    return tuple(map(check, channels))


# --- what decides among series that fit ----------------------------------------------------


def _slice_spacing(series: SeriesReference) -> float | None:
    axis = series.technique.slice_axis
    return None if series.spacing_mm is None or axis is None else series.spacing_mm[axis]


# Preference -> (what is compared, whether the largest wins, words for a value)
_PREFERENCES: Mapping[Preference, tuple[Callable[[SeriesReference], float | None], bool, str]] = {
    "most_slices": (slice_count, True, "{:.0f} slices"),
    "thinnest": (lambda series: series.technique.thickness_mm, False, "{:.2f} mm thick"),
    "closest_slices": (_slice_spacing, False, "{:.2f} mm between slices"),
    "earliest": (lambda series: series.technique.time_order, False, "number {:.0f} in time"),
    "latest": (lambda series: series.technique.time_order, True, "number {:.0f} in time"),
}


@dataclass(frozen=True, slots=True)
class _Preferred:
    """What the preferences of a channel left of the series that fit it."""

    left: list[SeriesReference]
    lost: dict[str, str]  # series key -> why
    decisive: list[Preference]
    undecided: list[str]  # in words


def _prefer(fitting: Sequence[SeriesReference], preferences: Sequence[Preference]) -> _Preferred:
    found = _Preferred(list(fitting), {}, [], [])
    for preference in preferences:
        if len(found.left) < 2:
            break
        value_of, largest, words = _PREFERENCES[preference]
        values = [value_of(series) for series in found.left]
        told = [value for value in values if value is not None]
        if len(told) < len(values):  # a series that does not tell could be the best one
            found.undecided.append(f"{preference} decides nothing, as {len(values) - len(told)} do not tell it")
            continue
        best = max(told) if largest else min(told)
        behind = [(series, value) for series, value in zip(found.left, told, strict=True)
                  if abs(value - best) > SAME_MM]  # fmt: skip
        if not behind:
            found.undecided.append(f"{preference} decides nothing, as all are alike")
            continue
        beaten = {series.series_key for series, _ in behind}
        found.left[:] = [series for series in found.left if series.series_key not in beaten]
        for series, value in behind:
            against = f"{words.format(value)} against {words.format(best)}"
            found.lost[series.series_key] = f"lost to {_keys(found.left)} by {preference} ({against})"
        found.decisive.append(preference)
    return found


# --- words ---------------------------------------------------------------------------------


def _refuse(code: str, reason: str) -> Refusal:
    return Refusal("contract", code, reason)


def _keys(series: Sequence[SeriesReference]) -> str:
    return ", ".join(sorted(one.series_key for one in series))


def _why_ambiguous(name: str, preferred: _Preferred) -> str:
    undecided = f"{'; '.join(preferred.undecided)}. " if preferred.undecided else ""
    return (
        f"{len(preferred.left)} series match channel '{name}' ({_keys(preferred.left)}): {undecided}narrow its rules "
        "in [image.channels], say what decides (prefer), or take the others out of the folder."
    )


def _why_none(study: Study, name: str, channel: Channel, fitting: Sequence[SeriesReference]) -> str:
    if fitting:
        reasons = "; ".join(sorted({series.refusal.reason for series in fitting if series.refusal}))
        return f"the series of channel '{name}' cannot be read: {reasons}"
    seen = ", ".join(sorted({series.modality or "unknown" for series in study.series})) or "none"
    plain = any(series.kind == "nifti" and series.modality is None for series in study.series)
    return (
        f"channel '{name}' is required ({' and '.join(wanted(channel)) or 'any series'}), and no series of the study "
        f"fits; modalities present: {seen}. {PLAIN_NIFTI if channel.modality and plain else SHOWN_BY}."
    )
