"""What the model says of a scored study's time to an event, and what it looks like in files.

log cumulative hazards -> SurvivalEstimate; Prediction, ModelCard -> SurvivalPredictionRow, SurvivalEstimateDocument
"""

import numpy as np

from medmllm.evaluation.survival_curve import median_times, risks, time_grid
from medmllm.model_documents import RISK_GROUPS, ModelCard, SurvivalTask, Task
from medmllm.records import FloatArray, Prediction, SurvivalEstimate
from medmllm.survival_documents import SurvivalEstimateDocument
from medmllm.table_rows import SurvivalPredictionRow


def estimate(log_hazards: FloatArray, asked: SurvivalTask) -> SurvivalEstimate:
    """Return what log cumulative hazards at the times that folds share say of one study; shape (times,)."""
    count = len(asked.horizons)
    median = float(median_times(log_hazards[None, count:], time_grid(asked.horizons[-1]))[0])
    free = 1 - risks(log_hazards[:count])
    return SurvivalEstimate(tuple(map(float, free)), None if np.isnan(median) else median)


def timed_part(logits: FloatArray, task: Task) -> tuple[FloatArray, SurvivalEstimate | None]:
    """Return the logits of one study as they are told, and what they say of its time to an event.

    Args:
        logits: Calibrated; of a time log cumulative hazards at the times that folds share; shape (outputs,).
        task: Says which are whose. Of a time one is told, that until the largest horizon.
    """
    told, survival = [], None
    for place in task.places_in(len(logits)):
        own, asked = logits[place.outputs], place.task.survival
        if asked is not None:
            survival = estimate(own, asked)
            own = own[len(asked.horizons) - 1 : len(asked.horizons)]
        told.append(own)
    return np.concatenate(told), survival


def survival_row(prediction: Prediction, card: ModelCard, predicted: int) -> SurvivalPredictionRow:
    """Return the row of predictions.csv.

    Args:
        prediction: As scored.
        card: Gives the horizons.
        predicted: 1 at or above the operating point, else 0.
    """
    told = survival_estimate(prediction, card)
    assert told is not None  # asked for times to an event alone
    return SurvivalPredictionRow(
        study_key=prediction.study_key,
        patient_key=prediction.patient_key,
        predicted=RISK_GROUPS[predicted],
        probability=prediction.probabilities[1],
        event_free=told.event_free,
        median_time=told.median_time,
        log_hazard=prediction.logits[0],
        interval_low=prediction.interval[0],
        interval_high=prediction.interval[1],
        modalities_used="+".join(prediction.modalities_used),
        training_patient=prediction.training_patient,
        weights_digest=prediction.weights_digest,
    )


def survival_estimate(prediction: Prediction, card: ModelCard) -> SurvivalEstimateDocument | None:
    """Return what prediction.json says of the time; None for other kinds of targets."""
    told, timed = prediction.survival, card.task.timed
    if told is None or timed is None or timed.survival is None:
        return None
    asked = timed.survival
    return SurvivalEstimateDocument(
        event_free=dict(zip(asked.horizon_names, told.event_free, strict=True)),
        median_time=told.median_time,
        time_unit=asked.time_unit,
    )
