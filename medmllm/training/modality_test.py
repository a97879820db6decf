"""Predict a fold's test part again with one modality taken away: given another patient's, and left out.

    trained fold network, test samples -> per modality: logits with other patients' images or notes, and without any

Only inputs change; network, calibration and the other modalities stay as they are. A modality changes hands only
between studies of different patients that both have it, so what is missing stays missing. What it means is told by
`medmllm.evaluation.modality_use`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medmllm.evaluation.modality_use import Deprived
from medmllm.records import MODALITIES, FloatArray, Sample
from medmllm.training.splits import IntArray, patient_numbers

Predict = Callable[[Sequence[Sample]], FloatArray]
"""Samples -> raw logits, shape (studies, outputs)."""

INPUTS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "channel_present"),
    "text": ("token_ids", "words", "note_features"),
    "recording": ("recording",),
    "table": ("table", "cell_present"),
}
"""Modality -> the fields of a Sample that hold it; the first one is None where it is missing."""


@dataclass(frozen=True, slots=True, eq=False)
class FoldDeprived:
    """A fold's test part, predicted again; modalities that could not be permuted are not in it."""

    permuted: Mapping[str, FloatArray] = field(default_factory=dict)  # (permutations, studies, outputs), NaN: not
    absent: Mapping[str, FloatArray] = field(default_factory=dict)  # (studies, outputs)


def take_away(
    predict: Predict, samples: Sequence[Sample], modalities: Sequence[str], *, permutations: int, seed: int
) -> FoldDeprived:
    """Return what a network says of its fold's test part when each modality is taken away in turn.

    Args:
        predict: The trained network.
        samples: The test part.
        modalities: That the model reads; with fewer than two there is nothing else to go by, and nothing is done.
        permutations: How often each modality is permuted; 0 does nothing.
        seed: The same seed gives the same permutations, whatever patients are called.
    """
    if len(modalities) < 2 or not permutations:
        return FoldDeprived()
    permuted, absent = {}, {}
    for name in modalities:
        having = [k for k, sample in enumerate(samples) if has(sample, name)]
        generator = np.random.default_rng([seed, MODALITIES.index(name)])
        repeats = []
        for _ in range(permutations):
            donors = other_patients([samples[k].patient_key for k in having], generator)
            if donors is None:
                break
            swapped = [exchange(samples[k], samples[having[d]], name) for k, d in zip(having, donors, strict=True)]
            found = predict(swapped)
            whole = np.full((len(samples), found.shape[1]), np.nan)
            whole[having] = found
            repeats.append(whole)
        if repeats:
            permuted[name] = np.stack(repeats)
            absent[name] = predict([without(sample, name) for sample in samples])
    return FoldDeprived(permuted, absent)


def other_patients(patients: Sequence[str], generator: np.random.Generator) -> IntArray | None:
    """Return a random permutation that gives every study one of another patient; None where there is none.

    Patients are laid in a random order, each with its studies side by side, and all move on by a random step that
    leads out of every patient's own studies. There is none where one patient has more than half of the studies.

    Args:
        patients: Patient of each study.
        generator: Source of the order and of the step.
    """
    owner = patient_numbers(patients)
    largest = int(np.bincount(owner).max()) if owner.size else 0
    if not owner.size or 2 * largest > owner.size:
        return None
    shuffled = generator.permutation(owner.size)
    place = generator.permutation(owner.max() + 1)
    order = shuffled[np.argsort(place[owner[shuffled]], kind="stable")]
    step = int(generator.integers(largest, owner.size - largest + 1))
    donors = np.empty_like(order)
    donors[order] = np.roll(order, step)
    return donors


def has(sample: Sample, modality: str) -> bool:
    """Return whether a sample has a modality."""
    return getattr(sample, INPUTS[modality][0]) is not None


def exchange(sample: Sample, donor: Sample, modality: str) -> Sample:
    """Return a sample with another one's modality."""
    return replace(sample, **{name: getattr(donor, name) for name in INPUTS[modality]})


def without(sample: Sample, modality: str) -> Sample:
    """Return a sample that lacks a modality."""
    blank: dict[str, Any] = {
        "image": None,
        "channel_present": tuple(False for _ in sample.channel_present),
        "token_ids": None,
        "words": (),
        "note_features": None,
        "recording": None,
        "table": None,
        "cell_present": (),
    }
    return replace(sample, **{name: blank[name] for name in INPUTS[modality]})


def assemble(parts: Sequence[tuple[IntArray, FoldDeprived]], n: int) -> tuple[Deprived, ...]:
    """Return the folds' predictions laid together, by modality; studies of folds that lack one are NaN.

    Args:
        parts: Test part of each fold, as places in the cohort, and the probabilities predicted of it.
        n: Studies of the cohort.
    """
    found = []
    for name in MODALITIES:
        own = [(test, deprived) for test, deprived in parts if name in deprived.permuted]
        if not own:
            continue
        repeats, _, classes = own[0][1].permuted[name].shape
        permuted, absent = np.full((repeats, n, classes), np.nan), np.full((n, classes), np.nan)
        for test, deprived in own:
            permuted[:, test], absent[test] = deprived.permuted[name], deprived.absent[name]
        found.append(Deprived(name, permuted, absent))
    return tuple(found)
