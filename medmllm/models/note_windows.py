"""Read notes longer than a network in windows that overlap.

    embedded note (rows, tokens, width) -> windows -> contextual states -> one state per token of the whole note

Windows start at fixed distances from the note's start, so that a note's states do not depend on the notes
beside it in a batch. Where two windows cover a token, the state of the window in which it has more context is
taken, i.e. the one whose edge is farther away: the "maximum context" of Devlin et al., NAACL 2019
(`_check_is_max_context` of google-research/bert, run_squad.py). Each window numbers its positions from 0; only the
first holds the note's [CLS] and only the last its [SEP].
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

Reader = Callable[[Tensor, Tensor], Tensor]  # embedded, token_mask -> states (rows, tokens, width)


@dataclass(frozen=True, slots=True)
class Span:
    """One window, and from where on its states are taken."""

    start: int  # its first token
    stop: int  # one past its last token
    taken_from: int  # states before this one are those of the window before


@dataclass(frozen=True, slots=True)
class Windows:
    """How long a window is and how many tokens neighbours share: [text] window and overlap."""

    length: int
    overlap: int  # half of `length` at most, as TextSettings makes sure: no third window covers a token

    def cut(self, tokens: int) -> Iterator[Span]:
        """Give the windows of a note, in order; a note that fits into one is one.

        >>> [(span.start, span.stop, span.taken_from) for span in Windows(6, 2).cut(12)]
        [(0, 6, 0), (4, 10, 5), (8, 12, 9)]
        """
        start = 0
        yield Span(0, min(self.length, tokens), 0)
        while start + self.length < tokens:
            start += self.length - self.overlap
            # At the same distance from both edges, the earlier window is taken.
            yield Span(start, min(start + self.length, tokens), start + (self.overlap + 1) // 2)

    def read(self, reader: Reader, embedded: Tensor, token_mask: Tensor, *, prefix: int = 0) -> Tensor:
        """Return the states of whole notes, shape (rows, tokens, width).

        Args:
            reader: The network, for at most `prefix` + `length` tokens.
            embedded: Word embeddings, shape (rows, tokens, width).
            token_mask: Shape (rows, tokens); real words come first. A window that holds nothing new of a note is
                not read for it: a note that fits into the first is read as it would be alone.
            prefix: How many tokens at the start stand before every window. Their states are those of the first.
        """
        first, *others = self.cut(embedded.shape[1] - prefix)
        known = prefix + first.stop
        states = reader(embedded[:, :known], token_mask[:, :known])
        whole = states.new_zeros(*embedded.shape[:2], states.shape[2])
        whole[:, :known] = states
        for span in others:
            rows = token_mask[:, known:].any(dim=1).nonzero()[:, 0]
            if len(rows) == 0:
                break
            window = [*range(prefix), *range(prefix + span.start, prefix + span.stop)]
            found = reader(embedded[rows][:, window], token_mask[rows][:, window])
            taken = slice(prefix + span.taken_from, prefix + span.stop)
            whole[rows, taken] = found[:, prefix + span.taken_from - span.start :].to(whole.dtype)
            known = taken.stop
        return whole
