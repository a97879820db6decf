"""Whether torchrun has started this process among others, and what it does then.

RANK, WORLD_SIZE -> the first process runs the verb; the others take part in its trainings (training.launched)
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from medmllm.errors import MedmllmError

Parameters = ParamSpec("Parameters")
T = TypeVar("T")


def launched() -> int | None:
    """Return how many processes torchrun, or something that sets its variables, has started; None where it has not."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if "RANK" in os.environ and size.isdecimal() and size != "1" else None


def among_others(followed: T, lost: T) -> Callable[[Callable[Parameters, T]], Callable[Parameters, T]]:
    """Let a verb run in the first of the processes that torchrun started, and the others take part in its trainings.

    Args:
        followed: What the verb returns in the others.
        lost: What it returns in the others when a process ended in the midst of a training; that one says why.
    """

    def share(verb: Callable[Parameters, T]) -> Callable[Parameters, T]:
        @wraps(verb)
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> T:
            if launched() is None:
                return verb(*args, **kwargs)
            from medmllm.training.launched import take_part  # torch loads here

            try:
                done = take_part(os.environ, lambda: verb(*args, **kwargs))
            except MedmllmError as error:
                if error.code != "leader_lost":
                    raise
                return lost
            return followed if done is None else done

        return run

    return share
