"""The start page of a results folder: every study once, every link alive."""

from pathlib import Path

import pytest

from medmllm.model_documents import Task
from medmllm.reporting.folder import write_folder_index
from medmllm.table_rows import LedgerRow, PredictionRow
from tests.reporting import made_up
from tests.reporting.html_page import Page


def index(
    out: Path, rows: list[PredictionRow], ledger: list[LedgerRow], *, explained: frozenset[str] = frozenset()
) -> Page:
    write_folder_index(
        out / "index.html",
        predictions=iter(rows),
        ledger=iter(ledger),
        summary=made_up.summary(len(rows), ledger),
        explained=explained,
        card=made_up.card(),
    )
    return Page.read(out / "index.html")


def study_folder(out: Path, key: str, *names: str) -> None:
    folder = out / "studies" / key
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")


def links(page: Page) -> list[str]:
    return [element.attributes["href"] for element in page.all("a")]


def test_every_link_leads_to_a_file_or_to_this_page(tmp_path: Path) -> None:
    rows = [made_up.prediction_row(number, number / 10) for number in range(1, 5)]
    study_folder(tmp_path, rows[0].study_key, "prediction.json", "report.html")
    study_folder(tmp_path, rows[1].study_key, "prediction.json")
    for name in ("predictions.csv", "ledger.csv", "problems.csv", "summary.json"):
        (tmp_path / name).write_text("x")
    page = index(tmp_path, rows, [], explained=frozenset({rows[0].study_key}))
    ids = {element.attributes.get("id") for element in page.elements}
    for link in links(page):
        assert link[1:] in ids if link.startswith("#") else (tmp_path / link).is_file(), link
    files = {link for link in links(page) if not link.startswith("#")}
    assert files == {
        "predictions.csv",
        "ledger.csv",
        "problems.csv",
        "summary.json",
        f"studies/{rows[0].study_key}/report.html",
        f"studies/{rows[0].study_key}/prediction.json",
        f"studies/{rows[1].study_key}/prediction.json",
    }


def test_nothing_is_linked_that_does_not_exist(tmp_path: Path) -> None:
    page = index(tmp_path, [made_up.prediction_row(1, 0.4)], [])
    assert [link for link in links(page) if not link.startswith("#")] == []


def test_a_report_without_explanation_is_told_apart(tmp_path: Path) -> None:
    rows = [made_up.prediction_row(1, 0.4)]
    study_folder(tmp_path, rows[0].study_key, "report.html")
    assert "not explained" in index(tmp_path, rows, []).text
    assert "not explained" not in index(tmp_path, rows, [], explained=frozenset({rows[0].study_key})).text


def test_scored_studies_stand_in_the_order_of_their_probability(tmp_path: Path) -> None:
    rows = [made_up.prediction_row(number, chance) for number, chance in ((1, 0.25), (2, 0.875), (3, 0.5))]
    page = index(tmp_path, rows, [])
    keys = [e.text for e in page.all("th") if e.text.startswith("st-")]
    assert keys == [rows[1].study_key, rows[2].study_key, rows[0].study_key]
    assert [value for value in page.values if value in {"0.25", "0.875", "0.5"}] == ["0.875", "0.5", "0.25"]


def test_every_refused_study_is_listed_with_its_reason(tmp_path: Path) -> None:
    ledger = [
        made_up.ledger_row(7, stage="read", code="unreadable", reason="the network drive is gone", retryable=True),
        made_up.ledger_row(8, stage="contract", code="contract_mismatch", reason="HU <0 & no series fits 'ct'"),
    ]
    page = index(tmp_path, [], ledger)
    assert "contract_mismatch HU <0 & no series fits 'ct' no" in page.text
    assert "unreadable the network drive is gone may succeed" in page.text
    assert "No study was scored." in page.text
    assert "0 of 2 studies scored" in page.text


def test_a_training_patient_is_marked(tmp_path: Path) -> None:
    rows = [made_up.prediction_row(1, 0.4, training_patient=True), made_up.prediction_row(2, 0.3)]
    assert index(tmp_path, rows, []).text.count("in the training cohort") == 1


def test_a_study_scored_without_note_is_told_apart(tmp_path: Path) -> None:
    rows = [made_up.prediction_row(1, 0.4, modalities_used="image"), made_up.prediction_row(2, 0.3)]
    cells = [e.text for e in index(tmp_path, rows, []).all("td")]
    assert "image" in cells
    assert "image + note" in cells


def test_of_several_targets_each_number_says_which_class_it_is_of_also_where_none_is_reached(tmp_path: Path) -> None:
    parts = tuple(Task.of(name, (f"no {name}", name)) for name in ("nodule", "effusion"))
    card = made_up.card().model_copy(
        update={
            "task": Task.of_several(parts),
            "operating_points": {"nodule": 0.6, "effusion": 0.1},
        }
    )

    def chances(nodule: float, effusion: float) -> dict[str, float]:
        return {"no nodule": 1 - nodule, "nodule": nodule, "no effusion": 1 - effusion, "effusion": effusion}

    rows = [
        made_up.prediction_row(1, 0.5, predicted="none", probabilities=chances(0.5, 0.0625)),
        made_up.prediction_row(2, 0.25, predicted="effusion", probabilities=chances(0.375, 0.25)),
    ]
    write_folder_index(
        tmp_path / "index.html", predictions=rows, ledger=(), summary=made_up.summary(2, []), explained=set(), card=card
    )
    cells = [e.text for e in Page.read(tmp_path / "index.html").all("td")]
    assert [cell for cell in cells if cell.startswith(("nodule", "effusion "))] == ["nodule 0.500", "effusion 0.250"]


@pytest.mark.parametrize("studies", [3000])
def test_thousands_of_rows_stay_light(tmp_path: Path, studies: int) -> None:
    index(tmp_path, [made_up.prediction_row(number, number / studies) for number in range(studies)], [])
    assert (tmp_path / "index.html").stat().st_size < 600 * studies
