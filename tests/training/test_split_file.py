"""Split files: what was written is read again, and what would leak, leave out or double is refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medmllm.errors import LeakageError, SplitError
from medmllm.training.class_splits import make_splits
from medmllm.training.held import Carving, hold_classes
from medmllm.training.split_file import GivenFold, plan_given, read_split_file, write_splits
from medmllm.training.splits import SplitPlan

PATIENTS = ["a", "a", "b", "c", "c", "d", "e", "f", "g", "h"]
TARGETS = [0, 0, 1, 0, 0, 1, 0, 1, 0, 1]
KEYS = [f"st-{k:016x}" for k in range(len(PATIENTS))]
IDS = [f"case_{k}" for k in range(len(PATIENTS))]


def key_of(study_id: str) -> str:
    return f"st-{int(study_id.partition('_')[2]):016x}"


def halves(first: Sequence[int], *, by: Sequence[str] = IDS) -> list[dict[str, list[str]]]:
    """Two nnU-Net folds; `first` is tested in fold 0."""
    one = [by[k] for k in first]
    two = [by[k] for k in range(len(by)) if k not in first]
    return [{"train": two, "val": one}, {"train": one, "val": two}]


GOOD = halves([0, 1, 2, 5, 6])  # patients a, b, d, e


def read(folder: Path, content: object) -> tuple[GivenFold, ...]:
    path = folder / "given.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_split_file(path, key_of, dict(zip(KEYS, PATIENTS, strict=True)))


def plan_of(folds: Sequence[GivenFold], *, seed: int = 3) -> SplitPlan:
    return plan_given(folds, PATIENTS, TARGETS, Carving(hold_classes(TARGETS), KEYS, 0.3, seed, whole_tests=True))


def sides(plan: SplitPlan) -> list[list[list[int]]]:
    return [[part.train.tolist(), part.tune.tolist(), part.test.tolist()] for part in plan.folds]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=8, max_size=20), st.integers(2, 4), st.integers(0, 5), st.data())
def test_a_written_split_is_read_again_to_the_last_study(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], folds: int, seed: int, data: st.DataObject
) -> None:
    patients = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    targets = data.draw(st.lists(st.integers(0, 1), min_size=len(patients), max_size=len(patients)))
    keys = [f"st-{k:016x}" for k in range(len(patients))]
    try:
        plan = make_splits(patients, targets, study_keys=keys, folds=folds, tuning_fraction=0.3, seed=seed)
    except SplitError:
        assume(False)
    out = tmp_path_factory.mktemp("run")
    write_splits(plan, keys, out)
    known = dict(zip(keys, patients, strict=True))
    carving = Carving(hold_classes(targets), keys, 0.1, 99, whole_tests=True)
    again = plan_given(read_split_file(out / "splits.json", key_of, known), patients, targets, carving)
    assert sides(again) == sides(plan)
    assert again.digest == plan.digest
    outer = read_split_file(out / "splits_final.json", key_of, known)
    assert [set(fold.test) for fold in outer] == [{keys[k] for k in part.test} for part in plan.folds]


@pytest.mark.parametrize("by", [IDS, KEYS])
def test_nnunets_val_is_tested_on_and_tuning_is_carved_from_its_train(tmp_path: Path, by: Sequence[str]) -> None:
    plan = plan_of(read(tmp_path, halves([0, 1, 2, 5, 6], by=by)))
    assert [part.test.tolist() for part in plan.folds] == [[0, 1, 2, 5, 6], [3, 4, 7, 8, 9]]
    for part in plan.folds:
        assert part.tune.size > 0
        assert not {PATIENTS[k] for k in part.tune} & {PATIENTS[k] for k in part.train}


def test_the_order_of_ids_in_a_file_changes_nothing(tmp_path: Path) -> None:
    turned = [{side: ids[::-1] for side, ids in fold.items()} for fold in GOOD]
    assert plan_of(read(tmp_path, turned)).digest == plan_of(read(tmp_path, GOOD)).digest


def test_a_patient_in_both_halves_is_refused_by_key(tmp_path: Path) -> None:
    with pytest.raises(LeakageError, match="1 patient is on two sides of fold 0 of --splits: a"):
        read(tmp_path, halves([0, 2, 5, 6]))  # study 1 is the second of patient a


def with_id(fold: int, side: str, one: str) -> list[dict[str, list[str]]]:
    return [{name: [*ids, one] if (k, name) == (fold, side) else ids for name, ids in given_fold.items()}
            for k, given_fold in enumerate(GOOD)]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_id(0, "train", "case_77"), "1 studies of fold 0 are not in the folder"),
        (with_id(1, "val", "case_9"), "1 studies are named twice in fold 1"),
        ([GOOD[0], GOOD[0]], "5 studies are tested in several folds"),
        ([GOOD[0]], "neither splits.json"),
        ([{"train": [], "test": []}] * 2, "neither splits.json"),
        ({"folds": 3}, "neither splits.json"),
        ("[{", "neither splits.json"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_way_out(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(SplitError, match=message) as caught:
        read(tmp_path, content)
    assert "case_" not in str(caught.value)


@pytest.mark.parametrize(("fold", "side", "message"), [(0, "val", "in no test part"), (1, "train", "out of fold 1")])
def test_a_study_left_out_is_refused_by_key(tmp_path: Path, fold: int, side: str, message: str) -> None:
    short = [{name: list(ids) for name, ids in one.items()} for one in GOOD]
    short[fold][side].remove("case_6")
    with pytest.raises(SplitError, match=message) as caught:
        plan_of(read(tmp_path, short))
    assert KEYS[6] in str(caught.value)


def test_a_file_changed_by_hand_is_told_by_its_digest(tmp_path: Path) -> None:
    write_splits(plan_of(read(tmp_path, GOOD)), KEYS, tmp_path)
    document = json.loads((tmp_path / "splits.json").read_text())
    first = document["folds"][0]
    first["tune"].append(first["train"].pop())
    with pytest.raises(SplitError, match="changed after it was written"):
        read(tmp_path, document)


def test_a_part_without_a_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="the test part of fold 0 lacks class 1"):
        plan_of(read(tmp_path, halves([0, 1, 3, 4])))


def test_a_file_that_is_not_there_is_said_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="cannot read --splits: No such file"):
        read_split_file(tmp_path / "none.json", key_of, {})
