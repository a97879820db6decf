"""`torchrun --no-python medmllm train`: the processes that are there learn as those that medmllm starts do."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from medmllm import __version__
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import NIFTI_SETTINGS, UNTRACKED, train
from tests.training.test_launched import LONGEST_S, torchrun

pytestmark = pytest.mark.timeout(600)

# Not -m medmllm: Python then looks in the working folder first, and a clone of that name there has no such package.
MEDMLLM = ("--no-python", str(Path(sys.executable).with_name("medmllm")))


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    (data / "settings.toml").write_text(NIFTI_SETTINGS)
    return [
        *MEDMLLM, "train", "--studies", str(data / "studies"), "--labels", str(data / "labels.csv"),
        "--out", str(out), "--config", str(data / "settings.toml"), *UNTRACKED, *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_torchrun_trains_what_processes_does(tmp_path: Path) -> None:
    data, arms = tmp_path / "data", ("--set", 'training.arms=["fused"]')
    labels = write_nifti_cohort(data, patients=10)
    launched = torchrun(*arguments(data, tmp_path / "launched", "--target", "outcome", *arms))
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("report.html") == 1, "one process tells the result"
    assert launched.stderr.count("Preparing studies 1") == 1, "and prepares the studies"
    started = train(data / "studies", labels, tmp_path / "started", *UNTRACKED, *arms, "--set", "training.processes=2")
    assert started.code == 0
    found, expected = (pd.read_csv(tmp_path / run / "out_of_fold.csv") for run in ("launched", "started"))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-4)
    settings = [(tmp_path / run / "settings.json").read_text() for run in ("launched", "started")]
    assert settings[0] == settings[1]


@pytest.mark.slow
def test_what_stops_the_first_process_ends_all_and_is_said_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_nifti_cohort(data, patients=4)
    done = torchrun(*arguments(data, tmp_path / "run", "--target", "absent"))
    assert done.returncode == 1  # torchrun's own, whatever the processes return
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("medmllm: ")]
    assert "'absent'" in said
    assert "exitcode  : 2" in done.stderr


@pytest.mark.slow
def test_other_verbs_are_not_shared(tmp_path: Path) -> None:
    done = torchrun(*MEDMLLM, "index", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "without torchrun" in done.stderr


@pytest.mark.slow
def test_it_starts_in_the_folder_above_a_clone_that_is_called_like_the_package(tmp_path: Path) -> None:
    (tmp_path / "medmllm" / "pipelines").mkdir(parents=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    done = subprocess.run(
        [*launcher, *MEDMLLM, "--version"], capture_output=True, text=True, timeout=LONGEST_S, cwd=tmp_path
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"medmllm {__version__}"), done.stderr
