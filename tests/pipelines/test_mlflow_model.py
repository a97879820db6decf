"""The tracked model in a fresh process: the probabilities of `medmllm score`, no pickle, no place of this machine."""

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from mlflow.models import Model
from mlflow.pyfunc import PythonModelContext

from medmllm.csv_tables import read_table
from medmllm.errors import MisuseError
from medmllm.ingest.keys import Keyring
from medmllm.model_documents import ModelCard
from medmllm.models.package import check_package
from medmllm.scoring import mlflow_model
from medmllm.scoring.mlflow_model import ScoringModel
from medmllm.table_rows import LedgerRow, PredictionRow
from tests.pipelines.conftest import SECRET_WORD
from tests.pipelines.runs import SECRET, Trained, found_in_files, predict_in_a_fresh_process, score


def tracked_model(run: Path) -> Path:
    """The model folder among the artifacts of a run that was tracked beside its results."""
    [found] = (run / "mlflow_artifacts").glob("*/artifacts/model/MLmodel")
    return found.parent


def predicted(trained: Trained, folder: Path, *studies: Path) -> pd.DataFrame:
    """What a process that knows only MLflow's address says of folders of studies."""
    base = trained.run / "mlflow.db"
    with sqlite3.connect(base) as store:
        runs, children = (
            {name for (name,) in store.execute(query)}
            for query in ("select run_uuid from runs", "select run_uuid from tags where key = 'mlflow.parentRunId'")
        )
    (parent,) = runs - children
    return pd.DataFrame(predict_in_a_fresh_process(f"sqlite:///{base}", f"runs:/{parent}/model", folder, *studies))


@pytest.mark.slow
def test_a_fresh_process_gives_the_probabilities_of_the_score_command(nifti_run: Trained, tmp_path: Path) -> None:
    alone = nifti_run.studies / "case-002-0"
    rows = predicted(nifti_run, tmp_path, nifti_run.studies, alone)
    score(nifti_run.studies, nifti_run.run / "model", tmp_path / "scored")
    expected = {row.study_key: row for row in read_table(tmp_path / "scored" / "predictions.csv", PredictionRow)}
    ledger = read_table(tmp_path / "scored" / "ledger.csv", LedgerRow)

    of_folder, [of_one] = rows[rows.row == 0], rows[rows.row == 1].to_dict("records")
    scored, refused = of_folder[of_folder.code.isna()], of_folder[of_folder.code.notna()]
    assert set(scored.study_key) == set(expected)
    for row in scored.to_dict("records"):
        known = expected[row["study_key"]]
        assert {name: row[f"probabilities[{name}]"] for name in known.probabilities} == pytest.approx(
            known.probabilities, abs=1e-6
        )
        assert (row["predicted"], row["training_patient"]) == (known.predicted, known.training_patient)
    assert [(row.study_key, row.code) for row in refused.itertuples()] == [(r.study_key, r.code) for r in ledger]
    assert len(ledger) == 1
    assert refused.probability.isna().all()
    same = expected[Keyring(bytes.fromhex(SECRET.strip())).study("case-002-0")]
    assert of_one["probability"] == pytest.approx(same.probability, abs=1e-6)


def test_the_model_folder_holds_the_package_and_code_and_no_pickle(nifti_run: Trained) -> None:
    model = tracked_model(nifti_run.run)
    package = model / "artifacts" / "model"
    check_package(package, ModelCard.read(package / "model.json"))
    files = [path for path in model.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} & {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".bin"} == set()
    assert [path.name for path in files if path.read_bytes()[:1] == b"\x80"] == []  # how a pickle starts
    flavor = Model.load(str(model)).flavors["python_function"]
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert (model / flavor["model_code_path"]).read_text().endswith("set_model(ScoringModel())\n")


def test_signature_and_example_tell_the_form_and_name_no_study(nifti_run: Trained) -> None:
    model = tracked_model(nifti_run.run)
    signature = Model.load(str(model)).signature
    assert [(column.name, column.type.name) for column in signature.inputs] == [("studies", "string")]
    classes = ModelCard.read(nifti_run.run / "model" / "model.json").task.classes
    named = {"row", "study_key", "probability", "code", *(f"probabilities[{name}]" for name in classes)}
    assert named <= set(signature.outputs.input_names())
    assert json.loads((model / "input_example.json").read_text()) == {"columns": ["studies"], "data": [["STUDIES"]]}
    places = {str(nifti_run.run.parent), str(Path.home()), str(Path(mlflow_model.__file__).parent), SECRET_WORD}
    texts = {path.name for path in model.iterdir() if path.is_file()}
    assert found_in_files(model, places) == []
    assert {"MLmodel", "mlflow_code.py", "requirements.txt"} <= texts


def test_the_example_says_of_itself_that_it_shows_the_form_alone(
    nifti_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = Model.load(str(tracked_model(nifti_run.run)))
    assert "shows the form alone" in written.metadata["input_example"]
    model = ScoringModel()
    model.load_context(PythonModelContext({"package": str(nifti_run.run / "model")}, None))
    with pytest.raises(MisuseError, match="row 0: 'STUDIES' of the input example shows the form alone"):
        model.predict(PythonModelContext({}, None), pd.DataFrame({"studies": ["STUDIES"]}))


def test_a_path_without_studies_is_refused_by_its_row(nifti_run: Trained, tmp_path: Path) -> None:
    model = ScoringModel()
    model.load_context(PythonModelContext({"package": str(nifti_run.run / "model")}, None))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.rst").write_text("no study")
    with pytest.raises(MisuseError, match="row 1 of the column 'studies' holds no study"):
        model.predict(
            PythonModelContext({}, None), pd.DataFrame({"studies": [str(nifti_run.studies), str(tmp_path / "empty")]})
        )
