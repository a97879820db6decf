"""Tell what a search tried and chose: search.csv, its part of evaluation.json, and what of it gives to think.

choices of all arms, repeats and folds -> SearchDocument -> RUN/search.csv, remarks in plain words
"""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from medmllm.csv_tables import write_table
from medmllm.documents import Setting
from medmllm.search_documents import (
    CandidateDocument,
    ChoiceDocument,
    SearchDocument,
    SearchRow,
    setting_words,
)
from medmllm.training.cross_validation import ArmResult
from medmllm.training.run import Trained

FEWEST_FOLDS = 3
"""Of fewer, that they choose alike or at an edge says nothing."""

FEWEST_VALUES = 3
"""Of two values, either is an edge."""


def tell_search(trained: Trained) -> SearchDocument | None:
    """Return what was tried and chosen in each fold; None where nothing was searched."""
    choices = tuple(choice for arm in trained.arms for choice in _choices(arm))
    return SearchDocument(score=trained.config.training.search_score, choices=choices) if choices else None


def _choices(arm: ArmResult) -> Iterator[ChoiceDocument]:
    for choice in arm.choices:
        yield ChoiceDocument(
            arm=choice.arm,
            repeat=choice.repeat,
            fold=choice.fold,
            candidates=tuple(
                CandidateDocument(settings=dict(tried.settings), score=score)
                for tried, score in zip(choice.tried, choice.scores, strict=True)
            ),
            chosen=choice.chosen,
        )


def write_search(path: Path, search: SearchDocument | None) -> None:
    """Write one row per arm, repeat, fold and candidate; without a search, what an earlier run left goes."""
    if search is None:
        path.unlink(missing_ok=True)
        return
    names = tuple(dict.fromkeys(name for own in search.choices for name in own.best.settings))
    rows = (
        SearchRow(
            arm=own.arm,
            repeat=own.repeat,
            fold=own.fold,
            candidate=number + 1,
            settings={name: setting_words(value) for name, value in tried.settings.items()},
            score=tried.score,
            chosen=number == own.chosen,
        )
        for own in search.choices
        for number, tried in enumerate(own.candidates)
    )
    write_table(path, SearchRow, rows, classes=names)


def search_remarks(search: SearchDocument | None) -> tuple[str, ...]:
    """Return in plain words where the folds of an arm disagree, choose at the edge of the grid, or diverged."""
    if search is None:
        return ()
    each = [(arm, list(own)) for arm, own in groupby(search.choices, key=lambda choice: choice.arm)]
    return tuple(
        line for arm, own in each for line in (*_on_agreement(arm, own), *_on_edges(arm, own), *_on_loss(arm, own))
    )


def _on_agreement(arm: str, choices: list[ChoiceDocument]) -> Iterator[str]:
    """Say where no candidate was chosen by half of the folds."""
    count = Counter(choice.chosen for choice in choices)
    if len(choices) >= FEWEST_FOLDS and 2 * max(count.values()) < len(choices):
        yield (
            f"The folds of the {arm} arm do not agree on their settings: {len(choices)} folds chose {len(count)} of "
            f"{len(choices[0].candidates)} candidates. Their tuning parts cannot tell these apart: no one setting is "
            "shown to be best. A smaller grid, inner folds or more patients would make the choice steadier."
        )


def _on_edges(arm: str, choices: list[ChoiceDocument]) -> Iterator[str]:
    """Say which numbers most folds took from the end of the list, beyond which a better one may lie."""
    for name in choices[0].best.settings:
        values = {value for own in choices[0].candidates if _is_number(value := own.settings[name])}
        if len(choices) < FEWEST_FOLDS or len(values) < FEWEST_VALUES:
            continue
        for end, word in ((max(values), "largest"), (min(values), "smallest")):
            at = sum(choice.best.settings[name] == end for choice in choices)
            if end != 0 and 2 * at > len(choices):  # nothing that is searched goes below 0
                yield (
                    f"{at} of {len(choices)} folds of the {arm} arm chose {name} = {setting_words(end)}, the {word} of "
                    "the grid: what lies beyond may be better still, so widen it."
                )


def _on_loss(arm: str, choices: list[ChoiceDocument]) -> Iterator[str]:
    tried = [own for choice in choices for own in choice.candidates]
    lost = sum(own.score is None for own in tried)
    if lost:
        what = (
            "1 diverged or has no score; it was not"
            if lost == 1
            else f"{lost} diverged or have no score; none of them was"
        )
        yield f"Of {len(tried)} candidates that the folds of the {arm} arm tried, {what} chosen."


def _is_number(value: Setting) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
