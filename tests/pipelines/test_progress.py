"""Progress goes to stderr: a bar on a terminal, two lines elsewhere."""

import io
import re
import sys

import pytest

from medmllm.pipelines import progress
from medmllm.pipelines.progress import progress_bar


def test_without_a_terminal_there_is_a_line_at_the_start_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Reading", total=5) as advance:
        assert capsys.readouterr().err == "Reading 5 ...\n"
        advance(2)
        advance(3)
    shown = capsys.readouterr()
    assert re.fullmatch(r"Reading: 5 done in \d+\.\d s\n", shown.err)
    assert shown.out == ""


def test_long_work_without_a_terminal_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 40.0, 200.0, 500.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress_bar("Reading", total=5) as advance:
        advance(2)
        advance(1)
    shown = capsys.readouterr().err
    assert "Reading: 2 of 5 after 40 s, about 60 s left\n" in shown
    assert "Reading: 3 of 5 after 3 min, about 2 min left\n" in shown, "200 s for 3 are 133 s for 2"


def test_an_unknown_total_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Reading"):
        pass
    assert capsys.readouterr().err.startswith("Reading ...\n")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("Reading", total=4) as advance:
        advance(4)
    assert "4/4" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_an_error_inside_is_not_swallowed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), progress_bar("Reading"):
        raise ZeroDivisionError
    assert "done" not in capsys.readouterr().err
