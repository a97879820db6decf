"""Read a cohort for training: every study prepared once, refusals kept beside it.

    Study -> chosen series -> Volumes, Note, Recordings, Values -> quality gate
    -> Sample (no tokens, no cells yet), or a Refusal

Tokens and coded cells come later, fold by fold: `tiny` learns its vocabulary, and the table its scale and its
categories, from the training part alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from medmllm.config import QualityBounds, QualityPolicy
from medmllm.documents import ImageSettings, PreprocessingContract, RecordingSettings, TableContract, TextSettings
from medmllm.errors import ContractError, GeometryError, IngestError, LabelError, MedmllmError
from medmllm.ingest.audio import read_recording
from medmllm.ingest.study_folder import read_study_note, read_volume
from medmllm.ingest.table_inputs import accept_numbers, read_values
from medmllm.preprocessing.contract import VolumeFacts, accept, measure
from medmllm.preprocessing.sample import prepare_sample
from medmllm.preprocessing.selection import choose_series
from medmllm.quality.duplicates import NoteRegister
from medmllm.quality.gate import Findings, inspect_study, judge, refusal_of
from medmllm.records import (
    Note,
    QualityFinding,
    Recording,
    Refusal,
    Sample,
    SeriesReference,
    Stage,
    Study,
    Survival,
    Target,
    Values,
    Volume,
)
from medmllm.training.image_cache import ImageCache, KeptImage
from medmllm.training.learnable import Learnable, learnable
from medmllm.training.survival_strata import coarse_labels

CONTRACT_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class StudyParts:
    """What a study gives, read but not prepared; by channel name."""

    series: Mapping[str, SeriesReference]
    volumes: Mapping[str, Volume] = field(repr=False)  # empty where the image is kept
    note: Note | None
    recordings: tuple[Recording, ...] = ()
    values: Values | None = field(default=None, repr=False)  # of the table's columns
    key: str | None = None  # under which the prepared image is kept, or may be
    kept: KeptImage | None = None

    @property
    def facts(self) -> Mapping[str, VolumeFacts]:
        """What the volumes are like, by channel name."""
        return self.kept.about.facts if self.kept else {name: measure(one) for name, one in self.volumes.items()}

    @property
    def pixels(self) -> tuple[str, ...]:
        """Digests of the volumes."""
        if self.kept:
            return self.kept.about.pixels
        return tuple(digest for volume in self.volumes.values() if (digest := pixel_digest(volume)))


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One study of the cohort, prepared."""

    sample: Sample  # with its target; without tokens
    note: Note | None
    facts: Mapping[str, VolumeFacts]  # by channel name
    pixels: tuple[str, ...] = ()  # digest of each volume as read, for the audit of leakage
    sounds: tuple[str, ...] = ()  # digest of each recording as read, likewise
    values: Values | None = field(default=None, repr=False)  # of the table's columns
    learnable: Learnable | None = None  # what a vocabulary may learn of it; None where none is learnt


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Everything that training reads, in the order of the index."""

    members: tuple[Member, ...]
    refused: tuple[tuple[Study, Refusal], ...]
    findings: tuple[tuple[str, QualityFinding], ...] = ()  # study_key, finding; of members and refused alike
    note_copies: Mapping[str, str] = field(default_factory=dict)  # study_key -> earlier study with much the same note
    table: TableContract | None = None  # the columns that were read; their ranges are not known yet

    @property
    def has_images(self) -> bool:
        """Whether any study has an image."""
        return any(member.sample.image is not None for member in self.members)

    @property
    def has_notes(self) -> bool:
        """Whether any study has a note."""
        return any(member.note is not None for member in self.members)

    @property
    def has_recordings(self) -> bool:
        """Whether any study has a recording."""
        return any(member.sample.recording is not None for member in self.members)

    @property
    def has_values(self) -> bool:
        """Whether any study has a value in the table's columns."""
        return any(member.values is not None for member in self.members)

    @property
    def names(self) -> frozenset[str]:
        """Names that headers and tables of any study tell; none where no vocabulary is learnt."""
        return frozenset().union(*(member.learnable.names for member in self.members if member.learnable))

    @property
    def patients(self) -> list[str]:
        """patient_key of each member."""
        return [member.sample.patient_key for member in self.members]

    @property
    def study_keys(self) -> list[str]:
        """study_key of each member."""
        return [member.sample.study_key for member in self.members]

    @property
    def targets(self) -> list[int]:
        """Class index of each member; empty where there are several targets instead."""
        return [member.sample.target for member in self.members if isinstance(member.sample.target, int)]

    @property
    def known(self) -> list[Target]:
        """Target of each member, of whichever kind."""
        return [member.sample.target for member in self.members if member.sample.target is not None]

    @property
    def survived(self) -> list[Survival]:
        """Time to an event of each member; empty where that is not the target."""
        return [member.sample.target for member in self.members if isinstance(member.sample.target, Survival)]

    @property
    def labels(self) -> list[tuple[int, ...]]:
        """Class index of each of several targets, or UNKNOWN, of each member; empty where there is one target.

        Of a time to an event it is whether the event came.
        """
        return [labels for target in self.known if (labels := coarse_labels(target))]


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """What came of one study."""

    found: Member | Refusal
    findings: Findings = ()
    note: Note | None = None


