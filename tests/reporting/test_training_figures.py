"""The figures of a training as files of their own: the drawings of the report, whole without it."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from medmllm.evaluation.cohort import OutOfFold
from medmllm.reporting.cohort import write_training_report
from medmllm.reporting.curves import learning_chart
from medmllm.reporting.training_figures import TrainingFigures, draw_figures, write_figures
from medmllm.result_documents import EvaluationDocument
from medmllm.trust_documents import (
    DecisionCurveDocument,
    EstimateDocument,
    LearningCurveDocument,
    LearningPointDocument,
)
from tests.reporting import made_up
from tests.reporting.html_page import Page

SVG = "{http://www.w3.org/2000/svg}"
TARGETS = np.array([0, 1, 1, 0])
PATIENTS = ["a", "b", "c", "d"]


def evaluation(*, synthetic: bool = False) -> EvaluationDocument:
    curve = DecisionCurveDocument(
        arm="fused", thresholds=(0.1, 0.5), treat_all=(0.4, 0.0),
        net_benefit=tuple(EstimateDocument(estimate=value, low=None, high=None) for value in (0.4, 0.2)),
    )  # fmt: skip
    return made_up.evaluation(synthetic=synthetic).model_copy(update={"decision_curves": (curve,)})


def figures(*, synthetic: bool = False, event: str = "yes") -> TrainingFigures:
    whole = evaluation(synthetic=synthetic)
    task = whole.task.model_copy(update={"classes": ("no", event)})
    return drawn_for(whole.model_copy(update={"task": task}))


def drawn_for(told: EvaluationDocument) -> TrainingFigures:
    positive = np.array([0.15, 0.85, 0.45, 0.55])
    arms = [OutOfFold(name, np.stack([1 - positive, positive], 1), positive, TARGETS) for name in ("image", "fused")]
    return draw_figures(told, arms, TARGETS, PATIENTS, confidence=0.95, synthetic=told.synthetic)


def written(folder: Path, *drawn: TrainingFigures, synthetic: bool = False) -> dict[str, ElementTree.Element]:
    write_figures(folder, drawn, synthetic=synthetic)
    return {path.name: ElementTree.parse(path).getroot() for path in folder.iterdir()}


def test_every_figure_of_the_report_is_a_file_with_the_same_drawing(tmp_path: Path) -> None:
    drawn = figures()
    found = written(tmp_path / "figures", drawn)
    assert set(found) == {"roc.svg", "reliability_image.svg", "reliability_fused.svg", "decision_curve.svg"}
    write_training_report(tmp_path / "report.html", evaluation=evaluation(), figures=[drawn], card=made_up.card())
    shown = [element.attributes["d"] for element in Page.read(tmp_path / "report.html").all("path")]
    assert len(shown) == 2 + 1 + 1  # ROC of two arms, net benefit of one and of treating all
    assert sorted(shown) == sorted(path.attrib["d"] for root in found.values() for path in root.iter(f"{SVG}path"))


def test_a_figure_is_a_picture_without_the_page(tmp_path: Path) -> None:
    for root in written(tmp_path / "figures", figures()).values():
        assert root.tag == f"{SVG}svg"  # a viewer draws nothing of another name space
        (style,) = (element.text or "" for element in root.iter(f"{SVG}style"))
        assert "var(" not in style  # which Inkscape and Word draw black
        classes = {word for element in root.iter() for word in element.attrib.get("class", "").split()}
        assert {name for name in classes if not re.search(rf"\.{name}\b", style)} <= {"d0"}  # the first line is whole
        assert root.attrib["viewBox"].split()[2:] == [str(int(root.attrib[k]) // 2) for k in ("width", "height")]


def test_a_figure_has_the_colours_of_a_light_page(tmp_path: Path) -> None:
    (style,) = written(tmp_path / "figures", figures())["roc.svg"].iter(f"{SVG}style")
    assert "fill: #18212b" in (style.text or "")  # ink on white paper; a dark page's is nearly white
    assert "#e7ebf0" not in (style.text or "")


@pytest.mark.parametrize("synthetic", [True, False])
def test_a_figure_says_in_words_what_it_shows_and_that_it_is_synthetic(tmp_path: Path, *, synthetic: bool) -> None:
    drawn = figures(synthetic=synthetic, event='grade >= "3" & <more>')
    root = written(tmp_path / "figures", drawn, synthetic=synthetic)["decision_curve.svg"]
    caption = " ".join(e.text or "" for e in root.iter(f"{SVG}text") if e.attrib.get("class") == "legend")
    assert 'probability of “grade >= "3" & <more>” reaches the threshold' in caption
    assert caption.endswith("(synthetic).") == synthetic
    description = next(root.iter(f"{SVG}desc")).text or ""
    assert "Net benefit of fused" in description
    assert "Research use only" in description


def test_an_earlier_runs_figures_are_gone(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "reliability_text.svg").write_text("of an arm that is no longer trained")
    assert "reliability_text.svg" not in written(tmp_path / "figures", figures())


def test_each_repeat_is_a_thin_line_and_their_mean_the_bold_one(tmp_path: Path) -> None:
    whole = evaluation()
    curve = whole.decision_curves[0].model_copy(update={"repeats": ((0.4, 0.3), (0.4, 0.1))})
    told = whole.model_copy(update={"decision_curves": (curve,), "repeats": 2})
    chances = [np.array([0.15, 0.85, 0.45, 0.55]), np.array([0.35, 0.65, 0.75, 0.25])]
    first, second = (OutOfFold("fused", np.stack([1 - own, own], 1), own, TARGETS) for own in chances)
    drawn = draw_figures(told, [first], TARGETS, PATIENTS, confidence=0.95, more=[[second]])
    found = written(tmp_path / "figures", drawn)

    def paths(name: str, kind: str) -> list[str]:
        return [e.attrib["d"] for e in found[name].iter(f"{SVG}path") if e.attrib["class"].split()[0] == kind]

    square = "M58.0 260.0L{}L308.0 10.0".format
    # The first has one of four pairs out of order, the second none: half of the curve lies halfway between.
    thin = [square("58.0 135.0L183.0 135.0L183.0 10.0"), square("58.0 135.0L58.0 10.0")]
    assert paths("roc.svg", "thin") == thin
    (bold,) = paths("roc.svg", "line")
    assert bold.startswith("M58.0 260.0L58.0 72.5L")  # true-positive rate 0.75 where no negative is called
    # Net benefit 0.4 is the top of the square, -0.1 its bottom.
    assert paths("decision_curve.svg", "thin") == ["M83.0 10.0L183.0 60.0", "M83.0 10.0L183.0 160.0"]
    assert paths("decision_curve.svg", "line") == ["M83.0 10.0L183.0 110.0"]
    assert len(paths("reliability_fused.svg", "thin")) == 2
    for figure in drawn.all:
        assert "Thin lines: each of 2 repeats; " in figure.caption
    assert all("repeats" not in figure.caption for figure in figures().all)


def test_each_of_several_targets_has_its_own_figures(tmp_path: Path) -> None:
    found = written(tmp_path / "figures", *(drawn_for(evaluation()).named(end) for end in ("_1", "_2")))
    names = {"roc", "reliability_image", "reliability_fused", "decision_curve"}
    assert set(found) == {f"{name}_{number}.svg" for name in names for number in (1, 2)}


def test_the_learning_curve_is_drawn_to_scale_with_its_table(tmp_path: Path) -> None:
    def point(fraction: float, *patients: int, auroc: tuple[float, float, float]) -> LearningPointDocument:
        behind = None if fraction == 1 else EstimateDocument(estimate=0.1, low=-0.0321, high=0.2)
        own = EstimateDocument(estimate=auroc[0], low=auroc[1], high=auroc[2])
        return LearningPointDocument(
            fraction=fraction, training_patients=patients, training_studies=patients, auroc=own, behind=behind
        )

    curve = LearningCurveDocument(
        arm="fused",
        points=(point(0.25, 11, 13, auroc=(0.7, 0.5, 0.9)), point(1.0, 48, 48, auroc=(0.8, 0.65, 0.95))),
    )
    asked = made_up.evaluation().model_copy(update={"learning_curve": curve})
    drawn = drawn_for(asked)
    root = written(tmp_path / "figures", drawn)["learning_curve.svg"]
    # The square is 250 wide from 58 and 10 down: 0 to 48 patients, AUROC 0.5 to 1.
    assert [e.attrib["d"] for e in root.iter(f"{SVG}path")] == ["M120.5 160.0L308.0 110.0"]
    whiskers = [e.attrib for e in root.iter(f"{SVG}line") if e.attrib["class"] == "whisker"]
    assert [float(e[side]) for e in whiskers for side in ("y1", "y2")] == pytest.approx([260, 60, 185, 35])
    assert {"12", "48", "0.5", "1.0"} <= {e.text for e in root.iter(f"{SVG}text")}
    write_training_report(tmp_path / "report.html", evaluation=asked, figures=[drawn], card=made_up.card())
    page = Page.read(tmp_path / "report.html")
    table = next(t.line for t in page.all("table") if "parts of each fold's training patients" in t.text)
    assert "25.0 % 11 to 13 per fold 0.700 (0.500 to 0.900) 0.100 (−0.032 to 0.200)" in table
    assert "all 48 per fold 0.800 (0.650 to 0.950) –" in table
    assert "M120.5 160.0L308.0 110.0" in [e.attributes["d"] for e in page.all("path")]


def test_a_curve_below_guessing_gets_room_and_points_of_no_value_are_left_out() -> None:
    nothing = EstimateDocument(estimate=None, low=None, high=None)
    low = EstimateDocument(estimate=0.42, low=0.33, high=0.5)

    def points(own: EstimateDocument) -> LearningCurveDocument:
        first, last = (
            LearningPointDocument(
                fraction=part, training_patients=(9, 9), training_studies=(9, 9), auroc=auroc, behind=nothing
            )
            for part, auroc in ((0.5, nothing), (1.0, own))
        )
        return LearningCurveDocument(arm="text", points=(first, last))

    chart = learning_chart(points(low))
    assert chart is not None
    assert [(mark.x, mark.y) for mark in chart.marks] == [(1.0, pytest.approx(0.12 / 0.7))]
    assert [value for _, value in chart.levels] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert chart.chance == pytest.approx(0.2 / 0.7)
    assert learning_chart(points(nothing)) is None
    assert learning_chart(None) is None
