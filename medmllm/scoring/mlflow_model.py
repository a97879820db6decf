"""The model package as an MLflow model: paths of studies in, a table of predictions out.

    DataFrame with a column `studies` -> index -> score_folder -> one row per study, scored or refused

A row of the input is what `medmllm score` takes: a folder of one study or of many, a MONAI datalist or a manifest, on
the disk of the machine that loads the model. Settings are those packaged with `medmllm score`. The MLflow model holds
the package folder as it is, and code that says how to load it, but no pickle; it needs medmllm where it is loaded.

The input example shows the form alone: studies of another machine are not to be had, one of the cohort would be a
patient's, and what a model says of a made-up one would look like a result.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PythonModel, PythonModelContext, save_model
from mlflow.types import ColSpec, DataType, Schema
from pydantic import NonNegativeFloat

from medmllm import __version__
from medmllm.config import ScoreConfig, load_config
from medmllm.csv_tables import header_of
from medmllm.documents import Document, Probability
from medmllm.errors import MisuseError
from medmllm.ingest.keys import load_keyring
from medmllm.ingest.study_folder import index_folder
from medmllm.model_documents import ModelCard
from medmllm.models.package import CARD, ModelPackage, load_package
from medmllm.scoring.results import prediction_row, row_type
from medmllm.scoring.study_folder import Refused, Scored, predicted_class, score_folder
from medmllm.table_rows import ScoredKeys
from medmllm.training.machine import Machine

logger = logging.getLogger(__name__)

STUDIES = "studies"
PLACEHOLDER = "STUDIES"  # of the input example: a path that exists somewhere may name a patient
FORM_ALONE = (
    f"{PLACEHOLDER!r} of the input example shows the form alone, no study comes with a model: give a folder or a list "
    "of studies on the disk of the machine that loads it"
)
PACKAGE = "package"
FLAVOR = "python_function"


class ScoringModel(PythonModel):
    """What `mlflow.pyfunc.load_model` gives: the package, loaded once."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load and check the package that lies in the MLflow model."""
        self._settings = load_config(ScoreConfig, "score")
        device = Machine.of(self._settings.device).device
        self._package = load_package(Path(context.artifacts[PACKAGE]), device=device)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return one row per study, in the order of the folders.

        Args:
            context: MLflow's.
            model_input: A column `studies` of paths.

        Raises:
            MisuseError: A path is no folder or list of studies, as that of the input example, or the site secret cannot
                be used.
        """
        keyring = load_keyring()
        rows = []
        for number, path in enumerate(model_input[STUDIES]):
            if path == PLACEHOLDER and not Path(path).exists():
                raise MisuseError(f"row {number}: {FORM_ALONE}")
            index = index_folder(Path(path), keyring=keyring)
            orphans = sum(problem.severity == "refused" and problem.study_key is None for problem in index.problems)
            if orphans:
                logger.warning("row %d: %d damaged files of no study: `medmllm index` tells which", number, orphans)
            if not index.studies:
                raise MisuseError(f"row {number} of the column {STUDIES!r} holds no study: `medmllm index` tells why")
            rows += _rows(number, score_folder(index.studies, self._package, self._settings), self._package)
        return pd.DataFrame(rows, columns=[column.name for column in output_columns(self._package.card)])


def _rows(number: int, results: Iterable[Scored | Refused], package: ModelPackage) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for result in results:
        study = result.study
        if isinstance(result, Refused):
            refusal = result.refusal
            what = {"stage": refusal.stage, "code": refusal.code, "reason": refusal.reason}
            rows.append({"row": number, "study_key": study.study_key, "patient_key": study.patient_key} | what)
            continue
        row = prediction_row(result.prediction, package.card, predicted_class(result.prediction, package))
        each: dict[str, object] = {"row": number}
        for name, value in row:
            each |= {f"{name}[{c}]": own for c, own in value.items()} if isinstance(value, dict) else {name: value}
        rows.append(each)
    return rows


def output_columns(card: ModelCard) -> list[ColSpec]:
    """Return the columns of the predictions: those of predictions.csv, then those of ledger.csv.

    `row` is the row of the input that the study was found under; a scored study has no `code`, a refused one no
    probability.
    """
    told = row_type(card)
    return [
        ColSpec(DataType.long, "row"),
        *(
            ColSpec(_kind(told, name), name, required=name in ScoredKeys.model_fields)
            for name in header_of(told, card.task.columns)
        ),
        *(ColSpec(DataType.string, name, required=False) for name in ("stage", "code", "reason")),
    ]


def _kind(row: type[Document], column: str) -> DataType:
    """Return what stands in a column of a table of such rows."""
    annotation = row.model_fields[column.partition("[")[0]].annotation
    if annotation in (bool, bool | None, dict[str, bool]):
        return DataType.boolean
    numbers = (float, NonNegativeFloat | None, dict[str, Probability], dict[str, float])
    return DataType.double if annotation in numbers else DataType.string


def save_mlflow_model(package: Path, target: Path) -> None:
    """Write a model package as an MLflow model folder that names no place on this machine.

    Args:
        package: RUN/model.
        target: The folder to make.
    """
    card = ModelCard.read(package / CARD)
    signature = ModelSignature(Schema([ColSpec(DataType.string, STUDIES)]), Schema(output_columns(card)))
    code = Path(__file__).with_name("mlflow_code.py")
    save_model(
        path=str(target),
        python_model=str(code),
        artifacts={PACKAGE: str(package)},
        signature=signature,
        input_example=pd.DataFrame({STUDIES: [PLACEHOLDER]}),
        metadata={"input_example": FORM_ALONE},
        pip_requirements=[f"medmllm=={__version__}"],
    )
    written = Model.load(str(target))
    flavor = written.flavors[FLAVOR]
    flavor["model_code_path"] = code.name  # MLflow writes where both lay; it reads them from its own folder
    flavor["artifacts"][PACKAGE]["uri"] = flavor["artifacts"][PACKAGE]["path"]
    written.save(str(target / "MLmodel"))
