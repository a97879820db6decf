"""Say what logistic regressions reach on the very folds of the runs, and how much the draw of the folds makes.

    DATA -> study index -> the folds of `medmllm train` -> scaler, rotation, logistic regression per fold -> AUROC

    python reports/cohorts/linear_baselines.py DATA OUT [--only TASK ...] -> linear_baselines.json beside this file

Patients, targets and folds come from the library, so that the first seed's test parts are those of results.json: the
split digests agree. All else is nibabel and scikit-learn. Each regression learns from a fold's training and tuning part
together, with an L2 penalty chosen inside them. OUT holds the prepared studies, as for run.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import sklearn
from linear_features import Cells, cell_features, read_words, size_features, slice_count
from run import TASKS, CohortTask, cohort_folder, command_line, parse
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.discrimination import BoolArray, IntArray, weighted_auroc, weighted_auroc_within
from medmllm.evaluation.resampling import Measure, resample
from medmllm.ingest.tables import assign_targets, parse_target
from medmllm.pipelines.index import read_index
from medmllm.records import FloatArray, Study
from medmllm.training.class_splits import make_splits
from medmllm.training.held import hold_classes
from medmllm.training.sites import site_folds
from medmllm.training.split_file import plan_given
from medmllm.training.splits import SplitPlan

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "linear_baselines.json"
SEEDS = (20, 21, 22, 23, 24)
"""The first is that of results.json."""

STRENGTHS = [10.0**power for power in range(-6, 2)]
"""Of the penalty: scikit-learn's C; chosen by the log loss of 5 inner folds."""

BRAIN = Cells(crop=None, cells=(8, 8, 8), series=("t1_pre", "flair", "t1_post"), standardise=True)
NODULE = Cells(crop=(24, 24, 24), cells=(8, 8, 8))

Matrix = Callable[[Sequence[Study]], FloatArray]


@dataclass(frozen=True, slots=True)
class LinearTask:
    """What the regressions of one task read."""

    name: str  # as in run.py
    image: Matrix
    words: bool = False  # also words, and both: the sum of the two logits
    others: Mapping[str, Matrix] = field(default_factory=dict)  # arm -> other features of the image, to compare with


def cells(how: Cells) -> Matrix:
    """Return what makes the features of cells."""
    return lambda studies: cell_features(studies, how)


NODULES_ELSEWISE = {
    "image, whole cube": cells(Cells(crop=None, cells=(17, 17, 17))),
    "image, inner 32 mm": cells(Cells(crop=(32, 32, 32), cells=(8, 8, 8))),
}
LINEAR = (
    LinearTask("lidc_spiculation", cells(NODULE), words=True, others=NODULES_ELSEWISE),
    LinearTask("lidc_malignancy", cells(NODULE), words=True, others=NODULES_ELSEWISE),
    LinearTask(
        "nodule_stacks",
        cells(Cells(crop=(64, 64, 16), cells=(8, 8, 8))),
        others={"slice count": slice_count, "logarithms of size and brightness": size_features},
    ),
    LinearTask("lgg_sex", cells(BRAIN)),
    LinearTask("lgg_death", cells(BRAIN), words=True),
)


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """The labelled studies of a task, in the library's order."""

    studies: list[Study]
    targets: IntArray
    settings: TrainConfig

    @property
    def patients(self) -> list[str]:
        """Patient of each study."""
        return [study.patient_key for study in self.studies]

    def split(self, seed: int) -> SplitPlan:
        """Return the folds of `medmllm train` with this seed."""
        keys, targets, training = (
            [study.study_key for study in self.studies],
            self.targets.tolist(),
            self.settings.training,
        )
        if training.group_out:
            held = hold_classes(targets)
            return plan_given(
                site_folds(self.studies, held, training.group_out),
                self.patients,
                targets,
                held,
                study_keys=keys,
                tuning_fraction=training.tuning_fraction,
                seed=seed,
                whole_tests=False,
            )
        return make_splits(
            self.patients,
            targets,
            study_keys=keys,
            folds=training.folds,
            tuning_fraction=training.tuning_fraction,
            seed=seed,
        )


def read_cohort(task: CohortTask, data: Path, out: Path) -> Cohort:
    """Return the studies that `medmllm train` would use: labelled, and of two slices or more."""
    folder = cohort_folder(task, data, out)
    index = read_index(folder / "studies", labels=folder / "labels.csv")
    target_of = assign_targets(index.studies, parse_target(task.target)).by_study
    usable = [
        study
        for study in index.studies
        if study.study_key in target_of and all((series.shape or (0,))[-1] >= 2 for series in study.series)
    ]
    targets = np.array([target_of[study.study_key] for study in usable])
    return Cohort(usable, targets, load_config(TrainConfig, "train", file=HERE / task.settings))


def regression(patients: Sequence[str], targets: IntArray, seed: int) -> LogisticRegressionCV:
    """Return a logistic regression that chooses its penalty on inner folds by patient."""
    inner = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(patients, targets, patients)
    return LogisticRegressionCV(
        Cs=STRENGTHS,
        l1_ratios=(0,),
        cv=list(inner),
        scoring="neg_log_loss",
        class_weight="balanced",
        max_iter=1000,
        use_legacy_attributes=False,
    )


