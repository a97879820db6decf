"""Pseudonymous keys and the site's secret."""

import hashlib
import hmac
import logging
import threading
from pathlib import Path

import pytest

from medmllm.errors import MisuseError
from medmllm.ingest.keys import Keyring, load_keyring, secret_file

SECRET = b"twenty bytes, no less"


def test_a_key_is_the_start_of_an_hmac_over_kind_and_original() -> None:
    expected = hmac.new(SECRET, b"patient\x0012345", hashlib.sha256).hexdigest()[:16]
    assert Keyring(SECRET).patient("12345") == f"pt-{expected}"


def test_the_same_original_has_unrelated_keys_as_patient_study_series_and_file() -> None:
    ring = Keyring(SECRET)
    keys = [ring.patient("1"), ring.study("1"), ring.series("1"), ring.file("1")]
    assert [key[:3] for key in keys] == ["pt-", "st-", "se-", "fi-"]
    assert len({key[3:] for key in keys}) == 4


def test_another_secret_gives_other_keys() -> None:
    assert Keyring(SECRET).patient("1") != Keyring(SECRET[::-1]).patient("1")


def test_a_file_name_that_is_no_utf8_has_a_key() -> None:
    assert Keyring(SECRET).file("M\udcfcller.dcm").startswith("fi-")


def test_the_secret_shows_in_no_repr() -> None:
    assert "twenty" not in repr(Keyring(SECRET))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(MisuseError, match="has 5 bytes"):
        Keyring(b"short")


def test_the_first_use_makes_a_secret_that_only_its_owner_reads_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "new" / "secret"
    monkeypatch.setenv("MEDMLLM_SITE_SECRET_FILE", str(file))
    with caplog.at_level(logging.WARNING):
        first = load_keyring()
    assert file.stat().st_mode & 0o777 == 0o600
    assert "guard it" in caplog.text
    assert "in the file that MEDMLLM_SITE_SECRET_FILE names" in caplog.text
    assert str(tmp_path) not in caplog.text  # logs name no folder of a person
    assert first.secret.hex() == file.read_text().strip()
    assert len(first.secret) == 32
    assert load_keyring().patient("1") == first.patient("1")
    assert [entry.name for entry in file.parent.iterdir()] == ["secret"]  # no draft is left behind


def test_a_secret_in_its_usual_place_is_told_with_that_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MEDMLLM_SITE_SECRET_FILE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable, told in ((str(tmp_path / "xdg"), "$XDG_CONFIG_HOME"), ("", "~/.config")):
        monkeypatch.setenv("XDG_CONFIG_HOME", variable)
        with caplog.at_level(logging.WARNING):
            load_keyring()
        assert f"in {told}/medmllm/site_secret (MEDMLLM_SITE_SECRET_FILE names another file)" in caplog.messages[-1]
    assert [(tmp_path / folder / "medmllm" / "site_secret").is_file() for folder in ("xdg", "home/.config")] == [
        True
    ] * 2


def test_runs_that_start_at_once_agree_on_one_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMLLM_SITE_SECRET_FILE", str(tmp_path / "secret"))
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(load_keyring().patient("1"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_without_a_named_file_the_secret_lies_in_the_users_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDMLLM_SITE_SECRET_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert secret_file() == tmp_path / "medmllm" / "site_secret"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert secret_file() == tmp_path / "home" / ".config" / "medmllm" / "site_secret"


@pytest.mark.parametrize(
    ("content", "mode", "complaint"),
    [
        ("ab" * 32, 0o644, "everybody on this machine may read"),
        ("ab" * 4, 0o600, "has 4 bytes"),
        ("some plain words", 0o600, "not hexadecimal"),
    ],
)
def test_a_secret_that_protects_nothing_is_refused(site_secret: Path, content: str, mode: int, complaint: str) -> None:
    site_secret.write_text(content)
    site_secret.chmod(mode)
    with pytest.raises(MisuseError, match=complaint) as refusal:
        load_keyring()
    assert content not in str(refusal.value)


def test_a_secret_that_cannot_be_made_is_a_misuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDMLLM_SITE_SECRET_FILE", str(tmp_path / "file" / "secret"))
    with pytest.raises(MisuseError, match="cannot be read or made"):
        load_keyring()
