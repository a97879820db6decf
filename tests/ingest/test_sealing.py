"""What is sealed says nothing without the secret, and opens with it alone."""

import pytest

from medmllm.errors import IngestError
from medmllm.ingest.sealing import Seal

SECRET = b"the secret of these tests"


def test_what_was_closed_opens_again_also_with_bytes_that_are_no_utf8() -> None:
    seal = Seal.of(SECRET, "a test")
    for text in ("", "MEIER^ANNA", "M\udcfcller", "日本"):
        assert seal.open(seal.close(text)) == text


def test_the_same_text_gives_the_same_bytes_and_shows_nothing_of_itself() -> None:
    first, second = (Seal.of(SECRET, "a test") for _ in range(2))
    assert first.close("MEIER") == second.close("MEIER") != first.close("MEIES")
    assert b"MEI" not in first.close("MEIER")
    assert "secret" not in repr(first)


@pytest.mark.parametrize("other", [Seal.of(b"another secret, long enough", "a test"), Seal.of(SECRET, "another test")])
def test_another_secret_or_purpose_does_not_open_it(other: Seal) -> None:
    with pytest.raises(IngestError, match="another site secret") as refusal:
        other.open(Seal.of(SECRET, "a test").close("MEIER"))
    assert refusal.value.code == "wrong_secret"


def test_changed_bytes_do_not_open() -> None:
    seal = Seal.of(SECRET, "a test")
    sealed = bytearray(seal.close("MEIER"))
    sealed[-1] ^= 1
    with pytest.raises(IngestError):
        seal.open(bytes(sealed))
