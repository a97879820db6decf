"""Only regular files are opened, and one typed error comes out of any parser."""

import io
import os
from pathlib import Path

import pytest

from medmllm.errors import DicomError, IngestError, NiftiError
from medmllm.ingest.opening import START_BYTES, PatientStream, RegularFile, one_error, open_regular


def test_a_regular_file_opens(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with open_regular(tmp_path / "a") as stream:
        assert stream.read() == b"abc"


def test_a_file_open_by_its_descriptor_tells_its_start_and_is_streamed_from_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(250)) * 40)
    with RegularFile(tmp_path / "a") as file:
        assert (file.size, file.start()) == (10_000, (bytes(range(250)) * 40)[:START_BYTES])
        for _ in range(2):
            with file.stream() as stream:
                assert stream.read(3) == b"\0\1\2"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file.descriptor)


@pytest.mark.timeout(60)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    with pytest.raises(IngestError) as refusal:
        open_regular(tmp_path / "pipe")
    assert refusal.value.code == "not_a_file"
    assert len(before) in (0, len(os.listdir("/proc/self/fd")))


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(IngestError, match="cannot be opened"):
        open_regular(tmp_path / "link")


def test_a_file_that_is_gone_may_be_tried_again_and_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(IngestError) as refusal:
        open_regular(tmp_path / "MEIER_HANS.dcm")
    assert refusal.value.retryable
    assert "MEIER" not in refusal.value.reason


@pytest.mark.parametrize(
    "thrown",
    [
        ValueError("Meier"),
        KeyError("Meier"),
        EOFError("Meier"),
        RecursionError("Meier"),
        OverflowError("Meier"),
        NotImplementedError("Meier"),
        AttributeError("Meier"),
        OSError("Meier"),
    ],
)
def test_whatever_a_parser_throws_becomes_one_error_that_quotes_nothing(thrown: Exception) -> None:
    with pytest.raises(NiftiError) as refusal, one_error(NiftiError, "the header cannot be parsed"):
        raise thrown
    assert refusal.value.reason == f"the header cannot be parsed ({type(thrown).__name__})"
    assert refusal.value.__cause__ is None
    assert refusal.value.code == "nifti_unreadable"
    assert not refusal.value.retryable


def test_lack_of_memory_and_disk_errors_may_be_tried_again() -> None:
    for thrown in (MemoryError(), OSError(5, "Input/output error")):
        with pytest.raises(DicomError) as refusal, one_error(DicomError, "x", code="y"):
            raise thrown
        assert refusal.value.retryable
        assert refusal.value.code == "y"


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(DicomError, match="mine") as refusal, one_error(NiftiError, "x"):
        raise DicomError("mine", code="mine")
    assert refusal.value.code == "mine"


def test_a_patient_stream_serves_so_many_reads_and_no_more() -> None:
    stream = PatientStream(io.BytesIO(b"abcdef"), 2)
    assert (stream.read(1), stream.seek(3), stream.read(2), stream.tell()) == (b"a", 3, b"de", 5)
    assert stream.seekable()
    assert stream.readable()
    with pytest.raises(IngestError, match="more elements than any header") as refusal:
        stream.read(1)
    assert refusal.value.code == "too_large"
