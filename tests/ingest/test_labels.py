import pytest
from pydantic import ValidationError

from medmllm.config import TrainConfig, load_config
from medmllm.errors import LabelError
from medmllm.ingest.labels import Assigned, assign_task
from medmllm.ingest.tables import parse_target
from medmllm.records import UNKNOWN, Study
from medmllm.training_config import TaskSettings

CLASSES = load_config(TrainConfig, "train").task
ORDINAL = CLASSES.model_copy(update={"kind": "ordinal"})
MIXED = CLASSES.model_copy(
    update={"kinds": {"grade": "ordinal", "side": "ordinal"}, "orders": {"side": ("c", "a", "b")}}
)
ROWS = [
    {"nodule": "yes", "effusion": "1", "grade": "1", "side": "a"},
    {"nodule": "no", "effusion": "", "grade": "2", "side": "b"},
    {"nodule": "", "effusion": "n/a", "grade": "", "side": ""},
    {"nodule": "null", "effusion": "0", "grade": "3", "side": "c"},
]


def assign(*targets: str, settings: TaskSettings = CLASSES) -> Assigned:
    studies = [
        Study(study_key=f"st-{k:016x}", patient_key=f"pt-{k:016x}", layout="folder", facts=row)
        for k, row in enumerate(ROWS)
    ]
    return assign_task(studies, [parse_target(target) for target in targets], settings)


def test_several_targets_are_labels_and_empty_cells_are_unknown() -> None:
    found = assign("nodule", "effusion", "grade >= 2")
    assert (found.task.kind, found.task.target) == ("multilabel", "nodule, effusion, grade>=2")
    assert found.task.names == ("nodule", "effusion", "grade>=2")
    assert [part.classes for part in found.task.parts] == [
        ("nodule=no", "nodule=yes"),
        ("effusion=0", "effusion=1"),
        ("not grade>=2", "grade>=2"),
    ]
    assert all(part.kind == "binary" for part in found.task.parts)
    assert list(found.by_study.values()) == [(1, 1, 0), (0, UNKNOWN, 1), (UNKNOWN, 0, 1)]
    assert found.missing == ("st-0000000000000002",)  # the study without any


def test_targets_are_each_of_its_own_kind_with_classes_that_name_it() -> None:
    found = assign("nodule", "side", "grade", settings=MIXED)
    assert found.task.kind == "several"
    assert [(part.kind, part.classes) for part in found.task.parts] == [
        ("binary", ("nodule=no", "nodule=yes")),
        ("ordinal", ("side=c", "side=a", "side=b")),
        ("ordinal", ("grade=1", "grade=2", "grade=3")),
    ]
    assert list(found.by_study.values()) == [(1, 1, 0), (0, 2, 1), (UNKNOWN, 0, 2)]
    assert assign("nodule", "grade").task.parts[1].kind == "multiclass"


def test_outputs_and_classes_of_several_targets_stand_in_turn() -> None:
    nodule, side, grade = assign("nodule", "side", "grade", settings=MIXED).task.places
    assert (nodule.outputs, side.outputs, grade.outputs) == (slice(0, 1), slice(1, 4), slice(4, 7))
    assert (nodule.classes, side.classes, grade.classes) == (slice(0, 2), slice(2, 5), slice(5, 8))
    assert (nodule.output_of(0), nodule.output_of(1), grade.output_of(6)) == ((0, -1.0), (0, 1.0), (5, 1.0))


def test_columns_that_part_the_studies_alike_are_remarked_and_thresholds_that_do_not_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assign("grade>=2", "grade>=3", "nodule")
    assign("grade>=3", "grade", "grade>=2")  # of three classes either comparison joins two
    assert caplog.messages == []
    assign("grade", "side")
    [said] = caplog.messages
    assert "'grade' and 'side' part all 3 studies alike" in said


@pytest.mark.parametrize(("both", "differ", "remarked"), [(12, 0, True), (12, 1, False), (9, 0, False)])
def test_columns_are_compared_on_the_studies_in_which_both_are_known(
    caplog: pytest.LogCaptureFixture, both: int, differ: int, remarked: bool
) -> None:
    rows = [{"a": str(k % 2), "b": str(k % 2 ^ (k < differ))} for k in range(both)]
    rows += [{"a": "1", "b": ""}, {"a": "", "b": "0"}]
    studies = [Study(f"st-{k}", f"pt-{k}", "folder", facts=row) for k, row in enumerate(rows)]
    assign_task(studies, [parse_target("a"), parse_target("b")], CLASSES)
    assert [f"part all {both} studies in which both are known alike" in said for said in caplog.messages] == (
        [True] if remarked else []
    )


def test_an_order_is_of_an_ordinal_target() -> None:
    with pytest.raises(ValidationError, match="'side' has an order and is not ordinal"):
        TaskSettings.model_validate(CLASSES.model_dump() | {"orders": {"side": ("a", "b", "c")}})


def test_one_target_is_what_it_was() -> None:
    found = assign("nodule")
    assert (found.task.kind, found.task.classes) == ("binary", ("no", "yes"))
    assert list(found.by_study.values()) == [1, 0]
    assert assign("grade").task.kind == "multiclass"
    assert assign("grade", settings=ORDINAL).task.kind == "ordinal"


@pytest.mark.parametrize(
    ("targets", "settings", "message"),
    [
        (("nodule", "effusion", "nodule"), CLASSES, "of the 3 targets .* one is named twice"),
        (("grade>=2", "grade >= 2"), CLASSES, "one is named twice"),
        (("nodule", "effusion", "effusion>=1"), CLASSES, "'effusion' and 'effusion>=1' part all 2 studies alike"),
        (("grade<2", "grade>=2"), CLASSES, "'grade<2' and 'grade>=2' part all 3 studies alike"),
        (("grade>1", "grade>=2"), CLASSES, "'grade>1' and 'grade>=2' .* Leave one of them out"),
        (("nodule",), ORDINAL, r"'nodule' has 2: set \[task\] kind = \"classes\""),
        (("nodule", "effusion"), ORDINAL, r"'nodule' has 2: set \[task\.kinds\] \"nodule\" = \"classes\""),
        (
            ("nodule", "grade>=2"),
            CLASSES.model_copy(update={"kinds": {"grade>=2": "ordinal"}}),
            r"comparison: set \[task\.kinds\] \"grade>=2\" = \"classes\"",
        ),
        (("side",), ORDINAL, r"list all classes in \[task\] order, lowest first"),
        (
            ("nodule", "side"),
            CLASSES.model_copy(update={"kinds": {"side": "ordinal"}}),
            r"list all classes in \[task\.orders\] \"side\", lowest first",
        ),
        (
            ("grade", "side"),
            MIXED.model_copy(update={"orders": {"side": ("c", "a")}}),
            r"\[task\.orders\] \"side\" lacks 1 of the classes",
        ),
        (("grade", "nodule"), MIXED, r"\[task.kinds\] names 'side', which is no target; these are grade, nodule"),
        (("nodule", "grade>=9"), CLASSES, "all of one class"),
        (("nodule", "effusions"), CLASSES, "did you mean 'effusion'"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(
    targets: tuple[str, ...], settings: TaskSettings, message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        assign(*targets, settings=settings)
