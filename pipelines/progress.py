"""Show how far a pipeline is, on stderr; stdout is for results.

A bar where stderr is a terminal; elsewhere (a log file, a batch job) a line at the start, one at the end, and one every
half minute between, with the time that is left at the rate so far.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0


@contextmanager
def progress_bar(doing: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs; yields a function to call with how many more are done.

    Args:
        doing: What is going on, e.g. "Reading"; no identifiers.
        total: How many there will be; None when that is not known.
    """
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield from _lines(doing, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda more: progress.advance(task, more)


def _lines(doing: str, total: int | None) -> Iterator[Callable[[int], None]]:
    start, done = time.monotonic(), 0
    said = start

    def advance(more: int) -> None:
        nonlocal done, said
        done += more
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            of = "" if total is None else f" of {total}"
            left = "" if total is None or not done else f", about {_words((now - start) * (total - done) / done)} left"
            sys.stderr.write(f"{doing}: {done}{of} after {_words(now - start)}{left}\n")
            sys.stderr.flush()
            said = now

    sys.stderr.write(f"{doing}{'' if total is None else f' {total}'} ...\n")
    yield advance
    sys.stderr.write(f"{doing}: {done} done in {time.monotonic() - start:.1f} s\n")


def _words(seconds: float) -> str:
    """Return a duration as one says it.

    >>> _words(89.4), _words(150.0), _words(9000.0)
    ('89 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
