"""The command line: exit codes, one clear line on stderr, results on stdout. The pipelines have their own tests."""

import errno
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import medmllm
from medmllm.cli import ExitCode, app
from medmllm.errors import DicomError, LabelError

VERBS = {
    "index": ["index", "STUDIES", "--out", "OUT"],
    "select": ["select", "STUDIES", "--out", "OUT"],
    "train": ["train", "--studies", "STUDIES", "--labels", "L.csv", "--target", "grade", "--out", "OUT"],
    "score": ["score", "STUDIES", "--model", "MODEL", "--out", "OUT"],
    "demo": ["demo", "--out", "OUT"],
}


def command(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


class Story(ModuleType):
    """Stands where a pipeline would be imported from; remembers how it was called."""

    def __init__(self, answer: Any) -> None:
        super().__init__("story")
        self.answer = answer
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a story in the place of a verb's pipeline."""

    def put(verb: str, answer: Any) -> Story:
        import medmllm.pipelines

        story = Story(answer)
        monkeypatch.setitem(sys.modules, f"medmllm.pipelines.{verb}", story)
        monkeypatch.setattr(medmllm.pipelines, verb, story, raising=False)
        return story

    return put


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    """Undo what a verb sets up for logging."""
    root, own = logging.getLogger(), logging.getLogger("medmllm")
    before = root.level, list(root.handlers), own.level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    own.setLevel(before[2])


def test_the_version_is_shown_and_nothing_else_is_done() -> None:
    result = command("--version")
    assert (result.exit_code, result.stdout) == (0, f"medmllm {medmllm.__version__}\n")
    assert command("--version", "index").stdout == result.stdout


def test_the_help_says_what_it_is_not_for_and_lists_every_verb() -> None:
    result = command("--help")
    assert result.exit_code == 0
    assert "not a medical device" in " ".join(result.stdout.split())
    assert [verb for verb in (*VERBS, "schemas") if verb not in result.stdout] == []


@pytest.mark.parametrize("verb", ["index", "select", "quality", "score", "deidentify"])
def test_the_help_of_a_verb_that_takes_lists_of_studies_says_so(verb: str) -> None:
    (studies,) = (p for p in typer.main.get_command(app).commands[verb].params if p.name == "studies")  # type: ignore[attr-defined]
    assert "datalist (.json)" in studies.help
    assert "manifest (.csv)" in studies.help


@pytest.mark.parametrize("verb", ["quality", "deidentify"])
def test_a_list_of_studies_is_read_as_its_help_says(verb: str, tmp_path: Path) -> None:
    voxels = np.random.default_rng(1).normal(300, 50, (9, 8, 7)).astype(np.int16)
    studies = tmp_path / "studies"
    studies.mkdir()
    nib.save(nib.Nifti1Image(voxels, np.diag([9.0, 9.0, 9.0, 1.0])), studies / "a.nii.gz")
    (studies / "list.csv").write_text("study_id,patient_id,image\nS1,P1,a.nii.gz\n", encoding="utf-8")
    result = command(verb, str(studies / "list.csv"), "--out", str(tmp_path / "out"))
    assert result.exit_code == ExitCode.OK, result.stderr
    assert "1 studies" in result.stdout


@pytest.mark.parametrize(
    "words", [["scores"], ["index"], ["index", "STUDIES"], ["score", "S", "--out", "O", "--modle", "M"]]
)
def test_a_mistyped_command_is_misuse(words: list[str]) -> None:
    result = command(*words)
    assert result.exit_code == ExitCode.MISUSED == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_no_command_at_all_shows_the_help() -> None:
    result = command()
    assert result.exit_code == 2
    assert "Usage" in result.stdout + result.stderr


# --- what a verb answers ---------------------------------------------------------------------


def test_index_counts_on_stdout_and_is_partial_when_something_was_refused(stand_in: Any) -> None:
    story = stand_in("index", SimpleNamespace(files=12, read=3, studies=4, series=9, problems=2, refused=0))
    result = command("index", "in", "--out", "out", "--labels", "l.csv", "--linkage", "k.csv", "--overwrite")
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        "12 files (3 read), 4 studies, 9 series, 2 problems -> out\n",
        "",
    )
    assert story.calls == [
        (
            (Path("in"),),
            {
                "out": Path("out"),
                "labels": Path("l.csv"),
                "linkage": Path("k.csv"),
                "parquet": False,
                "overwrite": True,
            },
        )
    ]
    story.answer.refused = 1
    assert command("index", "in", "--out", "out").exit_code == ExitCode.PARTIAL == 3
    assert story.calls[-1][1] == {
        "out": Path("out"), "labels": None, "linkage": None, "parquet": False, "overwrite": False,
    }  # fmt: skip


