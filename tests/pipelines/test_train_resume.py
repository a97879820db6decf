"""`medmllm train --resume`: killed at any point, the run ends as one that nothing happened to."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medmllm.training.checkpoint import FOLDER
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import NIFTI_SETTINGS, UNTRACKED, train

EPOCHS, FOLDS = 6, 2
EXACT = ("--set", "training.deterministic=true", "--set", f"training.epochs={EPOCHS}")


def command(data: Path, run: Path, *more: str) -> list[str]:
    config = data / "settings.toml"
    config.write_text(NIFTI_SETTINGS)
    return [
        sys.executable, "-c", "from medmllm.cli import app; app()", "train", "--target", "outcome",
        "--studies", str(data / "studies"), "--labels", str(data / "labels.csv"), "--out", str(run),
        "--config", str(config), "--resume", *UNTRACKED, *EXACT, *more,
    ]  # fmt: skip


def kill_after(arguments: list[str], run: Path, writes: int, wait_s: float) -> int:
    """Start the command, kill it `wait_s` after the given number of states was seen, and return how it ended."""
    started = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen: set[tuple[str, int]] = set()
    while started.poll() is None and len(seen) < writes:
        for path in (run / FOLDER).glob("*.safetensors"):
            try:
                seen.add((path.name, path.stat().st_mtime_ns))
            except FileNotFoundError:  # the fold was done meanwhile
                continue
        time.sleep(0.002)
    time.sleep(wait_s)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    return started.returncode


def numbers(run: Path) -> tuple[str, object]:
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation.pop("provenance")
    return (run / "out_of_fold.csv").read_text(), evaluation


@pytest.mark.timeout(900)  # it starts up to six times
@pytest.mark.parametrize(
    ("arms", "setting", "kills"),
    [
        (("image", "fused"), "training.processes=1", 5),
        pytest.param(("fused",), "training.processes=2", 2, marks=pytest.mark.slow),
        pytest.param(("text",), "training.search.weight_decay=[0.01, 0.1, 10.0]", 3, marks=pytest.mark.slow),
    ],
    ids=["alone", "two processes", "a search"],
)
def test_a_run_killed_several_times_ends_with_the_same_numbers(
    tmp_path: Path, arms: tuple[str, ...], setting: str, kills: int
) -> None:
    asked = ("--set", f"training.arms={json.dumps(arms)}", "--set", setting)
    labels = write_nifti_cohort(tmp_path / "data", patients=12)
    assert labels == tmp_path / "data" / "labels.csv"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    exact = (*UNTRACKED, *EXACT, *asked)
    assert train(tmp_path / "data" / "studies", labels, whole, *exact).code == 0
    draw, arguments = random.Random(20), command(tmp_path / "data", killed, *asked)
    for _ in range(kills):
        ended = kill_after(arguments, killed, draw.randint(2, 5), draw.uniform(0, 0.05))
        assert ended == -signal.SIGKILL, "the run was over before it could be killed"
        assert list((killed / FOLDER).glob("*.safetensors"))
        assert not (killed / "evaluation.json").exists()
    assert train(tmp_path / "data" / "studies", labels, killed, "--resume", *exact).code == 0
    assert numbers(killed) == numbers(whole)
    weights = [path.relative_to(whole) for path in whole.rglob("fold_*.safetensors")]
    assert len(weights) == len(arms) * FOLDS
    assert [name for name in weights if (whole / name).read_bytes() != (killed / name).read_bytes()] == []
    assert not (killed / FOLDER).exists(), "a whole run needs no checkpoints"


def cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def never(*_: object, **__: object) -> None:
    raise AssertionError("trained again, or studies were read")


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Data and a run whose folds are all done, cut off before its evaluation was written."""
    write_nifti_cohort(tmp_path / "data", patients=8)
    with monkeypatch.context() as patch:
        patch.setattr("medmllm.pipelines.train.write_run", cut)
        train(tmp_path / "data" / "studies", tmp_path / "data" / "labels.csv", tmp_path / "run", *UNTRACKED, *TEXT)
    assert not (tmp_path / "run" / "evaluation.json").exists()
    return tmp_path / "data", tmp_path / "run"


TEXT = ("--set", 'training.arms=["text"]')


def again(data: Path, run: Path, *more: str) -> tuple[int, str]:
    outcome = train(data / "studies", data / "labels.csv", run, *UNTRACKED, *TEXT, *more)
    return outcome.code, outcome.stderr


def test_an_interrupted_run_is_not_started_anew_by_accident(interrupted: tuple[Path, Path]) -> None:
    code, said = again(*interrupted)
    assert code == 2
    assert "--resume" in said
    assert "--overwrite" in said
    assert list((interrupted[1] / FOLDER).glob("*.done.safetensors"))
    assert again(*interrupted, "--resume", "--overwrite")[0] == 2
    assert again(*interrupted, "--overwrite")[0] == 0


