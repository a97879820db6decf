"""Provenance: the commit, versions, seed, inputs and time that a result is stamped with; never a path."""

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import medmllm
from medmllm import provenance
from medmllm.provenance import file_digest, git_state, package_versions, stamp, text_digest


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Versions and git state are remembered within a process: forget them around each test."""
    git_state.cache_clear()
    package_versions.cache_clear()
    yield
    git_state.cache_clear()
    package_versions.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout of one commit, from which provenance.py seems to run."""
    (tmp_path / "medmllm").mkdir()
    source = tmp_path / "medmllm" / "provenance.py"
    source.write_text("committed")
    identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(source))
    return tmp_path


def test_a_stamp_says_what_ran_on_what_and_when() -> None:
    before = datetime.now(UTC).replace(microsecond=0)  # a stamp tells whole seconds
    made = stamp("score STUDIES --out OUT", seed=7, inputs={"labels": "ab" * 32})
    after = datetime.now(UTC)
    assert (made.command, made.seed, made.inputs) == ("score STUDIES --out OUT", 7, {"labels": "ab" * 32})
    assert made.medmllm_version == medmllm.__version__
    assert made.python == platform.python_version()
    assert platform.node() not in made.platform or not platform.node(), "the machine is not named"
    time = datetime.fromisoformat(made.created_utc)
    assert time.utcoffset() == timedelta(0)
    assert before <= time <= after


def test_nothing_random_and_no_inputs_are_said_as_such() -> None:
    made = stamp("index STUDIES --out OUT")
    assert made.seed is None
    assert made.inputs == {}


def test_a_stamp_does_not_change_when_the_inputs_do_later() -> None:
    inputs = {"labels": "ab" * 32}
    made = stamp("train", inputs=inputs)
    inputs["labels"] = "cd" * 32
    assert made.inputs == {"labels": "ab" * 32}


def test_versions_are_those_installed_and_one_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_numpy(name: str) -> str:
        if name != "numpy":
            raise PackageNotFoundError(name)
        return version(name)

    assert package_versions()["pydicom"] == version("pydicom")
    package_versions.cache_clear()
    monkeypatch.setattr(provenance, "version", only_numpy)
    assert package_versions() == {"numpy": version("numpy")}


def test_a_clean_checkout_gives_its_commit(checkout: Path) -> None:
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    made = stamp("train")
    assert (made.commit, made.dirty) == (head.stdout.strip(), False)
    assert made.commit is not None
    assert len(made.commit) == 40


def test_a_changed_file_makes_it_dirty_and_a_new_one_does_not(checkout: Path) -> None:
    (checkout / "results.csv").write_text("not tracked")
    assert git_state()[1] is False
    git_state.cache_clear()
    (checkout / "medmllm" / "provenance.py").write_text("changed")
    assert git_state()[1] is True


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "site-packages" / "medmllm" / "provenance.py"))
    assert git_state() == (None, None)


def test_a_copy_installed_within_another_checkout_does_not_take_that_commit_for_its_own(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = checkout / ".venv" / "site-packages" / "medmllm" / "provenance.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert git_state() == (None, None)


def test_a_git_that_fails_or_is_not_there_stops_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / ".git" / "HEAD").write_text("damaged")
    assert git_state() == (None, None)
    git_state.cache_clear()
    monkeypatch.setenv("PATH", os.devnull)
    assert git_state() == (None, None)


def test_a_file_digest_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-4 examples.
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_text_digest_is_over_each_length_and_text() -> None:
    by_hand = hashlib.sha256(b"\0\0\0\0\0\0\0\x03a\xc3\xa4\0\0\0\0\0\0\0\0").hexdigest()
    assert text_digest(["aä", ""]) == by_hand
    assert text_digest([]) == hashlib.sha256().hexdigest()


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_two_lists_have_one_digest_only_when_they_are_the_same_list(one: list[str], other: list[str]) -> None:
    assert (text_digest(one) == text_digest(other)) == (one == other)