def test_train_hands_over_the_resolved_settings(stand_in: Any) -> None:
    story = stand_in("train", SimpleNamespace(summary="AUROC 0.81", refused=0, unmet=()))
    result = command(*VERBS["train"], "--set", "training.folds=3", "--set", "training.seed=8")
    assert (result.exit_code, result.stdout) == (0, "AUROC 0.81\n")
    ((args, kwargs),) = story.calls
    assert args == (Path("STUDIES"),)
    assert (kwargs["config"].training.folds, kwargs["config"].training.seed) == (3, 8)
    assert (kwargs["targets"], kwargs["labels"], kwargs["overwrite"]) == (["grade"], Path("L.csv"), False)
    story.answer.refused = 2
    assert command(*VERBS["train"]).exit_code == 3
    story.answer.unmet = ("auroc is too low",)  # the graver of the two
    result = command(*VERBS["train"])
    assert (result.exit_code, result.stdout) == (ExitCode.POLICY, "AUROC 0.81\n")
    assert ExitCode.POLICY == 4


def test_score_is_partial_when_a_study_was_refused_and_says_where_the_results_are(stand_in: Any) -> None:
    story = stand_in("score", SimpleNamespace(scored=40, refused=0, files=0))
    assert command(*VERBS["score"]).exit_code == 0
    assert story.calls[-1][1]["explain"] is False
    story.answer.refused = 2
    result = command(*VERBS["score"], "--explain")
    assert (result.exit_code, result.stdout) == (3, f"40 scored, 2 refused -> {Path('OUT/index.html')}\n")
    story.answer.refused, story.answer.files = 0, 1
    result = command(*VERBS["score"], "--explain")
    assert result.exit_code == 3
    assert "0 refused, and 1 damaged files of no study (problems.csv)" in result.stdout
    assert story.calls[-1][1]["explain"] is True


def test_a_flag_of_score_wins_over_set_which_wins_over_the_file(stand_in: Any, tmp_path: Path) -> None:
    story = stand_in("score", SimpleNamespace(scored=1, refused=0, files=0))
    (tmp_path / "my.toml").write_text('batch_size = 3\nworkers = 3\ndevice = "cpu"\n')
    sets = ["--config", str(tmp_path / "my.toml"), "--set", "batch_size=4", "--set", "workers=4"]
    assert command(*VERBS["score"], *sets, "--batch-size", "5").exit_code == 0
    settings = story.calls[-1][1]["config"]
    assert (settings.batch_size, settings.workers, settings.device) == (5, 4, "cpu")


