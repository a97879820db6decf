"""The demo, whole: what a newcomer gets from `medmllm demo`, judged against what was planted."""

import csv
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest

from medmllm.ingest.keys import Keyring

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SECRET = "0dd5ecae" * 8
Rows = list[dict[str, str]]


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run the demo as packaged, once, in a process of its own; its folder and its stdout."""
    out = tmp_path_factory.mktemp("demo") / "out"
    secret = tmp_path_factory.mktemp("site") / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    environment = os.environ | {"MEDMLLM_SITE_SECRET_FILE": str(secret)}
    command = [sys.executable, "-c", "from medmllm.cli import app; app()", "demo", "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def _rows(path: Path) -> Rows:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _aurocs(out: Path) -> dict[str, float]:
    evaluation = json.loads((out / "run" / "evaluation.json").read_text())
    return {
        arm["arm"]: next(metric["estimate"] for metric in arm["metrics"] if metric["name"] == "auroc")
        for arm in evaluation["arms"]
    }


def test_neither_modality_alone_suffices_and_both_together_do(demo: tuple[Path, str]) -> None:
    found = _aurocs(demo[0])
    assert found["fused"] > 0.95
    assert 0.35 < found["image"] < 0.65
    assert 0.35 < found["text"] < 0.65


def test_all_studies_but_the_broken_one_are_scored(demo: tuple[Path, str]) -> None:
    scored = demo[0] / "scored"
    truth = _rows(demo[0] / "cohort" / "scoring" / "labels.csv")
    (refused,) = _rows(scored / "ledger.csv")
    assert len(_rows(scored / "predictions.csv")) == len(truth) - 1
    assert refused["code"] == "no_matching_series"
    assert "missing" in refused["reason"]


def test_new_studies_are_classified_as_planted(demo: tuple[Path, str]) -> None:
    keys = Keyring(bytes.fromhex(SECRET))
    truth = {
        keys.study(row["study_id"]): row["outcome"] for row in _rows(demo[0] / "cohort" / "scoring" / "labels.csv")
    }
    rows = _rows(demo[0] / "scored" / "predictions.csv")
    assert np.mean([row["predicted"] == truth[row["study_key"]] for row in rows]) > 0.9


def test_the_peak_of_the_attribution_lies_in_the_planted_lesion(demo: tuple[Path, str]) -> None:
    out = demo[0]
    keys = Keyring(bytes.fromhex(SECRET))
    uid_of = {keys.study(row["study_id"]): row for row in _rows(out / "cohort" / "scoring" / "labels.csv")}
    hits = []
    for row in _rows(out / "scored" / "predictions.csv"):
        planted = uid_of[row["study_key"]]
        if planted["outcome"] != "1" or row["predicted"] != "1":
            continue  # true positives only
        image = nib.load(out / "scored" / "studies" / row["study_key"] / "attribution.nii.gz")
        attribution = np.abs(np.asanyarray(image.dataobj))
        peak = np.unravel_index(int(attribution.argmax()), attribution.shape)
        place = image.affine @ [*peak, 1]
        mask = nib.load(out / "cohort" / "lesion_masks" / "scoring" / f"{planted['study_id']}.nii.gz")
        voxel = np.rint(np.linalg.inv(mask.affine) @ place)[:3].astype(int)
        hits.append(bool(np.asanyarray(mask.dataobj)[tuple(voxel)]))
    assert len(hits) >= 10
    assert np.mean(hits) >= 0.9


def test_attributions_add_up_to_the_logit_within_one_percent(demo: tuple[Path, str]) -> None:
    documents = [json.loads(path.read_text()) for path in (demo[0] / "scored" / "studies").glob("*/explanation.json")]
    assert len(documents) == len(_rows(demo[0] / "scored" / "predictions.csv"))
    assert max(document["completeness_error"] for document in documents) <= 0.01


def test_the_word_that_decides_gets_the_note_its_share(demo: tuple[Path, str]) -> None:
    documents = [json.loads(path.read_text()) for path in (demo[0] / "scored" / "studies").glob("*/explanation.json")]
    assert min(min(document["modality_shares"].values()) for document in documents) > 0.02
    assert {word["section"] for document in documents for word in document["words"]} == {"history"}


def test_every_link_of_every_page_leads_somewhere_and_none_to_the_network(demo: tuple[Path, str]) -> None:
    pages = [page for page in demo[0].rglob("*.html") if "mlflow_artifacts" not in page.parts]  # copies, not pages
    assert len(pages) == 2 + len(_rows(demo[0] / "scored" / "predictions.csv"))
    dead = []
    for page in pages:
        links = _Links()
        links.feed(page.read_text())
        for link in links.found:
            target = unquote(link.partition("#")[0])
            if link.startswith("data:") or not target:
                continue
            if "://" in link or not (page.parent / target).exists():
                dead.append((page.name, link))
    assert dead == []


def test_what_to_open_is_printed_and_every_number_is_called_synthetic(demo: tuple[Path, str]) -> None:
    out, printed = demo
    assert str(out / "scored" / "index.html") in printed
    assert str(out / "run" / "report.html") in printed
    numbers = [line for line in printed.splitlines() if "AUROC" in line and "[" in line] + [
        line for line in printed.splitlines() if "scored," in line
    ]
    assert len(numbers) == 4
    assert [line for line in numbers if "synthetic" not in line.lower()] == []
