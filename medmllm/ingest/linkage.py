"""Keep the table from key to original identifier under a passphrase.

    CSV bytes, passphrase -> scrypt -> AES-256-GCM -> one JSON file; and back

Whoever has the file alone has nothing; a changed file or a wrong passphrase is refused, not half read. Key derivation:
RFC 7914 with n = 2^15, r = 8, p = 1 (a tenth of a second, 32 MiB); encryption: NIST SP 800-38D.
"""

import base64
import json
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from medmllm.errors import MisuseError

FORMAT = "medmllm-linkage-1"
SHORTEST_PASSPHRASE = 8
COST = 2**15
LARGEST_BYTES = 2**30


def seal(table: bytes, passphrase: str) -> bytes:
    """Return an encrypted table as the text of a JSON file.

    Raises:
        MisuseError: The passphrase has fewer than 8 characters.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise MisuseError(f"the passphrase has {len(passphrase)} characters, at least {SHORTEST_PASSPHRASE} are needed")
    salt, nonce = os.urandom(16), os.urandom(12)
    sealed = AESGCM(_key(passphrase, salt)).encrypt(nonce, table, FORMAT.encode())
    parts = {"salt": salt, "nonce": nonce, "table": sealed}
    said = {"format": FORMAT} | {name: base64.b64encode(part).decode() for name, part in parts.items()}
    return (json.dumps(said, indent=2) + "\n").encode()


def unseal(file: Path, passphrase: str) -> bytes:
    """Return the table of an encrypted file.

    Raises:
        MisuseError: It is not such a file, was changed, or has another passphrase.
    """
    try:
        said = json.loads(file.read_bytes()[:LARGEST_BYTES])
        if said["format"] != FORMAT:
            raise ValueError
        salt, nonce, sealed = (base64.b64decode(said[name], validate=True) for name in ("salt", "nonce", "table"))
        return AESGCM(_key(passphrase, salt)).decrypt(nonce, sealed, FORMAT.encode())
    except OSError as error:
        raise MisuseError(f"the linkage table cannot be read: {error.strerror}") from None
    except InvalidTag:
        raise MisuseError("the passphrase is another one, or the linkage table was changed") from None
    except (ValueError, LookupError, TypeError):
        raise MisuseError("this is no linkage table written with --encrypt-linkage") from None


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=COST, r=8, p=1).derive(passphrase.encode())
