"""The code of every MLflow model ("models from code"): copied into it, and run when it is loaded. No pickle."""

from mlflow.models import set_model

from medmllm.scoring.mlflow_model import ScoringModel

set_model(ScoringModel())
