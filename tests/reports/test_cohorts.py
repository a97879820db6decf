"""The logistic regressions beside the cohorts' runs: same folds, features as said, a rotation that changes no fit."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

COHORTS = Path(__file__).resolve().parents[2] / "reports" / "cohorts"
sys.path.insert(0, str(COHORTS))  # the reports are scripts that import each other by name

from against_linear import SIZE, compare, read_run  # noqa: E402
from linear_baselines import LINEAR, Cohort, on_numbers  # noqa: E402
from linear_features import Cells, cell_means  # noqa: E402
from run import TASKS, command_line, parse  # noqa: E402

from medmllm.config import TrainConfig, load_config  # noqa: E402
from medmllm.records import Study  # noqa: E402
from medmllm.training.class_splits import make_splits  # noqa: E402


def read(name: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((COHORTS / name).read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("task", [task.name for task in LINEAR])
def test_the_regressions_were_fitted_on_the_folds_of_the_runs(task: str) -> None:
    runs, linear = read("results.json"), read("linear_baselines.json")
    assert linear[task]["split_digest"] == runs[task]["split_digest"] == runs[f"{task}_cells"]["split_digest"]
    assert linear[task]["studies"] == runs[task]["studies"]


def test_every_task_has_settings_and_a_name_of_its_own() -> None:
    assert all((COHORTS / task.settings).is_file() for task in TASKS)
    assert len({task.name for task in TASKS}) == len(TASKS)


def test_only_the_tasks_asked_for_are_run_and_nothing_is_written_into_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["script", "DATA", *words])
        return [task.name for task in parse(command_line("does it", LINEAR), LINEAR)[1]]

    assert asked(str(tmp_path)) == [task.name for task in LINEAR]
    assert asked(str(tmp_path), "--only", "lgg_sex", "lgg_death") == ["lgg_sex", "lgg_death"]
    with pytest.raises(SystemExit, match="OUT lies in the repository"):
        asked(str(COHORTS / "out"))


def test_a_volume_smaller_than_the_crop_lies_in_the_middle_of_zeros() -> None:
    found = cell_means(np.full((2, 3, 2), 8.0), Cells(crop=(4, 3, 2), cells=(4, 1, 1)))
    assert found.tolist() == [0.0, 8.0, 8.0, 0.0]


def test_the_rotation_before_a_regression_changes_no_logit() -> None:
    draw = np.random.default_rng(3)
    numbers, noise = draw.normal(size=(40, 60)), draw.normal(size=40)  # more numbers than studies
    targets = (numbers[:, 0] + noise > 0).astype(np.int64)
    model = on_numbers([f"patient {k}" for k in range(40)], targets, 1).fit(numbers, targets)
    strength = float(np.ravel(model[-1].C_)[0])
    standard = StandardScaler().fit_transform(numbers)
    plain = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(standard, targets)
    np.testing.assert_allclose(model.decision_function(numbers), plain.decision_function(standard), atol=2e-2)


def test_a_run_is_read_in_the_cohorts_order_and_refused_where_a_study_was_tested_in_another_fold(
    tmp_path: Path,
) -> None:
    studies = [Study(f"st-{k}", f"pt-{k}", "folder") for k in range(8)]
    targets = np.array([0, 1] * 4)
    cohort = Cohort(studies, targets, load_config(TrainConfig, "train"))
    patients, keys = cohort.patients, [study.study_key for study in studies]
    plan = make_splits(patients, targets.tolist(), study_keys=keys, folds=2, tuning_fraction=0.25, seed=1)
    rows = pd.DataFrame({"study_key": keys, "arm": "image", "fold": plan.test_fold, "logits[no]": np.nan})
    rows["logits[yes]"] = np.arange(8.0)
    rows[::-1].to_csv(tmp_path / "out_of_fold.csv", index=False)
    assert read_run(tmp_path, cohort, plan)["image"].tolist() == list(range(8))
    rows.loc[3, "fold"] = 1 - rows.loc[3, "fold"]
    rows.to_csv(tmp_path / "out_of_fold.csv", index=False)
    with pytest.raises(SystemExit, match="folds are not those"):
        read_run(tmp_path, cohort, plan)


def test_an_image_arm_is_compared_with_the_regression_on_places_and_with_that_on_sizes() -> None:
    draw = np.random.default_rng(4)
    targets = np.array([0, 1] * 20)
    own, places, sizes = (targets + draw.normal(scale=scale, size=40) for scale in (1.0, 2.0, 0.5))
    studies = [Study(f"st-{k}", f"pt-{k}", "folder") for k in range(40)]
    settings = load_config(TrainConfig, "train", overrides=("evaluation.bootstrap_samples=200",))
    cohort = Cohort(studies, targets, settings)
    found = compare({"image": own}, {"image": places, SIZE: sizes}, cohort)
    expected = {"image": places, f"image, against {SIZE}": sizes}
    assert found.keys() == expected.keys()
    for name, other in expected.items():
        told = found[name]
        assert isinstance(told, dict)
        assert told["estimate"] == pytest.approx(roc_auc_score(targets, own) - roc_auc_score(targets, other))
        assert told["low"] < told["estimate"] < told["high"]
