"""What is said of a learning curve, in words and for tracking."""

import pytest

from medmllm.training.learning_curve import learning_line, learning_metrics, learning_remark
from medmllm.trust_documents import EstimateDocument, LearningCurveDocument, LearningPointDocument


def estimate(*numbers: float | None) -> EstimateDocument:
    return EstimateDocument(estimate=numbers[0], low=numbers[1], high=numbers[2])


def curve(*behind: float | None, auroc: float | None = 0.61) -> LearningCurveDocument:
    def point(fraction: float, patients: tuple[int, int], own: float | None, gap: EstimateDocument | None):
        return LearningPointDocument(
            fraction=fraction, training_patients=patients, training_studies=patients, auroc=estimate(own, None, None),
            behind=gap,
        )  # fmt: skip

    return LearningCurveDocument(
        arm="fused", points=(point(0.25, (11, 13), auroc, estimate(*behind)), point(1.0, (47, 49), 0.74, None))
    )


@pytest.mark.parametrize(
    ("behind", "said"),
    [
        ((0.13, 0.02, 0.24), "still rises from 12 to 48 training patients (+0.130, 95 % interval +0.020 to +0.240)"),
        ((0.13, 0.0, 0.26), "It is not shown that the AUROC of the fused model rises from 12 to 48 training patients"),
        ((-0.1, -0.2, -0.01), "It is not shown"),
    ],
)
def test_a_rise_is_called_one_only_when_its_interval_lies_above_zero(behind: tuple[float, ...], said: str) -> None:
    (sentence,) = learning_remark(curve(*behind), confidence=0.95)
    assert said in sentence


def test_a_part_of_all_patients_is_no_step_of_the_curve() -> None:
    whole = curve(0.0, 0.0, 0.0).points[1]
    part = whole.model_copy(update={"fraction": 0.9, "behind": estimate(0.0, 0.0, 0.0)})
    (sentence,) = learning_remark(curve(0.0, 0.0, 0.0).model_copy(update={"points": (part, whole)}), confidence=0.95)
    assert sentence.startswith(
        "The learning curve tells nothing of more patients: 0.9 of the training patients are all"
    )
    assert "all 48 of them" in sentence
    part = part.model_copy(update={"training_patients": (47, 48)})
    (sentence,) = learning_remark(curve(0.0, 0.0, 0.0).model_copy(update={"points": (part, whole)}), confidence=0.95)
    assert "from 47.5 to 48.0 training patients" in sentence


def test_nothing_is_said_where_nothing_was_asked_for_or_is_defined() -> None:
    assert learning_remark(None, confidence=0.95) == ()
    assert learning_remark(curve(None, None, None), confidence=0.95) == ()
    assert learning_metrics(None) == {}
    assert learning_metrics(curve(None, None, None, auroc=None)) == {}


def test_the_terminal_tells_auroc_and_mean_number_of_patients_of_every_point() -> None:
    line = learning_line(curve(0.13, 0.02, 0.24), synthetic=True)
    assert line == "fused AUROC by training patients: 0.610 from 12, 0.740 from 48 (synthetic)"
    assert "none from 12" in learning_line(curve(None, None, None, auroc=None), synthetic=False)


def test_smaller_trainings_are_tracked_under_their_fraction() -> None:
    assert learning_metrics(curve(0.13, 0.02, 0.24)) == {"fused_auroc_at_0.25": 0.61}


def test_of_times_to_an_event_the_c_index_is_named() -> None:
    timed = curve(0.13, 0.02, 0.24).model_copy(update={"metric": "C-index"})
    assert learning_metrics(timed) == {"fused_c_index_at_0.25": 0.61}
    assert learning_line(timed, synthetic=False).startswith("fused C-index by training patients: 0.610 from 12")
    assert learning_remark(timed, confidence=0.95)[0].startswith("The C-index of the fused model still rises")
