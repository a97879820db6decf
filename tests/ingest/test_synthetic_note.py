"""The synthetic note: one sentence tells, nothing else does."""

import numpy as np
import pytest

from medmllm.ingest.synthetic_note import EXPOSED, NOT_EXPOSED, compose_note


@pytest.mark.parametrize("exposed", [True, False])
def test_history_is_the_sentence_on_exposure_alone_and_no_section_holds_findings(exposed: bool) -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        indication, history, *rest = compose_note(exposed=exposed, age_decade=60, rng=rng).splitlines()
        assert [line.split(":")[0] for line in rest] == ["TECHNIQUE", "COMPARISON", "SYNTHETIC NOTE"]
        assert indication.startswith("INDICATION: ")
        assert "60 to 69" in indication
        heading, _, sentence = history.partition(": ")
        assert heading == "HISTORY"
        assert sentence in (EXPOSED if exposed else NOT_EXPOSED)
        elsewhere = " ".join([indication, *rest])
        assert not [told for told in (*EXPOSED, *NOT_EXPOSED) if told in elsewhere]
        assert "asbestos" not in elsewhere.lower()


def test_the_two_ways_of_telling_are_of_equal_length_and_differ_by_a_plain_word() -> None:
    for told, denied in zip(EXPOSED, NOT_EXPOSED, strict=True):
        assert len(told.split()) == len(denied.split())
        assert abs(len(told) - len(denied)) <= 3
        assert "asbestos" in told.lower()
        assert "asbestos" not in denied.lower()


def test_notes_of_one_kind_vary() -> None:
    rng = np.random.default_rng(3)
    assert len({compose_note(exposed=True, age_decade=50, rng=rng) for _ in range(60)}) > 40
