"""Scoring goes on whatever one study does, in order, with few studies ahead; folds are averaged by their logits."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmllm.config import ScoreConfig, load_config
from medmllm.documents import PreprocessingContract
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder
from medmllm.model_documents import FoldModel
from medmllm.models.package import ModelPackage, key_digest
from medmllm.preprocessing.sample import collate, prepare_sample
from medmllm.records import Study
from medmllm.scoring import study_folder
from medmllm.scoring.study_folder import Refused, Scored, predicted_class, score_folder, was_trained_on
from medmllm.training.cohort import draft_contract, read_parts
from tests.factories import write_nifti_cohort
from tests.models.small import CLASSES, IMAGE, TEXT, a_card, a_member

KEYRING = Keyring(b"a secret of thirty-two bytes ....")
CHANNELS = {"ct": IMAGE.channels["ct"], "pet": IMAGE.channels["pet"].model_copy(update={"description": "pet"})}
CONTRACT = draft_contract(
    IMAGE.model_copy(
        update={"channels": CHANNELS | {"ct": CHANNELS["ct"].model_copy(update={"description": "image"})}}
    ),
    TEXT,
)
TEMPERATURES = (0.5, 2.0)


def a_package(classes: tuple[str, ...] = CLASSES, contract: PreprocessingContract = CONTRACT) -> ModelPackage:
    """Two folds with random weights and temperatures of their own."""
    folds = tuple(
        FoldModel(fold=k, weights=f"fold_{k}", weights_sha256=str(k) * 64, temperature=t, best_epoch=1, threshold=0.5)
        for k, t in enumerate(TEMPERATURES)
    )
    members = tuple(a_member(classes=classes, seed=seed) for seed in (3, 4))
    for member in members:
        member.network.eval()
    return ModelPackage(a_card(folds, contract, classes), members, None)


def settings(**changes: object) -> ScoreConfig:
    return load_config(ScoreConfig, "score").model_copy(update={"batch_size": 2, "workers": 1} | changes)


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Study, ...]:
    write_nifti_cohort(tmp_path, patients=6)
    return index_folder(tmp_path / "studies", keyring=KEYRING).studies


def test_results_come_one_per_study_in_the_order_given(studies: tuple[Study, ...]) -> None:
    steps: list[int] = []
    turned = studies[::-1]
    found = list(score_folder(turned, a_package(), settings(), advance=steps.append))
    assert [result.study.study_key for result in found] == [study.study_key for study in turned]
    assert all(isinstance(result, Scored) for result in found)
    assert steps == [1] * len(studies) == [1] * 8


@pytest.mark.parametrize("classes", [CLASSES, ("low", "mid", "high")])
def test_the_folds_calibrated_logits_are_averaged_and_the_interval_spans_them(
    studies: tuple[Study, ...], classes: tuple[str, ...]
) -> None:
    package = a_package(classes)
    for result in score_folder(studies[:3], package, settings()):
        assert isinstance(result, Scored)
        parts = read_parts(result.study, CONTRACT)
        per_fold = []
        for member, temperature in zip(package.folds, TEMPERATURES, strict=True):
            sample = prepare_sample(result.study, parts.volumes, parts.note, CONTRACT, member.tokenizer)
            raw = member.network(collate([sample], CONTRACT)).detach().double().numpy()[0]
            per_fold.append(raw / temperature)
        mean = np.mean(per_fold, axis=0)
        np.testing.assert_allclose(result.prediction.logits, mean, rtol=1e-5, atol=1e-6)
        padded = [np.array([0.0, z[0]]) if len(z) == 1 else z for z in (*per_fold, mean)]
        *each, expected = [np.exp(z) / np.exp(z).sum() for z in padded]
        np.testing.assert_allclose(result.prediction.probabilities, expected, rtol=1e-5)
        shown = 1 if len(classes) == 2 else int(expected.argmax())
        bounds = min(p[shown] for p in each), max(p[shown] for p in each)
        np.testing.assert_allclose(result.prediction.interval, bounds, rtol=1e-5)
        wanted = int(expected[1] >= 0.4) if len(classes) == 2 else int(expected.argmax())
        assert predicted_class(result.prediction, package) == wanted


@pytest.mark.parametrize("classes", [CLASSES, ("low", "mid", "high")])
def test_a_set_holds_what_half_of_the_folds_keep_each_by_its_own_thresholds(
    studies: tuple[Study, ...], classes: tuple[str, ...]
) -> None:
    plain = a_package(classes)
    (scored,) = score_folder(studies[:1], plain, settings())
    assert isinstance(scored, Scored)
    assert scored.prediction.conformal_set is None  # a package without thresholds
    parts = read_parts(studies[0], CONTRACT)
    thresholds = []
    for member, temperature in zip(plain.folds, TEMPERATURES, strict=True):
        sample = prepare_sample(studies[0], parts.volumes, parts.note, CONTRACT, member.tokenizer)
        logits = member.network(collate([sample], CONTRACT)).detach().double().numpy()[0] / temperature
        logits = np.array([0.0, logits[0]]) if len(classes) == 2 else logits
        thresholds.append(1 - np.exp(logits) / np.exp(logits).sum())  # the edge: each class is just kept
    near = 1e-4
    for first, second, kept in ((near, near, True), (near, -near, True), (-near, near, True), (-near, -near, False)):
        folds = tuple(
            fold.model_copy(update={"conformal_thresholds": (float(edge[0] + shift), *[0.0] * (len(classes) - 1))})
            for fold, edge, shift in zip(plain.card.folds, thresholds, (first, second), strict=True)
        )
        package = replace(plain, card=plain.card.model_copy(update={"folds": folds}))
        (scored,) = score_folder(studies[:1], package, settings())
        assert isinstance(scored, Scored)
        assert scored.prediction.conformal_set == ((0,) if kept else ())


def test_no_more_studies_are_prepared_ahead_than_a_batch_and_two_per_worker(
    studies: tuple[Study, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, lock, ahead = [0], threading.Lock(), []
    original = study_folder._prepare

    def counting(study: Study, *more: object) -> object:
        with lock:
            started[0] += 1
        return original(study, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(study_folder, "_prepare", counting)
    done = 0
    for _ in score_folder(studies, a_package(), settings(batch_size=1, workers=1)):
        time.sleep(0.05)  # a slow taker: a reader without bounds runs ahead
        ahead.append(started[0] - done)
        done += 1
    assert done == 8
    assert max(ahead) <= 1 + 1 + 2  # the one in hand, and batch_size + 2 * workers more


@pytest.mark.parametrize("where", ["read", "predict"])
def test_an_unforeseen_error_names_its_kind_and_nothing_else(
    studies: tuple[Study, ...], where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    victim = studies[2].study_key
    if where == "read":
        original = study_folder.read_parts

        def failing(study: Study, contract: PreprocessingContract) -> object:
            if study.study_key == victim:
                raise KeyError("Mr Huber")
            return original(study, contract)

        monkeypatch.setattr(study_folder, "read_parts", failing)
    else:
        predict = study_folder.predict

        def breaking(ready, package):  # type: ignore[no-untyped-def]
            if any(item.study.study_key == victim for item in ready):
                raise KeyError("Mr Huber")
            return predict(ready, package)

        monkeypatch.setattr(study_folder, "predict", breaking)
    found = list(score_folder(studies, a_package(), settings(batch_size=5)))
    refused = [result for result in found if isinstance(result, Refused)]
    assert [(r.study.study_key, r.refusal.stage, r.refusal.code) for r in refused] == [(victim, where, "unforeseen")]
    assert "KeyError" in refused[0].refusal.reason
    assert len(found) == 8
    assert victim in caplog.text
    assert "Huber" not in caplog.text + refused[0].refusal.reason


def test_a_study_with_nothing_to_read_is_refused(studies: tuple[Study, ...]) -> None:
    bare = Study("st-" + "0" * 16, "pt-" + "0" * 16, "folder")
    (result,) = score_folder([bare], a_package(), settings())
    assert isinstance(result, Refused)
    assert (result.refusal.stage, result.refusal.code) == ("contract", "nothing_to_read")


def test_an_empty_folder_gives_no_result() -> None:
    assert list(score_folder([], a_package(), settings())) == []


def test_a_training_study_is_known_by_its_patient_or_by_itself(studies: tuple[Study, ...]) -> None:
    card = a_package().card
    study, other = studies[0], studies[-1]
    assert not was_trained_on(study, card)
    by_patient = card.model_copy(update={"training_patients": (key_digest(study.patient_key),)})
    by_study = card.model_copy(update={"training_studies": (key_digest(study.study_key),)})
    for known in (by_patient, by_study):
        assert was_trained_on(study, known)
        assert not was_trained_on(other, known)


def test_findings_come_with_each_result_and_a_refused_copy_is_not_scored(studies: tuple[Study, ...]) -> None:
    for study in studies[1:3]:
        text = "HISTORY: " + " ".join(f"word{number}" for number in range(30))
        study.notes[0].file.write_text(text, encoding="utf-8")
    policy = settings().quality
    strict = policy.model_copy(update={"decisions": policy.decisions.model_copy(update={"note_duplicate": "refuse"})})
    for quality, kind in ((policy, Scored), (strict, Refused)):
        found = list(score_folder(studies, a_package(), settings(quality=quality, workers=3)))
        assert isinstance(found[1], Scored)
        assert isinstance(found[2], kind)
        assert "note_duplicate" in [finding.code for finding in found[2].findings]
        assert studies[1].study_key in found[2].findings[-1].reason
        assert "note_duplicate" not in [finding.code for finding in found[1].findings]
        assert sum(isinstance(result, Refused) for result in found) == (kind is Refused)


def test_findings_are_kept_where_the_contract_refuses_the_study(studies: tuple[Study, ...]) -> None:
    text = CONTRACT.text
    assert text is not None
    contract = CONTRACT.model_copy(
        update={"text": text.model_copy(update={"sections": ("indication",), "required": True})}
    )
    package = a_package(contract=contract)
    studies[0].notes[0].file.write_text("HISTORY: word\n", encoding="utf-8")
    (result,) = score_folder(studies[:1], package, settings())
    assert isinstance(result, Refused)
    assert (result.refusal.stage, result.refusal.code) == ("contract", "no_note")
    assert "note_too_short" in [finding.code for finding in result.findings]
