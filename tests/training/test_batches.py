"""Batches hold each study once, in an order of the seed, and are changed only as asked."""

import math

import numpy as np
import pytest
import torch

from medmllm.preprocessing.sample import collate
from medmllm.training.batches import augment, batches
from medmllm.training.loop import predict_logits
from medmllm.training.machine import Machine
from tests.models.small import CONTRACT, SIZE, a_member, a_sample
from tests.training.small import cohort, settings, train


@pytest.mark.parametrize(("n", "size", "expected"), [(13, 4, [4, 4, 5]), (12, 4, [4, 4, 4]), (14, 4, [4, 4, 4, 2]),
                                                      (3, 4, [3]), (1, 4, [1]), (5, 4, [5])])  # fmt: skip
def test_a_last_batch_of_one_joins_the_one_before_it_while_training(n: int, size: int, expected: list[int]) -> None:
    samples = cohort(n)
    made = list(batches(samples, CONTRACT, settings(batch_size=size), 0, torch.Generator().manual_seed(1)))
    assert [len(batch.study_keys) for batch in made] == expected
    keys = [key for batch in made for key in batch.study_keys]
    assert sorted(keys) == [sample.study_key for sample in samples]  # each once
    assert n < 5 or keys != sorted(keys)  # and shuffled


def test_predictions_come_in_the_order_given_and_do_not_depend_on_the_batch_size() -> None:
    member, samples = a_member(), cohort(5)
    train(member, epochs=1)
    plain = list(batches(samples, CONTRACT, settings(batch_size=4), 0, None))
    assert [len(batch.study_keys) for batch in plain] == [4, 1]
    machine = Machine.of("cpu")
    by_four = predict_logits(member, samples, CONTRACT, settings(batch_size=4), machine)
    singly = np.concatenate([predict_logits(member, [s], CONTRACT, settings(), machine) for s in samples])
    np.testing.assert_allclose(by_four, singly, atol=1e-5)
    assert by_four.dtype == np.float64
    assert len(np.unique(by_four)) == 5


def test_a_training_part_of_batches_of_four_and_one_runs_through() -> None:
    done, _ = train(a_member(), n=5, epochs=1)
    assert done.best_epoch == 1


def augmented(seed: int = 1, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    batch = collate([a_sample(k) for k in range(60)], CONTRACT)
    return batch.image, augment(batch, settings(**changes), torch.Generator().manual_seed(seed)).image


def test_nothing_asked_leaves_the_batch_as_it_is() -> None:
    batch = collate([a_sample(1)], CONTRACT)
    assert augment(batch, settings(), torch.Generator()) is batch


def test_shifts_reach_as_far_as_asked_in_both_directions_and_bring_nothing_round_the_corner() -> None:
    before, after = augmented(shift_voxels=2)
    moves: list[tuple[int, int, int]] = []
    for old, new in zip(before.numpy(), after.numpy(), strict=True):
        padded = np.pad(old, ((0, 0), (2, 2), (2, 2), (2, 2)), mode="edge")
        fits = [
            (x, y, z)
            for x, y, z in np.ndindex(5, 5, 5)
            if np.array_equal(padded[:, x : x + SIZE[0], y : y + SIZE[1], z : z + SIZE[2]], new)
        ]
        assert len(fits) == 1
        moves += fits
    for axis in range(3):
        assert {move[axis] for move in moves} == {0, 1, 2, 3, 4}
    assert len(set(moves)) > 20  # each study its own


def test_flips_mirror_each_axis_for_half_of_the_studies() -> None:
    before, after = augmented(flips=True)
    found = []
    for old, new in zip(before, after, strict=True):
        fits = [
            pick
            for pick in np.ndindex(2, 2, 2)
            if torch.equal(new, old.flip([axis + 1 for axis in range(3) if pick[axis]]))
        ]
        assert len(fits) == 1
        found += fits
    assert len(set(found)) == 8
    assert (np.mean(found, axis=0) > 0.25).all()
    assert (np.mean(found, axis=0) < 0.75).all()


def test_images_are_shifted_first_and_mirrored_then() -> None:
    batch = collate([a_sample(k) for k in range(20)], CONTRACT)
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    shifted = augment(batch, settings(shift_voxels=2), one)
    both = augment(batch, settings(shift_voxels=2, flips=True), two)
    assert torch.equal(augment(shifted, settings(flips=True), one).image, both.image)


def test_noise_has_the_standard_deviation_asked_for() -> None:
    before, after = augmented(noise=0.25)
    noise = (after - before).numpy()
    n = noise.size
    assert noise.std() == pytest.approx(0.25, rel=4 / math.sqrt(2 * n))  # four standard errors
    assert abs(noise.mean()) < 4 * 0.25 / math.sqrt(n)
    assert not np.allclose(noise[0], noise[1])


def test_augmentation_draws_from_its_generator_alone() -> None:
    asked = {"flips": True, "noise": 0.1, "shift_voxels": 2}
    torch.manual_seed(1)
    first = augmented(5, **asked)[1]
    torch.manual_seed(2)
    assert torch.equal(first, augmented(5, **asked)[1])
    assert not torch.equal(first, augmented(6, **asked)[1])


def test_predictions_are_not_augmented() -> None:
    member, samples = a_member(), cohort(3)
    asked = settings(flips=True, noise=9.0, shift_voxels=2)
    plain = predict_logits(member, samples, CONTRACT, settings(), Machine.of("cpu"))
    np.testing.assert_array_equal(predict_logits(member, samples, CONTRACT, asked, Machine.of("cpu")), plain)
