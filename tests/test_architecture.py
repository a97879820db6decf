"""The plan of the house, enforced: who may import whom, what stays light, how long a file may be.

Imports are read from the source, also those inside functions, so nothing has to be importable for the walls to stand.
"""

import ast
import configparser
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import medmllm

REPOSITORY = Path(__file__).resolve().parents[1]

# Top-level files and folders of medmllm, the lowest tier first: a member imports from lower tiers and from itself.
TIERS = (
    {"errors"},
    {"records"},
    {"geometry", "documents"},
    {"tuning_documents"},
    {"model_documents", "survival_config", "survival_documents", "table_documents", "trust_config", "trust_documents"},
    {"search_config", "search_documents"},
    {"table_rows", "deidentify_config", "provenance", "result_documents", "training_config"},
    {"csv_tables"},
    {"config"},
    {"told_settings"},
    {"ingest", "preprocessing", "quality", "evaluation"},
    {"models"},
    {"training", "attribution"},
    {"scoring", "reporting", "asking", "monitoring"},
    {"serving"},
    {"pipelines"},
    {"launch"},
    {"cli"},
    {"__main__"},
)
TIER_OF = {member: height for height, tier in enumerate(TIERS) for member in tier}

# Folders at the top of the repository that setup.cfg installs inside the package.
MAPPED = {"medmllm.data_schemas": "data_schemas", "medmllm.pipelines": "pipelines"}

TORCH_AND_ITS_FAMILY = {"torch", "monai", "transformers", "lightning", "captum"}
WITHOUT_TORCH = (
    "errors", "records", "geometry", "documents", "tuning_documents", "model_documents", "table_rows", "csv_tables",
    "config",
    "deidentify_config", "provenance", "result_documents", "table_documents", "told_settings", "training_config",
    "search_config", "search_documents",
    "ingest", "quality", "evaluation", "reporting", "cli",
)  # fmt: skip
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}

MOST_LINES = {"medmllm": 400, "pipelines": 150}
MOST_BODY_LINES = 45
MOST_PUBLIC_NAMES = 25
HELP_CPU_S = 0.5


class Import(NamedTuple):
    """One module named by one import statement."""

    module: str  # dotted, absolute
    line: int


def sources(folder: str = ".") -> list[Path]:
    """Return the Python files of the package, wherever they lie, or of one of its folders; relative to the root."""
    roots = [REPOSITORY / "medmllm", *(REPOSITORY / place for place in MAPPED.values())]
    inside = REPOSITORY / folder
    files = {file for root in roots for file in root.rglob("*.py")}
    return sorted(file.relative_to(REPOSITORY) for file in files if file.is_relative_to(inside))


