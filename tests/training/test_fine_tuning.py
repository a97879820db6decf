"""Training with a frozen encoder or with adapters: what is fixed stays, a killed run goes on, scoring needs no peft."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from medmllm.errors import ConfigError, MisuseError
from medmllm.models import fine_tuning
from medmllm.models.package import FoldNetwork, build_network
from medmllm.models.text_encoder import from_config, read_config
from medmllm.preprocessing.text import load_tokenizer
from medmllm.training import loop
from medmllm.training.arms import split_cohort
from medmllm.training.checkpoint import Checkpoint
from medmllm.training.cross_validation import cross_validate
from medmllm.training.fold_inputs import tokenize_cohort
from medmllm.training.loop import Fit, predict_logits
from medmllm.training.machine import Machine
from medmllm.training.starting_weights import check_start
from medmllm.training.tracking import NoRun
from tests.models.small import PARTS, a_limited_member, a_task, encoder_settings, save_bert
from tests.training.small import ORIGIN, Killed, Killer, Told, settings, train, weights
from tests.training.small_cohort import a_cohort, a_config

ENCODER = "text_encoder.network."


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "bert")


def trained(member: FoldNetwork, told: Told | None = None, checkpoint: Checkpoint | None = None) -> Fit:
    done, _ = train(member, n=9, told=told, checkpoint=checkpoint, epochs=4, weight_decay=0.1, text_learning_rate=1e-2)
    return done


def test_an_absent_peft_is_told_before_a_study_is_read(monkeypatch: pytest.MonkeyPatch, bert_folder: Path) -> None:
    config = a_config().model_copy(update={"text": encoder_settings("lora", bert_folder)})
    check_start(config)
    monkeypatch.setattr(fine_tuning, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs peft"):
        check_start(config)


@pytest.mark.parametrize(("kind", "moves"), [("full", True), ("frozen", False), ("lora", False)])
def test_training_moves_the_encoders_own_weights_only_where_they_learn(
    bert_folder: Path, kind: str, moves: bool
) -> None:
    member = a_limited_member(bert_folder, kind)
    before = weights(member)
    trained(member)
    own = {name for name in before if name.startswith(ENCODER) and "lora" not in name}
    assert len(own) > 20
    moved = {name for name, tensor in weights(member).items() if not torch.equal(tensor, before[name])}
    assert bool(own & moved) == moves
    assert {"fusion.out.weight", "image_encoder.network.conv1.weight"} <= moved
    if kind == "lora":
        assert {name for name in before if "lora" in name} <= moved


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_the_optimizer_holds_what_learns_and_nothing_else(bert_folder: Path, kind: str) -> None:
    network = a_limited_member(bert_folder, kind).network
    optimizer, _ = loop._optimizer(network, settings(learning_rate=0.5, text_learning_rate=0.25), 1)
    held = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    wanted = {
        id(parameter): "lora" in name for name, parameter in network.named_parameters() if parameter.requires_grad
    }
    assert held.keys() == wanted.keys()
    rates = {(wanted[one], rate) for one, rate in held.items()}  # is an adapter, rate
    assert rates == ({(False, 0.5), (True, 0.25)} if kind == "lora" else {(False, 0.5)})


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_a_limited_training_cut_off_goes_on_to_the_same_bits(bert_folder: Path, tmp_path: Path, kind: str) -> None:
    whole, again, told = a_limited_member(bert_folder, kind), a_limited_member(bert_folder, kind), Told()
    expected = trained(whole)
    checkpoint = Checkpoint(tmp_path / "fold.safetensors", ORIGIN)
    with pytest.raises(Killed):
        trained(a_limited_member(bert_folder, kind), Killer(), checkpoint)
    assert trained(again, told, checkpoint) == expected
    assert told.epochs == [3, 4]
    found = weights(again)
    assert {name for name, tensor in weights(whole).items() if not torch.equal(tensor, found[name])} == set()


@pytest.mark.parametrize("kind", ["full", "frozen", "lora"])
def test_a_checkpoint_holds_what_learns_and_no_other_weights(bert_folder: Path, tmp_path: Path, kind: str) -> None:
    checkpoint, member = Checkpoint(tmp_path / "fold.safetensors", ORIGIN), a_limited_member(bert_folder, kind)
    with pytest.raises(Killed):
        trained(member, Killer(), checkpoint)
    learns = {name for name, parameter in member.network.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in member.network.named_buffers()} & member.network.state_dict().keys()
    written = load_file(checkpoint.path)
    for part in ("network/", "best/"):
        assert {name.removeprefix(part) for name in written if name.startswith(part)} == learns | buffers
    assert any(ENCODER in name and "lora" not in name for name in written) == (kind == "full")


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_a_training_does_not_go_on_with_other_weights_of_the_encoder(
    bert_folder: Path, tmp_path: Path, kind: str
) -> None:
    checkpoint = Checkpoint(tmp_path / "fold.safetensors", ORIGIN)
    with pytest.raises(Killed):
        trained(a_limited_member(bert_folder, kind), Killer(), checkpoint)
    file = bert_folder / "model.safetensors"
    given = load_file(file)
    given["encoder.layer.1.output.dense.bias"][0] += 1e-6
    save_file(given, file, metadata={"format": "pt"})
    with pytest.raises(MisuseError, match=r"on other weights of the text encoder .*--overwrite"):
        trained(a_limited_member(bert_folder, kind), Told(), checkpoint)


@pytest.mark.parametrize("kind", ["frozen", "lora"])
def test_the_package_holds_a_plain_encoder_that_answers_as_the_trained_one_did_out_of_fold(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    text, out = encoder_settings(kind, bert_folder), tmp_path / "run"
    config, studies = a_config(epochs=2).model_copy(update={"text": text}), a_cohort()
    plan = split_cohort(studies, config.training)
    (arm,) = cross_validate(
        ["text"], studies, plan, config, a_task(), out=out, tracked=NoRun(), advance=lambda more: None
    )
    monkeypatch.setitem(sys.modules, "peft", None)  # importing it now fails
    split, home = plan.folds[0], arm.folder / "tokenizer" / "fold_0"
    network = build_network(arm.contract, PARTS, a_task(), from_config(read_config(home)))
    written = load_file(arm.folder / "fold_0.safetensors")
    network.load_state_dict(written)
    given = AutoModel.from_pretrained(str(bert_folder)).state_dict()
    kept = [torch.equal(written[f"{ENCODER}{name}"], own) for name, own in given.items() if "pooler" not in name]
    assert all(kept) == (kind == "frozen")
    member = FoldNetwork(network, None)
    samples = tokenize_cohort(studies, arm.contract, load_tokenizer(home, local_files_only=True))
    logits = predict_logits(member, [samples[k] for k in split.test], arm.contract, config.training, Machine.of("cpu"))
    (offset,) = arm.folds[0].offsets or (0.0,)
    expected = (arm.out_of_fold.logits[split.test] - offset) * arm.folds[0].temperature
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-5, atol=1e-5)
