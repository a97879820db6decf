"""Progress counts epochs; what a fold did not need is counted when it is done."""

from medmllm.training.epoch_count import EpochCount
from tests.training.small import Told


def test_every_epoch_is_a_step_and_the_rest_is_counted_at_the_end() -> None:
    told, steps = Told(), []
    count = EpochCount(told, steps.append, 6)
    for epoch in (2, 3):  # resumed after the first, and stopped after the third
        count.log_epoch(epoch, {"train_loss": 0.5})
    assert (told.epochs, steps) == ([2, 3], [1, 1])
    count.finish()
    count.finish()
    assert steps == [1, 1, 4]
