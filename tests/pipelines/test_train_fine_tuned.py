"""A pretrained text encoder, frozen or with adapters, from `medmllm train` to `medmllm score`."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from medmllm.model_documents import ModelCard
from tests.factories import write_nifti_cohort
from tests.models.small import save_bert
from tests.pipelines.runs import UNTRACKED, score, site_key, train


@pytest.mark.parametrize(("kind", "said"), [("frozen", "(frozen)"), ("lora", "(fine-tuned by low-rank adapters)")])
def test_a_run_scores_without_the_encoder_it_started_from_and_without_peft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    labels, bert = write_nifti_cohort(tmp_path / "data"), save_bert(tmp_path / "bert")
    studies, run = tmp_path / "data" / "studies", tmp_path / "run"
    asked = (f"text.encoder={bert}", f"text.fine_tuning={kind}", "text.max_tokens=24", 'training.arms=["text"]')
    with site_key(tmp_path):
        more = [word for setting in asked for word in ("--set", setting)]
        outcome = train(studies, labels, run, *UNTRACKED, *more)
        assert outcome.code == 0, outcome.stderr
        shutil.rmtree(bert)
        monkeypatch.setitem(sys.modules, "peft", None)  # importing it now fails
        assert score(studies, run / "model", tmp_path / "scored").code in (0, 3)
    summary = json.loads((tmp_path / "scored" / "summary.json").read_text())
    assert summary["scored"] > 0
    card = ModelCard.read(run / "model" / "model.json")
    assert len(card.provenance.inputs["text_encoder"]) == 64
    assert said in (run / "report.html").read_text()
    assert str(bert) in (run / "settings.json").read_text()
    telling = [path for path in run.rglob("*") if path.is_file() and str(tmp_path).encode() in path.read_bytes()]
    assert telling == [run / "settings.json"]
    assert card.contract.text is not None
    assert card.contract.text.encoder == "FOLDER/bert"
    assert "--set 'text.encoder=\"FOLDER/bert\"'" in card.provenance.command
