"""What every part has to hold is looked for in each, and a part can do without the censored."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmllm.errors import SplitError
from medmllm.model_documents import SurvivalTask, Task
from medmllm.records import UNKNOWN, Study, Survival, Target
from medmllm.training.cohort import Cohort, Member
from medmllm.training.held import Called, by_patient, first_whole, hold_classes, hold_events, hold_labels, lacking
from medmllm.training.planning import look_ahead, settle_folds
from medmllm.training.split_file import read_split_file, write_splits
from medmllm.training.splits import FoldSplit
from tests.models.small import a_sample
from tests.training.small_cohort import a_config

WHOLE = FoldSplit(0, np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))


def test_a_part_without_a_class_is_found_and_named() -> None:
    assert not lacking([WHOLE], hold_classes([0, 1, 0, 1, 1, 0]))
    assert lacking([WHOLE], hold_classes([0, 1, 0, 1, 2, 0])) == "the test part of fold 0 lacks class 1"
    assert lacking([WHOLE], hold_classes([0, 0, 0, 1, 1, 0])) == "the training part of fold 0 lacks class 1"


def test_a_part_without_a_value_of_a_label_is_found_and_named() -> None:
    held = hold_labels([(1, 0), (0, 1), (1, 1), (0, 0), (1, UNKNOWN), (0, 0)], ("a", "b"))
    assert lacking([WHOLE], held) == "the test part of fold 0 lacks 'b' present"
    assert not lacking([WHOLE], held, whole_tests=False)


def test_a_part_can_do_without_the_censored_and_not_without_events() -> None:
    came = [True, True, True, True, False, True]
    assert not lacking([WHOLE], hold_events([Survival(1.0, event=own) for own in came]))
    labels = [(k % 2, int(own)) for k, own in enumerate(came)]
    assert not lacking([WHOLE], hold_labels(labels, ("a", "days"), times=[1]))
    assert lacking([WHOLE], hold_labels(labels, ("a", "days"))) == "the tuning part of fold 0 lacks 'days' absent"
    none = hold_events([Survival(1.0, event=k < 4) for k in range(6)])
    assert lacking([WHOLE], none) == "the test part of fold 0 lacks any event"


def test_patients_are_counted_once_for_each_value_that_any_study_of_theirs_has() -> None:
    owner, held = np.array([0, 0, 1, 2, 2]), hold_classes([0, 1, 1, 0, 0])
    assert held.patients(owner, np.arange(5)) == [2, 2]
    assert held.patients(owner, np.array([1, 3, 4])) == [1, 1]
    np.testing.assert_array_equal(by_patient(owner, held.values), [[True, True], [False, True], [True, False]])


def test_the_first_draw_that_holds_everything_is_taken_and_no_more_than_20_are_tried() -> None:
    tried: list[int] = []

    def draw(generator: np.random.Generator) -> list[FoldSplit]:
        tried.append(int(generator.integers(2**31)))
        order = [0, 1, 2, 3, 4, 5] if len(tried) == 3 else [0, 2, 1, 3, 4, 5]
        return [FoldSplit(0, *(np.array(order[k : k + 2]) for k in (0, 2, 4)))]

    def generator_of(attempt: int) -> np.random.Generator:
        return np.random.default_rng([7, attempt])

    held = hold_classes([0, 1, 0, 1, 0, 1])
    assert first_whole(draw, held, generator_of, "tries")[0].train.tolist() == [0, 1]
    assert tried == [int(generator_of(attempt).integers(2**31)) for attempt in range(3)]
    with pytest.raises(SplitError, match="the tuning part of fold 0 lacks class 0 in each of 20 tries"):
        first_whole(draw, held, generator_of, "tries")
    assert len(tried) == 3 + 20


# --- folds that are given -------------------------------------------------------------------


def of_times(*, several: bool, censored: int = 3) -> tuple[Cohort, tuple[str, ...]]:
    """Forty patients, of whom three are censored: too few for every part of three folds."""
    members = []
    for k in range(40):
        survived = Survival(float(1 + 37 * k % 500), event=k >= censored)
        target: Target = (k % 2, survived) if several else survived
        members.append(Member(a_sample(k, image=False, note=None, target=target), None, {}))
    return Cohort(tuple(members), ()), ("nodule", "days") if several else ()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("inner", [1, 3])
@pytest.mark.parametrize("name", ["splits.json", "splits_final.json"])
def test_the_folds_of_a_run_of_times_are_taken_again_though_few_are_censored(
    tmp_path: Path, several: bool, inner: int, name: str
) -> None:
    cohort, labels = of_times(several=several)
    settings = a_config(folds=3, inner_folds=inner).training
    plan, _ = settle_folds(cohort, settings, None, tmp_path, called=Called(labels))
    known = {member.sample.study_key: member.sample.patient_key for member in cohort.members}
    write_splits(plan, list(known), tmp_path)
    given = read_split_file(tmp_path / name, str, known)
    again, _ = settle_folds(cohort, settings, given, tmp_path, called=Called(labels))
    assert [own[0].test.tolist() for own in again.outer] == [sorted(own[0].test.tolist()) for own in plan.outer]
    assert name != "splits.json" or again.digest == plan.digest


def settle_by_site(tmp_path: Path, sites: Sequence[str], cohort: Cohort) -> list[str]:
    settings = a_config(group_out="site").training
    studies = [
        Study(member.sample.study_key, member.sample.patient_key, "folder", facts={"site": site})
        for member, site in zip(cohort.members, sites, strict=True)
    ]
    targets = dict(zip([study.study_key for study in studies], cohort.known, strict=True))
    given = look_ahead(studies, targets, settings, None)
    return settle_folds(cohort, settings, given, tmp_path)[1]


def test_sites_are_left_out_though_few_are_censored_and_one_without_an_event_is_remarked(tmp_path: Path) -> None:
    cohort, _ = of_times(several=False)
    said = settle_by_site(tmp_path, ["abc"[k % 3] for k in range(40)], cohort)
    assert len(said) == 1  # one censored at each site, and each site has events
    none = [
        replace(member, sample=replace(member.sample, target=Survival(9.0 + k, event=k % 4 > 0)))
        for k, member in enumerate(cohort.members)
    ]
    said = settle_by_site(tmp_path, ["abcd"[k % 4] for k in range(40)], Cohort(tuple(none), ()))
    assert "The site of fold 0 lacks any event: " in said[1]


def test_classes_of_numbers_and_words_of_the_settings_go_by_their_names() -> None:
    grades = Called.of(Task.of("grade", ("1", "2", "3")))
    assert hold_classes([0, 1, 2], grades.alone).names == ("class '1'", "class '2'", "class '3'")
    assert Called.of(Task.of("grade>=3", ("not grade>=3", "grade>=3"))).alone[1] == "class 'grade>=3'"
    ordered = Task.of("severity", ("mild", "severe", "fatal"), ordered=True)  # [task] order has the words
    assert Called.of(ordered).alone[2] == "class 'fatal'"


def test_words_of_a_table_are_not_repeated_where_a_class_is_refused() -> None:
    called = Called.of(Task.of("patient", ("Jane Roe", "John Doe")))  # the wrong column
    assert called.alone[1] == "class 1 (counted from 0, by the alphabet)"
    assert "4711" not in str(Called.of(Task.of("number", ("4711", "4712"))))


def test_classes_of_several_targets_go_by_their_names_and_times_by_their_event() -> None:
    asked = SurvivalTask(event="death", model="cox", horizons=(365.0,), time_unit="days")
    days = Task(target="days", kind="survival", classes=("no death", "death"), survival=asked)
    task = Task.of_several((Task.of("grade", ("grade=1", "grade=2", "grade=3")), days))
    called = Called.of(task)
    held = hold_labels([(0, 1), (1, 1), (2, 0)], called.targets, [1], called.classes)
    assert held.names == ("class 'grade=1'", "class 'grade=2'", "'days' present", "class 'grade=3'")


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 5}, r"class '(grade=)?3' has 3 patients, fewer than the 5 folds"),
        ({"folds": 3, "inner_folds": 3}, r"class '(grade=)?3' has at most 2 patients outside one of the 3 test parts"),
        ({"folds": 2}, r"class '(grade=)?3' has 3 patients, fewer than the 4 that 2 folds need: .*folds to 3"),
        ({"folds": 3, "learning_curve": (0.9,)}, r"too few patients of class '(grade=)?3': . in 0\.9"),
    ],
)
def test_a_grade_of_too_few_patients_is_called_by_its_name(
    tmp_path: Path, several: bool, settings: dict[str, object], message: str
) -> None:
    grade, more = [0] * 9 + [1] * 9 + [2] * 3, [0, 1, 0] * 7
    targets: list[Target] = list(zip(grade, more, strict=True)) if several else list(grade)
    names = tuple(f"grade={name}" if several else name for name in "123")
    task = Task.of("grade", names)
    called = Called.of(Task.of_several((task, Task.of("more", ("more=0", "more=1")))) if several else task)
    members = [Member(a_sample(k, image=False, note=None, target=own), None, {}) for k, own in enumerate(targets)]
    cohort = Cohort(tuple(members), ())
    studies = [Study(member.sample.study_key, member.sample.patient_key, "folder") for member in members]
    by_key = dict(zip([study.study_key for study in studies], targets, strict=True))
    chosen = a_config(**settings).training

    def split() -> None:
        look_ahead(studies, by_key, chosen, None, called=called)
        settle_folds(cohort, chosen, None, tmp_path, called=called)

    with pytest.raises(SplitError, match=message):
        split()
