import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.errors import LabelError
from medmllm.ingest.labels import Assigned, assign_task
from medmllm.ingest.tables import parse_target
from medmllm.records import UNKNOWN, Study
from medmllm.training_config import TaskSettings

CLASSES = load_config(TrainConfig, "train").task
ORDINAL = CLASSES.model_copy(update={"kind": "ordinal"})
ROWS = [
    {"nodule": "yes", "effusion": "1", "grade": "1"},
    {"nodule": "no", "effusion": "", "grade": "2"},
    {"nodule": "", "effusion": "n/a", "grade": ""},
    {"nodule": "null", "effusion": "0", "grade": "3"},
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
        (("nodule", "grade"), CLASSES, r"'grade' is a label of two classes, and its column has 3: .* 'grade>=3'"),
        (("nodule", "effusion"), ORDINAL, r"without an order: leave \[task\] kind"),
        (("nodule", "grade>=9"), CLASSES, "all of one class"),
        (("nodule", "effusions"), CLASSES, "did you mean 'effusion'"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(
    targets: tuple[str, ...], settings: TaskSettings, message: str
) -> None:
    with pytest.raises(LabelError, match=message):
        assign(*targets, settings=settings)
