"""What is told of a run's settings: options that give them again, and no folder, no address, no password."""

import shlex
from pathlib import Path

import pytest

from medmllm.config import QualityConfig, ScoreConfig, TrainConfig, load_config
from medmllm.told_settings import command, set_options, told_contract, train_command, without_paths
from medmllm.training.cohort import draft_contract

MINE = """
intended_use = "Nodules, \\"solid\\" = dense; it's \\\\ a trial\\u007f"
[image.channels.t1]
modality = "MR"
description = "t1.*post"
min_slices = 20
prefer = ["most_slices", "latest"]
[image.channels.flair]
modality = ""
nifti_modality = "MR"
description = "flair"
[task]
order = ["mild", "severe"]
kind = "ordinal"
[training]
learning_rate = 1e-5
class_weights = [1.0, 3.0]
deterministic = true
[training.search]
loss = ["focal", "cross_entropy"]
learning_rate = [1e-3, 2]
[evaluation.subgroups]
columns = ["age", "dicom:SliceThickness"]
[evaluation.subgroups.bands]
age = [40, 65]
"dicom:SliceThickness" = [2]
[policy.gap]
"accuracy_gap[region = x]" = 0.2
[quality.decisions]
ct_double_rescale = "warn"
"""


def trained(*overrides: str, file: Path | None = None) -> TrainConfig:
    return load_config(TrainConfig, "train", file=file, overrides=overrides)


def given(said: str) -> tuple[list[str], list[str]]:
    """Return the words of a command as a shell would read them: the values of --set, and all others."""
    words = shlex.split(said)
    places = [place for place, word in enumerate(words) if word == "--set"]
    taken = {place + step for place in places for step in (0, 1)}
    return [words[place + 1] for place in places], [w for place, w in enumerate(words) if place not in taken]


def test_the_command_of_a_training_gives_its_settings_again_wherever_they_were_set(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    config = trained("training.folds=3", "model.fusion=gated", file=tmp_path / "mine.toml")
    said = train_command(config, ["grade>=3", "it's"], labels=True, splits=True)
    overrides, words = given(said)
    again = trained(*overrides)
    assert again == config
    assert list(again.image.channels) == ["t1", "flair"]  # in the order that the fingerprint counts
    assert words == [
        "medmllm", "train", "--studies", "STUDIES", "--labels", "LABELS", "--splits", "SPLITS",
        "--target", "grade>=3", "--target", "it's", "--out", "RUN",
    ]  # fmt: skip
    assert "\n" not in said


def test_packaged_settings_are_not_told() -> None:
    said = train_command(trained(), ["outcome"], labels=False, splits=False)
    assert said == "medmllm train --studies STUDIES --target outcome --out RUN"


def test_another_order_of_the_same_channels_is_another_setting(tmp_path: Path) -> None:
    tables = ["[image.channels.a]\nmodality = 'CT'\n", "[image.channels.b]\nmodality = 'MR'\n"]
    for order in (tables, tables[::-1]):
        (tmp_path / "mine.toml").write_text("".join(order))
        config = trained(file=tmp_path / "mine.toml")
        again = trained(*given(train_command(config, ["x"], labels=False, splits=False))[0])
        assert list(again.image.channels) == list(config.image.channels)


def test_files_and_folders_go_by_their_own_name_and_an_address_by_its_role(tmp_path: Path) -> None:
    bert = tmp_path / "prostata-mueller" / "bert"
    bert.mkdir(parents=True)
    config = trained(
        f"text.encoder={bert}", f"model.image_weights={bert.parent}/weights.pth", f"training.cache={bert.parent}",
        "tracking.uri=https://mueller:secret@mlflow.example.org",
    )  # fmt: skip
    told = without_paths(config)
    assert (told.text.encoder, told.model.image_weights) == ("FOLDER/bert", "FOLDER/weights.pth")
    assert (told.training.cache, told.tracking.uri) == ("CACHE", "URI")
    said = told.model_dump_json() + train_command(config, ["outcome"], labels=True, splits=False)
    assert "mueller" not in said
    assert "secret" not in said
    assert trained(*given(train_command(config, ["outcome"], labels=True, splits=False))[0]) == told


def test_a_folder_beside_the_working_folder_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mueller" / "bert").mkdir(parents=True)
    assert without_paths(trained("text.encoder=mueller/bert")).text.encoder == "FOLDER/bert"
    assert without_paths(trained("text.encoder=hub/bert")).text.encoder == "hub/bert"
    assert without_paths(trained()) == trained()


def test_a_contract_has_one_fingerprint_wherever_its_encoder_lay() -> None:
    here, there = (
        told_contract(draft_contract(None, trained(f"text.encoder=/{place}/bert").text.reading))
        for place in ("home", "mnt")
    )
    assert here.fingerprint == there.fingerprint
    named = draft_contract(None, trained().text.reading)
    assert told_contract(named) == named
    without = draft_contract(trained().image, None)
    assert told_contract(without) == without


def test_scoring_and_quality_tell_their_settings_too() -> None:
    score = load_config(ScoreConfig, "score", overrides=["explain.steps=8", "quality.bounds.spacing_mm=[0.1, 9.0]"])
    assert load_config(ScoreConfig, "score", overrides=set_options(score, "score")[1::2]) == score
    quality = load_config(QualityConfig, "quality", overrides=["quality.decisions.noisy=refuse"])
    said = command("medmllm quality STUDIES --out OUT", quality, "quality")
    assert said == "medmllm quality STUDIES --out OUT --set 'quality.decisions.noisy=\"refuse\"'"
