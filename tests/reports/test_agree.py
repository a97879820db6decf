"""The walk and pydicom are compared on made-up inputs, and a difference is found."""

import json
from pathlib import Path

import pytest

from medmllm.ingest import dicom_header
from reports.robustness import agree


def run(folder: Path) -> tuple[int, dict[str, dict[str, int]]]:
    out = folder / "agreement.json"
    code = agree.main(["--count", "150", "--out", str(out), "--keep", str(folder / "kept")])
    return code, json.loads(out.read_text())


def test_both_ways_agree_on_a_few_hundred_inputs(tmp_path: Path) -> None:
    code, found = run(tmp_path)
    assert (code, found["damaged"]["differ"], found["edited"]["differ"]) == (0, 0, 0)
    assert found["edited"]["inputs"] == 150
    assert min(found["edited"]["walked"], found["damaged"]["walked"]) > 20
    assert not (tmp_path / "kept").exists()


def test_a_walk_that_lies_is_found_and_its_inputs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = dicom_header._of_plain
    monkeypatch.setattr(
        dicom_header, "_of_plain", lambda path, plain, size: honest(path, plain, size + 1_000_000)
    )  # nothing is ever truncated
    code, found = run(tmp_path)
    assert code == 1
    assert found["damaged"]["differ"] > 0
    assert len(list((tmp_path / "kept").iterdir())) >= 1
