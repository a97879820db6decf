"""The small parts of a run's files; the files themselves are tested end to end in tests/pipelines/test_train.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from medmllm.training.arms import split_cohort
from medmllm.training.run import Trained, headline, summary, write_package
from tests.reporting import made_up
from tests.training.small_cohort import TASK, a_cohort, a_config, run


def test_the_headline_holds_every_defined_estimate_by_arm() -> None:
    evaluation = made_up.evaluation()
    found = headline(evaluation)
    defined = [(arm.arm, m.name, m.estimate) for arm in evaluation.arms for m in arm.metrics if m.estimate is not None]
    assert found == {f"{arm}_{name}": estimate for arm, name, estimate in defined}
    assert len(found) == len(defined) > 3
    undefined = sum(m.estimate is None for arm in evaluation.arms for m in arm.metrics)
    assert sum(len(arm.metrics) for arm in evaluation.arms) == len(found) + undefined


def test_the_terminal_is_told_each_arms_auroc_with_its_interval_and_every_remark() -> None:
    evaluation = made_up.evaluation()
    lines = summary(evaluation, Path("RUN"), refused=0).splitlines()
    assert lines[0].startswith(f"{evaluation.n} studies of {evaluation.patients} patients")
    for arm in evaluation.arms:
        auroc = next(metric for metric in arm.metrics if metric.name == "auroc")
        assert f"  {arm.arm:6s} AUROC {auroc.estimate:.3f} [{auroc.low:.3f}, {auroc.high:.3f}]" in lines
    assert [f"  {remark}" for remark in evaluation.remarks if f"  {remark}" not in lines] == []
    assert lines[-1] == "-> RUN/report.html, RUN/model"


def test_the_terminal_is_told_how_many_studies_were_refused_and_where_the_reasons_are() -> None:
    told = [summary(made_up.evaluation(), Path("RUN"), refused=count).splitlines() for count in (0, 1, 4)]
    assert [line for line in told[0] if "refused" in line] == []
    assert told[1][-2] == "1 labelled study was refused: RUN/training_ledger.csv lists it with reasons."
    assert told[2][-2] == "4 labelled studies were refused: RUN/training_ledger.csv lists them with reasons."


@pytest.mark.parametrize(
    ("numbers", "told"),
    [((None, None, None), "is not defined"), ((0.7, None, None), "0.700 [no interval]")],
)
def test_an_arm_without_an_auroc_or_its_interval_is_not_passed_over(
    numbers: tuple[float | None, float | None, float | None], told: str
) -> None:
    plain = made_up.evaluation()
    arm = plain.arms[0].model_copy(update={"metrics": (made_up.metric("auroc", *numbers),)})
    assert (
        f"  {arm.arm:6s} AUROC {told}"
        in summary(plain.model_copy(update={"arms": (arm,)}), Path("RUN"), refused=0).splitlines()
    )


def test_synthetic_numbers_are_called_synthetic_on_every_line_that_holds_one() -> None:
    lines = summary(made_up.evaluation(synthetic=True), Path("RUN"), refused=0).splitlines()
    assert lines[0].startswith("SYNTHETIC cohort: ")
    numbers = [line for line in lines if " AUROC " in line and "[" in line and line.startswith("  ")]
    with_interval = [line for line in numbers if line.split()[1] == "AUROC"]
    assert with_interval
    assert all(line.endswith("(synthetic)") for line in with_interval)


def test_each_package_tells_of_its_own_folds_whether_odds_were_taken_back(tmp_path: Path) -> None:
    cohort, config = a_cohort(12, images=False), a_config(epochs=1)
    plan = split_cohort(cohort, config.training)
    (text,) = run(cohort, config, tmp_path, ("text",))
    plain, weighted = (
        replace(text, folds=tuple(fold.model_copy(update={"offsets": own}) for fold in text.folds))
        for own in (None, (-1.0,))  # as where class_weights is searched, and the arms choose differently
    )
    trained = Trained(TASK, cohort, plan, (plain, weighted), config, made_up.provenance(), synthetic=True)
    told = ["odds taken back" in write_package(trained, arm).calibration for arm in (plain, weighted)]
    assert told == [False, True]
