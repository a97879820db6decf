"""Open what lies on a disk without being harmed by it: regular files only, and one typed error for all that fails.

    path -> regular file, not a link, not a pipe -> bytes
    whatever a parser throws at damaged bytes -> one IngestError with a code

A parser's own message may quote the file (a name, a number, a path), so only the class of its exception is passed on.
"""

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medmllm.errors import IngestError

PARSER_FAILURES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # also NotImplementedError and RecursionError
    TypeError,
    ValueError,  # also UnicodeError
    struct.error,
    zlib.error,
)
"""What pydicom, nibabel, zlib and the codecs were seen to raise when files were damaged at random."""


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading; a link, pipe, socket or device is refused, and never waited for.

    Raises:
        IngestError: `not_a_file` when it is something else, `unreadable` when it cannot be opened (retryable).
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except OSError as error:
        raise IngestError(f"the file cannot be opened: {error.strerror}", retryable=True) from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise IngestError("this is a link, pipe, socket or device, not a regular file", code="not_a_file")
    return os.fdopen(number, "rb")


class PatientStream(io.RawIOBase):
    """A stream that serves so many reads and no more: a parser may ask for millions of elements that mean nothing.

    Args:
        stream: Open for reading; stays the caller's to close.
        reads: How many times it may be read from.
    """

    def __init__(self, stream: BinaryIO, reads: int) -> None:
        super().__init__()
        self._stream, self._left = stream, reads

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        Raises:
            IngestError: `too_large` when it was asked too often.
        """
        self._left -= 1
        if self._left < 0:
            raise IngestError("the file holds more elements than any header does", code="too_large")
        return self._stream.read(-1 if size is None else size)

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._stream.tell()

    def seekable(self) -> bool:
        """Say that it can be gone about in."""
        return True

    def readable(self) -> bool:
        """Say that it can be read from."""
        return True


@contextmanager
def one_error(
    kind: type[IngestError], doing: str, *, code: str | None = None, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn whatever a parser throws inside into one typed error; our own errors pass as they are.

    Args:
        kind: The error to raise, e.g. `DicomError`.
        doing: What failed, in words that name no patient and no path: "the header cannot be parsed".
        code: Its code; None for the default of `kind`.
        also: Exception classes of the library in use that derive from `Exception` directly.
    """
    try:
        yield
    except (*PARSER_FAILURES, *also) as error:
        passing = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        raise kind(f"{doing} ({type(error).__name__})", code=code, retryable=passing) from None
