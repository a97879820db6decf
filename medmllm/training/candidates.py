"""The candidates of a search: the settings of a run with each combination of the grid laid over them.

settings with [training.search], arm -> candidates -> one of them trains the arm's networks in a fold
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medmllm.config import TrainConfig
from medmllm.documents import Setting
from medmllm.model_documents import ModelSettings
from medmllm.search_config import combinations
from medmllm.training.splits import SplitPlan
from medmllm.training_config import Arm


@dataclass(frozen=True, slots=True)
class Candidate:
    """One combination, and the settings of a run with it."""

    number: int  # from 0, in the order of the grid
    config: TrainConfig
    settings: Mapping[str, Setting] = field(default_factory=dict)  # empty: nothing is searched


def candidates(config: TrainConfig, arm: Arm) -> tuple[Candidate, ...]:
    """Return the candidates of an arm; one alone where nothing is searched that makes a difference in it."""
    return tuple(
        Candidate(number, _with(config, chosen), chosen)
        for number, chosen in enumerate(combinations(config.training.search, arm))
    )


def _with(config: TrainConfig, chosen: Mapping[str, Setting]) -> TrainConfig:
    in_model = {name: value for name, value in chosen.items() if name in ModelSettings.model_fields}
    in_training = {name: value for name, value in chosen.items() if name not in in_model}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=in_model),
            "training": config.training.model_copy(update=in_training),
        }
    )


def all_candidates(config: TrainConfig) -> Iterator[TrainConfig]:
    """Yield the settings of every candidate, whatever the arm: what has to be looked at before training."""
    yield from (candidate.config for candidate in candidates(config, "fused"))


def trainings(config: TrainConfig, arm: Arm) -> int:
    """Return how often each network of an arm is trained: by each candidate, and then by the one that was chosen."""
    count = len(candidates(config, arm))
    return count + 1 if count > 1 else 1


def doing(config: TrainConfig, arms: Sequence[Arm]) -> str:
    """Return what goes on, for whoever shows how far a run is."""
    most = max(len(candidates(config, arm)) for arm in arms)
    return "Training fold models, epochs" + (f" (up to {most} candidates each)" if most > 1 else "")


def count_epochs(config: TrainConfig, arms: Sequence[Arm], main: Arm, plan: SplitPlan) -> int:
    """Return the epochs of a whole run, if no network stops early."""
    networks = sum(trainings(config, arm) * len(plan.networks) for arm in arms)
    networks += trainings(config, main) * len(config.training.learning_curve) * len(plan.networks)
    return networks * config.training.epochs
