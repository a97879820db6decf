"""A modality is taken away between patients only, and nothing but that modality changes."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest

from medmllm.records import MODALITIES, FloatArray, Sample
from medmllm.training.modality_test import (
    INPUTS,
    FoldDeprived,
    assemble,
    exchange,
    has,
    other_patients,
    take_away,
    without,
)
from tests.models.small import NOTES, a_sample

PATIENTS = ["a", "b", "b", "c", "c", "c", "d", "e"]


def test_every_modality_and_every_input_of_a_sample_can_be_taken_away() -> None:
    assert tuple(INPUTS) == MODALITIES
    keys = {"study_key", "patient_key", "target"}
    assert {name for names in INPUTS.values() for name in names} == {f.name for f in fields(Sample)} - keys


@pytest.mark.parametrize("seed", range(40))
def test_a_permutation_gives_every_study_one_of_another_patient_and_uses_each_once(seed: int) -> None:
    donors = other_patients(PATIENTS, np.random.default_rng(seed))
    assert donors is not None
    assert sorted(donors) == list(range(len(PATIENTS)))
    assert all(PATIENTS[own] != PATIENTS[donor] for own, donor in enumerate(donors))


def test_in_time_every_other_patient_gives_and_what_patients_are_called_does_not_matter() -> None:
    generator = np.random.default_rng(1)
    drawn = [other_patients(PATIENTS, generator) for _ in range(300)]
    for own, patient in enumerate(PATIENTS):
        assert {PATIENTS[d[own]] for d in drawn if d is not None} == set(PATIENTS) - {patient}
    other_names = [{"a": "z", "b": "a", "c": "m", "d": "0", "e": "b"}[patient] for patient in PATIENTS]
    again = other_patients(other_names, np.random.default_rng(1))
    assert again is not None
    assert drawn[0] is not None
    assert again.tolist() == drawn[0].tolist()


@pytest.mark.parametrize("patients", [[], ["a"], ["a", "a"], ["a", "a", "b"]])
def test_where_one_patient_has_more_than_half_of_the_studies_there_is_no_permutation(patients: list[str]) -> None:
    assert other_patients(patients, np.random.default_rng(0)) is None
    assert other_patients(["a", "b"], np.random.default_rng(0)) is not None


def samples() -> list[Sample]:
    made = [a_sample(k, note=NOTES[k % 4], target=k % 2) for k in range(8)]
    made[2] = a_sample(2, image=False, note=NOTES[2])
    made[5] = a_sample(5, note=None, channels=(True, False))
    return [replace(one, patient_key=f"pt-{name}") for one, name in zip(made, PATIENTS, strict=True)]


def test_only_the_modality_itself_changes_hands() -> None:
    one, other = samples()[0], samples()[5]
    swapped = exchange(one, other, "image")
    assert swapped.image is other.image
    assert swapped.channel_present == (True, False)
    assert (swapped.study_key, swapped.token_ids, swapped.target) == (one.study_key, one.token_ids, one.target)
    bare = without(one, "image")
    assert (bare.image, bare.channel_present, bare.token_ids) == (None, (False, False), one.token_ids)
    assert without(one, "text").token_ids is None
    assert without(one, "text").image is one.image


class Spy:
    """A model that notes down whose image and whose note each study came with."""

    def __init__(self) -> None:
        self.calls: list[list[Sample]] = []

    def __call__(self, given: Sequence[Sample]) -> FloatArray:
        self.calls.append(list(given))
        return np.full((len(given), 2), float(len(self.calls)))


def test_each_modality_is_permuted_and_left_out_in_turn_among_the_studies_that_have_it() -> None:
    cohort, spy = samples(), Spy()
    owner = {id(one.image): one.patient_key for one in cohort if one.image is not None}
    found = take_away(spy, cohort, ("image", "text"), permutations=3, seed=9)
    assert found.permuted["image"].shape == found.permuted["text"].shape == (3, 8, 2)
    assert len(spy.calls) == 2 * (3 + 1)
    for call in spy.calls[:3]:
        assert [one.study_key for one in call] == [one.study_key for one in cohort if has(one, "image")]
        assert all(owner[id(one.image)] != one.patient_key for one in call)
        assert all(one.token_ids is cohort[int(one.study_key[3:], 16)].token_ids for one in call)
    assert [has(one, "image") for one in spy.calls[3]] == [False] * 8
    assert [has(one, "text") for one in spy.calls[3]] == [has(one, "text") for one in cohort]
    assert np.isnan(found.permuted["image"][:, 2]).all(), "it has no image"
    assert np.isnan(found.permuted["text"][:, 5]).all(), "it has no note"
    assert np.isfinite(np.delete(found.permuted["image"], 2, axis=1)).all()
    assert (found.absent["image"] == 4).all()


def test_the_same_seed_gives_the_same_permutations_and_none_are_made_unasked() -> None:
    first, second, other = Spy(), Spy(), Spy()
    for spy, seed in ((first, 9), (second, 9), (other, 10)):
        take_away(spy, samples(), ("image", "text"), permutations=4, seed=seed)
    words = [[[s.token_ids.tolist() for s in call if s.token_ids is not None] for call in spy.calls]
             for spy in (first, second, other)]  # fmt: skip
    assert words[0] == words[1] != words[2]
    spy = Spy()
    assert take_away(spy, samples(), ("image", "text"), permutations=0, seed=1).permuted == {}
    assert take_away(spy, samples(), ("image",), permutations=4, seed=1).permuted == {}
    assert spy.calls == []


def test_folds_are_laid_together_in_the_order_of_the_cohort() -> None:
    def of(value: float, n: int) -> FoldDeprived:
        return FoldDeprived({"text": np.full((2, n, 3), value)}, {"text": np.full((n, 3), -value)})

    (found,) = assemble(
        [(np.array([4, 0]), of(1.0, 2)), (np.array([1, 3]), of(2.0, 2)), (np.array([2]), FoldDeprived())], 5
    )
    assert found.modality == "text"
    np.testing.assert_array_equal(found.permuted[1, :, 2], [1, 2, np.nan, 2, 1])
    np.testing.assert_array_equal(found.absent[:, 0], [-1, -2, np.nan, -2, -1])
