"""What a scored study looks like in files: a table row and a prediction.json.

Prediction, ModelCard -> PredictionRow, PredictionDocument
"""

from collections.abc import Mapping

from medmllm.ingest.study_folder import StudyIndex
from medmllm.model_documents import RISK_GROUPS, ModelCard
from medmllm.records import Prediction, Provenance
from medmllm.result_documents import PredictionDocument, ScoringSummary
from medmllm.scoring.labels import predicted_labels
from medmllm.scoring.survival import survival_estimate, survival_row
from medmllm.table_rows import PredictionRow, SurvivalPredictionRow

NO_LABEL = "none"


def prediction_row(prediction: Prediction, card: ModelCard, predicted: int) -> PredictionRow | SurvivalPredictionRow:
    """Return the row of predictions.csv.

    Args:
        prediction: As scored.
        card: Gives the classes.
        predicted: Class index at the operating point.
    """
    if card.task.survival is not None:
        return survival_row(prediction, card, predicted)
    classes, chosen = card.task.classes, prediction.conformal_set
    return PredictionRow(
        study_key=prediction.study_key,
        patient_key=prediction.patient_key,
        predicted=predicted_name(prediction, card, predicted),
        probability=shown_probability(prediction, card, predicted),
        probabilities=dict(zip(card.task.classes, prediction.probabilities, strict=True)),
        interval_low=prediction.interval[0],
        interval_high=prediction.interval[1],
        conformal_set={} if chosen is None else {name: index in chosen for index, name in enumerate(classes)},
        abstained=None if chosen is None else len(chosen) != 1,
        modalities_used="+".join(prediction.modalities_used),
        training_patient=prediction.training_patient,
        weights_digest=prediction.weights_digest,
    )


def row_type(card: ModelCard) -> type[PredictionRow] | type[SurvivalPredictionRow]:
    """Return what a row of predictions.csv is."""
    return PredictionRow if card.task.survival is None else SurvivalPredictionRow


def row_columns(card: ModelCard) -> tuple[str, ...]:
    """Return the names of the columns that a field of several numbers has: classes, or horizons."""
    return card.task.classes if card.task.survival is None else card.task.survival.horizon_names


def prediction_document(
    prediction: Prediction, card: ModelCard, predicted: int, provenance: Provenance
) -> PredictionDocument:
    """Return prediction.json."""
    chosen = prediction.conformal_set
    return PredictionDocument(
        study_key=prediction.study_key,
        patient_key=prediction.patient_key,
        task=card.task,
        predicted=predicted_name(prediction, card, predicted),
        probability=shown_probability(prediction, card, predicted),
        probability_of=card.task.classes[predicted] if card.task.kind == "multilabel" else None,
        probabilities=dict(zip(card.task.classes, prediction.probabilities, strict=True)),
        logits=prediction.logits,
        interval=prediction.interval,
        operating_point=(card.operating_points or {}).get(card.task.classes[predicted], card.operating_point),
        calibration=card.calibration,
        conformal_set=None if chosen is None else tuple(card.task.classes[index] for index in chosen),
        survival=survival_estimate(prediction, card),
        modalities_used=prediction.modalities_used,
        unknown_categories=dict(prediction.unknown_categories),
        training_patient=prediction.training_patient,
        synthetic=card.synthetic,
        weights_digest=prediction.weights_digest,
        contract_fingerprint=card.contract_fingerprint,
        provenance=provenance,
    )


def predicted_name(prediction: Prediction, card: ModelCard, predicted: int) -> str:
    """Return the name of the predicted class; of several labels those that reach their operating points."""
    if card.task.kind == "multilabel":
        return "; ".join(predicted_labels(prediction.probabilities, card)) or NO_LABEL
    return RISK_GROUPS[predicted] if card.task.kind == "survival" else card.task.classes[predicted]


def shown_probability(prediction: Prediction, card: ModelCard, predicted: int) -> float:
    """Return the probability that is shown: of the positive class or event, else of the predicted class or label."""
    return prediction.probabilities[1 if card.task.kind in ("binary", "survival") else predicted]


def summarise(
    scored: int,
    refused: Mapping[str, int],
    explained: int,
    index: StudyIndex,
    card: ModelCard,
    provenance: Provenance,
) -> ScoringSummary:
    """Return summary.json.

    Args:
        scored: Studies with a prediction.
        refused: Refusal code -> studies.
        explained: Studies with an explanation.
        index: Of the folder; its ignored files are counted.
        card: Says whether all of this is synthetic.
        provenance: Of the run.
    """
    return ScoringSummary(
        scored=scored,
        refused=sum(refused.values()),
        refused_by_code=dict(refused),
        explained=explained,
        ignored_files=sum(problem.severity == "ignored" for problem in index.problems),
        synthetic=card.synthetic,
        provenance=provenance,
    )
