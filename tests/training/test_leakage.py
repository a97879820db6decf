"""Before training: what two parts of a fold share is refused or remarked, by key."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.errors import LeakageError
from medmllm.records import Volume
from medmllm.training.cohort import Cohort, Member, pixel_digest
from medmllm.training.leakage import MOST_NAMED, audit
from medmllm.training.splits import FoldSplit, SplitPlan
from medmllm.training_config import TrainingSettings
from tests.models.small import a_sample


def key(k: int) -> str:
    return f"st-{k:016x}"


def patient_key(letter: str) -> str:
    return f"pt-{ord(letter):016x}"


def a_cohort(
    patients: str, *, pixels: Mapping[int, str] | None = None, copies: Mapping[int, int] | None = None
) -> Cohort:
    """One study per letter, the letter being its patient; `pixels` member -> digest; `copies` member -> earlier one."""
    members = []
    for k, patient in enumerate(patients):
        sample = replace(a_sample(k, note=None, target=k % 2), patient_key=patient_key(patient), study_key=key(k))
        members.append(Member(sample, None, {}, ((pixels or {}).get(k, f"own {k}"),)))
    return Cohort(tuple(members), (), (), {key(k): key(other) for k, other in (copies or {}).items()})


def with_sounds(cohort: Cohort, sounds: Mapping[int, str]) -> Cohort:
    members = [replace(m, sounds=(sounds.get(k, f"own {k}"),)) for k, m in enumerate(cohort.members)]
    return replace(cohort, members=tuple(members))


def a_plan(*folds: str) -> SplitPlan:
    """One letter per study and fold: r(est, trained on), u (tuned on), t(ested)."""
    found = []
    for number, letters in enumerate(folds):
        parts = (np.array([k for k, letter in enumerate(letters) if letter == part], dtype=int) for part in "rut")
        found.append(FoldSplit(number, *parts))
    return SplitPlan(tuple(found), "digest")


def settings(**changed: str) -> TrainingSettings:
    return load_config(TrainConfig, "train").training.model_copy(update=changed)


def a_volume(voxels: Sequence[float], shape: tuple[int, int, int] = (2, 3, 1), shift_mm: float = 0.0) -> Volume:
    affine = np.eye(4)
    affine[0, 3] = shift_mm
    return Volume(np.array(voxels, dtype=np.float32).reshape(shape), affine, None, "CT")


@pytest.mark.parametrize("parts", ["rut", "utr", "rtu"])
def test_a_patient_on_two_sides_is_refused_whatever_the_settings(parts: str) -> None:
    with pytest.raises(LeakageError, match="of one patient") as caught:
        audit(a_cohort("aab"), a_plan(parts), settings(same_pixels="warn", copied_notes="warn"))
    assert key(0) in str(caught.value)
    assert key(1) in str(caught.value)
    assert key(2) not in str(caught.value)


def test_a_clean_split_is_passed_in_silence() -> None:
    cohort = a_cohort("aabcd", pixels={0: "same", 1: "same"}, copies={1: 0})  # alike, but of one patient
    assert audit(cohort, a_plan("rruut", "ttrru"), settings(copied_notes="refuse")) == ([], [])


def test_the_same_pixels_under_two_patients_are_refused_by_key_with_the_way_out() -> None:
    cohort = a_cohort("abcd", pixels={1: "same", 3: "same"})
    with pytest.raises(LeakageError, match="leave one out") as caught:
        audit(cohort, a_plan("rrut"), settings())
    assert f"{key(1)} (train) and {key(3)} (test) in fold 0" in str(caught.value)
    assert 'training.same_pixels="warn"' in str(caught.value)


def test_the_same_pixels_in_one_part_of_every_fold_leak_nothing() -> None:
    assert audit(a_cohort("abcd", pixels={0: "same", 1: "same"}), a_plan("rrut", "ttru"), settings()) == ([], [])


def test_the_same_pixels_are_remarked_where_the_settings_allow_them() -> None:
    cohort = a_cohort("abcd", pixels={0: "same", 2: "same"})
    (remark,), (row,) = audit(cohort, a_plan("rrut"), settings(same_pixels="warn"))
    pair = "there is 1 pair of studies with the same pixels under two patients; leaks.csv names them."
    assert remark == f"Possible leakage (training.same_pixels): on two sides of a fold {pair}"
    assert (row.shared, row.fold) == ("pixels", "0")
    assert (row.study_key, row.patient_key, row.part) == (key(0), patient_key("a"), "train")
    assert (row.other_study_key, row.other_patient_key, row.other_part) == (key(2), patient_key("c"), "tune")


def test_copied_notes_are_remarked_by_default_and_refused_when_asked() -> None:
    cohort = a_cohort("abcd", copies={3: 0})
    (remark,), (row,) = audit(cohort, a_plan("rrut"), settings())
    assert "1 pair of studies with much the same note under two patients" in remark
    assert (row.shared, row.study_key, row.part, row.other_study_key, row.other_part) == (
        "note", key(0), "train", key(3), "test",
    )  # fmt: skip
    with pytest.raises(LeakageError, match="much the same note"):
        audit(cohort, a_plan("rrut"), settings(copied_notes="refuse"))


def test_two_copies_of_a_note_leak_although_its_first_study_was_refused() -> None:
    cohort = a_cohort("abcd", copies={0: 99, 3: 99})  # 99 is no member
    assert len(audit(cohort, a_plan("rrut"), settings())[1]) == 1


def test_few_pairs_are_named_and_the_others_counted_once_over_all_folds() -> None:
    pairs = MOST_NAMED + 2
    patients = "".join(chr(ord("a") + k) for k in range(2 * pairs))
    cohort = a_cohort(patients, pixels={k: f"shared {k % pairs}" for k in range(2 * pairs)})
    with pytest.raises(LeakageError) as caught:
        audit(cohort, a_plan("r" * pairs + "t" * pairs, "t" * pairs + "r" * pairs), settings())
    message = str(caught.value)
    assert f"there are {pairs} pairs" in message
    assert message.count("(train)") == MOST_NAMED
    assert "and 2 more" in message


def test_a_pair_that_leaks_in_every_fold_is_counted_once_and_has_a_row_per_fold() -> None:
    cohort = a_cohort("abcd", pixels={0: "same", 3: "same"})
    (remark,), rows = audit(cohort, a_plan("rrut", "turr"), settings(same_pixels="warn"))
    assert "there is 1 pair of studies" in remark
    assert not any(key(k) in remark for k in range(4))  # remarks are shown and published
    assert [(row.fold, row.part, row.other_part) for row in rows] == [("0", "train", "test"), ("1", "test", "train")]


def test_pixels_are_told_by_value_order_and_shape_not_by_place() -> None:
    volume = a_volume([0, 1, 2, 3, 4, 5])
    assert pixel_digest(a_volume([0, 1, 2, 3, 4, 5], shift_mm=7.0)) == pixel_digest(volume)
    assert pixel_digest(a_volume([0, 1, 2, 3, 5, 4])) != pixel_digest(volume)
    assert pixel_digest(a_volume([0, 1, 2, 3, 4, 5], (3, 2, 1))) != pixel_digest(volume)


def test_pixels_are_told_however_they_lie_in_memory() -> None:
    volume = a_volume(range(24), (2, 3, 4))
    turned = replace(volume, voxels=np.asfortranarray(volume.voxels))
    assert pixel_digest(turned) == pixel_digest(volume)


def test_a_constant_volume_is_like_no_other() -> None:
    assert pixel_digest(a_volume([3] * 6)) is None


def test_the_same_recording_under_two_patients_is_refused_or_remarked_as_the_same_pixels_are() -> None:
    cohort = with_sounds(a_cohort("abc"), {0: "sound", 2: "sound"})
    with pytest.raises(LeakageError, match="with the same recording under two patients"):
        audit(cohort, a_plan("rut"), settings())
    (remark,), (row,) = audit(cohort, a_plan("rut"), settings(same_pixels="warn"))
    assert "1 pair of studies with the same recording" in remark
    assert (row.shared, row.study_key, row.other_study_key) == ("recording", key(0), key(2))
    assert audit(with_sounds(cohort, {}), a_plan("rut"), settings()) == ([], [])
