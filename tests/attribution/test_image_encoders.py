"""Integrated Gradients over the image encoders that are no ResNet: the attributions are complete."""

import numpy as np
import pytest
import torch

from medmllm.attribution.gradients import explain_study
from medmllm.config import TrainConfig, load_config
from medmllm.model_documents import Task
from medmllm.models.package import build_network
from medmllm.preprocessing.sample import collate
from tests.attribution.made_up import OVERRIDES, a_contract, a_package, a_sample, settings, sources


@pytest.mark.parametrize(
    ("encoder", "width"), [("efficientnet_b0", 8), ("swin_unetr", 12), ("measures", 8), ("cells_measures", 8)]
)
def test_attributions_of_voxels_add_up_to_the_change_of_the_logit(encoder: str, width: int) -> None:
    contract = a_contract(text=False)
    overrides = (*OVERRIDES, f"model.image_encoder={encoder}", f"model.image_width={width}")
    parts = load_config(TrainConfig, "train", overrides=overrides).model
    torch.manual_seed(5)
    network = build_network(contract, parts, Task.of("effusion", ("no", "yes")), None)
    with torch.no_grad():
        for seed in range(3):  # batch normalisation learns what images are like
            network(collate([a_sample(contract, seed=10 * seed + k) for k in range(8)], contract))
    explanation = explain_study(
        a_package(contract, [network.eval()]),
        [a_sample(contract)],
        **sources(contract),
        explained_class=1,
        settings=settings(steps=16, max_steps=2048),
    )
    total = float(explanation.channels[0].attribution.sum())
    change = explanation.logit - explanation.baseline_logit
    assert abs(change) > 1e-3
    assert total == pytest.approx(change, rel=0.01)
    assert np.count_nonzero(explanation.channels[0].attribution) > 100
