"""Tell which notes of a cohort are much alike.

    notes, one by one -> runs of four words -> MinHash signature -> the first earlier note that shares them

Only signatures are kept (512 bytes a note), never text, so a cohort of any size can be compared in one pass; what is
found depends on the order of the studies alone. MinHash with banding: Broder, SEQUENCES 1997; Leskovec et al., Mining
of Massive Datasets, 3.3-3.4.
"""

import re
import zlib

import numpy as np
import numpy.typing as npt

from medmllm.config import QualityBounds
from medmllm.records import Note, QualityFinding

RUN = 4  # words
HASHES = 128
ROWS = 4  # of a band: two notes that share 80 % of their runs share one of the 32 bands with all but certainty
_PRIME = np.uint64(2**31 - 1)  # products of two numbers below it fit into 64 bits

Signature = npt.NDArray[np.uint32]


class NoteRegister:
    """Remembers the notes seen so far by signature."""

    def __init__(self, bounds: QualityBounds) -> None:
        self._bounds = bounds
        self._seen: list[tuple[str, Signature]] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def check(self, study_key: str, note: Note | None) -> QualityFinding | None:
        """Return a finding when an earlier study's note is much like this one; remember this one."""
        signature = None if note is None else sign(note.text, least_words=self._bounds.duplicate_words)
        if signature is None:
            return None
        bands = [(row, signature[row : row + ROWS].tobytes()) for row in range(0, HASHES, ROWS)]
        candidates = sorted({place for band in bands for place in self._bands.get(band, ())})
        alike = [(float(np.mean(self._seen[place][1] == signature)), -place) for place in candidates]
        likeness, place = max(alike, default=(0.0, 0))
        bound = self._bounds.duplicate_similarity
        if likeness < 1:  # of notes that are the same, the first stands for all
            for band in bands:
                self._bands.setdefault(band, []).append(len(self._seen))
            self._seen.append((study_key, signature))
        if likeness < bound:
            return None
        reason = (
            f"the note shares {likeness:.0%} of its word runs with that of {self._seen[-place][0]} (bound {bound:.0%})"
        )
        return QualityFinding("note_duplicate", study_key, likeness, bound, reason)


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
