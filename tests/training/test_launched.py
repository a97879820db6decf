"""Processes that torchrun started: the first leads, the others follow; whatever happens to one, all end, and soon."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from medmllm.errors import ConfigError, MisuseError
from medmllm.launch import launched
from medmllm.training.launched import Place
from tests.conftest import REPOSITORY
from tests.mlflow_server import unused_port

TOGETHER = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
# Half a minute on a busy machine; a process that waited for one that is gone would wait for days.
LONGEST_S = 250

pytestmark = pytest.mark.timeout(600)

ALONE = ("--standalone", "--nproc-per-node=2")

SCRIPT = """
import os, signal, sys
import torch
from medmllm.errors import MedmllmError
from medmllm.launch import among_others
from medmllm.training.followers import crew_of

def follow(crew, what):
    if what == "lost":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wrong":
        raise ValueError("something of its own")
    while crew.goes_on(False):
        pass

def say(what):
    # In one piece: torchrun starts Python without buffers, and print would write the end of the line by itself, so
    # that what two processes say at the same time would share a line.
    sys.stdout.write(f"{os.environ['RANK']}: {what}\\n")

@among_others("followed", "lost")
def verb(what):
    for count in (3, 2):
        with crew_of(2, torch.device("cpu"), follow, (what,)) as crew:
            for left in reversed(range(count)):
                if what == "led astray" and left == 1:
                    raise MedmllmError("the leader has a reason", code="reason")
                crew.goes_on(left > 0)
    return "led"

try:
    said = verb(sys.argv[1])
except MedmllmError as error:
    say(f"{error.code}: {error.reason}")
    sys.exit(7)
say(said)
sys.exit(1 if said == "lost" else 0)
"""


def torchrun(*arguments: str, where: Sequence[str] = ALONE) -> subprocess.CompletedProcess[str]:
    """Start processes as a user does, and return what they said; a hang fails."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *where, *arguments],
        capture_output=True, text=True, timeout=LONGEST_S, env=environment | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(re.findall(r"^\d: .*$", done.stdout, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said", "torchrun_said"),
    [
        ("well", ["0: led", "1: followed"], ""),
        ("led astray", ["0: reason: the leader has a reason"], r"exitcode *: 7"),
        ("lost", [], r"rank *: 1 .*\n.*exitcode *: -9"),
    ],
)
def test_the_others_follow_the_first_one_and_none_waits_for_one_that_is_gone(
    tmp_path: Path, what: str, said: list[str], torchrun_said: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(str(script), what)
    assert done.returncode == (1 if torchrun_said else 0), done.stderr
    assert re.search(torchrun_said, done.stderr)
    # Of those that are left, torchrun ends whoever does not end at once, maybe before they say something.
    perhaps = r"1: lost|0: process_lost: one of the 2 processes ended before its time.* Go on with --resume\."
    found = lines(done)
    assert set(said) <= set(found)
    assert all(line in said or re.fullmatch(perhaps, line) for line in found)


@pytest.mark.slow
def test_the_first_process_says_that_one_of_another_machine_was_lost(tmp_path: Path) -> None:
    """Two launchers stand for two machines: neither ends what the other has started."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    shared = ("--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={unused_port()}")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(
            lambda node: torchrun(str(script), "lost", where=(*shared, f"--node-rank={node}")), (0, 1)
        )
    assert (first.returncode, second.returncode) == (1, 1)
    assert re.fullmatch(r"0: process_lost: one of the 2 .* Go on with --resume\.", *lines(first))
    assert lines(second) == []


def test_a_place_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place.of(TOGETHER | {"LOCAL_WORLD_SIZE": "2"}) == Place(3, 4, 1, 2)
    assert Place.of(TOGETHER) == Place(3, 4, 1, 4)
    for name, value in TOGETHER.items():
        monkeypatch.setenv(name, value)
    assert launched() == 4
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None


@pytest.mark.parametrize("name", ["LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_a_place_is_refused_by_the_name_of_what_lacks(name: str) -> None:
    with pytest.raises(MisuseError, match=f"but not {name}: start with torchrun"):
        Place.of({key: value for key, value in TOGETHER.items() if key != name})
    with pytest.raises(MisuseError, match="no numbers"):
        Place.of(TOGETHER | {"LOCAL_RANK": "first"})


def test_each_process_takes_the_gpu_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Place(5, 8, 1, 2).device(torch.device("cuda")) == torch.device("cuda", 1)
    assert Place(5, 8, 7, 8).device(torch.device("cpu")) == torch.device("cpu")
    for place, asked in ((Place(2, 8, 2, 4), "cuda"), (Place(1, 2, 1, 2), "cuda:1")):
        with pytest.raises(ConfigError, match="want a GPU each"):
            place.device(torch.device(asked))