def read_parts(
    study: Study,
    contract: PreprocessingContract,
    cache: ImageCache | None = None,
    bounds: QualityBounds | None = None,
) -> StudyParts:
    """Read the series that the contract's channels ask for, and what else the contract reads.

    Args:
        study: Of an index.
        contract: What is read.
        cache: Where prepared images are kept: the series of one that is there are not read.
        bounds: Of the quality checks; given with a cache.

    Raises:
        MedmllmError: A required channel has no series, several fit, or one cannot be read; or a cell of the table.
    """
    series = {} if contract.image is None else choose_series(study, contract.image)
    key = None
    if cache is not None and bounds is not None and contract.image is not None and series:
        key = cache.key(series, contract, bounds)
    kept = cache.find(key) if cache is not None and key is not None else None
    regrid = contract.image.regrid if contract.image else "never"
    volumes = {name: read_volume(one, regrid=regrid) for name, one in series.items()} if kept is None else {}
    note = read_study_note(study) if contract.text is not None else None
    values = None if contract.table is None else read_values(study, contract.table)
    recordings = () if contract.recording is None else _read_recordings(study)
    return StudyParts(series, volumes, note, recordings, values, key, kept)


def inspect_parts(study: Study, parts: StudyParts, contract: PreprocessingContract, policy: QualityPolicy) -> Findings:
    """Return what the quality checks find in what was read of a study, judged by the policy."""
    volumes = {parts.series[name].series_key: volume for name, volume in parts.volumes.items()}
    has_note = contract.text is not None and bool(study.notes)
    found = inspect_study(study.study_key, volumes, parts.note, policy, has_note=has_note, recordings=parts.recordings)
    return found if parts.kept is None else (*judge(parts.kept.findings(parts.series), policy.decisions), *found)


def compare_note(study: Study, note: Note | None, register: NoteRegister, policy: QualityPolicy) -> Findings:
    """Return whether an earlier study's note is much like this one; call it in the order of the studies."""
    alike = register.check(study.study_key, note)
    return () if alike is None else judge([alike], policy.decisions)


def pixel_digest(volume: Volume) -> str | None:
    """Return a digest of a volume's voxels and their order; None for a constant one, which any other may equal.

    Where the volume lies in the patient does not count: pixels copied under a new patient id often get a new frame.
    """
    voxels = volume.voxels
    if voxels.min() == voxels.max():
        return None
    # Slice by slice, so that no second copy of a volume is held however it lies in memory.
    digest = hashlib.blake2b(repr(voxels.shape).encode(), digest_size=16)
    for plane in range(voxels.shape[2]):
        digest.update(np.ascontiguousarray(voxels[:, :, plane], dtype=np.float32).tobytes())
    return digest.hexdigest()


def _read_recordings(study: Study) -> tuple[Recording, ...]:
    try:
        return tuple(read_recording(reference.file) for reference in study.recordings)
    except IngestError as error:
        error.add_note(f"(in a recording of study {study.study_key})")
        raise


def sound_digest(recording: Recording) -> str | None:
    """Return a digest of a recording's samples; None for a constant one, which any other may equal."""
    waveform = recording.waveform
    if waveform.min() == waveform.max():
        return None
    return hashlib.blake2b(np.ascontiguousarray(waveform).tobytes(), digest_size=16).hexdigest()


def stage_of(error: MedmllmError) -> Stage:
    """Return the stage at which an error stopped the reading and preparing of a study."""
    if isinstance(error, ContractError):
        return "contract"
    return "read" if isinstance(error, IngestError | GeometryError) else "preprocess"


def draft_contract(
    image: ImageSettings | None,
    text: TextSettings | None,
    recording: RecordingSettings | None = None,
    table: TableContract | None = None,
) -> PreprocessingContract:
    """Return a contract before the cohort is known: nothing is out of range yet."""
    return PreprocessingContract(
        version=CONTRACT_VERSION,
        orientation="RAS",
        image=image,
        accepted={},
        text=text,
        recording=recording,
        table=table,
    )


