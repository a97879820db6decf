"""Errors: one tree, a stable code each, and a reason on one line."""

import copy
import inspect
import re

import pytest

from medmllm import errors
from medmllm.errors import (
    ConfigError,
    DicomError,
    EvaluationError,
    IngestError,
    LabelError,
    MedmllmError,
    MisuseError,
    NiftiError,
    NoteError,
    RecordingError,
    SplitError,
)

ALL = {
    name: member
    for name, member in inspect.getmembers(errors, inspect.isclass)
    if issubclass(member, Exception)
}  # fmt: skip


def test_everything_raised_on_purpose_is_caught_by_one_name() -> None:
    assert len(ALL) > 10
    assert all(issubclass(error, MedmllmError) for error in ALL.values())


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn, path = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^( +[│├└─ ]*)(\w+Error)\b", line)
        if match:
            depth = len(match.group(1))
            above = [at for at in path if at < depth]
            drawn[match.group(2)] = path[max(above)] if above else "Exception"
            path = {at: name for at, name in path.items() if at < depth} | {depth: match.group(2)}
    assert drawn == {name: error.__base__.__name__ for name, error in ALL.items()}


def test_misuse_is_told_from_failure_by_its_branch() -> None:
    assert {ConfigError, LabelError, SplitError} == set(MisuseError.__subclasses__())
    assert not issubclass(EvaluationError, MisuseError)
    assert {DicomError, NiftiError, NoteError, RecordingError} <= set(IngestError.__subclasses__())


def test_every_error_has_a_code_of_its_own_in_snake_case() -> None:
    codes = [error("message").code for error in ALL.values()]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_the_codes_that_ledgers_hold_do_not_change() -> None:
    # A data manager filters on these words.
    assert {name: error("").code for name, error in ALL.items()} == {
        "MedmllmError": "error",
        "MisuseError": "misuse",
        "ConfigError": "bad_config",
        "LabelError": "bad_labels",
        "SplitError": "bad_split",
        "LeakageError": "leaking_split",
        "IngestError": "unreadable",
        "DicomError": "dicom_unreadable",
        "NiftiError": "nifti_unreadable",
        "NoteError": "note_unreadable",
        "RecordingError": "recording_unreadable",
        "GeometryError": "bad_geometry",
        "ContractError": "contract_mismatch",
        "PackageError": "bad_model_package",
        "EvaluationError": "cannot_evaluate",
        "AttributionError": "attribution_failed",
    }


def test_a_code_given_wins_over_the_default_and_nothing_is_retryable_unless_said() -> None:
    plain, special = DicomError("a"), DicomError("a", code="slice_missing", retryable=True)
    assert (plain.code, plain.retryable) == ("dicom_unreadable", False)
    assert (special.code, special.retryable) == ("slice_missing", True)


def test_a_reason_is_the_message_and_every_note_on_one_line() -> None:
    error = IngestError("slices 1 and 2\n  lie apart.")
    error.add_note("in series se-0123456789abcdef")
    error.add_note("of study\tst-0123456789abcdef")
    assert error.reason == "slices 1 and 2 lie apart. in series se-0123456789abcdef of study st-0123456789abcdef"
    assert IngestError("as it is").reason == "as it is"


def test_an_error_keeps_code_retryable_and_notes_on_its_way_out_of_a_worker() -> None:
    error = NiftiError("the drive is gone", code="drive_gone", retryable=True)
    error.add_note("in series se-0123456789abcdef")
    arrived = copy.copy(error)  # the same protocol that carries it between processes
    assert arrived is not error
    assert type(arrived) is NiftiError
    assert (arrived.code, arrived.retryable, arrived.reason) == ("drive_gone", True, error.reason)


def test_options_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        MedmllmError("message", "code")  # type: ignore[misc]
