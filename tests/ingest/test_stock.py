"""Only what is new or changed is looked at, by whatever workers, and a dying worker costs nothing."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from medmllm.ingest import stock
from medmllm.ingest.fate import Fate
from medmllm.ingest.file_store import FileStore
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Layouts
from medmllm.ingest.looking import Seen, look_at
from medmllm.ingest.stock import Workers, take_stock
from medmllm.ingest.walk import FoundFile, walk
from tests.factories import write_dicom_study

KEYS = Keyring(b"the secret of these tests")
TESTS_PROCESS = os.getpid()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten DICOM files, ninety notes and a link."""
    for number in (1, 2):
        write_dicom_study(tmp_path / "studies" / f"ct{number}", study=number, note=None)
    for number in range(90):
        (tmp_path / "studies" / f"{number:02d}.txt").write_text("x")
    (tmp_path / "studies" / "link").symlink_to(tmp_path)
    return tmp_path / "studies"


Row = tuple[str, str, int, Fate]


def taken(folder: Path, store: FileStore, processes: int = 0) -> list[Row]:
    counted: list[int] = []
    with Workers(KEYS, processes) as workers:
        total = take_stock(walk(folder), store, Layouts(folder), workers=workers, advance=counted.append)
    files = list(store.fates())
    assert total == len(files) == 99
    assert sum(counted) == 98
    return files


def test_every_entry_of_the_walk_has_one_row_in_its_order(folder: Path) -> None:
    with FileStore(None, KEYS, folder) as store:
        files = taken(folder, store)
        problems = [(store.relative(file), file.fate.status, file.fate.code) for file in store.problems()]
    assert [key for key, _, _, _ in files] == keys_of(folder)
    assert [kind for _, kind, _, _ in files].count("dicom") == 8
    assert problems == [("link", "ignored", "symbolic_link")]


def keys_of(folder: Path) -> list[str]:
    return [KEYS.file(entry.relative) for entry in walk(folder)]


@pytest.mark.parametrize("threads", [1, 2], ids=["forked", "started afresh"])
def test_threads_and_processes_give_what_one_thread_gives(
    folder: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    with FileStore(None, KEYS, folder) as store:
        plain = taken(folder, store)
    monkeypatch.setattr(stock, "BATCH", 8)
    monkeypatch.setattr(stock, "SLOW_S", -1)  # every batch counts as slow
    with FileStore(None, KEYS, folder) as store:
        assert taken(folder, store) == plain
    monkeypatch.setattr(stock, "SLOW_S", 1e9)
    monkeypatch.setattr(stock, "MANY_BATCHES", 2)
    monkeypatch.setattr(stock.threading, "active_count", lambda: threads)
    with FileStore(None, KEYS, folder) as store:
        assert taken(folder, store, processes=2) == plain


def look_and_die(files: Sequence[FoundFile], keyring: Keyring) -> list[Seen]:
    """Look at files in the process of the tests, and kill any other."""
    if os.getpid() != TESTS_PROCESS:
        os._exit(9)
    return look_at(files, keyring)


def test_a_worker_that_dies_costs_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileStore(None, KEYS, folder) as store:
        plain = taken(folder, store)
    monkeypatch.setattr(stock, "BATCH", 8)
    monkeypatch.setattr(stock, "look_at", look_and_die)
    monkeypatch.setattr(stock.threading, "active_count", lambda: 1)
    with FileStore(None, KEYS, folder) as store:
        assert taken(folder, store, processes=2) == plain


def test_unchanged_files_are_not_opened_and_vanished_ones_forgotten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(tmp_path / "store", KEYS, folder) as store:
        plain = taken(folder, store)
        assert (store.read, store.kept) == (98, 0)
    opened: list[str] = []

    def look(files: Sequence[FoundFile], keyring: Keyring) -> list[Seen]:
        opened.extend(file.relative for file in files)
        return look_at(files, keyring)

    monkeypatch.setattr(stock, "look_at", look)
    with FileStore(tmp_path / "store", KEYS, folder) as store:
        assert taken(folder, store) == plain
        assert opened == []
    (folder / "05.txt").unlink()
    (folder / "new.txt").write_text("x")
    (folder / "06.txt").write_text("y")
    with FileStore(tmp_path / "store", KEYS, folder) as store:
        (folder / "07.txt").unlink()
        (folder / "0.txt").write_text("x")  # before the others, though its row is written last
        files = taken(folder, store)
        assert [store.relative(file) for file in store.problems()] == ["link"]
    assert opened == ["0.txt", "06.txt", "new.txt"]
    assert [key for key, _, _, _ in files] == keys_of(folder)


def test_a_file_that_was_mended_has_no_problem_any_more_and_others_keep_theirs(tmp_path: Path) -> None:
    write_dicom_study(tmp_path / "studies" / "ct", note=None)
    whole = (tmp_path / "studies" / "ct" / "0001.dcm").read_bytes()
    for name in ("a.dcm", "b.dcm", "c.dcm"):
        (tmp_path / "studies" / name).write_bytes(b"")
    problems = []
    for content in (None, whole, None, b""):
        if content is not None:
            (tmp_path / "studies" / "b.dcm").write_bytes(content)
        with FileStore(tmp_path / "store", KEYS, tmp_path / "studies") as store, Workers(KEYS) as workers:
            take_stock(walk(tmp_path / "studies"), store, Layouts(tmp_path / "studies"), workers=workers,
                       advance=lambda more: None)  # fmt: skip
            problems.append("".join(store.relative(file)[0] for file in store.problems()))
    assert problems == ["abc", "ac", "ac", "abc"]


def answer_or_die(number: int) -> int:
    """Say in the process of the tests what comes next, and kill any other."""
    return look_and_die([], KEYS) or number + 1


@pytest.mark.parametrize("processes", [0, 2])
def test_what_is_asked_is_answered_by_whoever_is_there(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.setattr(stock.threading, "active_count", lambda: 1)
    with Workers(KEYS, processes) as workers:
        answers = [workers.ask(next_and_process, number) for number in (7, 8)]
        assert [answer()[0] for answer in answers] == [8, 9]
        assert {answer()[1] == TESTS_PROCESS for answer in answers} == {processes == 0}
        later = [workers.ask(answer_or_die, number) for number in (7, 8)]
        assert [answer() for answer in later] == [8, 9]
        assert workers.ask(answer_or_die, 9)() == 10


def next_and_process(number: int) -> tuple[int, int]:
    """Return the next number, and who says so."""
    return number + 1, os.getpid()


def be_busy(folder: Path) -> bool:
    """Keep a process busy until it is told to stop; return whether it was told, or gave up."""
    (folder / "busy").touch()
    return there(folder / "stop")


def there(file: Path) -> bool:
    """Wait for a file and return whether it came."""
    until = time.monotonic() + 60
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    return file.exists()


def test_no_thread_of_dismissed_processes_is_left_for_the_end_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(threading.enumerate())
    with monkeypatch.context() as alone:
        alone.setattr(stock.threading, "active_count", lambda: 1)
        workers = Workers(KEYS, 2).__enter__()
    told = workers.ask(be_busy, tmp_path)
    assert there(tmp_path / "busy")
    workers.dismiss()
    (tmp_path / "stop").touch()
    workers.__exit__(None, None, None)
    assert told(), "this process goes on with something else while the others end"
    assert set(threading.enumerate()) <= before
