"""Processes that follow are kept from training to training, and one that is lost ends the training."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import distributed

from medmllm.errors import ConfigError, MedmllmError
from medmllm.training.followers import crew_of, followers_stay
from medmllm.training.processes import Crew
from tests.conftest import REPOSITORY

CPU = torch.device("cpu")


def tell_process(crew: Crew) -> int:
    """Return the process id of the follower; each of the two calls it."""
    told = torch.tensor(os.getpid() if crew.rank else 0)
    distributed.all_reduce(told)
    return int(told)


def tell_and_stay(crew: Crew) -> int:
    """Stands for a follower that waits where no broken connection reaches it, as for NCCL."""
    told = tell_process(crew)
    time.sleep(600 if crew.rank else 0)
    return told


def end_at_once(crew: Crew) -> None:
    """Stands for a process that is killed for its memory."""
    os._exit(9)


def end_slowly(crew: Crew) -> None:
    """Stands for the same on a busy machine: its connections break before it is gone."""
    distributed.destroy_process_group()
    time.sleep(2)
    os._exit(9)


def follower() -> int:
    with crew_of(2, CPU, tell_process, ()) as crew:
        return tell_process(crew)


def lead_on(leading: AbstractContextManager[Crew]) -> None:
    with leading as crew:
        while crew.goes_on(True):
            pass


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


LEAD = """
import time
from tests.training.test_followers import CPU, crew_of, tell_and_stay

if __name__ == "__main__":
    with crew_of(2, CPU, tell_and_stay, ()) as crew:
        print(tell_and_stay(crew), flush=True)
        time.sleep(600)
"""


@pytest.mark.slow
def test_followers_stay_from_one_training_to_the_next_and_end_with_the_last() -> None:
    with followers_stay():
        first = follower()
        with followers_stay():  # as one within a run
            assert follower() == first != os.getpid()
        assert is_there(first)
        with pytest.raises(ConfigError, match="processes = 3, but 2 train together"), crew_of(3, CPU, tell_process, ()):
            pass
    assert not is_there(first)
    assert not distributed.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("end", [end_at_once, end_slowly])
def test_a_process_that_is_lost_ends_the_training_and_another_takes_its_place(end: Callable[[Crew], None]) -> None:
    threads = torch.get_num_threads()
    with followers_stay():
        first = follower()
        with pytest.raises(MedmllmError, match=r"processes = 2 ended before its time \(exit code 9\)") as caught:
            lead_on(crew_of(2, CPU, end, ()))
        assert caught.value.code == "process_lost"
        assert torch.get_num_threads() == threads
        assert not distributed.is_initialized()
        assert follower() != first


@pytest.mark.slow
def test_followers_end_with_a_leader_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "lead.py").write_text(LEAD)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "lead.py")],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    ) as leader:  # fmt: skip
        assert leader.stdout is not None
        follower = int(leader.stdout.readline())
        assert is_there(follower)
        leader.send_signal(signal.SIGKILL)
    until = time.monotonic() + 120
    while is_there(follower) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_there(follower)
