"""Settings asked for against those of the interrupted run."""

from pathlib import Path

import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.errors import MisuseError
from medmllm.training.same_run import SETTINGS, check_own_folders, check_same_settings


def settings(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, "train", overrides=overrides)


def refusal(run: Path, before: TrainConfig, now: TrainConfig) -> str:
    before.write(run / SETTINGS)
    with pytest.raises(MisuseError) as refused:
        check_same_settings(run, now)
    return str(refused.value)


def test_settings_that_name_folders_are_told_by_the_folders_own_names(tmp_path: Path) -> None:
    here, there = (settings(f"text.encoder=/{place}/bert") for place in ("home/mueller", "mnt/doe"))
    said = refusal(tmp_path, here, there)
    assert "text.encoder was FOLDER/bert, now another of that name" in said
    assert "mueller" not in said
    assert "doe" not in said
    assert "text.encoder was tiny, now FOLDER/bert" in refusal(tmp_path, settings(), here)


@pytest.mark.parametrize("name", ["checkpoints", "model", "model_text"])
def test_folders_that_no_run_wrote_are_refused_and_those_of_a_run_are_not(tmp_path: Path, name: str) -> None:
    check_own_folders(tmp_path / "none")
    (tmp_path / "model_zoo").mkdir()  # no training writes or deletes it
    check_own_folders(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(MisuseError, match=rf"holds {name}, and is no run's: a training would delete it"):
        check_own_folders(tmp_path)
    (tmp_path / "splits.json").touch()
    check_own_folders(tmp_path)


def test_what_no_network_depends_on_may_differ(tmp_path: Path) -> None:
    settings().write(tmp_path / SETTINGS)
    free = ("training.cache=/mnt/cache", "tracking.enabled=false", "evaluation.coverage=0.5", "intended_use=x")
    check_same_settings(tmp_path, settings(*free))


def test_of_many_settings_that_differ_eight_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    numbers = ("epochs", "folds", "seed", "batch_size", "patience", "inner_folds", "repeats", "accumulate")
    more = ("fusion_width", "tiny_width")
    asked = [*(f"training.{key}=7" for key in numbers), *(f"model.{key}=24" for key in more)]
    said = refusal(tmp_path, settings(), settings(*asked))
    assert said.count(" was ") == 8
    assert ", and 2 more." in said
