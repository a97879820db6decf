"""Score the studies of a folder with the model loaded once.

    studies -> read, inspect, prepare ahead, in parallel -> batches -> every fold's logits -> Scored or refused

Reading overlaps with inference: `workers` threads prepare studies while the model works, never more
than a bounded number ahead, so memory stays flat. Whatever goes wrong with one study is a Refusal of
that study.
"""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from medmllm.attribution.gradients import class_to_explain, explain_study
from medmllm.config import QualityPolicy, ScoreConfig
from medmllm.errors import MedmllmError
from medmllm.evaluation.conformal import vote
from medmllm.evaluation.fold_decisions import calibrate_fold, class_probabilities, fold_sets
from medmllm.evaluation.leading import class_shown, leading_label, predicted_labels
from medmllm.model_documents import ModelCard
from medmllm.models.package import ModelPackage, key_digest
from medmllm.preprocessing.contract import nothing_to_read
from medmllm.preprocessing.sample import collate, prepare_sample, to_device
from medmllm.preprocessing.table import code_values, unknown_categories
from medmllm.preprocessing.text import tokenize_note
from medmllm.quality.duplicates import NoteRegister
from medmllm.quality.gate import Findings, refusal_of
from medmllm.records import (
    MODALITIES,
    Explanation,
    FloatArray,
    Note,
    Prediction,
    Refusal,
    Sample,
    Stage,
    Study,
    Values,
)
from medmllm.scoring.survival import timed_part
from medmllm.training.cohort import StudyParts, compare_note, inspect_parts, read_parts, stage_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One study's result, with what was read of it."""

    study: Study
    prediction: Prediction
    parts: StudyParts
    explanation: Explanation | Refusal | None  # None when not asked for
    findings: Findings = ()  # of the quality checks


@dataclass(frozen=True, slots=True)
class Refused:
    """One study that was not scored, and why."""

    study: Study
    refusal: Refusal
    findings: Findings = ()
    note: Note | None = None  # read before it was refused


@dataclass(frozen=True, slots=True, eq=False)
class _Prepared:
    study: Study
    parts: StudyParts
    samples: tuple[Sample, ...]  # one per network: each has its own word pieces
    findings: Findings = ()


def score_folder(
    studies: Sequence[Study],
    package: ModelPackage,
    settings: ScoreConfig,
    *,
    explain: bool = False,
    advance: Callable[[int], None] = lambda more: None,
) -> Iterator[Scored | Refused]:
    """Yield one result per study, in the order given; one bad study never stops the others.

    Args:
        studies: Of the index.
        package: Loaded model; its networks lie on the device to be used.
        settings: Batch size, workers, what the quality gate lets pass, and how to explain.
        explain: Also explain each study.
        advance: Told of each study done.
    """
    ahead = settings.batch_size + 2 * settings.workers
    register = NoteRegister(settings.quality.bounds)
    with ThreadPoolExecutor(settings.workers) as pool:
        coming = (pool.submit(_prepare, study, package, settings.quality) for study in studies)
        waiting: deque[Future[_Prepared | Refused]] = deque(islice(coming, ahead))
        while waiting:
            chunk: list[_Prepared | Refused] = []
            while waiting and len(chunk) < settings.batch_size:
                chunk.append(_compare(waiting.popleft().result(), register, settings.quality))
                waiting.extend(islice(coming, 1))
            for result in _score_chunk(chunk, package, settings, explain=explain):
                advance(1)
                yield result


def _prepare(study: Study, package: ModelPackage, policy: QualityPolicy) -> _Prepared | Refused:
    contract = package.card.contract
    note: Note | None = None
    findings: Findings = ()
    try:
        parts = read_parts(study, contract)
        note, findings = parts.note, inspect_parts(study, parts, contract, policy)
        refusal = refusal_of(findings)
        if refusal is not None:
            return Refused(study, refusal, findings, note)
        return _Prepared(study, parts, _samples(study, parts, package), findings)
    except MedmllmError as error:
        return Refused(study, Refusal.of(error, stage_of(error)), findings, note)
    except Exception as error:  # noqa: BLE001 - a study that breaks something unforeseen must not stop the others
        return Refused(study, _unforeseen(study, error, "read"), findings, note)


