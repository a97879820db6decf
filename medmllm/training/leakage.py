"""Look for what two parts of a fold share before anything is trained on it.

    cohort, splits -> patients, pixels, notes on two sides -> LeakageError, or remarks

A patient on two sides is always refused. Two studies of different patients with the same voxels are one patient under
two ids or a file exported twice: refused unless the settings say otherwise. Much the same note in two patients may be a
copy, but templates ("no acute findings") make such pairs in every honest cohort: by default that is only remarked.
An error names studies by key, a few of them; remarks, which are shown and published, count them, and leaks.csv has all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medmllm.errors import LeakageError
from medmllm.table_rows import LeakRow, Part, Shared
from medmllm.training.cohort import Cohort
from medmllm.training.splits import FoldSplit, IntArray, SplitPlan
from medmllm.training_config import TrainingSettings

MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Leak:
    """Two studies of one fold that share something although they are in different parts."""

    fold: str  # or inner fold, 0.1, of the first repeat or a later one
    one: int  # index into the cohort
    one_part: Part
    other: int
    other_part: Part


def audit(cohort: Cohort, plan: SplitPlan, settings: TrainingSettings) -> tuple[list[str], list[LeakRow]]:
    """Return remarks on what leaks between the parts of a fold and is allowed to, and the studies that do.

    Args:
        cohort: As read, with the digests of its pixels and the notes that are much alike.
        plan: Its folds.
        settings: `same_pixels` and `copied_notes` say what is refused and what is remarked.

    Raises:
        LeakageError: Names the pairs by study key, at most five of them, and the way out.
    """
    patients = cohort.patients
    keys = cohort.study_keys
    same_patient = leaks(plan, _gather((patient, k) for k, patient in enumerate(patients)))
    if same_patient:
        raise LeakageError(
            f"{_name(same_patient, keys, 'of one patient')}. Results on such a split would be too good: give every "
            "study of a patient to one side."
        )
    pixels = _gather((digest, k) for k, member in enumerate(cohort.members) for digest in set(member.pixels))
    sounds = _gather((digest, k) for k, member in enumerate(cohort.members) for digest in set(member.sounds))
    notes = _gather((cohort.note_copies.get(key, key), k) for k, key in enumerate(keys))
    remarks, rows = [], []
    shared: tuple[tuple[Shared, str, list[list[int]], str, str], ...] = (
        ("pixels", "with the same pixels under two patients", pixels, "same_pixels", settings.same_pixels),
        ("recording", "with the same recording under two patients", sounds, "same_pixels", settings.same_pixels),
        ("note", "with much the same note under two patients", notes, "copied_notes", settings.copied_notes),
    )
    for kind, what, groups, setting, decision in shared:
        found = leaks(plan, groups)
        if found and decision == "refuse":
            raise LeakageError(
                f"{_name(found, keys, what)}. What is trained on would be tested on: give both studies one patient id, "
                f'or leave one out; if they are meant to be alike, --set training.{setting}="warn".'
            )
        if found:
            remarks.append(f"Possible leakage (training.{setting}): {_count(found, what)}; leaks.csv names them.")
        rows += [_row(leak, kind, keys, patients) for leak in found]
    return remarks, rows


def _row(leak: Leak, kind: Shared, keys: Sequence[str], patients: Sequence[str]) -> LeakRow:
    return LeakRow(
        shared=kind,
        fold=leak.fold,
        study_key=keys[leak.one],
        patient_key=patients[leak.one],
        part=leak.one_part,
        other_study_key=keys[leak.other],
        other_patient_key=patients[leak.other],
        other_part=leak.other_part,
    )


def leaks(plan: SplitPlan, groups: Iterable[Sequence[int]]) -> list[Leak]:
    """Return for each fold and group the first member and the first one in each other part.

    Args:
        plan: The folds.
        groups: Studies that share something, as ascending indices into the cohort.
    """
    shared = [group for group in groups if len(group) > 1]
    found = []
    for split in plan.networks:
        part_of = _parts(split)
        for group in shared:
            first_in: dict[Part, int] = {}
            for k in group:
                first_in.setdefault(part_of[k], k)
            (part, one), *others = first_in.items()
            found += [Leak(split.name, one, part, other, other_part) for other_part, other in others]
    return found


def _parts(split: FoldSplit) -> Mapping[int, Part]:
    sides: Mapping[Part, IntArray] = {"train": split.train, "tune": split.tune, "test": split.test}
    return {int(k): name for name, members in sides.items() for k in members}


def _gather(pairs: Iterable[tuple[str, int]]) -> list[list[int]]:
    groups: dict[str, list[int]] = {}
    for shared, k in pairs:
        groups.setdefault(shared, []).append(k)
    return list(groups.values())


def _name(found: Sequence[Leak], keys: Sequence[str], what: str) -> str:
    """Return in words which pairs leak; a pair that leaks in several folds is named once, with its first fold."""
    pairs = {(leak.one, leak.other): leak for leak in reversed(found)}
    first = sorted(pairs.values(), key=lambda leak: (leak.fold, leak.one, leak.other))[:MOST_NAMED]
    named = "; ".join(
        f"{keys[leak.one]} ({leak.one_part}) and {keys[leak.other]} ({leak.other_part}) in fold {leak.fold}"
        for leak in first
    )
    more = f"; and {len(pairs) - len(first)} more" if len(pairs) > len(first) else ""
    return f"{_count(found, what)}: {named}{more}"


def _count(found: Sequence[Leak], what: str) -> str:
    """Return in words how many pairs leak, whatever the number of folds."""
    pairs = len({(leak.one, leak.other) for leak in found})
    count = "is 1 pair" if pairs == 1 else f"are {pairs} pairs"
    return f"on two sides of a fold there {count} of studies {what}"
