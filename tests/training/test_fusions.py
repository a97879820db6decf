"""An outcome that neither modality tells alone is learnt by every fusion, from voxels and words."""

import pytest
from sklearn.metrics import roc_auc_score

from medmllm.models.fusion import FUSIONS
from medmllm.records import Sample
from medmllm.training.loop import fit, predict_logits
from medmllm.training.machine import Machine
from tests.models.small import a_member, a_sample, contract_of
from tests.training.small import Told, settings

WORDS = ("clear lungs and no cough", "marked cough and spiculated nodule")


def crossed(images: int, *, first: int = 0) -> list[Sample]:
    """Each image, bright or dark, with either note; the outcome is there where exactly one of them shows it."""
    made = []
    for number in range(first, first + images):
        bright = number % 2
        for marked in (0, 1):
            sample = a_sample(number, note=WORDS[marked], target=bright ^ marked)
            assert sample.image is not None
            sample.image.add_(1.5 * bright)
            made.append(sample)
    return made


def auroc(arm: str, **parts: object) -> float:
    member, contract = a_member(arm, fusion_width=32, text_batch_norm=True, **parts), contract_of(arm)
    asked = settings(epochs=12, patience=12, batch_size=8, text_learning_rate=3e-3)
    fit(member, crossed(24), crossed(8, first=100), contract, asked, seed=1, tracker=Told())
    unseen = crossed(16, first=200)
    logits = predict_logits(member, unseen, contract, asked, Machine.of("cpu"))
    return float(roc_auc_score([sample.target for sample in unseen], logits[:, 0]))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_learns_from_studies_what_neither_modality_tells_alone(fusion: str) -> None:
    assert auroc("fused", fusion=fusion) > 0.95


@pytest.mark.parametrize("arm", ["image", "text"])
def test_one_modality_alone_finds_nothing_there(arm: str) -> None:
    assert 0.45 < auroc(arm) < 0.55
