import numpy as np
import pytest

from medmllm.attribution.modalities import modality_shares, modality_sums, section_sums
from medmllm.records import WordAttribution


def test_shares_are_of_the_absolute_attribution_and_sums_are_signed() -> None:
    attributions = {"image": np.array([[[3.0, -2.0]], [[-1.0, 0.0]]]), "text": np.array([-1.0, 3.0])}
    assert modality_shares(attributions) == pytest.approx({"image": 0.6, "text": 0.4})
    assert modality_sums(attributions) == {"image": 0.0, "text": 2.0}


def test_nothing_moved_means_no_share_for_anybody() -> None:
    attributions = {"image": np.zeros((2, 1, 3)), "text": np.array([])}
    assert modality_shares(attributions) == {"image": 0.0, "text": 0.0}
    assert modality_sums(attributions) == {"image": 0.0, "text": 0.0}


def test_sections_are_summed_in_the_order_of_the_note() -> None:
    words = [
        WordAttribution(40, 44, "impression", 0.5),
        WordAttribution(20, 24, "history", -0.25),
        WordAttribution(0, 4, "", 1.0),
        WordAttribution(50, 54, "impression", 0.25),
    ]
    sums = section_sums(words)
    assert sums == {"": 1.0, "history": -0.25, "impression": 0.75}
    assert list(sums) == ["", "history", "impression"]
    assert section_sums([]) == {}
