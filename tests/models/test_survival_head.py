"""A fresh network of times to an event says of everybody what the training part says of all."""

import torch

from medmllm.models.survival_head import HazardHead


def test_a_study_of_which_nothing_is_said_has_everybodys_hazards() -> None:
    head = HazardHead(3)
    head.start_at([0.1, 0.25, 0.5])
    torch.testing.assert_close(torch.sigmoid(head(torch.zeros(2, 3))), torch.tensor([[0.1, 0.25, 0.5]] * 2))
