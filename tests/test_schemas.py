"""data_schemas/: the committed schemas are the generated ones, and say the same as pydantic about every example."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from medmllm.cli import app
from medmllm.config import CONFIGS
from medmllm.errors import MedmllmError
from medmllm.pipelines import schemas
from medmllm.result_documents import FILES
from medmllm.table_rows import ROWS

FOLDER = Path(__file__).resolve().parents[1] / "data_schemas"

# Where the fault of each invalid example lies. A large document's example shows the faulty part alone.
FAULTS: dict[str, tuple[str | int, ...]] = {
    "model": ("training_patients", 0),  # a hospital number where a digest belongs
    "table_codes": ("columns", 0, "deviation"),  # 0
    "evaluation": ("accuracy",),  # unknown key
    "splits": ("digest",),  # cut short
    "prediction": ("probability",),  # 1.2
    "explanation": ("words", 0, "word"),  # text of the note
    "summary": ("refused",),  # -1
    "deidentification": ("refused",),  # -1
    "studies_row": ("patient_key",),  # a name where a key belongs
    "series_row": ("spacing_z_mm",),  # 0 mm
    "files_row": ("status",),  # lost
    "selection_row": ("outcome",),
    "selection": ("would_be_refused",),  # -1
    "comparison": ("patients",),  # -1
    "comparison_row": ("best",),  # perhaps
    "mlflow_spool_entry": ("values", "train_loss"),  # a number, which JSON could not hold if it were NaN
    "problems_row": ("where_key",),  # a path where a key belongs
    "linkage_row": ("kind",),
    "predictions_row": ("patient_key",),  # a hospital number
    "ledger_row": ("stage",),
    "quality_row": ("decision",),
    "leaks_row": ("other_part",),
    "search_row": ("candidate",),  # 0, and they are counted from 1
    "quality_summary": ("findings", "few_slices", "warn"),  # a word where a count belongs
    "image_weights": ("sha256",),  # cut short
    "quality_config": ("quality", "decisions", "ct_double_rescale"),  # ignore
    "out_of_fold_row": ("study_key",),  # a UID where a key belongs
    "targets_out_of_fold_row": ("fold",),  # -1
    "survival_predictions_row": ("predicted",),  # the event, where a group of risk belongs
    "survival_out_of_fold_row": ("time",),  # before the study
    "train_config": ("image", "spacing"),  # it is called spacing_mm
    "score_config": ("workers",),  # 0
    "deidentify_config": ("dicom", "dates"),  # "guess"
    "demo_config": ("train", "training", "folds"),  # 1
}


def load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(load(f"{name}.schema.json"))


def pydantic_faults(name: str, example: Any) -> set[tuple[str | int, ...]]:
    """Return where pydantic finds fault, read as the files are: from JSON text."""
    try:
        schemas.DOCUMENTS[name].model_validate_json(json.dumps(example))
    except ValidationError as error:
        return {tuple(fault["loc"]) for fault in error.errors()}
    return set()


def schema_faults(name: str, example: Any) -> set[tuple[str | int, ...]]:
    """Return where the JSON Schema finds fault; an unknown key counts as the place of that key."""
    found = set()
    for error in validator(name).iter_errors(example):
        place = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            found |= {(*place, key) for key in set(error.instance) - set(error.schema["properties"])}
        else:
            found.add(place)
    return found


def laid_over(under: Any, over: Any, fault: tuple[str | int, ...]) -> Any:
    """Return `under` with only the value at `fault` taken from `over`."""
    result = copy.deepcopy(under)
    target, source = result, over
    for step in fault[:-1]:
        target, source = target[step], source[step]
    target[fault[-1]] = source[fault[-1]]
    return result


def test_every_document_row_and_settings_file_has_a_schema_and_two_examples_and_nothing_else_lies_there() -> None:
    configs = ("train_config", "score_config", "demo_config", "quality_config", "deidentify_config")
    printed_or_kept = {"selection", "mlflow_spool_entry", "comparison", "comparison_row"}
    names = {*FILES, *ROWS, *printed_or_kept, *configs}
    assert len(names) == len(FILES) + len(ROWS) + len(printed_or_kept) + len(CONFIGS)
    assert set(FAULTS) == names
    assert {file.name for file in FOLDER.glob("*.json")} == {f"{name}.schema.json" for name in names}
    assert {file.name for file in (FOLDER / "examples").iterdir()} == {
        f"{name}.{kind}.json" for name in names for kind in ("valid", "invalid")
    }


def test_the_committed_schemas_are_what_the_documents_say_now() -> None:
    assert schemas.run(FOLDER, check=True) == [], "run `medmllm schemas` and commit data_schemas/"


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_schema_is_sound_says_what_it_is_and_starts_the_same_way(name: str) -> None:
    schema = load(f"{name}.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    assert list(schema)[:7] == [
        "$schema",
        "$id",
        "title",
        "description",
        "type",
        "properties",
        "required",
    ]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:medmllm:schema:{name}"
    assert schema["description"]
    assert list(schema["properties"]) == list(schemas.DOCUMENTS[name].model_fields)
    assert (FOLDER / f"{name}.schema.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_unknown_keys_are_refused_by_every_object_of_a_schema(name: str) -> None:
    schema = load(f"{name}.schema.json")
    for part in (schema, *schema.get("$defs", {}).values()):
        assert part.get("additionalProperties") is False, part["title"]


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_valid_example_passes_both_pydantic_and_the_schema(name: str) -> None:
    example = load(f"examples/{name}.valid.json")
    assert pydantic_faults(name, example) == set()
    assert schema_faults(name, example) == set()


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_an_invalid_example_fails_both_at_its_fault(name: str) -> None:
    example = load(f"examples/{name}.invalid.json")
    assert FAULTS[name] in pydantic_faults(name, example)
    places = schema_faults(name, example)
    assert places & {FAULTS[name], FAULTS[name][:-1]}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_the_fault_alone_makes_a_valid_example_invalid(name: str) -> None:
    valid, invalid = load(f"examples/{name}.valid.json"), load(f"examples/{name}.invalid.json")
    faulty = laid_over(valid, invalid, FAULTS[name])
    assert pydantic_faults(name, faulty) == {FAULTS[name]}
    assert schema_faults(name, faulty) == {FAULTS[name]}


@pytest.mark.parametrize("name", sorted(ROWS))
def test_an_invalid_row_differs_from_the_valid_one_in_its_fault_alone(name: str) -> None:
    valid, invalid = load(f"examples/{name}.valid.json"), load(f"examples/{name}.invalid.json")
    assert {key for key in valid | invalid if valid.get(key) != invalid.get(key)} == set(FAULTS[name])


# Document, place in its valid example, values just within and just outside the bound.
BOUNDS: list[tuple[str, tuple[str | int, ...], list[Any], list[Any]]] = [
    ("model", ("model", "dropout"), [0, 0.9], [-0.1, 1]),
    ("model", ("model", "modality_dropout"), [0, 0.9], [-0.1, 1]),
    ("model", ("model", "image_width"), [1], [0, 1.5]),
    ("model", ("folds", 0, "fold"), [0], [-1]),
    ("model", ("folds", 0, "temperature"), [0.01], [0]),
    ("model", ("folds", 0, "threshold"), [0, 1], [-0.1, 1.1]),
    ("model", ("folds",), [], [[]]),
    ("model", ("task", "classes"), [["a", "b"]], [["a"]]),
    ("model", ("format_version",), [1], [0, 2]),
    ("model", ("format",), ["medmllm-model"], ["another-model"]),
    ("model", ("split_digest",), ["0" * 64], ["0" * 63, "0" * 65, "G" * 64]),
    ("model", ("contract", "image", "channels"), [], [{}]),
    ("model", ("contract", "image", "spacing_mm"), [[1, 1, 1]], [[1, 1], [1, 1, 1, 1], [1, 1, 0]]),
    ("evaluation", ("excluded",), [0], [-1]),
    ("evaluation", ("confidence",), [0.9], [-0.1, 1.1]),
    ("evaluation", ("arms", 0, "metrics", 0, "n"), [0], [-1]),
    ("evaluation", ("arms", 0, "metrics", 0, "patients"), [0], [-1]),
    ("prediction", ("probability",), [0, 1], [-0.01, 1.01]),
    ("prediction", ("interval",), [[0, 1]], [[0.5], [0.5, 1.1], [0.1, 0.2, 0.3]]),
    ("explanation", ("completeness_error",), [0], [-0.1]),
    ("explanation", ("steps",), [1], [0]),
    ("explanation", ("modality_shares", "image"), [0, 1], [1.1]),
    ("summary", ("scored",), [0], [-1]),
    ("summary", ("refused",), [0], [-1]),
    ("summary", ("explained",), [0], [-1]),
    ("summary", ("ignored_files",), [0], [-1]),
    ("studies_row", ("series",), [0], [-1]),
    ("studies_row", ("refused_series",), [0], [-1]),
    ("studies_row", ("notes",), [0], [-1]),
    ("studies_row", ("recordings",), [0], [-1]),
    ("series_row", ("files",), [1], [0]),
    ("series_row", ("size_x",), [1, None], [0]),
    ("series_row", ("time_order",), [1, None], [0]),
    ("series_row", ("field_strength_t",), [1.5, None], [0]),
    ("series_row", ("thickness_mm",), [0.5, None], [0]),
    ("series_row", ("plane",), ["oblique", None], ["", "diagonal"]),
    ("selection", ("studies",), [0], [-1]),
    ("train_config", ("image", "channels", "image", "plane"), ["", "axial"], ["oblique", "Axial", None]),
    ("train_config", ("image", "channels", "image", "contrast"), ["", "yes", "no"], [True, "maybe"]),
    ("train_config", ("image", "channels", "image", "prefer"), [[], ["latest", "thinnest"]], [["thin"], "latest"]),
    ("train_config", ("image", "channels", "image", "max_spacing_mm"), [0.5, None], [0]),
    ("out_of_fold_row", ("fold",), [0], [-1]),
    ("train_config", ("text", "overlap"), [0], [-1]),
    ("train_config", ("training", "warmup_epochs"), [0], [-1]),
    ("train_config", ("training", "weight_decay"), [0], [-0.1]),
    ("train_config", ("training", "noise"), [0], [-0.1]),
    ("train_config", ("training", "tuning_fraction"), [0.49], [0, 0.5]),
    ("train_config", ("training", "shift_voxels"), [0], [-1]),
    ("train_config", ("tracking", "experiment"), ["a"], [""]),
    ("train_config", ("tracking", "register_as"), ["", "chest CT-1.0"], ["a/b", "a:b", "a'b"]),
    ("train_config", ("acceptance_margin",), [0], [-0.1]),
    ("train_config", ("evaluation", "confidence"), [0.9], [0, 1]),
    ("score_config", ("explain", "completeness"), [0.001], [0]),
]


@pytest.mark.parametrize(
    ("name", "place", "within", "outside"), BOUNDS, ids=[f"{bound[0]}.{bound[1][-1]}" for bound in BOUNDS]
)
def test_pydantic_and_the_schema_draw_the_same_bounds(
    name: str, place: tuple[str | int, ...], within: list[Any], outside: list[Any]
) -> None:
    for value in [*within, *outside]:
        example = load(f"examples/{name}.valid.json")
        target = example
        for step in place[:-1]:
            target = target[step]
        target[place[-1]] = value
        assert bool(pydantic_faults(name, example)) == (value in outside), value
        assert bool(schema_faults(name, example)) == (value in outside), value


def test_schemas_are_written_the_same_twice(tmp_path: Path) -> None:
    written = schemas.run(tmp_path / "new", check=False)
    first = {name: (tmp_path / "new" / name).read_bytes() for name in written}
    assert schemas.run(tmp_path / "new", check=False) == written
    assert {name: (tmp_path / "new" / name).read_bytes() for name in written} == first
    assert schemas.run(tmp_path / "new", check=True) == []


def test_checking_names_what_changed_what_is_gone_and_what_nothing_stands_behind(tmp_path: Path) -> None:
    schemas.run(tmp_path, check=False)
    (tmp_path / "model.schema.json").write_text("{}")
    (tmp_path / "summary.schema.json").unlink()
    (tmp_path / "vanished.schema.json").write_text("{}")
    (tmp_path / "examples/score_config.valid.json").write_text("{}")
    assert schemas.run(tmp_path, check=True) == [
        "model.schema.json",
        "summary.schema.json",
        "examples/score_config.valid.json",
        "vanished.schema.json",
    ]
    assert (tmp_path / "model.schema.json").read_text() == "{}", "checking changes nothing"


def test_checking_a_folder_that_is_not_there_makes_none(tmp_path: Path) -> None:
    assert len(schemas.run(tmp_path / "absent", check=True)) == len(FAULTS) + len(CONFIGS)  # and the settings' examples
    assert not (tmp_path / "absent").exists()


def test_schemas_that_cannot_be_written_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with pytest.raises(MedmllmError, match="cannot write the schemas to --out") as caught:
        schemas.run(tmp_path / "taken", check=False)
    assert caught.value.code == "cannot_write"


def test_the_command_fails_when_a_schema_differs_and_is_content_when_none_does(tmp_path: Path) -> None:
    runner = CliRunner()
    out = ["--out", str(tmp_path)]
    assert runner.invoke(app, ["schemas", *out]).exit_code == 0
    assert runner.invoke(app, ["schemas", *out, "--check"]).exit_code == 0
    (tmp_path / "model.schema.json").write_text("{}")
    stale = runner.invoke(app, ["schemas", *out, "--check"])
    assert (stale.exit_code, stale.stdout) == (1, "1 schemas differ\n  model.schema.json\n")
