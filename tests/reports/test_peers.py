"""The comparison with other readers: what a verdict is called, which row a case stands in, what the tables say."""

import json
from pathlib import Path
from typing import Any

import pytest

from reports.peers.compare import classify, judge_case, load_cases, load_judge
from reports.peers.readers import TOOLS, first_nifti, tried
from reports.peers.tables import BEGIN, END, OUTCOMES, ROWS, between, full_table, hazard_group, short_table, tabulate

REPOSITORY = Path(__file__).resolve().parents[2]
JUDGE = """
import re
WARNS = re.compile("odd spacing")

def volumes(returned):
    return returned

def verdict(case, found, error, text):
    if error is not None:
        return case["outcome"] != "load", "refused" if case["outcome"] != "load" else "ERROR", error
    right = [voxels.tolist() for voxels, affine in found] == case["expect"]
    return right, "right" if right else "WRONG, SILENT", ""
"""


@pytest.mark.parametrize(
    ("acceptable", "word", "warned", "wants", "outcome"),
    [
        (True, "right", False, "load", "right"),
        (True, "right", True, "load", "right"),
        (True, "loaded", False, "load_or_refuse", "right"),
        (True, "refused", False, "refuse", "refused"),
        (False, "ERROR", True, "load", "refused"),
        (True, "warned", True, "refuse_or_warn", "warned"),
        (False, "WRONG, SILENT", False, "load", "wrong"),
        (False, "WRONG, warned", True, "load", "warned"),
        (False, "MERGED", False, "load", "wrong"),
        (False, "SILENT", False, "refuse", "wrong"),
        (False, "SILENT", False, "load", "unsaid"),
        (False, "CRASHED", False, "load", "crashed"),
        (False, "HANGS", True, "load", "hung"),
    ],
)
def test_a_verdict_is_called_by_what_it_means_to_the_caller(
    acceptable: bool, word: str, warned: bool, wants: str, outcome: str
) -> None:
    assert classify(acceptable, word, warned=warned, wants=wants) == outcome
    assert outcome in OUTCOMES


@pytest.mark.parametrize(
    ("kind", "hazards", "row"),
    [
        ("series", ["4d", "mosaic"], "mosaic"),
        ("series", ["4d", "diffusion"], "phases, echoes, b-values or times in one series"),
        ("series", ["jpeg2000", "same_sop_uid"], "doubled slices, places or UIDs"),
        ("series", ["never heard of"], "plain, oblique and lone slices"),
        ("nifti", ["nifti", "gantry_tilt"], "NIfTI: oblique, flipped, sheared"),
    ],
)
def test_a_case_stands_in_the_first_row_that_names_one_of_its_hazards(kind: str, hazards: list[str], row: str) -> None:
    assert hazard_group({"kind": kind, "hazards": hazards}) == row
    assert row in ROWS


def a_case(kind: str, hazard: str, **outcomes: str) -> dict[str, Any]:
    tools = {tool: {"outcome": outcome, "acceptable": outcome == "right"} for tool, outcome in outcomes.items()}
    return {"kind": kind, "hazard": hazard, "tools": tools}


def test_rows_add_up_to_the_totals_and_a_tool_that_does_not_read_a_kind_is_absent() -> None:
    cases = {
        "a": a_case("series", "mosaic", one="right", two="wrong"),
        "b": a_case("series", "gantry tilt", one="refused", two="wrong"),
        "c": a_case("nifti", "NIfTI: damaged gzip, empty", one="right"),
    }
    results = {"versions": {"one": "1", "two": "2"}, **tabulate(cases, ["one", "two"])}
    assert list(results["by_hazard"]) == ["mosaic", "gantry_tilt", "nifti_damaged_gzip_empty"]
    assert results["totals"]["series"]["two"]["wrong"] == 2
    assert (results["totals"]["series"]["one"]["acceptable"], results["totals"]["nifti"]["cases"]) == (1, 1)
    assert "two" not in results["totals"]["nifti"]
    assert "| gantry tilt | 1 | 1 refused | **1 wrong** |" in full_table(results)
    assert "| all NIfTI | 1 | 1 right | – |" in full_table(results)
    short = short_table(results)
    assert "| 0<!-- results: reports/peers/results.json#/by_hazard/mosaic/one/wrong --> |" in short
    assert "damaged gzip" not in short  # nobody got it wrong


def test_a_table_goes_between_its_marks_and_nowhere_else() -> None:
    assert between(f"before\n{BEGIN}\nold\n{END}\nafter", "new") == f"before\n{BEGIN}\nnew\n{END}\nafter"
    with pytest.raises(ValueError, match="once each"):
        between("no marks", "new")


@pytest.mark.parametrize(
    ("page", "table"), [("README.md", short_table), ("reports/peers/README.md", full_table)], ids=["short", "full"]
)
def test_the_committed_pages_show_the_committed_results(page: str, table: Any) -> None:
    results = json.loads((REPOSITORY / "reports" / "peers" / "results.json").read_text())
    text = (REPOSITORY / page).read_text()
    assert between(text, table(results)) == text


def test_what_could_be_read_comes_back_and_the_rest_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Any:
        raise OSError("no such slice")

    assert tried([lambda: [(1, 2)], fail]) == [(1, 2)]
    assert "refused: OSError: no such slice" in capsys.readouterr().err
    with pytest.raises(OSError, match="no such slice"):
        tried([fail])
    with pytest.raises(RuntimeError, match="nothing to read"):
        tried([])


def test_the_header_of_a_pair_is_what_is_read(tmp_path: Path) -> None:
    for name in ("a.img", "b.hdr"):
        (tmp_path / name).touch()
    assert first_nifti(tmp_path).name == "b.hdr"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "content", "outcome"),
    [("nibabel", "right", "right"), ("nibabel", "cut", "refused"), ("medmllm", "right", "right")],
)
def test_a_tool_reads_a_case_in_a_process_of_its_own(tmp_path: Path, tool: str, content: str, outcome: str) -> None:
    import nibabel
    import numpy as np

    data = tmp_path / "open" / "some_case" / "data"
    data.mkdir(parents=True)
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), data / "x.nii")
    if content == "cut":
        (data / "x.nii").write_bytes((data / "x.nii").read_bytes()[:300])
    (tmp_path / "judge.py").write_text(JUDGE)
    note = {"name": "some_case", "split": "open", "kind": "nifti", "hazards": [], "outcome": "load"}
    (data.parent / "NOTE.json").write_text(json.dumps(note | {"expect": [voxels.tolist()]}))
    (case,) = load_cases(tmp_path)
    assert judge_case(load_judge(tmp_path), tmp_path, case, tool)["outcome"] == outcome


def test_every_tool_reads_a_kind_that_there_is() -> None:
    assert {kind for _, _, kinds in TOOLS.values() for kind in kinds} == {"series", "nifti"}
