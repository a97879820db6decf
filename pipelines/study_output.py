"""Write the folder of one scored study.

prediction, explanation -> prediction.json, explanation.json, attribution.nii.gz, report.html
"""

from pathlib import Path

from medmllm.attribution.overlay import explanation_document, write_attributions
from medmllm.config import ScoreConfig
from medmllm.ingest.masking import mask_note
from medmllm.models.package import ModelPackage
from medmllm.records import Explanation, Provenance, Refusal
from medmllm.reporting.case import write_case_report
from medmllm.scoring.results import prediction_document
from medmllm.scoring.study_folder import Scored, predicted_class


def write_study(
    result: Scored, package: ModelPackage, config: ScoreConfig, folder: Path, provenance: Provenance
) -> None:
    """Write one study's folder: its prediction, and its explanation and report where one was asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    predicted = predicted_class(result.prediction, package)
    prediction = prediction_document(result.prediction, package.card, predicted, provenance)
    prediction.write(folder / "prediction.json")
    found = result.explanation
    if found is None:
        return
    document = None
    if isinstance(found, Explanation):
        files = write_attributions(folder, found)
        document = explanation_document(found, classes=package.card.task.classes, files=files, provenance=provenance)
        document.write(folder / "explanation.json")
    note = result.parts.note
    if note is not None and config.mask_notes:
        note = mask_note(note, result.study)
    write_case_report(
        folder / "report.html",
        prediction=prediction,
        card=package.card,
        note=note,
        note_masked=note is not None and config.mask_notes,
        volumes=result.parts.volumes,
        explanation=found if isinstance(found, Explanation) else None,
        explanation_document=document,
        explanation_refusal=found if isinstance(found, Refusal) else None,
        completeness_bound=config.explain.completeness,
    )
