"""Documents: frozen, no unknown keys, no NaN, whole on disk or not there, and silent about values."""

import hashlib
import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from medmllm import config, documents, table_rows
from medmllm.documents import (
    AcceptedRange,
    Channel,
    ChannelAcceptance,
    Document,
    ImageSettings,
    PreprocessingContract,
    TextSettings,
    first_fault,
)
from medmllm.errors import PackageError
from medmllm.provenance import stamp
from medmllm.result_documents import ScoringSummary

EVERY_DOCUMENT = [
    member
    for module in (documents, table_rows, config)
    for _, member in inspect.getmembers(module, inspect.isclass)
    if issubclass(member, Document) and member is not Document
]


def image_settings(**changes: Any) -> ImageSettings:
    fields: dict[str, Any] = {
        "spacing_mm": (1.0, 1.0, 3.0),
        "size": (48, 40, 20),
        "intensity": "window",
        "regrid": "never",
        "window": (-1000.0, 400.0),
        "channels": {"ct": {"modality": "CT"}, "pet": {"modality": "PT"}},
    }
    return ImageSettings.model_validate(fields | changes)


def contract(**changes: Any) -> PreprocessingContract:
    some = AcceptedRange(low=1.0, high=2.0)
    accepted = ChannelAcceptance(
        modalities=("CT", None), extent_mm=(some, some, some), spacing_mm=(some, some, some), intensity=some
    )
    fields: dict[str, Any] = {
        "version": 1,
        "orientation": "RAS",
        "image": image_settings(),
        "accepted": {"ct": accepted, "pet": accepted},
        "text": None,
    }
    return PreprocessingContract.model_validate(fields | changes)


def summary(**changes: Any) -> ScoringSummary:
    fields: dict[str, Any] = {
        "scored": 41, "refused": 2, "refused_by_code": {"bad_geometry": 2}, "explained": 0, "ignored_files": 7,
        "synthetic": False, "provenance": stamp("score STUDIES --out OUT"),
    }  # fmt: skip
    return ScoringSummary(**(fields | changes))


# --- what holds for every document -----------------------------------------------------------


@pytest.mark.parametrize("document", EVERY_DOCUMENT, ids=lambda document: document.__name__)
def test_a_document_is_frozen_closed_and_takes_no_nan(document: type[Document]) -> None:
    assert document.model_config.get("frozen") is True
    assert document.model_config.get("extra") == "forbid"
    assert document.model_config.get("allow_inf_nan") is False


def test_a_document_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        summary().scored = 42  # type: ignore[misc]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        AcceptedRange(low=0.0, high=number)


def test_unknown_keys_are_refused_also_inside_the_provenance() -> None:
    with pytest.raises(ValidationError, match="hostname"):
        ScoringSummary.model_validate_json(
            summary().model_dump_json().replace('"python":', '"hostname":"ct-room-2","python":')
        )


# --- files ---------------------------------------------------------------------------------


