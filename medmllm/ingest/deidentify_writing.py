"""Write a file of pieces whole or not at all.

    pieces -> FILE.partial -> FILE

What the pieces come from may fail too: that is another error, and the file is not there then either.
"""

import gzip
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from medmllm.errors import MedmllmError

ZIP_LEVEL = 6


def write_pieces(target: Path | None, pieces: Iterator[bytes], *, zipped: bool = False) -> None:
    """Write pieces to a file, zipped without a name or time where asked for; None only runs through them.

    Raises:
        MedmllmError: `cannot_write`: the disk is full, read-only or the like. The run should stop.
    """
    if target is None:
        for _ in pieces:
            pass
        return
    partial = target.with_name(target.name + ".partial")
    try:
        with ExitStack() as stack:
            with _writing():
                target.parent.mkdir(parents=True, exist_ok=True)
                out: Any = stack.enter_context(partial.open("wb"))
                if zipped:
                    out = stack.enter_context(gzip.GzipFile("", "wb", compresslevel=ZIP_LEVEL, fileobj=out, mtime=0))
            for piece in pieces:
                with _writing():
                    out.write(piece)
        with _writing():
            os.replace(partial, target)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(target: Path | None, text: str) -> None:
    """Write a text as UTF-8; see `write_pieces`."""
    write_pieces(target, iter([text.encode("utf-8")]))


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MedmllmError(f"a de-identified file cannot be written: {error.strerror}", code="cannot_write") from None
