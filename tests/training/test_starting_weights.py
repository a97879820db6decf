"""Training from pretrained weights, end to end: each fold starts from them, and scoring never asks for the file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ConfigError
from medmllm.model_documents import ModelCard
from medmllm.models.image_encoder import ImageEncoder
from medmllm.provenance import file_digest
from medmllm.result_documents import ImageWeightsDocument
from medmllm.training.cohort import Cohort
from medmllm.training.resuming import origin_of
from medmllm.training.starting_weights import check_start, weights_input
from tests.factories import write_nifti_cohort
from tests.models.small import PARTS, save_bert
from tests.pipelines.runs import UNTRACKED, score, site_key, train


def write_start(file: Path, *, seed: int = 4) -> dict[str, torch.Tensor]:
    """Write weights of the runs' image encoder, small, and return them."""
    torch.manual_seed(seed)
    state = ImageEncoder(PARTS, 1).network.state_dict()
    save_file(state, file)
    return state


@pytest.mark.parametrize(
    ("overrides", "says"),
    [(("model.image_encoder=swin_unetr",), "image_width = 32: swin_unetr wants a multiple of 12"),
     (("model.image_encoder=densenet121", "image.size=[20, 40, 40]"), "too small for densenet121"),
     (("model.image_encoder=vit",), "'vit' is none of")],
)  # fmt: skip
def test_a_network_that_cannot_be_built_is_refused_before_a_study_is_read(
    overrides: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        check_start(load_config(TrainConfig, "train", overrides=overrides))
    check_start(load_config(TrainConfig, "train", overrides=(*overrides, 'training.arms=["text"]')))


def test_folds_start_from_the_file_the_run_reports_it_and_scores_without_it(tmp_path: Path) -> None:
    labels, file = write_nifti_cohort(tmp_path / "data"), tmp_path / "start.safetensors"
    start, studies = write_start(file), tmp_path / "data" / "studies"
    digest = file_digest(file)
    # So small a step that two epochs leave the weights where they started.
    still = ("training.learning_rate=1e-12", "training.weight_decay=0", 'training.arms=["image"]')
    more = [word for setting in (*still, f"model.image_weights={file}") for word in ("--set", setting)]
    with site_key(tmp_path):
        outcome = train(studies, labels, tmp_path / "run", *UNTRACKED, *more)
        assert outcome.code == 0, outcome.stderr
        file.unlink()
        assert score(studies, tmp_path / "run" / "model", tmp_path / "scored").code in (0, 3)
    for fold in (0, 1):
        trained = load_file(tmp_path / "run" / "model" / f"fold_{fold}.safetensors")
        for name in ("conv1.weight", "layer4.0.conv2.weight"):
            torch.testing.assert_close(trained[f"image_encoder.network.{name}"], start[name], rtol=0, atol=1e-6)
    report = ImageWeightsDocument.read(tmp_path / "run" / "image_weights.json")
    assert (report.file, report.sha256, set(report.loaded)) == ("start.safetensors", digest, start.keys())
    card = ModelCard.read(tmp_path / "run" / "model" / "model.json")
    assert report.provenance == card.provenance
    assert card.provenance.inputs["image_weights"] == report.provenance.inputs["image_weights"] == digest
    assert outcome.log.count(f"image weights: {len(start)} tensors loaded") == 1
    assert json.loads((tmp_path / "scored" / "summary.json").read_text())["scored"] > 0


@pytest.mark.parametrize("name", ["absent.pth", "other.safetensors"])
def test_a_wrong_file_stops_before_the_studies_are_even_looked_for(tmp_path: Path, name: str) -> None:
    save_file({"vit.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    nowhere = tmp_path / "nowhere"  # had it been looked for, the error would be about it
    labels = tmp_path / "labels.csv"
    labels.write_text("study_id,outcome\na,0\n")
    nowhere.mkdir()
    outcome = train(nowhere, labels, tmp_path / "run", *UNTRACKED, "--set", f"model.image_weights={tmp_path / name}")
    assert outcome.code == 2
    assert "[model] image_weights" in outcome.stderr
    assert name in outcome.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arms", ['["image"]', '["text"]', '["image", "fused"]'])
def test_a_text_encoder_that_is_not_there_stops_before_the_studies_are_looked_for_if_an_arm_reads_notes(
    tmp_path: Path, arms: str
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("study_id,outcome\na,0\n")
    (tmp_path / "nowhere").mkdir()
    more = ("--set", f"text.encoder={tmp_path / 'absent'}", "--set", f"training.arms={arms}")
    outcome = train(tmp_path / "nowhere", labels, tmp_path / "run", *UNTRACKED, *more)
    assert outcome.code != 0
    assert ("[text] encoder" in outcome.stderr) is (arms != '["image"]')


@pytest.mark.parametrize(
    ("setting", "said"),
    [("model.fusion=gate", "none of concat, gated"), ('policy.may_not_ignore=["images"]', "may_not_ignore")],
)
def test_a_name_that_there_is_not_stops_before_the_studies_are_looked_for(
    tmp_path: Path, setting: str, said: str
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("study_id,outcome\na,0\n")
    (tmp_path / "nowhere").mkdir()
    outcome = train(tmp_path / "nowhere", labels, tmp_path / "run", *UNTRACKED, "--set", setting)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert "Reading headers" not in outcome.stderr


def test_another_file_under_the_same_name_is_another_training_to_resume(tmp_path: Path) -> None:
    file = tmp_path / "start.safetensors"
    write_start(file)
    config = load_config(TrainConfig, "train", overrides=[f"model.image_weights={file}"])
    cohort = Cohort(members=(), refused=())
    before = origin_of(config, "0" * 64, cohort)
    assert origin_of(config, "0" * 64, cohort) == before
    write_start(file, seed=5)
    assert origin_of(config, "0" * 64, cohort) != before


def test_another_text_encoder_in_the_same_folder_is_another_training_to_resume(tmp_path: Path) -> None:
    folder, cohort = save_bert(tmp_path / "bert"), Cohort(members=(), refused=())
    config = load_config(TrainConfig, "train", overrides=[f"text.encoder={folder}"])
    before = origin_of(config, "0" * 64, cohort)
    assert origin_of(config, "0" * 64, cohort) == before
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert origin_of(config, "0" * 64, cohort) != before
    assert "text_encoder" not in weights_input(load_config(TrainConfig, "train"))  # `tiny`
