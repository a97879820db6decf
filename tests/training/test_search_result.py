"""What a search is told as: a table, and remarks where its choices give to think."""

import csv
from pathlib import Path

from medmllm.search_documents import CandidateDocument, ChoiceDocument, SearchDocument
from medmllm.training.search_result import search_remarks, write_search

DECAYS = (0.01, 0.1, 1.0)


def a_search(
    chosen: tuple[int, ...], *, arm: str = "fused", values: tuple[object, ...] = DECAYS, name: str = "weight_decay",
    lost: int | None = None,
) -> SearchDocument:  # fmt: skip
    tried = tuple(
        CandidateDocument.model_validate({"settings": {name: value}, "score": None if k == lost else 0.6 + 0.01 * k})
        for k, value in enumerate(values)
    )
    choices = tuple(
        ChoiceDocument(arm=arm, repeat=0, fold=fold, candidates=tried, chosen=own) for fold, own in enumerate(chosen)
    )
    return SearchDocument(score="log_loss", choices=choices)


def joined(*searches: SearchDocument) -> SearchDocument:
    return SearchDocument(score="log_loss", choices=tuple(choice for own in searches for choice in own.choices))


def test_folds_that_agree_on_a_middle_value_call_for_no_remark() -> None:
    assert search_remarks(a_search((1, 1, 1, 2, 1))) == ()
    assert search_remarks(None) == ()


def test_folds_that_disagree_are_remarked_and_only_in_their_arm() -> None:
    said = search_remarks(joined(a_search((0, 1, 2, 1, 0), arm="image"), a_search((1, 1, 1, 0, 2))))
    assert len(said) == 1
    assert said[0].startswith(
        "The folds of the image arm do not agree on their settings: 5 folds chose 3 of 3 candidates."
    )


def test_a_number_that_most_folds_take_from_the_end_of_the_grid_is_remarked_with_the_side() -> None:
    assert search_remarks(a_search((2, 2, 2, 1, 1))) == (
        "3 of 5 folds of the fused arm chose weight_decay = 1, the largest of the grid: what lies beyond may be better "
        "still, so widen it.",
    )
    assert "weight_decay = 0.01, the smallest of the grid" in search_remarks(a_search((0, 0, 0, 0, 1)))[0]


def test_what_has_no_beyond_is_no_edge() -> None:
    assert search_remarks(a_search((0, 0, 0), values=(0.0, 0.1, 1.0))) == ()  # no penalty is below none
    assert search_remarks(a_search((0, 0, 0), values=("concat", "gated", "low_rank"), name="fusion")) == ()
    assert search_remarks(a_search((1, 1, 1), values=(False, True), name="flips")) == ()
    assert search_remarks(a_search((1, 1, 1), values=(0.1, 1.0))) == ()  # of two values either is an end


def test_candidates_that_diverged_are_counted_in_each_fold() -> None:
    said = search_remarks(a_search((1, 1, 1), lost=2))
    assert said == (
        "Of 9 candidates that the folds of the fused arm tried, 3 diverged or have no score; none of them was chosen.",
    )
    (alone,) = search_remarks(a_search((1,), lost=2))
    assert alone.endswith("of the fused arm tried, 1 diverged or has no score; it was not chosen.")


def test_the_table_has_a_row_per_candidate_and_an_empty_cell_where_a_setting_makes_no_difference(
    tmp_path: Path,
) -> None:
    both = CandidateDocument(settings={"weight_decay": 0.1, "flips": True}, score=0.5)
    other = CandidateDocument(settings={"weight_decay": 0.1, "flips": False}, score=None)
    image = ChoiceDocument(arm="image", repeat=1, fold=0, candidates=(both, other), chosen=0)
    write_search(
        tmp_path / "search.csv", joined(a_search((1,), arm="text"), SearchDocument(score="auroc", choices=(image,)))
    )
    with (tmp_path / "search.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["candidate"] for row in rows] == ["1", "2", "3", "1", "2"]
    assert [row["chosen"] for row in rows] == ["False", "True", "False", "True", "False"]
    assert [row["settings[weight_decay]"] for row in rows] == ["0.01", "0.1", "1", "0.1", "0.1"]
    assert [row["settings[flips]"] for row in rows] == ["", "", "", "true", "false"]
    assert [row["score"] for row in rows] == ["0.6", "0.61", "0.62", "0.5", ""]
    assert rows[3]["repeat"] == "1"
    write_search(tmp_path / "search.csv", None)  # a run without a search leaves none of an earlier one
    assert not (tmp_path / "search.csv").exists()