def test_a_document_is_read_back_as_it_was_written_indented_and_ending_a_line(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summary().write(path)
    assert ScoringSummary.read(path) == summary(provenance=ScoringSummary.read(path).provenance)
    text = path.read_text(encoding="utf-8")
    assert text.startswith('{\n  "scored": 41,')
    assert text.endswith("}\n")
    assert json.loads(text)["provenance"]["command"] == "score STUDIES --out OUT"


def test_a_write_that_fails_leaves_the_old_document_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    summary().write(path)
    before = path.read_bytes()

    def disk_full(self: Path, text: str, **_: object) -> int:
        with self.open("w") as stream:
            stream.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        summary(scored=1).write(path)
    assert path.read_bytes() == before


def test_a_document_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "summary.json", []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        seen.append((Path(target), ScoringSummary.read(Path(source)).scored, path.exists()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    summary().write(path)
    assert seen == [(path, 41, False)]
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"summary\.json is not a valid ScoringSummary: the document: Invalid JSON"),
        ("[]", r"is not a valid ScoringSummary: the document: Input should be an object"),
        ('{"scored": -1}', r"scored: Input should be greater than or equal to 0 \(and 6 more\)"),
        ('{"scored": NaN}', r"scored"),
    ],
)
def test_a_file_of_another_form_is_refused_by_key(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(PackageError, match=message):
        ScoringSummary.read(tmp_path / "summary.json")


def test_a_file_that_is_not_there_is_refused_by_name_alone(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"cannot read summary\.json: No such file or directory") as caught:
        ScoringSummary.read(tmp_path / "MUSTERMANN" / "summary.json")
    assert "MUSTERMANN" not in str(caught.value)


def test_the_first_fault_names_the_place_and_never_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        ScoringSummary.model_validate(
            summary().model_dump() | {"scored": "MUSTERMANN", "refused_by_code": {"x": "ERIKA"}}
        )
    words = first_fault(caught.value)
    assert words == "scored: Input should be a valid integer, unable to parse string as an integer (and 1 more)"
    with pytest.raises(ValidationError) as caught:
        ScoringSummary.model_validate(summary().model_dump() | {"refused_by_code": {"x": "ERIKA"}})
    assert first_fault(caught.value).startswith("refused_by_code.x: Input should be a valid integer")
    assert "ERIKA" not in first_fault(caught.value)


# --- preprocessing -------------------------------------------------------------------------


def test_the_fingerprint_is_the_sha256_of_the_canonical_contract() -> None:
    canonical = json.dumps(
        [json.loads(contract().model_dump_json()), ["ct", "pet"]], sort_keys=True, separators=(",", ":")
    )
    assert contract().fingerprint == hashlib.sha256(canonical.encode()).hexdigest()
    text = TextSettings(
        encoder="tiny",
        max_tokens=8,
        window=8,
        overlap=0,
        sections=("history",),
        required=True,
        tiny_vocabulary=90,
        local_files_only=True,
    )
    no_image = contract(image=None, accepted={}, text=text)
    canonical = json.dumps([json.loads(no_image.model_dump_json()), []], sort_keys=True, separators=(",", ":"))
    assert no_image.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_contract_keeps_its_fingerprint_through_a_file_and_in_another_key_order(tmp_path: Path) -> None:
    contract().write(tmp_path / "contract.json")
    assert PreprocessingContract.read(tmp_path / "contract.json").fingerprint == contract().fingerprint
    turned = contract(accepted=dict(reversed(contract().accepted.items())))
    assert turned.fingerprint == contract().fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (1.0, 1.0, 3.01)},
        {"size": (48, 40, 21)},
        {"intensity": "zscore"},
        {"window": (-1000.0, 401.0)},
        {"channels": {"ct": {"modality": "CT"}, "pet": {"modality": "PT", "required": True}}},
        {"channels": {"pet": {"modality": "PT"}, "ct": {"modality": "CT"}}},  # the channels change places
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_the_model_would_see_otherwise_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert contract(image=image_settings(**change)).fingerprint != contract().fingerprint


@pytest.mark.parametrize("window", [(400.0, -1000.0), (50.0, 50.0)])
def test_a_window_that_is_empty_or_upside_down_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="the lowest value comes first"):
        image_settings(window=window)


def test_a_description_that_is_no_regular_expression_is_refused() -> None:
    assert Channel(description="t1.*(post|gd)").description == "t1.*(post|gd)"
    with pytest.raises(ValidationError, match=r"not a regular expression: .*unterminated subpattern"):
        Channel(description="t1 (post")


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (1.0, 0.0, 3.0)},
        {"spacing_mm": (1.0, 3.0)},
        {"size": (48, 0, 20)},
        {"size": (48.5, 40, 20)},
        {"intensity": "minmax"},
        {"channels": {}},
        {"spacing": 1.0},
    ],
    ids=str,
)
def test_image_settings_that_make_no_grid_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        image_settings(**change)


@pytest.mark.parametrize("change", [{"version": 2}, {"orientation": "LPS"}], ids=str)
def test_a_contract_of_another_version_or_orientation_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        contract(**change)
