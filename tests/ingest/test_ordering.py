import pytest

from medmllm.errors import LabelError
from medmllm.ingest.ordering import ALONE, order_classes
from medmllm.ingest.tables import Targets, assign_targets, parse_target
from medmllm.records import Study

SIZES = ("small", "medium", "large")


def targets_of(cells: list[str], target: str = "grade") -> Targets:
    studies = [
        Study(study_key=f"st-{k:016x}", patient_key=f"pt-{k:016x}", layout="folder", facts={"grade": cell})
        for k, cell in enumerate(cells)
    ]
    return assign_targets(studies, parse_target(target))


def ordered(cells: list[str], order: tuple[str, ...] = (), target: str = "grade") -> tuple[tuple[str, ...], list[int]]:
    found = order_classes(targets_of(cells, target), parse_target(target), order, keys=ALONE)
    return found.classes, list(found.by_study.values())


def test_numbers_are_ordered_as_numbers() -> None:
    assert ordered(["10", "2", "1.0", "2.0", ""]) == (("1", "2", "10"), [2, 1, 0, 1])


def test_words_take_the_order_that_is_declared() -> None:
    assert ordered(["large", "small", "medium", "small"], SIZES) == (SIZES, [2, 0, 1, 0])


def test_a_declared_order_of_numbers_may_turn_them_round_and_spell_them_otherwise() -> None:
    assert ordered(["1", "2", "3"], ("3.0", "2.0", "1.0")) == (("3", "2", "1"), [2, 1, 0])


@pytest.mark.parametrize(
    ("cells", "order", "target", "message"),
    [
        (["small", "medium", "large"], (), "grade", r"3 of the 3 classes in column 'grade' are no numbers"),
        (["1", "2", "unknown"], (), "grade", r"1 of the 3 classes .* list all classes in \[task\] order"),
        (["1", "2", "inf"], (), "grade", r"1 of the 3 classes"),
        (["small", "medium", "large"], SIZES[:2], "grade", r"order lacks 1 of the classes in column 'grade': name"),
        (
            ["small", "medium", "large"],
            (*SIZES, "huge"),
            "grade",
            r"order names 1 that no study has in column 'grade':",
        ),
        (["small", "medium", "big"], SIZES, "grade", r"lacks 1 of the classes in .* and names 1 that no study has"),
        (["small", "medium", "large"], (*SIZES, "small"), "grade", r"names a class twice"),
        (["1", "2", "2"], (), "grade", r"column of 3 classes or more, 'grade' has 2"),
        (["1", "2", "3"], (), "grade>=2", r"'grade>=2' is a comparison: set \[task\] kind"),
    ],
)
def test_an_order_that_is_not_known_or_does_not_fit_is_refused(
    cells: list[str], order: tuple[str, ...], target: str, message: str
) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        ordered(cells, order, target)
    assert "unknown" not in str(caught.value)  # cells are not repeated
