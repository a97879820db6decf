"""Tell which notes of a cohort are much alike.

    notes, one by one -> runs of four words -> MinHash signature -> the first earlier note that shares them

Only signatures are kept (512 bytes a note), never text, so a cohort of any size can be compared in one pass; what is
found depends on the order of the studies alone. A note much like an earlier one is not remembered: the earlier stands
for both, so that ten thousand copies of a template cost no more than one. MinHash with banding: Broder, SEQUENCES 1997;
Leskovec et al., Mining of Massive Datasets, 3.3-3.4.
"""

import re
import zlib

import numpy as np
import numpy.typing as npt

from medmllm.config import QualityBounds
from medmllm.records import Note, QualityFinding

RUN = 4  # words
HASHES = 128
ROWS = 8  # of a band: notes that share 90 % of their runs share one of 16 bands all but certainly; 80 %: 95 of 100
_PRIME = np.uint64(2**31 - 1)  # products of two numbers below it fit into 64 bits

Signature = npt.NDArray[np.uint32]


class NoteRegister:
    """Remembers the notes seen so far by signature."""

    def __init__(self, bounds: QualityBounds) -> None:
        self._bounds = bounds
        self.copies: dict[str, str] = {}  # study_key -> that of the earlier study whose note is much like its own
        self._keys: list[str] = []
        self._signatures = np.empty((64, HASHES), dtype=np.uint32)  # grows; one row per remembered note
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def check(self, study_key: str, note: Note | None) -> QualityFinding | None:
        """Return a finding when an earlier study's note is much like this one; else remember this one."""
        signature = None if note is None else sign(note.text, least_words=self._bounds.duplicate_words)
        if signature is None:
            return None
        bands = [(row, signature[row : row + ROWS].tobytes()) for row in range(0, HASHES, ROWS)]
        candidates = sorted({place for band in bands for place in self._bands.get(band, ())})
        bound = self._bounds.duplicate_similarity
        if candidates:
            likeness = (self._signatures[candidates] == signature).mean(axis=1)
            best = int(likeness.argmax())  # the earliest of the most alike
            value, other = float(likeness[best]), self._keys[candidates[best]]
            if value >= bound:
                self.copies[study_key] = other
                reason = f"the note shares {value:.0%} of its word runs with that of {other} (bound {bound:.0%})"
                return QualityFinding("note_duplicate", study_key, value, bound, reason)
        self._remember(study_key, signature, bands)
        return None

    def _remember(self, study_key: str, signature: Signature, bands: list[tuple[int, bytes]]) -> None:
        place = len(self._keys)
        if place == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[place] = signature
        self._keys.append(study_key)
        for band in bands:
            self._bands.setdefault(band, []).append(place)


def sign(text: str, *, least_words: int) -> Signature | None:
    """Return the MinHash signature of a text, shape (HASHES,); None when it has fewer words.

    Letter case, punctuation and white space do not count.
    """
    words = re.findall(r"\w+", text.casefold())
    if len(words) < max(least_words, RUN):
        return None
    runs = {zlib.crc32(" ".join(words[k : k + RUN]).encode()) for k in range(len(words) - RUN + 1)}
    hashed = np.fromiter(runs, dtype=np.uint64, count=len(runs)) % _PRIME
    factors, terms = _permutations()
    signature: Signature = ((factors[:, None] * hashed + terms[:, None]) % _PRIME).min(axis=1).astype(np.uint32)
    return signature


def _permutations() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the same factors and terms for each run of the program."""
    rng = np.random.default_rng(20)
    factors = rng.integers(1, int(_PRIME), HASHES, dtype=np.uint64)
    return factors, rng.integers(0, int(_PRIME), HASHES, dtype=np.uint64)