def on_numbers(patients: Sequence[str], targets: IntArray, seed: int) -> Pipeline:
    """Return a regression on standardised numbers, rotated first: the same fit, as L2 has no direction, but faster."""
    return make_pipeline(StandardScaler(), PCA(), regression(patients, targets, seed))


def on_words(patients: Sequence[str], targets: IntArray, seed: int) -> Pipeline:
    """Return a regression on words and pairs of words that stand in two notes or more."""
    return make_pipeline(TfidfVectorizer(ngram_range=(1, 2), min_df=2), regression(patients, targets, seed))


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One regression: what it is made by, what it reads, and from which parts of a fold it learns."""

    make: Callable[[Sequence[str], IntArray, int], Pipeline]
    inputs: FloatArray | Sequence[str]  # a row or a note per study
    tune: bool = True  # learns from the tuning parts, too


def arms_of(task: LinearTask, studies: Sequence[Study]) -> dict[str, Arm]:
    """Return the regressions of a task by name."""
    image = task.image(studies)
    arms = {"image": Arm(on_numbers, image), "image, training parts alone": Arm(on_numbers, image, tune=False)}
    if task.words:
        arms["text"] = Arm(on_words, read_words(studies))
    return arms | {name: Arm(on_numbers, features(studies)) for name, features in task.others.items()}


def out_of_fold(arm: Arm, cohort: Cohort, plan: SplitPlan, seed: int) -> FloatArray:
    """Return the logit of each study by the regression that never saw its patient."""
    given, patients = np.asarray(arm.inputs), np.array(cohort.patients)
    logits = np.zeros(len(given))
    for fold in plan.folds:
        learnt = np.concatenate([fold.train, fold.tune]) if arm.tune else fold.train
        targets = cohort.targets[learnt]
        model = arm.make(patients[learnt].tolist(), targets, seed).fit(given[learnt], targets)
        logits[fold.test] = model.decision_function(given[fold.test])
    return logits


def measure(logits: Mapping[str, FloatArray], cohort: Cohort, plan: SplitPlan) -> dict[str, dict[str, object]]:
    """Return arm -> AUROC over all folds and within folds, with intervals by resampling patients."""
    positive, fold, wanted = cohort.targets == 1, plan.test_fold, cohort.settings.evaluation
    measures: dict[str, Measure] = {}
    for arm, own in logits.items():
        measures[f"{arm}/auroc"] = partial(weighted_auroc, positive, own)
        measures[f"{arm}/auroc_within_folds"] = partial(weighted_auroc_within, fold, positive, own)
    drawn = resample(
        measures,
        targets=cohort.targets,
        patients=cohort.patients,
        samples=wanted.bootstrap_samples,
        seed=cohort.settings.training.seed,
    )
    found: dict[str, dict[str, object]] = {}
    for name in measures:
        arm, _, metric = name.rpartition("/")
        interval = drawn.interval(name, wanted.confidence)
        found.setdefault(arm, {})[metric] = {key: getattr(interval, key) for key in ("estimate", "low", "high")}
    return found


def run_task(task: LinearTask, data: Path, out: Path) -> dict[str, object]:
    """Return what linear_baselines.json holds of one task."""
    (asked,) = (own for own in TASKS if own.name == task.name)
    cohort = read_cohort(asked, data, out)
    arms = arms_of(task, cohort.studies)
    seeds = SEEDS[:1] if cohort.settings.training.group_out else SEEDS  # sites are the same folds with any seed
    plans = {seed: cohort.split(seed) for seed in seeds}
    by_seed = {seed: logits_of(arms, cohort, plan, seed) for seed, plan in plans.items()}
    first = seeds[0]
    found = measure(by_seed[first], cohort, plans[first])
    for arm, own in found.items():
        own["auroc_by_seed"] = spread({seed: logits[arm] for seed, logits in by_seed.items()}, cohort.targets == 1)
    return {
        "studies": len(cohort.studies),
        "patients": len(set(cohort.patients)),
        "split_digest": plans[first].digest,
        "scikit_learn": sklearn.__version__,
        "arms": found,
    }


def logits_of(arms: Mapping[str, Arm], cohort: Cohort, plan: SplitPlan, seed: int) -> dict[str, FloatArray]:
    """Return arm -> logits out of fold; `fused` is the sum of the image's and the words'."""
    found = {name: out_of_fold(arm, cohort, plan, seed) for name, arm in arms.items()}
    return found | ({"fused": found["image"] + found["text"]} if "text" in found else {})


def spread(logits: Mapping[int, FloatArray], positive: BoolArray) -> dict[str, float]:
    """Return the AUROC with each seed's folds, their mean and their standard deviation."""
    found = {str(seed): float(roc_auc_score(positive, own)) for seed, own in logits.items()}
    values = list(found.values())
    return found | {"mean": mean(values)} | ({"deviation": stdev(values)} if len(values) > 1 else {})


def write_results(known: Mapping[str, object]) -> None:
    """Write linear_baselines.json, the tasks in their order."""
    command = "python reports/cohorts/linear_baselines.py DATA OUT"
    ordered = {"command": command} | {task.name: known[task.name] for task in LINEAR if task.name in known}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and run what it asks for."""
    asked, tasks = parse(command_line("Fit the logistic regressions and write linear_baselines.json.", LINEAR), LINEAR)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for task in tasks:
        known[task.name] = run_task(task, asked.data, asked.out)
        write_results(known)


if __name__ == "__main__":
    main()
