"""Classes made of times for splitting; the bands are read off by hand."""

from collections import Counter

import numpy as np
import pytest

from medmllm.errors import SplitError
from medmllm.records import UNKNOWN, Survival
from medmllm.training.class_splits import make_splits
from medmllm.training.survival_strata import (
    coarse_stratum,
    strata_names,
    stratified_labels,
    survival_strata,
    target_strata,
)


def cohort(events: int, censored: int) -> list[Survival]:
    """Return events at 1, 2, 3 ... and censored studies at 0.5, 1.5 ..."""
    seen = [Survival(1.0 + k, event=True) for k in range(events)]
    return seen + [Survival(0.5 + k, event=False) for k in range(censored)]


def patients(count: int) -> list[str]:
    return [f"pt-{k}" for k in range(count)]


def test_many_events_are_parted_into_early_middle_and_late_ones() -> None:
    found = survival_strata(cohort(12, 5), patients(17), folds=2)
    assert found == [1] * 4 + [2] * 4 + [3] * 4 + [0] * 5


def test_fewer_events_have_fewer_bands() -> None:
    assert Counter(survival_strata(cohort(11, 4), patients(15), folds=2)) == {0: 4, 1: 6, 2: 5}
    assert Counter(survival_strata(cohort(5, 4), patients(9), folds=2)) == {0: 4, 1: 5}


def test_few_censored_studies_count_by_their_time() -> None:
    survived = [*cohort(6, 0), Survival(0.1, event=False), Survival(99.0, event=False)]
    assert survival_strata(survived, patients(8), folds=2) == [1, 1, 1, 2, 2, 2, 1, 2]


def test_two_patients_with_the_event_per_fold_are_the_least() -> None:
    with pytest.raises(SplitError, match=r"5 patients have the event, too few for 3 folds.*at most 2"):
        survival_strata(cohort(5, 30), patients(35), folds=3)
    assert len(survival_strata(cohort(6, 30), patients(36), folds=3)) == 36


def test_studies_of_one_patient_are_one_patient_with_the_event() -> None:
    with pytest.raises(SplitError, match=r"1 patient has the event, .* Add patients"):
        survival_strata(cohort(8, 8), ["pt-0"] * 8 + patients(16)[8:], folds=2)


def test_a_cohort_too_small_for_any_number_of_folds_is_told_none() -> None:
    with pytest.raises(SplitError, match=r"3 patients have the event, too few for 2 folds: .* least\. Add patients"):
        survival_strata(cohort(3, 30), patients(33), folds=2)


def at(*times: float) -> list[Survival]:
    return [Survival(time, event=True) for time in times]


def test_times_in_whole_years_are_parted_between_two_of_them() -> None:
    survived = at(*[1.0] * 4, *[2.0] * 8)  # the median is 2, and nobody lies beyond it
    assert survival_strata(survived, patients(12), folds=2) == [1] * 4 + [2] * 8
    assert survival_strata(at(*[1.0] * 8, *[2.0] * 4), patients(12), folds=2) == [1] * 8 + [2] * 4


def test_equal_times_leave_no_band_with_fewer_patients_than_folds_need() -> None:
    survived = [*at(*[1.0] * 17, *[2.0] * 4, 3.0), *[Survival(0.5, event=False)] * 4]  # thirds end at 1 and 1
    found = survival_strata(survived, patients(26), folds=2)
    assert found == [1] * 17 + [2] * 5 + [0] * 4
    lone = [*at(*[1.0] * 11, 2.0), *[Survival(0.5, event=False)] * 4]
    assert survival_strata(lone, patients(16), folds=2) == [1] * 12 + [0] * 4


def test_bands_beside_other_targets_are_numbered_without_gaps() -> None:
    survived = at(*[1.0] * 8, *[2.0] * 4)
    found = stratified_labels([(own, 0) for own in survived], patients(12), folds=2)
    assert [own[0] for own in found] == [0] * 8 + [1] * 4


def test_times_that_are_nearly_all_the_same_are_refused() -> None:
    with pytest.raises(SplitError, match=r"the times of 12 studies are nearly all the same: 4 patients or more"):
        survival_strata(at(*[1.0] * 9, *[2.0] * 3), patients(12), folds=2)
    with pytest.raises(SplitError, match="nearly all the same"):
        survival_strata(at(*[1.0] * 12), patients(12), folds=2)


def test_classes_stay_what_they_are() -> None:
    assert target_strata([0, 1, 1], patients(3), folds=2) == [0, 1, 1]
    assert target_strata([(1, 0), (0, 1)], patients(2), folds=2) == [0, 0]
    assert [coarse_stratum(own) for own in (2, (1, 0), Survival(3.0, event=True))] == [2, 0, 1]


def test_every_part_of_every_fold_holds_early_and_late_events() -> None:
    survived = cohort(40, 30)
    strata = survival_strata(survived, patients(70), folds=4)
    plan = make_splits(patients(70), strata, study_keys=patients(70), folds=4, tuning_fraction=0.2, seed=3)
    for fold in plan.folds:
        for part in (fold.train, fold.tune, fold.test):
            assert set(np.array(strata)[part]) == {0, 1, 2, 3}


def test_beside_other_targets_known_times_have_the_strata_of_a_cohort_of_their_own() -> None:
    survived = cohort(12, 5)
    targets = [(k % 3, own) for k, own in enumerate(survived)] + [(1, UNKNOWN)] * 4
    found = stratified_labels(targets, patients(21), folds=2)
    assert [own[0] for own in found] == [k % 3 for k in range(17)] + [1] * 4
    assert [own[1] for own in found] == [*survival_strata(survived, patients(17), folds=2), *[UNKNOWN] * 4]
    assert strata_names(("grade", "days"), targets) == ("grade", "days (by event and time)")


def test_strata_beside_other_targets_count_from_0_where_few_are_censored() -> None:
    survived = [*cohort(6, 0), Survival(0.1, event=False), Survival(99.0, event=False)]
    found = stratified_labels([(own, 0) for own in survived], patients(8), folds=2)
    assert [own[0] for own in found] == [0, 0, 0, 1, 1, 1, 0, 1]
