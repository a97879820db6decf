"""What a scored study looks like in files: a table row and a prediction.json.

Prediction, ModelCard -> PredictionRow, PredictionDocument
"""

from collections.abc import Mapping, Sequence

from medmllm.evaluation.leading import predicted_labels, told_labels
from medmllm.ingest.study_folder import StudyIndex
from medmllm.model_documents import RISK_GROUPS, ModelCard, Task
from medmllm.records import Prediction, Provenance
from medmllm.result_documents import PredictionDocument, ScoringSummary
from medmllm.scoring.survival import survival_estimate, survival_row
from medmllm.table_rows import PredictionRow, SurvivalPredictionRow

NO_LABEL = "none"


def row_type(card: ModelCard) -> type[PredictionRow] | type[SurvivalPredictionRow]:
    """Return what a row of predictions.csv is."""
    return PredictionRow if card.task.survival is None else SurvivalPredictionRow


def prediction_row(prediction: Prediction, card: ModelCard, predicted: int) -> PredictionRow | SurvivalPredictionRow:
    """Return the row of predictions.csv.

    Args:
        prediction: As scored.
        card: Gives the classes.
        predicted: Class index at the operating point.
    """
    if card.task.survival is not None:
        return survival_row(prediction, card, predicted)
    classes, chosen = card.task.columns["conformal_set"], prediction.conformal_set
    told = survival_estimate(prediction, card)
    median = {} if told is None or told.median_time is None else {card.task.columns["median_time"][0]: told.median_time}
    return PredictionRow(
        study_key=prediction.study_key,
        patient_key=prediction.patient_key,
        predicted=predicted_name(prediction, card, predicted),
        probability=shown_probability(prediction, card, predicted),
        probabilities=dict(zip(card.task.classes, prediction.probabilities, strict=True)),
        interval_low=prediction.interval[0],
        interval_high=prediction.interval[1],
        conformal_set={} if chosen is None else {name: card.task.classes.index(name) in chosen for name in classes},
        abstained=None if chosen is None or card.task.several else len(chosen) != 1,
        predictions=target_predictions(prediction, card),
        undecided={} if chosen is None else undecided(chosen, card.task),
        event_free={} if told is None else told.event_free,
        median_time=median,
        modalities_used="+".join(prediction.modalities_used),
        training_patient=prediction.training_patient,
        weights_digest=prediction.weights_digest,
    )


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
        probability_of=card.task.classes[predicted] if card.task.several else None,
        probabilities=dict(zip(card.task.classes, prediction.probabilities, strict=True)),
        logits=prediction.logits,
        interval=prediction.interval,
        operating_point=(card.operating_points or {}).get(
            card.task.place_of(predicted).task.target, card.operating_point
        ),
        predictions=target_predictions(prediction, card),
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


def target_predictions(prediction: Prediction, card: ModelCard) -> dict[str, str]:
    """Return the class predicted for each of several targets; nothing where there is one."""
    predicted = predicted_labels(prediction.probabilities, card)
    if not card.task.several:
        return {}
    return {
        place.task.target: card.task.classes[label]
        if place.task.survival is None
        else RISK_GROUPS[label - place.classes.start]
        for place, label in zip(card.task.places, predicted, strict=True)
    }


def undecided(chosen: Sequence[int], task: Task) -> dict[str, bool]:
    """Return of each of several targets whether its conformal set is not a single class; nothing where there is one.

    A time to an event has no set.

    Args:
        chosen: Class indices in the sets.
        task: Says which classes are whose.
    """
    if not task.several:
        return {}
    return {
        place.task.target: sum(place.classes.start <= label < place.classes.stop for label in chosen) != 1
        for place in task.places
        if place.task.survival is None
    }


def predicted_name(prediction: Prediction, card: ModelCard, predicted: int) -> str:
    """Return the name of the predicted class; of several targets the classes that are told in short."""
    if card.task.several:
        return "; ".join(told_labels(predicted_labels(prediction.probabilities, card), card)) or NO_LABEL
    return RISK_GROUPS[predicted] if card.task.survival is not None else card.task.classes[predicted]


def shown_probability(prediction: Prediction, card: ModelCard, predicted: int) -> float:
    """Return the probability that is shown: of the positive class or event, else of the predicted class or label."""
    return prediction.probabilities[1 if card.task.outputs == 1 else predicted]


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
