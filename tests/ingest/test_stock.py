"""Only what is new or changed is looked at, by whatever workers, and a dying worker costs nothing."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from medmllm.ingest import stock
from medmllm.ingest.file_store import FileStore, StoredFile
from medmllm.ingest.keys import Keyring
from medmllm.ingest.layouts import Layouts
from medmllm.ingest.looking import Seen, look_at
from medmllm.ingest.recognise import Kind
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


def taken(folder: Path, store: FileStore, processes: int = 0) -> list[StoredFile]:
    counted: list[int] = []
    with Workers(KEYS, processes) as workers:
        total = take_stock(walk(folder), store, Layouts(folder), workers=workers, advance=counted.append)
    files = list(store.files())
    assert total == len(files) == 99
    assert sum(counted) == 98
    return files


def test_every_entry_of_the_walk_has_one_row_in_its_order(folder: Path) -> None:
    with FileStore(None, KEYS, folder) as store:
        files = taken(folder, store)
        names = [store.relative(file) for file in files]
    assert names == [entry.relative for entry in walk(folder)]
    assert [file.kind for file in files].count(Kind.DICOM) == 8
    link = files[names.index("link")]
    assert (link.fate.status, link.fate.code) == ("ignored", "symbolic_link")


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
        names = [store.relative(file) for file in taken(folder, store)]
    assert opened == ["06.txt", "new.txt"]
    assert names == [entry.relative for entry in walk(folder)]
