"""Put a study together from its files, and name it by keys. This is what worker processes do once all files are known.

StudyDraft, rows of its files -> series -> keys -> IndexedStudy, and the fate of each file
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Literal, TypeVar

from medmllm.ingest.damaged import Damage
from medmllm.ingest.draft import Remark, SeriesDraft, StudyDraft
from medmllm.ingest.fate import Fate
from medmllm.ingest.grouping import add_series
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Layouts
from medmllm.ingest.looking import PURPOSE, StoredRow, recognised_of
from medmllm.ingest.recognise import Kind, Recognised
from medmllm.ingest.sealing import Seal
from medmllm.ingest.walk import FoundFile
from medmllm.records import NoteReference, RecordingReference, Refusal, SeriesReference, Study
from medmllm.table_rows import LinkageRow, ProblemRow

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class IndexedStudy:
    """One study, and what is to be said of it."""

    study: Study
    problems: tuple[ProblemRow, ...]
    linkage: tuple[LinkageRow, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unmade:
    """All that a study is made of."""

    draft: StudyDraft
    rows: Sequence[StoredRow]  # of its files, sealed, in order of their paths
    damage: Damage


@dataclass(frozen=True, slots=True)
class Maker(Generic[Told]):
    """Makes studies, and tells of each what is asked for; crosses to other processes."""

    layouts: Layouts
    keyring: Keyring
    tell: Callable[[IndexedStudy], Told]

    def make(self, studies: Sequence[Unmade]) -> list[tuple[Told, list[Fate]]]:
        """Return what is told of each study, and the fates of its files in the order of their rows."""
        seal, made = Seal.of(self.keyring.secret, PURPOSE), []
        for each in studies:
            items = recognised_of(each.rows, seal, self.layouts.root)
            study = self._indexed(each, items)
            made.append((self.tell(study), _fates(study.study, items)))
            each.draft.series, each.draft.notes, each.draft.recordings = [], [], []
        return made

    def _indexed(self, unmade: Unmade, items: Sequence[Recognised]) -> IndexedStudy:
        draft = unmade.draft
        add_series(draft, items, self.layouts, unmade.damage)
        draft.notes = [item.found for item in items if item.kind is Kind.NOTE]
        draft.recordings = [item.found for item in items if item.kind is Kind.RECORDING]
        linkage: dict[str, LinkageRow] = {}
        study = _name_study(draft, self.keyring, linkage)
        problems = [*_problems_of(draft, study)]
        for item in items:
            if item.kind is Kind.RECORDING and item.refusal:
                key = self.keyring.file(item.found.relative)
                linkage[key] = link(key, "file", item.found.relative)
                problems.append(_problem(key, study.study_key, item.refusal))
        return IndexedStudy(study, tuple(problems), tuple(linkage.values()))


def _fates(study: Study, items: Sequence[Recognised]) -> list[Fate]:
    """Return what became of the files of a study; those of one series have one in common."""
    holding: dict[Path, tuple[int, ...]] = {}
    for number, series in enumerate(study.series):
        for path in dict.fromkeys(series.files):
            holding[path] = (*holding.get(path, ()), number)
    known: dict[tuple[int, ...], Fate] = {}
    fates = []
    for item in items:
        if item.kind is Kind.RECORDING and item.refusal:
            fates.append(_refused(study, item.refusal))
            continue
        held = holding.get(item.dicom[0].file if item.dicom else item.found.path, ())
        if held not in known:
            known[held] = _fate(study, [study.series[number] for number in held])
        fates.append(known[held])
    return fates


def _fate(study: Study, series: Sequence[SeriesReference]) -> Fate:
    first = series[0] if series else None
    refusal = first.refusal if first and all(one.refusal for one in series) else None
    fate = _refused(study, refusal) if refusal else Fate("used", study_key=study.study_key)
    return fate._replace(series_key=first.series_key if first else None, series=len(series))


def _refused(study: Study, refusal: Refusal) -> Fate:
    return Fate("refused", refusal.code, refusal.reason, refusal.retryable, study.study_key)


def _problems_of(draft: StudyDraft, study: Study) -> Iterator[ProblemRow]:
    yield from (_problem(study.study_key, study.study_key, remark) for remark in draft.remarks)
    for series, reference in zip(draft.series, study.series, strict=True):
        yield from (_problem(reference.series_key, study.study_key, remark) for remark in series.remarks)
        if reference.refusal:
            yield _problem(reference.series_key, study.study_key, reference.refusal)


def _problem(where_key: str, study_key: str, found: Remark | Refusal) -> ProblemRow:
    severity, retryable = ("refused", found.retryable) if isinstance(found, Refusal) else (found.severity, False)
    return ProblemRow(
        where_key=where_key, study_key=study_key, severity=severity, code=found.code, reason=found.reason,
        retryable=retryable,
    )  # fmt: skip


def _name_study(draft: StudyDraft, keyring: Keyring, linkage: dict[str, LinkageRow]) -> Study:
    """Return a draft as a study known by keys; what the keys stand for goes into `linkage`."""
    study_key, patient_key = keyring.study(draft.original), keyring.patient(draft.patient)
    linkage[patient_key] = link(patient_key, "patient", draft.patient, "; ".join(draft.spelt))
    linkage[study_key] = link(study_key, "study", draft.original)
    draft.series.sort(key=lambda series: series.original)
    references = []
    times = sorted({series.acquired for series in draft.series if series.acquired})
    for series in draft.series:
        key = keyring.series(series.original)
        linkage[key] = link(key, "series", series.original, series.description or "")
        references.append(_refer(series, key, times.index(series.acquired) + 1 if series.acquired else None))
    return Study(
        study_key=study_key,
        patient_key=patient_key,
        layout=draft.layout,
        series=tuple(references),
        notes=tuple(NoteReference(found.path) for found in _by_name(draft.notes)),
        recordings=tuple(RecordingReference(found.path) for found in _by_name(draft.recordings)),
        facts=draft.row or {},
    )


def _refer(series: SeriesDraft, key: str, time_order: int | None) -> SeriesReference:
    return SeriesReference(
        series_key=key,
        kind=series.kind,
        modality=series.modality,
        shape=series.shape,
        spacing_mm=series.spacing_mm,
        description=series.description,
        files=series.files,
        frames=series.frames,
        refusal=series.refusal,
        technique=replace(series.technique, time_order=time_order),
        damaged_beside=series.damaged_beside,
    )


def _by_name(files: Sequence[FoundFile]) -> list[FoundFile]:
    return sorted(files, key=lambda found: (found.name, found.relative))


def link(key: str, kind: Literal["patient", "study", "series", "file"], original: str, more: str = "") -> LinkageRow:
    """Return a row of the linkage table; bytes of a file name that are no UTF-8 are written as escapes."""
    plain, description = (text.encode("utf-8", "backslashreplace").decode() for text in (original, more))
    return LinkageRow(key=key, kind=kind, original=plain, description=description)
