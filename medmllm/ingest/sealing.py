"""Keep original identifiers on disk only under the site's secret.

    text with originals -> AES-SIV under a key derived from the secret -> bytes that say nothing without it

Deterministic: the same text gives the same bytes, so that a table may be grouped by a sealed column; nothing else is
told by them. AES-SIV: RFC 5297; key derivation: HKDF, RFC 5869.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medmllm.errors import IngestError

KEY_BYTES = 64  # AES-256 in SIV mode takes two keys


@dataclass(frozen=True, slots=True)
class Seal:
    """Seals and opens text with one site's secret, for one purpose.

    >>> seal = Seal.of(b"a secret for the example", "an example")
    >>> seal.open(seal.close("1.2.840.1"))
    '1.2.840.1'
    """

    cipher: AESSIV = field(repr=False)

    @classmethod
    def of(cls, secret: bytes, purpose: str) -> "Seal":
        """Return the seal of a site for one purpose; another purpose gives another key."""
        derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=f"medmllm {purpose}".encode()).derive(secret)
        return cls(AESSIV(derived))

    def close(self, text: str) -> bytes:
        """Return the sealed bytes of a text."""
        return self.close_bytes(text.encode("utf-8", "surrogatepass"))

    def close_bytes(self, data: bytes) -> bytes:
        """Return bytes sealed."""
        return self.cipher.encrypt(data, None)

    def open(self, sealed: bytes) -> str:
        """Return the text of sealed bytes.

        Raises:
            IngestError: `wrong_secret` when they were sealed with another secret, or changed.
        """
        return self.open_bytes(sealed).decode("utf-8", "surrogatepass")

    def open_bytes(self, sealed: bytes) -> bytes:
        """Return what `close_bytes` was given.

        Raises:
            IngestError: As `open`.
        """
        try:
            return self.cipher.decrypt(sealed, None)
        except InvalidTag:
            reason = "the bytes were sealed with another site secret, or changed"
            raise IngestError(reason, code="wrong_secret") from None
