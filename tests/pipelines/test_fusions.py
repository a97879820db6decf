"""Fusions in which image and note see each other, from training to the scored and explained study."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from medmllm.csv_tables import read_table
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder
from medmllm.models.package import load_package
from medmllm.preprocessing.sample import collate, prepare_sample
from medmllm.result_documents import ExplanationDocument, PredictionDocument
from medmllm.table_rows import OutOfFoldRow
from medmllm.training.cohort import read_parts
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import SECRET, UNTRACKED, score, train

KEYRING = Keyring(bytes.fromhex(SECRET.strip()))


SMALL = (
    *UNTRACKED, "--set", 'training.arms=["fused"]', "--set", "training.epochs=1",
    "--set", "text.window=16", "--set", "text.overlap=4",
)  # fmt: skip
EXPLAINED = ("--explain", "--set", "explain.steps=4", "--set", "explain.max_steps=16")  # how exactly, tests elsewhere


@pytest.mark.parametrize("fusion", ["cross_attention", "bert_prefix"])
def test_a_fusion_is_trained_packaged_scored_and_explained_with_the_same_logits(tmp_path: Path, fusion: str) -> None:
    labels = write_nifti_cohort(tmp_path / "data", patients=8, without_note=[2])
    studies, run, out = tmp_path / "data" / "studies", tmp_path / "run", tmp_path / "out"
    assert train(studies, labels, run, *SMALL, "--set", f"model.fusion={fusion}").code == 0
    for name in ("case-000-0", "case-001-0"):
        shutil.copytree(studies / name, tmp_path / "new" / name)
    outcome = score(tmp_path / "new", run / "model", out, *EXPLAINED)
    assert outcome.code == 0, outcome.said
    package = load_package(run / "model")
    contract = package.card.contract
    assert package.card.model.fusion == fusion
    rows = {row.study_key: row for row in read_table(run / "out_of_fold.csv", OutOfFoldRow)}
    used = set()
    for study in index_folder(tmp_path / "new", keyring=KEYRING).studies:
        parts, logits = read_parts(study, contract), []
        for member, fold in zip(package.folds, package.card.folds, strict=True):
            sample = prepare_sample(study, parts.volumes, parts.note, contract, member.tokenizer)
            batch = collate([sample], contract, pad_token_id=member.pad_token_id)
            (offset,) = fold.offsets or (0.0,)
            logits.append(member.network(batch).item() / fold.temperature + offset)
        row, home = rows[study.study_key], out / "studies" / study.study_key
        assert row.logits["1"] == pytest.approx(logits[row.fold], rel=1e-4, abs=1e-5)
        (scored,) = PredictionDocument.read(home / "prediction.json").logits
        assert scored == pytest.approx(np.mean(logits), rel=1e-4, abs=1e-5)
        explained = ExplanationDocument.read(home / "explanation.json")
        assert explained.logit == pytest.approx(scored, rel=1e-4, abs=1e-5)
        used.add(tuple(name for name, share in explained.modality_shares.items() if share > 0))
    assert used == {("image", "text"), ("image",)}
