"""Give patients, studies, series and files pseudonymous keys.

    original identifier + the site's secret -> HMAC-SHA256 -> "pt-5f0c31e2a9b4d678"

The same site gives the same patient the same key in every run, and nobody without the secret can go back or test a
guess. The secret lies in a file of its own, never among results. Keyed hashing: RFC 2104; 64 bits are kept, so that
two among a million originals collide with a chance of one in 37 million.
"""

import hmac
import logging
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from medmllm.errors import MisuseError

SECRET_FILE_VARIABLE = "MEDMLLM_SITE_SECRET_FILE"
SHORTEST_SECRET_BYTES = 16
KEY_DIGITS = 16
LONGEST_SHIFT_DAYS = 3650

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Keyring:
    """Makes keys with one site's secret; the secret never shows in a repr.

    >>> Keyring(b"a secret for the example").patient("12345")
    'pt-04f07fa9edb10198'
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < SHORTEST_SECRET_BYTES:
            raise MisuseError(
                f"the site secret has {len(self.secret)} bytes, at least {SHORTEST_SECRET_BYTES} are needed"
            )

    def patient(self, original: str) -> str:
        """Return the key of a patient, "pt-" and 16 hexadecimal digits."""
        return self._key("pt", "patient", original)

    def study(self, original: str) -> str:
        """Return the key of a study, "st-" and 16 hexadecimal digits."""
        return self._key("st", "study", original)

    def series(self, original: str) -> str:
        """Return the key of a series, "se-" and 16 hexadecimal digits."""
        return self._key("se", "series", original)

    def file(self, original: str) -> str:
        """Return the key of a file, "fi-" and 16 hexadecimal digits, from its path relative to the root."""
        return self._key("fi", "file", original)

    def uid(self, original: str) -> str:
        """Return the UID that stands for another one, always the same: "2.25." and 128 bits as a decimal number.

        Of the form that PS3.5 B.2 gives to a UUID, so that no two sites' can collide.
        """
        return f"2.25.{int.from_bytes(self._digest('uid', original)[:16])}"

    def date_shift_days(self, patient_key: str) -> int:
        """Return by how many days all dates of a patient are moved: -1 to -3650, the same in every run."""
        return -1 - int.from_bytes(self._digest("date", patient_key)[:8]) % LONGEST_SHIFT_DAYS

    def _key(self, prefix: str, kind: str, original: str) -> str:
        return f"{prefix}-{self._digest(kind, original).hex()[:KEY_DIGITS]}"

    def _digest(self, kind: str, original: str) -> bytes:
        message = f"{kind}\0{original}".encode("utf-8", "surrogateescape")  # file names may be no valid UTF-8
        return hmac.digest(self.secret, message, "sha256")


def load_keyring() -> Keyring:
    """Return the keyring of this site, making its secret on first use.

    The secret is hexadecimal text in the file named by MEDMLLM_SITE_SECRET_FILE, else in
    `$XDG_CONFIG_HOME/medmllm/site_secret` (`~/.config` when that is not set).

    Raises:
        MisuseError: The file cannot be read or made, others may read it, or it is too short.
    """
    file = secret_file()
    try:
        if not file.exists():
            _make_secret(file)
        mode = stat.S_IMODE(file.stat().st_mode)
        text = file.read_text(encoding="ascii").strip()
        if mode & stat.S_IROTH:
            raise MisuseError(f"everybody on this machine may read the site secret (mode {mode:o}): chmod 600 it")
        return Keyring(bytes.fromhex(text))
    except OSError as error:
        raise MisuseError(f"the site secret cannot be read or made: {error.strerror}") from None
    except ValueError:
        raise MisuseError("the site secret is not hexadecimal text") from None


def secret_file() -> Path:
    """Return where this site's secret lies or will lie."""
    named = os.environ.get(SECRET_FILE_VARIABLE)
    if named:
        return Path(named)
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "medmllm" / "site_secret"


def _told_place() -> str:
    """Return where the secret lies, without the path of anybody's home."""
    if os.environ.get(SECRET_FILE_VARIABLE):
        return f"in the file that {SECRET_FILE_VARIABLE} names"
    folder = "$XDG_CONFIG_HOME" if os.environ.get("XDG_CONFIG_HOME") else "~/.config"
    return f"in {folder}/medmllm/site_secret ({SECRET_FILE_VARIABLE} names another file)"


def _make_secret(file: Path) -> None:
    """Write a new secret whole or not at all; of two runs at once, the first secret stands."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    try:
        os.link(draft, file)
        log.warning(
            "made a new site secret for pseudonymous keys, %s. Keep and guard it: without it, keys change.",
            _told_place(),
        )
    except FileExistsError:
        pass
    finally:
        draft.unlink()