def _samples(study: Study, parts: StudyParts, package: ModelPackage) -> tuple[Sample, ...]:
    """Return what each network sees of a study."""
    contract = package.card.contract
    values, one = parts.values, package.folds[0]
    first = prepare_sample(
        study,
        parts.volumes,
        parts.note,
        contract,
        one.tokenizer,
        recordings=parts.recordings,
        values=values,
        codes=one.codes,
    )
    if values is not None:
        _log_unknown(study, values, package)
    samples = [first]
    for member in package.folds[1:]:
        tokens = None
        if parts.note is not None and contract.text is not None and member.tokenizer is not None:
            tokens = tokenize_note(parts.note, contract.text, member.tokenizer)
        ids, words = tokens or (None, ())
        cells = None if values is None or member.codes is None else code_values(values, member.codes)
        table, here = cells or (None, ())
        samples.append(replace(first, token_ids=ids, words=words, table=table, cell_present=here))
    if not _modalities_used(samples):
        raise nothing_to_read(contract)
    return tuple(samples)


def _log_unknown(study: Study, values: Values, package: ModelPackage) -> None:
    """Name the columns whose category a network does not know; the cell counts as empty there."""
    for column, lacking in _unknown(values, package).items():
        logger.warning(
            "study %s: the category in column %s is unknown to %d networks", study.study_key, column, lacking
        )


def _unknown(values: Values | None, package: ModelPackage) -> Mapping[str, int]:
    """Return the columns whose category some networks do not know, and how many of them."""
    if values is None:
        return {}
    coded = [member.codes for member in package.folds if member.codes is not None]
    return Counter(column for codes in coded for column in unknown_categories(values, codes))


