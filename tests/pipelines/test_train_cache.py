"""`medmllm train` keeps prepared images on the disk: in RUN while it trains, or in a folder that further runs share."""

import json
from pathlib import Path

import pytest

from medmllm.training.image_cache import RUN_FOLDER
from tests.factories import write_nifti_cohort
from tests.pipelines.runs import UNTRACKED, cut_image, train

FAST = (*UNTRACKED, "--set", 'training.arms=["image"]', "--set", "training.epochs=1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_nifti_cohort(tmp_path / "data", patients=12)
    cut_image(tmp_path / "data" / "studies" / "case-002-0")
    return tmp_path / "data"


def results(run: Path) -> list[object]:
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation.pop("provenance")
    return [
        evaluation,
        *((run / name).read_text() for name in ("out_of_fold.csv", "quality.csv", "training_ledger.csv")),
    ]


def read_only_what_was_refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let voxels be read of the one study that cannot be; return what was read, filled in as it is."""
    from medmllm.training import cohort

    real, seen = cohort.read_volume, []

    def counting(reference: object, **more: object) -> object:
        seen.append("read")
        return real(reference, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(cohort, "read_volume", counting)
    return seen


def test_a_second_run_with_the_folder_reads_no_series_and_ends_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("--set", f'training.cache="{tmp_path / "kept"}"')
    first, second, plain = (tmp_path / name for name in ("first", "second", "plain"))
    assert train(data / "studies", data / "labels.csv", plain, *FAST).code == 3
    assert train(data / "studies", data / "labels.csv", first, *FAST, *kept).code == 3
    seen = read_only_what_was_refused(monkeypatch)
    assert train(data / "studies", data / "labels.csv", second, *FAST, *kept).code == 3
    assert seen == ["read"], "of the study that is cut"
    assert results(first) == results(second) == results(plain)
    assert len(list((tmp_path / "kept").iterdir())) == 15, "16 studies, one of them cut"
    assert not (first / RUN_FOLDER).exists()


def test_a_whole_run_leaves_no_prepared_image_and_a_killed_one_goes_on_with_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medmllm.pipelines.train.cross_validate", cut)
        train(data / "studies", data / "labels.csv", run, *FAST)
    assert len(list((run / RUN_FOLDER).iterdir())) == 15
    seen = read_only_what_was_refused(monkeypatch)
    assert train(data / "studies", data / "labels.csv", run, *FAST, "--resume").code == 3
    assert seen == ["read"]
    assert not (run / RUN_FOLDER).exists()
