"""The report's table of a search: a line per candidate, a cell per fold, the choice marked, of the first repeat."""

from medmllm.reporting.search_tables import search_tables
from medmllm.search_documents import CandidateDocument, ChoiceDocument, SearchDocument


def a_choice(arm: str, fold: int, scores: tuple[float | None, ...], *, chosen: int, repeat: int = 0) -> ChoiceDocument:
    tried = tuple(
        CandidateDocument(settings={"dropout": 0.1 * (k + 1), "flips": k > 0}, score=score)
        for k, score in enumerate(scores)
    )
    return ChoiceDocument(arm=arm, repeat=repeat, fold=fold, candidates=tried, chosen=chosen)


def test_each_arm_has_a_table_of_the_first_repeat() -> None:
    found = search_tables(
        SearchDocument(
            score="log_loss",
            choices=(
                a_choice("image", 0, (0.6, 0.5), chosen=1),
                a_choice("image", 1, (0.4, None), chosen=0),
                a_choice("image", 0, (0.1, 0.2), chosen=0, repeat=1),
                a_choice("fused", 0, (0.3, 0.2), chosen=1),
            ),
        )
    )
    assert [(table.arm, table.folds) for table in found] == [("image", (0, 1)), ("fused", (0,))]
    assert [line.words for line in found[0].lines] == ["dropout = 0.1, flips = false", "dropout = 0.2, flips = true"]
    cells = [[(cell.score, cell.chosen) for cell in line.cells] for line in found[0].lines]
    assert cells == [[(0.6, False), (0.4, True)], [(0.5, True), (None, False)]]
    assert search_tables(None) == ()