def test_demo_and_its_settings(stand_in: Any) -> None:
    story = stand_in("demo", "all done")
    result = command(*VERBS["demo"], "--set", "cohort.seed=3", "--overwrite")
    assert (result.exit_code, result.stdout) == (0, "all done\n")
    assert story.calls[-1][0] == (Path("OUT"),)
    assert (story.calls[-1][1]["config"].cohort.seed, story.calls[-1][1]["overwrite"]) == (3, True)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_results_are_overwritten_only_when_asked_for(verb: str, stand_in: Any) -> None:
    counts = dict.fromkeys(("studies", "series", "problems", "scored", "refused", "files"), 0)
    story = stand_in(verb, SimpleNamespace(summary="", text="", **counts))
    command(*VERBS[verb])
    command(*VERBS[verb], "--overwrite")
    assert [kwargs["overwrite"] for _, kwargs in story.calls] == [False, True]


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_misuse_is_exit_code_2_and_one_line(verb: str, stand_in: Any) -> None:
    stand_in(verb, LabelError("no column 'grad';\n did you mean 'grade'?"))
    result = command(*VERBS[verb])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "medmllm: no column 'grad'; did you mean 'grade'?\n"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_failure_is_exit_code_1_and_one_line_with_its_notes(verb: str, stand_in: Any) -> None:
    error = DicomError("cut off")
    error.add_note("in series se-0123456789abcdef")
    stand_in(verb, error)
    result = command(*VERBS[verb])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "medmllm: cut off in series se-0123456789abcdef\n"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_an_interrupted_verb_has_failed(verb: str, stand_in: Any) -> None:
    stand_in(verb, KeyboardInterrupt())
    result = command(*VERBS[verb])
    assert (result.exit_code, result.stderr) == (1, "medmllm: interrupted\n")


def test_a_defect_of_ours_is_not_dressed_up(stand_in: Any) -> None:
    stand_in("index", ZeroDivisionError("a bug"))
    result = command(*VERBS["index"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize("verb", ["train", "score", "demo"])
def test_wrong_settings_are_misuse_and_stop_before_the_pipeline(verb: str, stand_in: Any) -> None:
    story = stand_in(verb, SimpleNamespace(summary="", refused=0, scored=0, files=0, unmet=()))
    result = command(*VERBS[verb], "--set", "batch_siz=3")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"medmllm: {verb}.toml with --set: has no key 'batch_siz'")
    assert command(*VERBS[verb], "--set", "folds").exit_code == 2
    missing = command(*VERBS[verb], "--config", "absent.toml")
    assert (missing.exit_code, missing.stderr) == (2, "medmllm: cannot read absent.toml: No such file or directory\n")
    assert story.calls == []


@pytest.mark.parametrize("flag", [["--batch-size", "0"], ["--workers", "0"], ["--batch-size", "x"]])
def test_a_flag_out_of_range_is_misuse(flag: list[str], stand_in: Any) -> None:
    story = stand_in("score", SimpleNamespace(scored=0, refused=0, files=0))
    assert command(*VERBS["score"], *flag).exit_code == 2
    assert story.calls == []


# --- the log -------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "level"), [([], logging.WARNING), (["--log-level", "debug"], logging.DEBUG)])
def test_the_log_level_is_that_of_our_own_log_alone(words: list[str], level: int, stand_in: Any) -> None:
    logging.getLogger().setLevel(logging.WARNING)
    stand_in("index", SimpleNamespace(files=0, read=0, studies=0, series=0, problems=0, refused=0))
    assert command(*words, *VERBS["index"]).exit_code == 0
    assert logging.getLogger("medmllm").level == level
    assert logging.getLogger("pydicom").getEffectiveLevel() >= logging.WARNING, "others' debug logs may name patients"


def test_an_unknown_log_level_is_misuse(stand_in: Any) -> None:
    story = stand_in("index", SimpleNamespace(files=0, read=0, studies=0, series=0, problems=0, refused=0))
    result = command("--log-level", "loud", *VERBS["index"])
    assert result.exit_code == 2
    assert "'loud' is none of debug, info, warning, error" in " ".join(result.stderr.replace("│", " ").split())
    assert story.calls == []


def test_a_public_name_that_does_not_exist_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'medmllm' has no attribute 'read_volumes'"):
        medmllm.read_volumes  # noqa: B018 - asking for it is the test
    assert set(medmllm.__all__) <= set(dir(medmllm))


def test_a_full_disk_is_one_line_and_another_fault_of_the_system_keeps_its_traceback(stand_in: Any) -> None:
    stand_in("index", OSError(errno.ENOSPC, "No space left on device"))
    result = command(*VERBS["index"])
    assert result.exit_code == 1
    assert "No space left on device: not everything could be written" in result.output
    stand_in("index", OSError(errno.ENOENT, "No such file"))
    assert isinstance(command(*VERBS["index"]).exception, OSError)