def read_cohort(
    studies: Sequence[Study],
    targets: Mapping[str, Target],
    contract: PreprocessingContract,
    *,
    policy: QualityPolicy,
    workers: int,
    advance: Callable[[int], None],
    cache: ImageCache | None = None,
) -> Cohort:
    """Read and prepare every labelled study, in parallel, in order.

    Args:
        studies: Those of the index; ones without a target are passed over.
        targets: study_key -> class index, or labels.
        contract: As of `draft_contract`.
        policy: What the quality gate lets pass.
        workers: Studies read at the same time.
        advance: Told of each study done.
        cache: Where prepared images are kept; None keeps them in memory.

    Raises:
        LabelError: No study could be read at all.
    """
    labelled = [study for study in studies if study.study_key in targets]

    def one(study: Study) -> _Looked:
        return _look(study, targets[study.study_key], contract, policy, cache)

    members, refused, findings = [], [], []
    register = NoteRegister(policy.bounds)
    with ThreadPoolExecutor(workers) as pool:
        for study, looked in zip(labelled, _in_order(pool, one, labelled, ahead=2 * workers), strict=True):
            advance(1)
            alike = compare_note(study, looked.note, register, policy)
            findings += [(study.study_key, finding) for finding in (*looked.findings, *alike)]
            found = looked.found if isinstance(looked.found, Refusal) else refusal_of(alike) or looked.found
            if isinstance(found, Refusal):
                refused.append((study, found))
            else:
                members.append(found)
    if not members:
        first = refused[0][1].reason if refused else "the folder holds no labelled study"
        raise LabelError(f"none of the {len(labelled)} labelled studies can be used; the first: {first}")
    return Cohort(tuple(members), tuple(refused), tuple(findings), register.copies, contract.table)


def _look(
    study: Study, target: Target, contract: PreprocessingContract, policy: QualityPolicy, cache: ImageCache | None
) -> _Looked:
    """Read, inspect and prepare one study."""
    findings: Findings = ()
    note = None
    try:
        parts = read_parts(study, contract, cache, policy.bounds)
        note, findings = parts.note, inspect_parts(study, parts, contract, policy)
        refusal = refusal_of(findings)
        if refusal is not None:
            return _Looked(refusal, findings, note)
        sample = prepare_sample(
            study,
            parts.volumes,
            note,
            contract,
            None,
            recordings=parts.recordings,
            values=parts.values,
            target=target,
            prepared=None if parts.kept is None else (parts.kept.image, parts.kept.about.channel_present),
        )
        words = learnable(note, study, contract)
    except MedmllmError as error:
        return _Looked(Refusal.of(error, stage_of(error)), findings, note)
    facts, pixels = parts.facts, parts.pixels
    if cache is not None and parts.key is not None and isinstance(sample.image, Tensor):
        channels = {reference.series_key: name for name, reference in parts.series.items()}
        own = tuple(replace(found, where=channels[found.where]) for found in findings if found.where in channels)
        image = cache.keep(
            parts.key, sample.image, sample.channel_present, facts=facts, pixels=pixels, findings=own
        )  # a full disk is no fault of the study: it ends the run
        sample = replace(sample, image=image)
    sounds = tuple(digest for recording in parts.recordings if (digest := sound_digest(recording)))
    return _Looked(Member(sample, note, facts, pixels, sounds, parts.values, words), findings, note)


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[Study], _Looked],
    studies: Sequence[Study],
    *,
    ahead: int,
) -> Iterator[_Looked]:
    """Yield results in order with at most `ahead` studies in flight, so that memory stays flat."""
    waiting = [pool.submit(work, study) for study in studies[:ahead]]
    for study in studies[ahead:]:
        yield waiting.pop(0).result()
        waiting.append(pool.submit(work, study))
    for future in waiting:
        yield future.result()


def final_contract(cohort: Cohort, draft: PreprocessingContract, *, margin: float) -> PreprocessingContract:
    """Return the contract with the ranges that the cohort spans, widened by the margin."""
    names = () if draft.image is None else tuple(draft.image.channels)
    facts = {name: [m.facts[name] for m in cohort.members if name in m.facts] for name in names}
    accepted = {name: accept(found, margin=margin) for name, found in facts.items() if found}
    values = [member.values for member in cohort.members]
    table = None if draft.table is None else accept_numbers(draft.table, values, margin=margin)
    return draft.model_copy(update={"accepted": accepted, "table": table})
