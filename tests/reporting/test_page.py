"""Every report: one file, nothing loaded, nothing run, well-formed."""

import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from medmllm.evaluation.cohort import OutOfFold
from medmllm.reporting.case import write_case_report
from medmllm.reporting.cohort import write_training_report
from medmllm.reporting.comparison import write_comparison
from medmllm.reporting.folder import write_folder_index
from medmllm.reporting.page import environment, write_page
from medmllm.reporting.training_figures import draw_figures
from tests.reporting import made_up
from tests.reporting.html_page import Page

KINDS = ("case", "training", "folder", "comparison")


def write(kind: str, path: Path, *, synthetic: bool = False) -> Page:
    card = made_up.card(synthetic=synthetic)
    if kind == "case":
        volume, voxel = made_up.phantom("LPS")
        record, document = made_up.explanation(volume, voxel, made_up.attribution_of(volume))
        write_case_report(
            path, prediction=made_up.prediction(synthetic=synthetic), card=card, note=made_up.note(),
            explanation=record, explanation_document=document, completeness_bound=0.01,
        )  # fmt: skip
    elif kind == "training":
        targets = np.array([0, 1, 1, 0, 1, 0])
        positive = np.array([0.2, 0.9, 0.4, 0.5, 0.7, 0.1])
        arm = OutOfFold("fused", np.stack([1 - positive, positive], 1), positive, (positive > 0.5).astype(int))
        evaluation = made_up.evaluation(synthetic=synthetic)
        figures = draw_figures(
            evaluation, [arm], targets, list(map(str, range(len(targets)))), confidence=0.95, synthetic=synthetic
        )
        write_training_report(path, evaluation=evaluation, figures=[figures], card=card)
    elif kind == "comparison":
        write_comparison(path.parent, made_up.comparison(synthetic=synthetic))
        (path.parent / "comparison.html").rename(path)
    else:
        ledger = [made_up.ledger_row(9)]
        write_folder_index(
            path, predictions=[made_up.prediction_row(1, 0.7)], ledger=ledger,
            summary=made_up.summary(1, ledger, synthetic=synthetic), explained=set(), card=card,
        )  # fmt: skip
    return Page.read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_loads_nothing_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    page = write(kind, tmp_path / "page.html")
    loading = {"src", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href"}
    for element in page.elements:
        assert element.tag not in {"script", "iframe", "object", "embed", "form", "base"}
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"<{element.tag}> has the event handler {name}"
            assert name not in loading or value.startswith("data:image/webp;base64,")
            assert "://" not in value or name == "value"
    styles = "".join(style.text for style in page.all("style"))
    assert not re.search(r"url\(|@import|://", styles)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_forbids_scripts_and_requests(kind: str, tmp_path: Path) -> None:
    page = write(kind, tmp_path / "page.html")
    policies = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src" not in rules


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_well_formed_and_can_be_read_aloud(kind: str, tmp_path: Path) -> None:
    page = write(kind, tmp_path / "page.html")
    assert page.faults == []
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(image.attributes["alt"] for image in page.all("img"))
    assert all(
        "aria-label" in drawing.attributes or drawing.attributes.get("aria-hidden") == "true"
        for drawing in page.all("svg")
    )
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    wanted = [element.attributes["aria-labelledby"] for element in page.all("section")]
    assert wanted
    assert set(wanted) <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_says_research_use_only_and_names_its_origin(kind: str, tmp_path: Path) -> None:
    text = write(kind, tmp_path / "page.html").text
    assert "Research use only. Not a medical device" in text
    stamp = made_up.provenance()
    for part in (stamp.commit, stamp.command, stamp.medmllm_version, "2026-01-02 03:04:05 UTC", "torch 2.10.0"):
        assert str(part) in text


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_stands_in_a_banner_and_beside_every_table_and_picture(kind: str, tmp_path: Path) -> None:
    page = write(kind, tmp_path / "page.html", synthetic=True)
    banner = [e.text for e in page.all("p") if e.attributes.get("class") == "banner"]
    assert len(banner) == 1
    assert banner[0].startswith("Synthetic data")
    for caption in (*page.all("caption"), *page.all("figcaption"), *page.all("title")[:1]):
        assert "synthetic" in caption.text
    for heading in page.all("h2"):
        assert "synthetic" in heading.text or heading.text in {"Provenance", "How to read this"}
    for item in page.all("li"):
        assert not re.search(r"\d\.\d", item.text) or "synthetic" in item.text
    assert all("synthetic" in mark.attributes["title"] for mark in page.all("mark"))


@pytest.mark.parametrize("kind", KINDS)
def test_real_results_are_not_called_synthetic(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path / "page.html")
    body = (tmp_path / "page.html").read_text().partition("<body>")[2]
    assert "ynthetic" not in body


def test_a_page_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    old = tmp_path / "page.html"
    old.write_text("old")
    with pytest.raises(UndefinedError):
        write_page(old, "folder.html.j2", synthetic=False, page=None)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_numbers_that_are_not_defined_are_a_dash() -> None:
    for name in ("number", "signed", "small", "percent"):
        shown = environment().filters[name]
        assert "–" in shown(None)
        assert "not finite" in shown(float("inf"))
