"""A note much like an earlier study's is found, by keys alone; the order of the studies decides which is the copy."""

import numpy as np

from medmllm.quality.duplicates import NoteRegister, sign
from medmllm.records import Note
from tests.quality.phantoms import BOUNDS

WORDS = [f"word{number}" for number in range(400)]


def key(number: int) -> str:
    return f"st-{number:016x}"


def a_note(words: list[str]) -> Note:
    return Note(" ".join(words), ())


def test_the_same_note_with_other_case_and_spaces_is_found_and_named_by_key() -> None:
    register = NoteRegister(BOUNDS)
    assert register.check(key(1), a_note(WORDS[:50])) is None
    found = register.check(key(2), Note("\n".join(WORDS[:50]).upper() + ".", ()))
    assert found is not None
    assert (found.code, found.where, found.value, found.bound) == ("note_duplicate", key(2), 1.0, 0.9)
    assert found.reason == f"the note shares 100% of its word runs with that of {key(1)} (bound 90%)"
    again = register.check(key(3), a_note(WORDS[:50]))
    assert again is not None
    assert key(1) in again.reason  # the first stands for all
    assert len(register._keys) == 1


def test_a_note_with_one_word_changed_in_four_hundred_is_found_and_half_a_note_is_not() -> None:
    register = NoteRegister(BOUNDS)
    register.check(key(1), a_note(WORDS))
    changed = [*WORDS[:200], "another", *WORDS[201:]]  # 4 of 397 runs: 393 / 401 in common
    found = register.check(key(2), a_note(changed))
    assert found is not None
    assert found.value is not None
    assert abs(found.value - 393 / 401) < 0.05
    assert register.check(key(3), a_note(WORDS[200:] + [f"new{k}" for k in range(200)])) is None


def test_short_notes_are_not_compared() -> None:
    register = NoteRegister(BOUNDS)
    assert [register.check(key(k), a_note(WORDS[:19])) for k in range(2)] == [None, None]
    assert sign(" ".join(WORDS[:19]), least_words=20) is None
    assert [register.check(key(k), a_note(WORDS[:20])) is None for k in range(2)] == [True, False]
    assert register.check(key(9), None) is None


def test_the_likeness_of_two_signatures_is_the_share_of_runs_in_common() -> None:
    """MinHash: the expected agreement is the Jaccard similarity; with 128 hashes its deviation is below 0.045."""
    for common in (100, 250, 380):
        a, b = WORDS, WORDS[:common] + [f"other{k}" for k in range(400 - common)]
        runs = [{tuple(words[k : k + 4]) for k in range(397)} for words in (a, b)]
        expected = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        one, two = (sign(" ".join(words), least_words=1) for words in (a, b))
        assert one is not None
        assert two is not None
        assert abs(np.mean(one == two) - expected) < 3 * 0.045


def test_a_bound_of_one_finds_only_what_is_the_same() -> None:
    register = NoteRegister(BOUNDS.model_copy(update={"duplicate_similarity": 1.0}))
    register.check(key(1), a_note(WORDS))
    assert register.check(key(2), a_note([*WORDS[:200], *WORDS[210:]])) is None
    assert register.check(key(3), a_note(WORDS)) is not None


def test_more_notes_than_the_register_had_room_for_are_all_remembered() -> None:
    register, rng = NoteRegister(BOUNDS), np.random.default_rng(8)
    notes = [a_note([f"w{number}" for number in rng.integers(0, 10**6, 30)]) for _ in range(150)]
    assert [register.check(key(k), note) for k, note in enumerate(notes)] == [None] * 150
    for place in (0, 64, 149):
        found = register.check(key(999), notes[place])
        assert found is not None
        assert key(place) in found.reason
