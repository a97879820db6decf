"""Read and write the folds of a run as a file: our own, or nnU-Net's.

    RUN/splits.json, splits_final.json -> ids as study keys -> checked GivenSplits -> SplitPlan for the cohort as read
    SplitPlan -> RUN/splits.json, RUN/splits_final.json

`splits.json` names train, tune and test of each fold by key, its inner folds and repeats, with the digest of the whole.
nnU-Net's `splits_final.json` is a list of {"train": [...], "val": [...]}: `val` is what we test on, and tuning parts
or inner folds are carved from `train`. Its ids are study ids (of the label table, folder names, StudyInstanceUIDs) or
study keys. Both are written by key alone. A file that leaves studies out, names unknown ones, tests one twice, or has a
patient on two sides is refused before any study is read; messages count and name keys, never ids.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from medmllm.errors import LeakageError, SplitError
from medmllm.result_documents import FoldStudies, SplitDocument
from medmllm.training.class_splits import carve_tuning
from medmllm.training.held import Carving, lacking
from medmllm.training.inner_folds import check_inner
from medmllm.training.repeats import join_repeats, repeats_of
from medmllm.training.splits import (
    FoldSplit,
    IntArray,
    SplitPlan,
    check_partition,
    digest_of,
    outer_folds,
)

OURS, NNUNET = "splits.json", "splits_final.json"
MOST_NAMED = 5

_NNUNET = TypeAdapter(list[dict[str, list[str]]])


@dataclass(frozen=True, slots=True)
class GivenFold:
    """One fold of a file, by study key."""

    train: tuple[str, ...] = field(repr=False)
    tune: tuple[str, ...] | None = field(repr=False)  # None: to be carved from train
    test: tuple[str, ...] = field(repr=False)
    inner: tuple[tuple[str, ...], ...] = field(default=(), repr=False)  # of train; then tune is empty
    repeat: int = 0  # number of the draw

    @property
    def parts(self) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
        """What each network of the fold trains on and tunes on."""
        if not self.inner:
            return ((self.train, self.tune or ()),)
        held = [frozenset(own) for own in self.inner]
        return tuple(
            (tuple(key for key in self.train if key not in own), tune)
            for own, tune in zip(held, self.inner, strict=True)
        )


def read_split_file(path: Path, key_of: Callable[[str], str], known: Mapping[str, str]) -> tuple[GivenFold, ...]:
    """Return the folds of a file by study key.

    Args:
        path: splits.json of a run, or nnU-Net's splits_final.json.
        key_of: Study id -> study key, as this site makes them.
        known: study_key -> patient_key of every study of the folder, labelled or not.

    Raises:
        SplitError: Unreadable, of another form, edited by hand, or it names unknown studies or one twice.
        LeakageError: A patient is on two sides of a fold.
    """
    try:
        text = path.read_text(encoding="utf-8")
        listed = isinstance(json.loads(text), list)
        folds = _of_nnunet(text, key_of, known) if listed else _of_ours(text)
    except OSError as error:
        raise SplitError(f"cannot read --splits: {error.strerror}") from None
    except (ValidationError, ValueError):  # their messages may quote ids
        raise SplitError(
            f'--splits is neither {OURS} of a run nor nnU-Net\'s {NNUNET}, a list of {{"train": [...], "val": [...]}} '
            "for two folds or more: take one of them."
        ) from None
    for draw in _draws(folds):
        for number, fold in enumerate(draw):
            _check_fold(number, fold, known)
        tested = Counter(key for fold in draw for key in fold.test)
        twice = [key for key, times in tested.items() if times > 1]
        _refuse(twice, "are tested in several folds: test each study once")
    return folds


def plan_given(
    given: Sequence[GivenFold],
    patients: Sequence[str],
    targets: Sequence[int],
    carving: Carving,
) -> SplitPlan:
    """Return the plan of given folds for a cohort; studies that the cohort lacks are passed over.

    Args:
        given: Of `read_split_file`.
        patients: Patient of each study.
        targets: Class index of each study, which tuning parts are carved by; of a time to an event whether it came.
        carving: What every part has to hold; how tuning parts are drawn, where none is given.

    Raises:
        SplitError: A study of the cohort is in no test part or missing in a fold, or a part lacks what it has to hold.
    """
    check_all_given(given, carving.study_keys)
    place = {key: k for k, key in enumerate(carving.study_keys)}
    if any(fold.tune is None for fold in given):
        return carve_tuning([_members(fold.test, place) for fold in given], patients, targets, carving)
    draws = [_parts(draw, place) for draw in _draws(given)]
    for parts in draws:
        check_partition(parts, patients)
        check_inner(parts)
        fault = lacking(parts, carving.held, whole_tests=carving.whole_tests)
        if fault:
            raise SplitError(f"{fault}: the folds are given, so give others, or choose another --target.")
    return join_repeats(draws, carving.study_keys)


def _draws(given: Sequence[GivenFold]) -> list[list[GivenFold]]:
    return [list(own) for _, own in groupby(given, key=lambda fold: fold.repeat)]


def _parts(given: Sequence[GivenFold], place: Mapping[str, int]) -> tuple[FoldSplit, ...]:
    """Return what each network sees, as indices; studies without a place are passed over."""
    return tuple(
        FoldSplit(
            number,
            _members(train, place),
            _members(tune, place),
            _members(fold.test, place),
            inner=k if fold.inner else None,
            repeat=fold.repeat,
        )
        for number, fold in enumerate(given)
        for k, (train, tune) in enumerate(fold.parts)
    )


def _members(keys: Sequence[str], place: Mapping[str, int]) -> IntArray:
    return np.array(sorted(place[key] for key in keys if key in place), dtype=np.int64)


def check_all_given(given: Sequence[GivenFold], study_keys: Sequence[str]) -> None:
    """Refuse folds that leave out a study which is to be trained on.

    Raises:
        SplitError: Names some of the studies by key.
    """
    for draw in _draws(given):
        _check_draw_given(draw, study_keys)


def _check_draw_given(draw: Sequence[GivenFold], study_keys: Sequence[str]) -> None:
    tested = {key for fold in draw for key in fold.test}
    _refuse(
        [key for key in study_keys if key not in tested],
        "have a label but are in no test part: add them, or clear their label",
    )
    for number, fold in enumerate(draw):
        named = {*fold.train, *(fold.tune or ()), *fold.test}
        _refuse(
            [key for key in study_keys if key not in named], f"are left out of fold {number}: add them to its train"
        )


def write_splits(plan: SplitPlan, study_keys: Sequence[str], out: Path) -> None:
    """Write OUT/splits.json and OUT/splits_final.json, by key."""

    def named(members: IntArray) -> tuple[str, ...]:
        return tuple(study_keys[k] for k in members)

    folds, *more = (tuple(_studies(own, named) for own in outer_folds(draw)) for draw in repeats_of(plan))
    SplitDocument(digest=plan.digest, folds=folds, repeats=tuple(more)).write(out / OURS)
    # nnU-Net has no third part, and one draw: its `train` holds our tuning part as well.
    listed = [{"train": sorted([*fold.train, *fold.tune]), "val": sorted(fold.test)} for fold in folds]
    (out / NNUNET).write_text(json.dumps(listed, indent=4) + "\n", encoding="utf-8")


def _studies(own: Sequence[FoldSplit], named: Callable[[IntArray], tuple[str, ...]]) -> FoldStudies:
    first = own[0]
    if first.inner is None:
        return FoldStudies(train=named(first.train), tune=named(first.tune), test=named(first.test))
    train = named(np.sort(np.concatenate([first.train, first.tune])))
    return FoldStudies(train=train, tune=(), test=named(first.test), inner=tuple(named(part.tune) for part in own))


# --- reading ---------------------------------------------------------------------------------


def _of_ours(text: str) -> tuple[GivenFold, ...]:
    document = SplitDocument.model_validate_json(text)
    given = tuple(
        GivenFold(fold.train, fold.tune, fold.test, fold.inner, repeat)
        for repeat, draw in enumerate((document.folds, *document.repeats))
        for fold in draw
    )
    keys = sorted({key for fold in given for key in (*fold.train, *(fold.tune or ()), *fold.test)})
    place = {key: k for k, key in enumerate(keys)}
    parts = [part for draw in _draws(given) for part in _parts(draw, place)]
    if digest_of(parts, keys) != document.digest:
        raise SplitError(
            f"--splits was changed after it was written: its digest does not fit. Take the {OURS} of the run again; "
            f"folds made by hand go into a {NNUNET}."
        )
    return given


def _of_nnunet(text: str, key_of: Callable[[str], str], known: Mapping[str, str]) -> tuple[GivenFold, ...]:
    listed = _NNUNET.validate_json(text)
    if len(listed) < 2 or any(set(fold) != {"train", "val"} for fold in listed):
        raise ValueError("not nnU-Net's")

    def keys(ids: Sequence[str]) -> tuple[str, ...]:
        return tuple(one if one in known else key_of(one) for one in ids)

    return tuple(GivenFold(keys(fold["train"]), None, keys(fold["val"])) for fold in listed)


def _check_fold(number: int, fold: GivenFold, known: Mapping[str, str]) -> None:
    inner = {f"inner fold {k}": own for k, own in enumerate(fold.inner)}
    sides = {**(inner or {"train": fold.train, "tune": fold.tune or ()}), "test": fold.test}
    named = Counter(key for side in sides.values() for key in side)
    _refuse(
        [key for key in named if key not in known],
        f"of fold {number} are not in the folder of studies: correct their ids, or take them out of --splits",
    )
    _refuse([key for key, times in named.items() if times > 1], f"are named twice in fold {number}: name each once")
    side_of: dict[str, set[str]] = {}
    for name, side in sides.items():
        for key in side:
            side_of.setdefault(known[key], set()).add(name)
    shared = sorted(patient for patient, found in side_of.items() if len(found) > 1)
    if shared:
        raise LeakageError(
            f"{_counted(shared, 'patient')} on two sides of fold {number} of --splits: {some_of(shared)}. Results on "
            "such a split would be too good: put every study of a patient on one side."
        )


def _refuse(keys: Sequence[str], why: str) -> None:
    if keys:
        raise SplitError(f"{len(keys)} studies {why} ({some_of(keys)}).")


def _counted(keys: Sequence[str], noun: str) -> str:
    return f"1 {noun} is" if len(keys) == 1 else f"{len(keys)} {noun}s are"


def some_of(keys: Sequence[str]) -> str:
    """Return a few keys, as an error names them."""
    return ", ".join(keys[:MOST_NAMED]) + (", ..." if len(keys) > MOST_NAMED else "")