def _modalities_used(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return what any fold's model reads of a study."""
    used = {
        "image": samples[0].image is not None,
        "text": any(sample.token_ids is not None for sample in samples),
        "recording": samples[0].recording is not None,
        "table": any(sample.table is not None for sample in samples),
    }
    return tuple(name for name in MODALITIES if used[name])


def _compare(item: _Prepared | Refused, register: NoteRegister, policy: QualityPolicy) -> _Prepared | Refused:
    """Add whether an earlier study's note is much like this one's; studies come in order."""
    note = item.note if isinstance(item, Refused) else item.parts.note
    alike = compare_note(item.study, note, register, policy)
    if not alike:
        return item
    refusal = refusal_of(alike) if isinstance(item, _Prepared) else None
    if refusal is not None:
        return Refused(item.study, refusal, (*item.findings, *alike))
    return replace(item, findings=(*item.findings, *alike))


def _unforeseen(study: Study, error: Exception, stage: Stage) -> Refusal:
    """Return a refusal that names the kind of error only: its message may hold anything."""
    logger.warning("study %s: unforeseen %s at stage %s", study.study_key, type(error).__name__, stage)
    return Refusal(stage, "unforeseen", f"an unforeseen {type(error).__name__}; please report it", retryable=True)


def _score_chunk(
    chunk: Sequence[_Prepared | Refused], package: ModelPackage, settings: ScoreConfig, *, explain: bool
) -> Iterator[Scored | Refused]:
    ready = [item for item in chunk if isinstance(item, _Prepared)]
    predictions = dict(zip(map(id, ready), _predict_all(ready, package), strict=True))
    for item in chunk:
        if isinstance(item, Refused):
            yield item
            continue
        prediction = predictions[id(item)]
        if isinstance(prediction, Refusal):
            yield Refused(item.study, prediction, item.findings)
            continue
        explanation = _explain(item, prediction, package, settings) if explain else None
        yield Scored(item.study, prediction, item.parts, explanation, item.findings)


def _predict_all(ready: Sequence[_Prepared], package: ModelPackage) -> list[Prediction | Refusal]:
    """Predict a batch; when it fails as a whole, one by one, so that only the culprit is refused."""
    if not ready:
        return []
    try:
        return list(predict(ready, package))
    except Exception as error:  # noqa: BLE001 - out of memory, a kernel's error: find the study that causes it
        if len(ready) == 1:
            return [_unforeseen(ready[0].study, error, "predict")]
        return [found for one in ready for found in _predict_all([one], package)]


@torch.inference_mode()
def predict(ready: Sequence[_Prepared], package: ModelPackage) -> list[Prediction]:
    """Return the prediction of each prepared study: the folds' calibrated logits, averaged.

    A fold with inner folds is first averaged over its networks, as it was when it was evaluated.

    Args:
        ready: Studies prepared under the package's contract.
        package: The networks.
    """
    per_network = []
    for number, (member, fold) in enumerate(zip(package.folds, package.card.folds, strict=True)):
        device = next(member.network.parameters()).device
        samples = [item.samples[number] for item in ready]
        batch = to_device(collate(samples, package.card.contract, pad_token_id=member.pad_token_id), device)
        raw = member.network(batch).double().cpu().numpy()
        per_network.append(calibrate_fold(raw, fold, package.card.task))
    stacked = _per_fold(np.stack(per_network), package.card)
    return [_prediction(item, stacked[:, row], package) for row, item in enumerate(ready)]


def _per_fold(logits: FloatArray, card: ModelCard) -> FloatArray:
    """Return the mean over each fold's networks, (folds, studies, outputs), from (networks, studies, outputs)."""
    ends = np.cumsum([len(networks) for networks in card.outer_folds])
    return np.stack([own.mean(axis=0) for own in np.split(logits, ends[:-1])])


def was_trained_on(study: Study, card: ModelCard) -> bool:
    """Say whether the model has seen the patient, or the study under another patient's number."""
    patient, own = key_digest(study.patient_key), key_digest(study.study_key)
    return patient in card.training_patients or own in card.training_studies


def _prediction(item: _Prepared, logits: FloatArray, package: ModelPackage) -> Prediction:
    mean, task = logits.mean(axis=0), package.card.task
    probabilities, each = class_probabilities(mean[None], task)[0], class_probabilities(logits, task)
    shown = each[:, shown_class(probabilities.tolist(), package.card)]
    told, survival = timed_part(mean, task)
    return Prediction(
        study_key=item.study.study_key,
        patient_key=item.study.patient_key,
        probabilities=tuple(map(float, probabilities)),
        logits=tuple(map(float, told)),
        interval=(float(shown.min()), float(shown.max())),
        modalities_used=_modalities_used(item.samples),
        weights_digest=package.weights_digest,
        conformal_set=conformal_set(each, package.card),
        training_patient=was_trained_on(item.study, package.card),
        survival=survival,
        unknown_categories=_unknown(item.parts.values, package),
    )


def conformal_set(each: FloatArray, card: ModelCard) -> tuple[int, ...] | None:
    """Return the classes in at least half of the folds' sets; None when the package has no thresholds.

    Args:
        each: Every fold's own probabilities, for which its thresholds hold; shape (folds, classes).
        card: Gives the thresholds.
    """
    sets = []
    for probabilities, (fold, *_) in zip(each, card.outer_folds, strict=True):
        own = fold_sets(probabilities[None], fold, card.task)
        if own is None:
            return None
        sets.append(own[0])
    return tuple(map(int, np.flatnonzero(vote(np.stack(sets)))))


def shown_class(probabilities: Sequence[float], card: ModelCard) -> int:
    """Return the class whose probability is shown: the positive one or the event, else that of `predicted_class`."""
    return 1 if card.task.outputs == 1 else _predicted(probabilities, card)


def predicted_class(prediction: Prediction, package: ModelPackage) -> int:
    """Return the class index: at the operating point when binary, the median when ordered, else the most probable.

    Of several targets it is the class that leads.
    """
    return _predicted(prediction.probabilities, package.card)


def _predicted(probabilities: Sequence[float], card: ModelCard) -> int:
    return leading_label(probabilities, card) if card.task.several else predicted_labels(probabilities, card)[0]


def _explained_class(prediction: Prediction, package: ModelPackage, target: str) -> int:
    """Return the class whose logit is explained; of several targets that of the one asked for, else of the leading."""
    if target and package.card.task.several:
        return class_shown(target, prediction.probabilities, package.card)
    return class_to_explain(package.card.task, predicted_class(prediction, package))


def _explain(
    item: _Prepared, prediction: Prediction, package: ModelPackage, settings: ScoreConfig
) -> Explanation | Refusal:
    try:
        return explain_study(
            package,
            item.samples,
            volumes=item.parts.volumes,
            series=item.parts.series,
            explained_class=_explained_class(prediction, package, settings.explain.target),
            settings=settings.explain,
        )
    except MedmllmError as error:
        return Refusal.of(error, "explain")
    except Exception as error:  # noqa: BLE001 - the score stands, whatever became of its explanation
        return _unforeseen(item.study, error, "explain")
