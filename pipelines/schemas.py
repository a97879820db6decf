"""Write the JSON Schema of every file medmllm reads or writes.

    result_documents.FILES, table_rows.ROWS, config.CONFIGS, what is printed -> data_schemas/<name>.schema.json
    packaged VERB.toml                               -> data_schemas/examples/VERB_config.valid.json

Schemas are for people and programs outside: pydantic checks the files here. Dialect: JSON Schema 2020-12.
The other examples are written by hand.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from medmllm.config import CONFIGS, load_config
from medmllm.documents import Document
from medmllm.errors import MedmllmError
from medmllm.reporting.comparison import ComparisonDocument, ComparisonRow
from medmllm.reporting.selection import SelectionDocument
from medmllm.result_documents import FILES
from medmllm.table_rows import ROWS
from medmllm.training.spool import SpoolEntry

DIALECT = "https://json-schema.org/draft/2020-12/schema"

DOCUMENTS: Mapping[str, type[Document]] = {
    **FILES,
    **ROWS,
    "selection": SelectionDocument,
    "mlflow_spool_entry": SpoolEntry,
    "comparison": ComparisonDocument,
    "comparison_row": ComparisonRow,
    **{f"{verb}_config": settings for verb, settings in CONFIGS.items()},
}
"""Schema name -> document."""

KEY_ORDER = ("type", "properties", "required", "additionalProperties")


def run(out: Path, *, check: bool) -> list[str]:
    """Write every schema and the example of every settings file, or compare them with the files that are there.

    Args:
        out: Folder of the schemas; made if absent, unless checking.
        check: Change nothing.

    Returns:
        File names written; when checking, those that differ, are absent, or have no document behind them.

    Raises:
        MedmllmError: A file cannot be written.
    """
    texts = {f"{name}.schema.json": schema_text(name) for name in sorted(DOCUMENTS)}
    texts |= {f"examples/{verb}_config.valid.json": settings_text(verb) for verb in sorted(CONFIGS)}
    if check:
        left_over = sorted(file.name for file in out.glob("*.schema.json") if file.name not in texts)
        return [name for name, text in texts.items() if _on_disk(out / name) != text] + left_over
    try:
        (out / "examples").mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise MedmllmError(f"cannot write the schemas to --out: {error.strerror}", code="cannot_write") from None
    return list(texts)


def schema_text(name: str) -> str:
    """Return one schema as indented JSON: what it is, its properties as the document orders them, then the parts.

    Args:
        name: A key of DOCUMENTS.
    """
    document = DOCUMENTS[name]
    generated = document.model_json_schema(mode="validation")
    ordered = {
        "$schema": DIALECT,
        "$id": f"urn:medmllm:schema:{name}",
        "title": document.__name__,
        "description": " ".join((document.__doc__ or "").split()),
        **{key: generated[key] for key in KEY_ORDER if key in generated},
    }
    rest = {key: generated[key] for key in sorted(generated) if key not in ordered}
    return json.dumps({**ordered, **rest}, indent=2, ensure_ascii=False) + "\n"


def settings_text(verb: str) -> str:
    """Return the packaged settings of a verb, resolved, as indented JSON.

    Args:
        verb: A key of CONFIGS.
    """
    return load_config(CONFIGS[verb], verb).model_dump_json(indent=2) + "\n"


def _on_disk(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None