def module_name(file: Path) -> str:
    """Return the dotted name under which a file of the repository is installed.

    >>> module_name(Path("medmllm/ingest/dicom.py")), module_name(Path("pipelines/__init__.py"))
    ('medmllm.ingest.dicom', 'medmllm.pipelines')
    """
    parts = [*file.with_suffix("").parts]
    if parts[0] != "medmllm":
        parts.insert(0, "medmllm")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str | ast.AST, file: Path) -> Iterator[Import]:
    """Yield what a file imports anywhere in it; for `from a import b` both a and a.b, since b may be a module.

    >>> [i.module for i in imports("def f():\\n    from . import nifti", Path("medmllm/ingest/dicom.py"))]
    ['medmllm.ingest', 'medmllm.ingest.nifti']
    """
    package = module_name(file).split(".")
    if file.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        match node:
            case ast.Import(names=names):
                yield from (Import(name.name, node.lineno) for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                start = package[: len(package) - level + 1] if level else []
                origin = ".".join([*start, *([module] if module else [])])
                yield Import(origin, node.lineno)
                yield from (Import(f"{origin}.{name.name}", node.lineno) for name in names)
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Import(module, node.lineno)


def member_of(module: str) -> str | None:
    """Return the top-level file or folder of medmllm that a module belongs to; None for other packages.

    >>> member_of("medmllm.ingest.dicom"), member_of("medmllm"), member_of("numpy")
    ('ingest', '', None)
    """
    root, _, rest = module.partition(".")
    return rest.partition(".")[0] if root == "medmllm" else None


def wrong_imports(source: str, file: Path) -> list[str]:
    """Return one sentence for each import that points up or sideways."""
    home = member_of(module_name(file))
    assert home is not None
    if home == "":
        return []  # the facade: it names every area as a string and imports on first use (checked below)
    wrong = []
    for module, line in imports(source, file):
        target = member_of(module)
        if target in (None, "", home, "__version__", "data_schemas"):
            continue
        if target not in TIER_OF:
            wrong.append(f"{file}:{line} imports {module}, which has no place in TIERS")
        elif TIER_OF[target] >= TIER_OF[home]:
            wrong.append(f"{file}:{line} imports {module}: {home} may not import {target}")
    return wrong


class WithoutTyping(ast.NodeTransformer):
    """Remove what only the type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return node.orelse if typing_only else self.generic_visit(node)


def foreign_imports(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the top-level name of each package that a file imports when it runs, with the line."""
    yield from running_imports((REPOSITORY / file).read_text(), file)


def running_imports(source: str, file: Path) -> Iterator[tuple[str, int]]:
    """Yield the top-level name of each package that a source imports when it runs, with the line.

    >>> lazy = "if TYPE_CHECKING:\\n    import torch\\ndef f():\\n    import monai.data"
    >>> list(running_imports(lazy, Path("medmllm/records.py")))
    [('monai', 4)]
    """
    tree = WithoutTyping().visit(ast.parse(source))
    for module, line in imports(tree, file):
        yield module.partition(".")[0], line


def in_member(member: str) -> list[Path]:
    """Return the files of one top-level file or folder of medmllm."""
    return [file for file in sources() if member_of(module_name(file)) == member]


# --- who may import whom


def test_imports_point_down() -> None:
    wrong = [fault for file in sources() for fault in wrong_imports((REPOSITORY / file).read_text(), file)]
    assert wrong == []


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("medmllm/evaluation/cohort.py", "from medmllm.records import Prediction", None),
        ("medmllm/ingest/dicom.py", "from medmllm.ingest import nifti", None),
        ("medmllm/provenance.py", "from medmllm import __version__", None),
        ("medmllm/records.py", "from medmllm.errors import GeometryError", None),
        ("medmllm/errors.py", "from medmllm import records", "errors may not import records"),
        ("medmllm/geometry.py", "import medmllm.config", "geometry may not import config"),
        ("medmllm/evaluation/cohort.py", "from medmllm.models.fusion import Concat", "may not import models"),
        ("medmllm/ingest/notes.py", "def f():\n    from ..quality import note", "ingest may not import quality"),
        ("medmllm/training/loop.py", "from medmllm import attribution", "training may not import attribution"),
        ("medmllm/models/package.py", "import_module('medmllm.cli')", "models may not import cli"),
        ("pipelines/train.py", "from medmllm.cli import app", "pipelines may not import cli"),
        ("pipelines/train.py", "from medmllm.attic import x", "no place in TIERS"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_found(file: str, source: str, fault: str | None) -> None:
    found = wrong_imports(source, Path(file))
    assert found == [] if fault is None else fault in found[0]


def test_nobody_below_uses_the_public_names() -> None:
    """A file that imports from the facade hides which area it leans on."""
    public = set(medmllm.__all__) - {"__version__"}
    users = [
        f"{file}:{line}"
        for file in sources()
        for module, line in imports((REPOSITORY / file).read_text(), file)
        if module in {f"medmllm.{name}" for name in public}
    ]
    assert users == []


def test_every_file_has_a_place_in_the_plan() -> None:
    members = {member_of(module_name(file)) for file in sources()}
    assert members - TIER_OF.keys() <= {"", "data_schemas", "__main__"}


# --- heavy libraries stay where they are used


@pytest.mark.parametrize("member", WITHOUT_TORCH)
def test_an_area_that_needs_no_torch_imports_none(member: str) -> None:
    users = [
        f"{file}:{line} {name}"
        for file in in_member(member)
        for name, line in foreign_imports(file)
        if name in TORCH_AND_ITS_FAMILY
    ]
    assert users == []


def test_the_training_loop_does_not_know_mlflow() -> None:
    loop = Path("medmllm/training/loop.py")
    assert "mlflow" not in {name for name, _ in foreign_imports(loop)}


def test_only_ingest_and_the_dicom_writers_import_pydicom() -> None:
    users = {file for file in sources() for name, _ in foreign_imports(file) if name in ("pydicom", "highdicom")}
    writers = {file for file in users if file.parent == Path("medmllm/reporting") and file.name.startswith("dicom_")}
    assert users - writers <= set(in_member("ingest"))


def test_geometry_needs_numpy_alone() -> None:
    foreign = {name for file in in_member("geometry") for name, _ in foreign_imports(file)}
    assert foreign - sys.stdlib_module_names <= {"numpy", "medmllm"}


def loaded_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after one statement."""
    show = "import sys; print('loaded:', *{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{show}"],
        capture_output=True,
        text=True,
        check=True,
        env=plain_environment(),
    )
    return set(run.stdout.rpartition("loaded:")[2].split())


def plain_environment() -> dict[str, str]:
    """Return the environment without coverage's hook, which would itself load and measure."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


@pytest.mark.parametrize("statement", ["import medmllm; dir(medmllm)", "import medmllm.cli", "import medmllm.records"])
def test_importing_medmllm_loads_nothing_heavy(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "medmllm" in loaded
    assert loaded & (TORCH_AND_ITS_FAMILY | {"mlflow", "pandas", "sklearn", "matplotlib"}) == set()


@pytest.mark.parametrize("area", ["ingest", "quality", "evaluation"])
def test_an_area_that_runs_without_torch_loads_none(area: str) -> None:
    names = [module_name(file) for file in in_member(area)]
    assert names
    assert loaded_by(f"import {', '.join(names)}") & TORCH_AND_ITS_FAMILY == set()


def test_help_answers_at_once() -> None:
    command = Path(sys.executable).parent / "medmllm"
    assert command.is_file(), "the console script is missing: pip install -e ."
    best = min(cpu_seconds([str(command), "--help"]) for _ in range(3))
    assert best < HELP_CPU_S


def cpu_seconds(command: list[str]) -> float:
    """Return the processor time, user and system, that a command took; a busy machine does not lengthen it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=plain_environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


# --- names and sizes


def test_every_name_says_what_is_in_the_file() -> None:
    named = {file for file in sources() if BANNED_NAMES & set(re.split(r"[_/.]", str(file)))}
    assert named == set()


def test_areas_are_one_folder_deep() -> None:
    assert [file for file in sources() if len(file.parts) > 3] == []


def test_setup_lists_every_package_and_no_other() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    listed = setup["options"]["packages"].split()
    areas = {file.parent for file in sources("medmllm")}
    folders = {".".join(folder.parts) for folder in areas} | MAPPED.keys()
    assert sorted(listed) == sorted(folders)
    mapping = dict(re.findall(r"(\S+) = (\S+)", setup["options"]["package_dir"]))
    assert mapping == MAPPED
    places = [REPOSITORY / MAPPED.get(package, package.replace(".", "/")) for package in listed]
    assert [place for place in places if not (place / "__init__.py").is_file()] == []


@pytest.mark.parametrize("folder", MOST_LINES)
def test_no_file_is_too_long(folder: str) -> None:
    lengths = {str(file): len((REPOSITORY / file).read_text().splitlines()) for file in sources(folder)}
    assert {file: lines for file, lines in lengths.items() if lines > MOST_LINES[folder]} == {}


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function after its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 0 if not body else (function.end_lineno or 0) - body[0].lineno + 1


def test_a_docstring_does_not_count_as_body() -> None:
    function = ast.parse('def f():\n    """Say\n    much.\n    """\n    a = 1\n\n    return a').body[0]
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 3


def test_no_function_is_too_long() -> None:
    long = {
        f"{file}:{node.lineno} {node.name}": body_lines(node)
        for file in sources()
        for node in ast.walk(ast.parse((REPOSITORY / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in long.items() if lines > MOST_BODY_LINES} == {}


# --- the public names


def test_the_public_names_are_few_and_each_resolves() -> None:
    assert len(medmllm.__all__) <= MOST_PUBLIC_NAMES
    assert sorted(medmllm.__all__) == sorted(set(medmllm.__all__))
    missing = []
    for name in medmllm.__all__:
        try:
            getattr(medmllm, name)
        except (AttributeError, ImportError) as error:
            missing.append(f"{name}: {error}")
    assert missing == []


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Volumes'"):
        medmllm.Volumes  # noqa: B018
