"""A row and a prediction.json say the same of a study, with the classes by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medmllm.csv_tables import table_writer
from medmllm.ingest.study_folder import StudyIndex
from medmllm.model_documents import SurvivalTask, Task
from medmllm.records import Prediction, SurvivalEstimate
from medmllm.scoring.mlflow_model import output_columns
from medmllm.scoring.results import (
    prediction_document,
    prediction_row,
    row_type,
    shown_probability,
    summarise,
    undecided,
)
from tests.reporting import made_up


def a_prediction(**changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "study_key": "st-" + "1" * 16,
        "patient_key": "pt-" + "2" * 16,
        "probabilities": (0.3, 0.7),
        "logits": (0.847,),
        "interval": (0.6, 0.8),
        "modalities_used": ("image", "text"),
        "weights_digest": "a" * 64,
        "training_patient": True,
    }
    return Prediction(**(fields | changes))


def test_a_row_and_its_file_say_the_same_with_classes_by_name() -> None:
    card, prediction = made_up.card(), a_prediction()
    row = prediction_row(prediction, card, 0)
    document = prediction_document(prediction, card, 0, made_up.provenance())
    assert row.predicted == document.predicted == "no"  # the operating point decides, not the larger probability
    assert row.probability == document.probability == 0.7  # of the positive class all the same
    assert row.probabilities == document.probabilities == {"no": 0.3, "yes": 0.7}
    assert (row.interval_low, row.interval_high) == document.interval == (0.6, 0.8)
    assert (row.modalities_used, document.modalities_used) == ("image+text", ("image", "text"))
    assert row.training_patient
    assert document.training_patient
    assert (document.operating_point, document.contract_fingerprint) == (
        card.operating_point,
        card.contract_fingerprint,
    )
    assert document.conformal_set is None


def test_a_conformal_set_is_written_by_class_names() -> None:
    document = prediction_document(a_prediction(conformal_set=(1, 0)), made_up.card(), 1, made_up.provenance())
    assert document.conformal_set == ("yes", "no")


@pytest.mark.parametrize(
    ("probabilities", "predicted", "shown"), [((0.3, 0.7), 0, 0.7), ((0.3, 0.7), 1, 0.7), ((0.2, 0.5, 0.3), 2, 0.3)]
)
def test_the_shown_probability_is_of_the_positive_or_else_of_the_predicted_class(
    probabilities: tuple[float, ...], predicted: int, shown: float
) -> None:
    classes = ("no", "yes", "maybe")[: len(probabilities)]
    card = made_up.card().model_copy(update={"task": Task.of("grade", classes)})
    assert shown_probability(a_prediction(probabilities=probabilities), card, predicted) == shown


def test_the_summary_adds_refusals_up_and_counts_ignored_files() -> None:
    index = StudyIndex((), (), ())
    refused = {"nothing_to_read": 2, "unforeseen": 1}
    summary = summarise(7, refused, 4, index, made_up.card(synthetic=True), made_up.provenance())
    assert (summary.scored, summary.refused, summary.explained, summary.ignored_files) == (7, 3, 4, 0)
    assert summary.refused_by_code == refused
    assert summary.synthetic


@pytest.mark.parametrize(
    ("chosen", "written", "abstained"),
    [
        ((1,), {"no": False, "yes": True}, False),
        ((0, 1), {"no": True, "yes": True}, True),
        ((), {"no": False, "yes": False}, True),
        (None, {}, None),
    ],
)
def test_a_row_tells_for_each_class_whether_it_is_in_the_set_and_whether_that_decides(
    chosen: tuple[int, ...] | None, written: dict[str, bool], abstained: bool | None
) -> None:
    row = prediction_row(a_prediction(conformal_set=chosen), made_up.card(), 1)
    assert (row.conformal_set, row.abstained) == (written, abstained)


def test_a_target_is_undecided_unless_its_own_set_is_a_single_class() -> None:
    task = Task.of_several((Task.of("a", ("0", "1")), Task.of("b", ("x", "y", "z")), Task.of("c", ("no", "yes"))))
    assert undecided((1, 2, 4), task) == {"a": False, "b": True, "c": True}  # one, two and none of their classes
    assert undecided((1,), task.parts[0]) == {}


def test_a_time_beside_others_is_told_by_horizon_and_risk_in_row_file_and_the_columns_of_the_mlflow_model() -> None:
    asked = SurvivalTask(event="death", model="cox", horizons=(9.0, 30.0), time_unit="days")
    days = Task(target="days", kind="survival", classes=("no death by 30 days", "death by 30 days"), survival=asked)
    task = Task.of_several((Task.of("nodule", ("no", "yes")), days))
    card = made_up.card().model_copy(update={"task": task, "operating_points": {"nodule": 0.5, "days": 0.4}})
    prediction = a_prediction(
        probabilities=(0.3, 0.7, 0.55, 0.45),
        logits=(0.847, -0.514),
        conformal_set=(1,),
        survival=SurvivalEstimate((0.8, 0.55), None),
    )
    row = prediction_row(prediction, card, 1)
    assert (row.predicted, row.probability) == ("yes", 0.7)
    assert row.predictions == {"nodule": "yes", "days": "higher risk"}  # at its own point, below one half
    assert (row.event_free, row.median_time) == ({"9 days": 0.8, "30 days": 0.55}, {})
    assert (row.conformal_set, row.undecided) == ({"no": False, "yes": True}, {"nodule": False})
    reached = replace(prediction, survival=SurvivalEstimate((0.8, 0.4), 21.5))
    assert prediction_row(reached, card, 1).median_time == {"days": 21.5}
    document = prediction_document(prediction, card, 1, made_up.provenance())
    assert document.survival is not None
    assert document.survival.event_free == row.event_free
    columns = {column.name for column in output_columns(card)}
    assert {"event_free[9 days]", "event_free[30 days]", "median_time[days]", "predictions[days]"} <= columns


@pytest.mark.parametrize("kind", ["binary", "multiclass", "survival", "several"])
def test_the_mlflow_model_has_every_column_of_predictions_and_says_what_stands_in_it(kind: str, tmp_path: Path) -> None:
    asked = SurvivalTask(event="death", model="cox", horizons=(9.0,), time_unit="days")
    days = Task(target="days", kind="survival", classes=("no death by 9 days", "death by 9 days"), survival=asked)
    nodule, region = Task.of("nodule", ("no", "yes")), Task.of("region", ("chest", "head", "knee"))
    several = Task.of_several((nodule, region, days))
    task = {"binary": nodule, "multiclass": region, "survival": days, "several": several}[kind]
    card = made_up.card().model_copy(update={"task": task})
    with table_writer(tmp_path / "predictions.csv", row_type(card), classes=task.columns):
        pass
    header = (tmp_path / "predictions.csv").read_text().strip().split(",")
    columns = {column.name: column.type.name for column in output_columns(card)}
    assert list(columns) == ["row", *header, "stage", "code", "reason"]
    flags = ("abstained", "conformal_set", "undecided", "training_patient")
    texts = ("study_key", "patient_key", "predicted", "predictions", "modalities_used", "weights_digest")
    for name in header:
        field = name.partition("[")[0]
        assert columns[name] == ("boolean" if field in flags else "string" if field in texts else "double")
