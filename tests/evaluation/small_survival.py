"""Made-up times to an event whose true hazards are known, arms that say what hazards they like, and their metrics."""

from collections.abc import Sequence

import numpy as np

from medmllm.evaluation.kaplan_meier import Followed
from medmllm.evaluation.repeats import Repeat
from medmllm.evaluation.survival import SurvivalOutOfFold, evaluate_survival
from medmllm.evaluation.survival_curve import shared_times
from medmllm.records import CohortEvaluation, FloatArray

HORIZONS = {"1 year": 1.0, "2 years": 2.0}
N = 300


def made_up() -> tuple[Followed, FloatArray]:
    """Return exponential times of 300 studies, censored at random, and their true log hazards."""
    generator = np.random.default_rng(11)
    risk = generator.normal(-0.5, 1.0, N)
    times, left = generator.exponential(np.exp(-risk)), generator.uniform(0.5, 4.0, N)
    return Followed(np.minimum(times, left), times <= left), risk


def arm(name: str, risk: FloatArray) -> SurvivalOutOfFold:
    """Return an arm that says of each study that its hazard is constant."""
    logits = risk[:, None] + np.log(shared_times([*HORIZONS.values()]))
    return SurvivalOutOfFold(name, (1.0, 2.0), logits, (risk > np.median(risk)).astype(np.int64))


def evaluated(
    followed: Followed, *arms: SurvivalOutOfFold, more: Sequence[Repeat[SurvivalOutOfFold]] = ()
) -> CohortEvaluation:
    return evaluate_survival(
        arms, followed=followed, patients=[f"pt-{k}" for k in range(N)], folds=np.arange(N) % 2, horizons=HORIZONS,
        event="death", confidence=0.95, samples=200, seed=1, more=more,
    )  # fmt: skip