def test_a_run_that_was_killed_while_it_wrote_over_a_whole_one_goes_on_and_is_not_taken_for_whole(
    interrupted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert again(*interrupted, "--resume")[0] == 0
    marker = interrupted[1] / "evaluation.json"
    assert again(*interrupted, "--overwrite", "--set", "training.folds=7")[0] == 2
    assert marker.exists(), "what is refused leaves an earlier result alone"
    with monkeypatch.context() as patch:
        patch.setattr("medmllm.pipelines.train.write_run", cut)
        again(*interrupted, "--overwrite")
    assert not marker.exists()
    monkeypatch.setattr("medmllm.training.fold.fit", never)
    assert again(*interrupted, "--resume")[0] == 0
    assert marker.exists()


def test_folders_of_others_beside_a_run_are_left_alone_and_those_in_its_place_are_no_runs(tmp_path: Path) -> None:
    labels, run = write_nifti_cohort(tmp_path / "data", patients=8), tmp_path / "run"
    others = [run / name / "kept" for name in ("model_zoo", "figures", "checkpoints")]
    for other in others:
        other.parent.mkdir(parents=True)
        other.touch()
    outcome = train(tmp_path / "data" / "studies", labels, run, *UNTRACKED, *TEXT, "--overwrite")
    assert outcome.code == 2
    assert "holds checkpoints, and is no run's" in outcome.stderr
    shutil.rmtree(run / "checkpoints")
    assert train(tmp_path / "data" / "studies", labels, run, *UNTRACKED, *TEXT).code == 0
    assert [other.exists() for other in others] == [True, True, False]
    assert (run / "figures" / "roc.svg").exists()


def test_an_interrupted_run_outlives_one_that_was_to_write_over_it_and_was_refused(
    interrupted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert again(*interrupted, "--overwrite", "--set", "training.folds=7")[0] == 2
    monkeypatch.setattr("medmllm.training.fold.fit", never)
    assert again(*interrupted, "--resume")[0] == 0


def test_folds_that_are_done_are_not_trained_again(
    interrupted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medmllm.training.fold.fit", never)
    assert again(*interrupted, "--resume")[0] == 0


def test_a_fold_whose_weights_were_changed_is_trained_again(interrupted: tuple[Path, Path]) -> None:
    weights = interrupted[1] / "model" / "fold_0.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\x00\x00\x80\x3f")
    assert again(*interrupted, "--resume")[0] == 0
    assert weights.read_bytes() == before


def test_other_settings_are_refused_and_those_that_no_network_depends_on_are_not(
    interrupted: tuple[Path, Path],
) -> None:
    code, said = again(*interrupted, "--resume", "--set", "training.learning_rate=0.5")
    assert code == 2
    assert "training.learning_rate was 0.01, now 0.5" in said
    free = ("evaluation.bootstrap_samples=150", "evaluation.coverage=0.5", "evaluation.calibration=isotonic")
    assert again(*interrupted, "--resume", *(word for setting in free for word in ("--set", setting)))[0] == 0
    card = json.loads((interrupted[1] / "model" / "model.json").read_text())
    assert card["conformal_coverage"] == 0.5
    assert all(fold["isotonic"] and max(fold["conformal_thresholds"]) < 1 for fold in card["folds"])


def kept(run: Path) -> dict[str, bytes]:
    """What is refused leaves these as they are."""
    files = [run / "settings.json", run / "splits.json", *(run / FOLDER).iterdir(), *run.glob("model*/*.safetensors")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("training.inner_folds=2",), "training.inner_folds was 1, now 2"),
        (("training.search.weight_decay=[0.01, 0.1]",), "training.search.weight_decay was not set, now [0.01, 0.1]"),
        (('training.arms=["image"]',), "training.arms was ['text'], now ['image']"),
    ],
)
def test_settings_that_rename_the_networks_are_refused_before_a_study_is_read(
    interrupted: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], told: str
) -> None:
    before = kept(interrupted[1])
    monkeypatch.setattr("medmllm.pipelines.train.read_index", never)
    code, said = again(*interrupted, "--resume", *(word for setting in asked for word in ("--set", setting)))
    assert code == 2
    assert told in said
    assert "--overwrite" in said
    assert kept(interrupted[1]) == before


def test_a_run_that_died_before_its_settings_were_written_goes_on_under_any(interrupted: tuple[Path, Path]) -> None:
    data, run = interrupted
    (run / "settings.json").unlink()
    shutil.rmtree(run / FOLDER)
    assert again(data, run, "--resume", "--set", "training.epochs=1")[0] == 0


def test_checkpoints_are_refused_under_other_settings_though_those_of_the_run_are_lost(
    interrupted: tuple[Path, Path],
) -> None:
    data, run = interrupted
    (run / "settings.json").unlink()
    code, said = again(data, run, "--resume", "--set", "training.inner_folds=2")
    assert code == 2
    assert "other settings and another split" in said
    assert not (run / "settings.json").exists()


def test_a_study_less_is_refused_and_the_split_stays(interrupted: tuple[Path, Path]) -> None:
    data, run = interrupted
    before = kept(run)
    labels = data / "labels.csv"
    header, _, *rows = labels.read_text().splitlines(keepends=True)  # the patient has another study
    labels.write_text("".join([header, *rows]))
    code, said = again(data, run, "--resume")
    assert code == 2
    assert "another split and another cohort" in said
    assert kept(run) == before


def test_another_note_is_refused(interrupted: tuple[Path, Path]) -> None:
    note = next((interrupted[0] / "studies").rglob("*.txt"))
    note.write_text(note.read_text() + " changed")
    code, said = again(*interrupted, "--resume")
    assert code == 2
    assert "another cohort" in said
