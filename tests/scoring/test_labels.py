from types import SimpleNamespace
from typing import Any

import pytest

from medmllm.scoring.labels import leading_label, predicted_labels


def a_card() -> Any:
    task = SimpleNamespace(classes=("nodule", "effusion", "fracture"))
    return SimpleNamespace(task=task, operating_points={"nodule": 0.7, "effusion": 0.2, "fracture": 0.4})


@pytest.mark.parametrize(
    ("probabilities", "predicted", "leads"),
    [
        ((0.6, 0.3, 0.1), ("effusion",), 1),  # the nodule is likelier, but below its operating point
        ((0.7, 0.3, 0.5), ("nodule", "effusion", "fracture"), 0),
        ((0.6, 0.1, 0.3), (), 0),
    ],
)
def test_labels_are_told_at_their_own_points_and_the_likeliest_of_them_leads(
    probabilities: tuple[float, ...], predicted: tuple[str, ...], leads: int
) -> None:
    assert predicted_labels(probabilities, a_card()) == predicted
    assert leading_label(probabilities, a_card()) == leads
