"""The training report shows evaluation.json, and words it no better than it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmllm import result_documents, trust_documents
from medmllm.config import TrainConfig, load_config
from medmllm.evaluation.cohort import OutOfFold
from medmllm.reporting.cohort import write_training_report
from medmllm.reporting.training_figures import draw_figures
from tests.reporting import made_up
from tests.reporting.html_page import Page

TARGETS = np.array([0, 1, 1, 0, 1, 0, 1])
PATIENTS = list("abcdefg")


def arm(name: str) -> OutOfFold:
    positive = np.array([0.15, 0.85, 0.45, 0.55, 0.75, 0.05, 0.95])
    return OutOfFold(name, np.stack([1 - positive, positive], axis=1), positive, (positive > 0.5).astype(int))


def report(tmp_path: Path, evaluation: result_documents.EvaluationDocument | None = None, **changes: object) -> Page:
    shown = evaluation or made_up.evaluation()
    figures = draw_figures(
        shown, [arm(name) for name in ("image", "text", "fused")], TARGETS, PATIENTS, confidence=0.95
    )
    parts: dict[str, object] = {"evaluation": shown, "figures": [figures], "card": made_up.card()}
    write_training_report(tmp_path / "report.html", **(parts | changes))  # type: ignore[arg-type]
    return Page.read(tmp_path / "report.html")


def with_difference(metric: result_documents.MetricDocument) -> result_documents.EvaluationDocument:
    return made_up.evaluation().model_copy(update={"differences": (metric,)})


def test_every_metric_and_interval_stands_on_the_page_exactly(tmp_path: Path) -> None:
    shown = set(report(tmp_path).values)
    wanted = {
        repr(number)
        for one in made_up.evaluation().arms
        for metric in one.metrics
        for number in (metric.estimate, metric.low, metric.high)
        if number is not None
    }
    assert {"0.8543", "0.18123"} <= wanted
    assert wanted <= shown


def test_every_difference_stands_on_the_page_exactly(tmp_path: Path) -> None:
    shown = report(tmp_path).values
    for metric in made_up.evaluation().differences:
        numbers = [repr(number) for number in (metric.estimate, metric.low, metric.high)]
        assert any(shown[at : at + 3] == numbers for at in range(len(shown)))


def test_arms_stand_side_by_side_with_intervals(tmp_path: Path) -> None:
    page = report(tmp_path)
    table = next(t.line for t in page.all("table") if "AUROC" in t.text)
    assert "Metric image text fused" in table
    assert "0.713 (0.620 to 0.800) 0.782 (0.690 to 0.860) 0.854 (0.780 to 0.920)" in table


def test_a_metric_that_is_not_defined_is_a_dash(tmp_path: Path) -> None:
    rows = [row.text for row in report(tmp_path).all("tr") if row.text.strip().startswith("Calibration slope")]
    assert len(rows) == 1
    assert rows[0].count("–") == 3


def test_remarks_stand_at_the_top(tmp_path: Path) -> None:
    page = report(tmp_path)
    remark = made_up.evaluation().remarks[0]
    assert remark in page.text
    assert page.text.index(remark) < page.text.index("The arms, out of fold")


def test_the_result_of_the_packaged_arm_stands_before_gains_and_remarks(tmp_path: Path) -> None:
    (words,) = (found for found in report(tmp_path).all("ul") if made_up.evaluation().remarks[0] in found.line)
    assert words.line.startswith("AUROC of the fused arm, out of fold: 0.854 (95 % interval 0.780 to 0.920).")
    assert words.line.index("Fused has a higher AUROC") < words.line.index(made_up.evaluation().remarks[0])


@pytest.mark.parametrize(
    ("numbers", "told"),
    [((None, None, None), "out of fold, is not defined."), ((0.7, None, None), "out of fold: 0.700 (no interval).")],
)
def test_a_result_that_is_not_defined_is_said_to_be(
    tmp_path: Path, numbers: tuple[float | None, float | None, float | None], told: str
) -> None:
    plain = made_up.evaluation()
    *others, fused = plain.arms
    fused = fused.model_copy(update={"metrics": (made_up.metric("auroc", *numbers),)})
    page = report(tmp_path, plain.model_copy(update={"arms": (*others, fused)}))
    assert f"AUROC of the fused arm, {told}" in page.text


def test_a_gain_is_called_one_only_when_its_interval_lies_above_zero(tmp_path: Path) -> None:
    text = report(tmp_path).text  # the interval of the gain over text holds zero
    assert "Fused has a higher AUROC than image-only on the same patients" in text
    assert "(+0.142, 95 % interval +0.050 to +0.230)" in text
    assert "than text-only" not in text


@pytest.mark.parametrize("numbers", [(-0.08, -0.15, -0.01), (0.05, 0.0, 0.1), (0.05, None, None), (None, None, None)])
def test_other_differences_are_left_to_the_remarks(
    tmp_path: Path, numbers: tuple[float | None, float | None, float | None]
) -> None:
    assert "higher AUROC" not in report(tmp_path, with_difference(made_up.metric("auroc", *numbers, "image"))).text


def test_the_table_says_which_differences_include_zero(tmp_path: Path) -> None:
    table = next(t.line for t in report(tmp_path).all("table") if t.line.startswith("Paired differences"))
    assert "AUROC: fused minus image +0.142 +0.050 to +0.230 no" in table
    assert "AUROC: fused minus text +0.072 −0.010 to +0.150 yes" in table


def test_the_curves_of_all_arms_are_drawn_to_scale(tmp_path: Path) -> None:
    page = report(tmp_path)
    paths = [e.attributes["d"] for e in page.all("path")]
    assert len(paths) == 3
    for path in paths:
        assert path.startswith("M58.0 260.0L"), "starts at (0, 0): bottom left"
        assert path.endswith("308.0 10.0"), "ends at (1, 1): top right"
    points = [e.attributes for e in page.all("circle")]
    assert len(points) == 3 * 7
    assert float(points[0]["cx"]) == pytest.approx(58 + 250 * 0.05)
    assert float(points[0]["cy"]) == pytest.approx(260), "never true in this bin: bottom"
    assert float(points[6]["cy"]) == pytest.approx(10), "always true in this bin: top"


def test_cohort_and_folds_are_counted_in_studies_and_patients(tmp_path: Path) -> None:
    text = report(tmp_path).text
    assert "120 studies of 100 patients" in text
    assert "3 left out, see training_ledger.csv" in text
    assert "64 (53) 16 (13) 40 (34)" in text


def test_settings_are_summed_up_when_given(tmp_path: Path) -> None:
    settings = load_config(TrainConfig, "train")
    text = report(tmp_path, settings=settings).text
    assert f"at most {settings.training.epochs} epochs" in text
    assert f"seed {settings.training.seed}" in text
    assert "epochs (patience" not in report(tmp_path).text


def test_the_tuning_fraction_is_told_only_where_it_had_a_say(tmp_path: Path) -> None:
    settings = load_config(TrainConfig, "train", overrides=["training.tuning_fraction=0.23", "training.inner_folds=4"])
    assert "tuning part 0.23, seed" in report(tmp_path, settings=settings).text  # of folds with one network
    told = made_up.evaluation()
    nested = told.model_copy(update={"folds": tuple(own.model_copy(update={"inner": 0}) for own in told.folds)})
    page = report(tmp_path, nested, settings=settings).text
    assert "4 inner folds, seed" in page
    assert "tuning part 0.23" not in page


def test_fold_models_have_a_column_of_thresholds_where_one_is_told_of(tmp_path: Path) -> None:
    def models(told: result_documents.EvaluationDocument) -> str:
        return next(t.line for t in report(tmp_path, told).all("table") if "The fold models" in t.text)

    assert "Temperature Threshold 0 7 1.100 0.400" in models(made_up.evaluation())
    graded = made_up.evaluation().model_copy(update={"task": made_up.task("multiclass")})
    assert "Temperature 0 7 1.100 1 8 1.200" in models(graded)  # not a column of dashes


def test_the_digest_of_the_split_is_told_once(tmp_path: Path) -> None:
    told = made_up.evaluation()
    inputs = {"labels": "1" * 64, "split": told.split_digest}
    stamp = replace(told.provenance, inputs=inputs)
    lines = report(tmp_path, told.model_copy(update={"provenance": stamp})).all("tr")
    named = [row.text.split(",")[0].strip().lower() for row in lines if "sha256" in row.text]
    assert named.count("split") == 1
    assert "labels" in named


def test_what_a_model_takes_from_each_modality_stands_in_a_table_with_its_verdict(tmp_path: Path) -> None:
    def use(modality: str, verdict: str, *falls: float | None) -> trust_documents.ModalityUseDocument:
        return trust_documents.ModalityUseDocument(
            arm="fused", modality=modality, n=117, patients=98, permutations=7, auroc=estimate(0.8543, 0.78, 0.92),
            permuted=estimate(0.8421, 0.77, 0.91), fall=estimate(*falls), fall_absent=estimate(None, None, None),
            bound=0.0321, verdict=verdict,
        )  # fmt: skip

    uses = (use("image", "ignored", 0.0122, -0.004, 0.031), use("text", "unclear", 0.05, -0.01, 0.11))
    page = report(tmp_path, made_up.evaluation().model_copy(update={"modality_use": uses}))
    table = next(t.line for t in page.all("table") if "another patient's, or left out" in t.text)
    assert (
        "fused image 0.854 (0.780 to 0.920) 0.842 (0.770 to 0.910) 0.012 (-0.004 to 0.031) – ignored 117"
        in table.replace("−", "-")
    )
    assert "cannot be told 117" in table
    assert "0.032" in page.text
    assert "permuted 7 times" in page.text
    once = tuple(own.model_copy(update={"permutations": 1}) for own in uses)
    page = report(tmp_path, made_up.evaluation().model_copy(update={"modality_use": once}))
    assert "permuted once among" in page.text
    assert "Which modalities a model uses" not in report(tmp_path).text


def test_delongs_differences_stand_under_the_paired_ones_and_their_absence_is_explained(tmp_path: Path) -> None:
    own = trust_documents.AurocDifferenceDocument(
        first="fused", second="image", estimate=0.1418, standard_error=0.05, low=0.0438, high=0.2398, p_value=0.0046
    )
    page = report(tmp_path, made_up.evaluation().model_copy(update={"delong": (own,)}))
    table = next(t.line for t in page.all("table") if "DeLong" in t.text)
    assert "fused minus image +0.142 +0.044 to +0.240 0.005" in table
    assert "DeLong's test is not shown: it takes studies as independent, and there are 20 more studies" in report(
        tmp_path
    ).text.replace("’", "'")  # 120 studies of 100 patients
    one = report(tmp_path, made_up.evaluation().model_copy(update={"patients": 119}))
    assert "there is 1 more study than patients" in one.text


def test_decision_curves_are_drawn_to_scale_beside_their_numbers(tmp_path: Path) -> None:
    curve = trust_documents.DecisionCurveDocument(
        arm="fused", thresholds=(0.1, 0.5), net_benefit=(estimate(0.4, 0.3, 0.5), estimate(-0.1, -0.2, 0.0)),
        treat_all=(0.35, -9.0),
    )  # fmt: skip
    page = report(tmp_path, made_up.evaluation().model_copy(update={"decision_curves": (curve,)}))
    drawn = [element.attributes["d"] for element in page.all("path")]
    # The square is 250 wide from 58 and 10 down; it spans net benefit -0.1 to 0.4.
    assert "M83.0 10.0L183.0 260.0" in drawn
    assert f"M83.0 {260 - 250 * 0.9:.1f}L183.0 260.0" in drawn, "what falls below the bottom lies on it"
    table = next(t.line for t in page.all("table") if "for one threshold at a time" in t.text).replace("−", "-")
    assert "0.1 0.400 (0.300 to 0.500) 0.350 0.5 -0.100 (-0.200 to 0.000) -9.000" in table
    assert "Decision curve" not in report(tmp_path).text


def test_coverage_of_conformal_sets_stands_per_class_with_what_was_asked_for(tmp_path: Path) -> None:
    classes = tuple(
        result_documents.ClassCoverageDocument(name=name, n=n, covered=hits, estimate=hits / n, low=low, high=high)
        for name, n, hits, low, high in (("no", 80, 74, 0.8439, 0.972), ("yes", 40, 31, 0.6155, 0.8916))
    )
    sets = result_documents.ConformalDocument(asked=0.9, classes=classes, set_sizes=(1, 89, 30), abstained=0.275)
    plain = made_up.evaluation()
    first = plain.arms[0].model_copy(update={"conformal": sets})
    page = report(tmp_path, plain.model_copy(update={"arms": (first, *plain.arms[1:])}))
    table = next(t.line for t in page.all("table") if "cannot be ruled out" in t.text)
    assert "image no 0.925 (0.844 to 0.972) 0.900 80 image yes 0.775 (0.616 to 0.892) 0.900 40" in table
    assert "1 study with 0 classes, 89 studies with 1 class, 30 studies with 2 classes" in page.text
    assert "not a single class, are 27.5" in page.text
    assert "Conformal sets" not in report(tmp_path).text


def estimate(*numbers: float | None) -> trust_documents.EstimateDocument:
    return trust_documents.EstimateDocument(estimate=numbers[0], low=numbers[1], high=numbers[2])


def test_groups_stand_in_tables_with_their_gaps_and_small_ones_are_named(tmp_path: Path) -> None:
    def group(name: str, n: int, *auroc: float) -> trust_documents.GroupDocument:
        metrics = {"auroc": estimate(*auroc), "calibration_excess": estimate(None, None, None)}
        return trust_documents.GroupDocument(name=name, n=n, patients=n - 7, class_counts={}, metrics=metrics)

    gap = trust_documents.GapDocument(
        name="auroc_gap", highest="site <A>", lowest="B", difference=estimate(0.2221, 0.1113, 0.3334)
    )
    rate = gap.model_copy(update={"name": "true_positive_rate_gap", "difference": estimate(0.3331, 0.1111, 0.4441)})
    found = trust_documents.SubgroupDocument(
        column="site", arm="fused", gaps=(gap, rate), too_small={"C": 3}, unknown=2,
        too_few={"auroc": ("B", "D")},
        groups=(group("site <A>", 61, 0.8543, 0.78, 0.92), group("B", 57, 0.6322, 0.5, 0.7)),
    )  # fmt: skip
    page = report(tmp_path, made_up.evaluation().model_copy(update={"subgroups": (found,)}))
    metrics = next(t.line for t in page.all("table") if "on the studies of each group" in t.text)
    assert "Group AUROC Events beyond probability Studies (patients)" in metrics
    assert "site <A> 0.854 (0.780 to 0.920) – 61 (54) B 0.632 (0.500 to 0.700) – 57 (50)" in metrics
    gaps = next(t.line for t in page.all("table") if "lie furthest apart" in t.text)
    assert "(95 % interval, of all pairs of groups at once)" in gaps
    assert "AUROC site <A> B 0.222 (0.111 to 0.333)" in gaps
    assert "True positive rate site <A> B 0.333 (0.111 to 0.444)" in gaps
    assert "site, not shown for too few patients: C (3)" in page.text
    assert "site, AUROC not measured for too few patients of its class: B, D" in page.text
    assert "site of 2 studies is not known" in page.text
    assert "Groups of patients" not in report(tmp_path).text


def test_the_policy_stands_rule_by_rule_and_says_whether_it_is_met(tmp_path: Path) -> None:
    met = trust_documents.RuleDocument(rule="policy.least.auroc", value=0.8543, bound=0.7654, met=True, said="fine")
    lost = trust_documents.RuleDocument(rule="policy.most.ece", value=None, bound=0.1234, met=False, said="not defined")
    for rules, word in (((met, lost), "not met"), ((met,), "met")):
        page = report(tmp_path, made_up.evaluation().model_copy(update={"policy": rules}))
        assert any(heading.line == f"Policy: {word}" for heading in page.all("h2"))
        table = next(t.line for t in page.all("table") if "estimates are judged" in t.text)
        assert "policy.least.auroc fine 0.854 0.765 yes" in table
        assert ("policy.most.ece not defined – 0.123 no" in table) == (lost in rules)
    assert "Policy:" not in report(tmp_path).text
