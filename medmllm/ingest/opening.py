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

START_BYTES = 8192  # more than most headers
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
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class RegularFile:
    """A regular file, open for reading by its descriptor; use as a context.

    Where many files are looked at, Python's own stream around a descriptor takes longer than reading a header.

    Raises:
        IngestError: As `open_regular`.
    """

    __slots__ = ("_start", "descriptor", "size")

    def __init__(self, path: Path | str) -> None:
        try:
            self.descriptor = os.open(path, _FLAGS)
        except OSError as error:
            raise IngestError(f"the file cannot be opened: {error.strerror}", retryable=True) from None
        status = os.fstat(self.descriptor)
        self.size = status.st_size
        self._start: bytes | None = None
        if not stat.S_ISREG(status.st_mode):
            os.close(self.descriptor)
            raise IngestError("this is a link, pipe, socket or device, not a regular file", code="not_a_file")

    def __enter__(self) -> "RegularFile":
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)

    def start(self) -> bytes:
        """Return its first bytes, `START_BYTES` at most."""
        if self._start is None:
            self._start = os.pread(self.descriptor, START_BYTES, 0)
        return self._start

    def stream(self) -> BinaryIO:
        """Return a stream at the start of the file, for as long as the file stands open."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.fdopen(self.descriptor, "rb", closefd=False)


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading; a link, pipe, socket or device is refused, and never waited for.

    Raises:
        IngestError: `not_a_file` when it is something else, `unreadable` when it cannot be opened (retryable).
    """
    return os.fdopen(RegularFile(path).descriptor, "rb")


class WatchedStream(io.RawIOBase):
    """A stream behind another: it goes about in it, and says itself how much of it may be read.

    Args:
        stream: Open for reading; stays the caller's to close.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

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


class PatientStream(WatchedStream):
    """A stream that serves so many reads and no more: a parser may ask for millions of elements that mean nothing.

    Args:
        stream: Open for reading; stays the caller's to close.
        reads: How many times it may be read from.
    """

    def __init__(self, stream: BinaryIO, reads: int) -> None:
        super().__init__(stream)
        self._left = reads

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes.

        Raises:
            IngestError: `too_large` when it was asked too often.
        """
        self._left -= 1
        if self._left < 0:
            raise IngestError("the file holds more elements than any header does", code="too_large")
        return self._stream.read(-1 if size is None else size)


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
        raise refused_as(kind, error, doing, code=code) from None


def refused_as(kind: type[IngestError], error: Exception, doing: str, *, code: str | None = None) -> IngestError:
    """Return the typed error for what a parser threw; arguments as of `one_error`."""
    passing = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
    return kind(f"{doing} ({type(error).__name__})", code=code, retryable=passing)
