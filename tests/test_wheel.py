"""The wheel holds what it must and works outside the checkout.

It is built from a copy of the sources, so that no leftover of an earlier build slips in, and installed without its
dependencies into a fresh environment that borrows those of this one: nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("medmllm", "pipelines", "data_schemas", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout and return what it printed; fail with its errors."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without isolation: the build backend of this environment is used."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy, cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a fresh environment with the wheel in it, its dependencies borrowed.

    A .pth line adds this environment's packages behind the fresh one's own; the .pth files that lie there, and with
    them an editable install of the checkout, are not read.
    """
    environment = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=environment.parent)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment.parent).strip()
    borrowed = [place for place in sys.path if Path(place).name in ("site-packages", "dist-packages")]
    (Path(own) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return environment / "bin"


def test_the_wheel_holds_code_settings_schemas_and_templates_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names} == {"medmllm", f"{wheel.name.rpartition('-py3')[0]}.dist-info"}
    expected = {
        *(f"medmllm/{path.relative_to(REPOSITORY / 'medmllm')}" for path in (REPOSITORY / "medmllm").rglob("*.py")),
        *(f"medmllm/pipelines/{path.name}" for path in (REPOSITORY / "pipelines").glob("*.[pt][yo]*")),
        *(f"medmllm/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "data_schemas").rglob("*.json")),
        *(
            f"medmllm/reporting/templates/{path.name}"
            for path in (REPOSITORY / "medmllm" / "reporting" / "templates").iterdir()
        ),
        "medmllm/py.typed",
    }
    assert expected - names == set()
    for pattern in ("medmllm/data_schemas/*.json", "medmllm/pipelines/*.toml", "medmllm/reporting/templates/*"):
        assert [name for name in names if Path(name).match(pattern)], f"the wheel holds no {pattern}"
    assert [name for name in names if {"test", "tests"} & set(Path(name).parts)] == []


def test_the_wheel_names_its_licence_and_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(path).decode()
        assert any(name.endswith("/LICENSE") for name in archive.namelist())
    lines = metadata.splitlines()
    assert "Requires-Python: >=3.11" in lines
    assert "Requires-Dist: torch>=2.10" in lines
    assert {"License: Apache-2.0", "License-Expression: Apache-2.0"} & set(lines)


def test_the_installed_package_is_the_wheel_and_not_the_checkout(installed: Path, tmp_path: Path) -> None:
    show = "import medmllm, medmllm.pipelines, medmllm.cli as c; print(medmllm.__file__, medmllm.pipelines.__file__)"
    places = run(installed / "python", "-c", show, cwd=tmp_path).split()
    assert [place for place in places if not Path(place).is_relative_to(installed.parent)] == []


def test_the_installed_command_answers(installed: Path, tmp_path: Path) -> None:
    assert "not a medical device" in run(installed / "medmllm", "--help", cwd=tmp_path)
    assert run(installed / "medmllm", "--version", cwd=tmp_path).startswith("medmllm ")


def test_the_installed_settings_can_be_read(installed: Path, tmp_path: Path) -> None:
    verbs = sorted(path.stem for path in (REPOSITORY / "pipelines").glob("*.toml"))
    show = f"""
import tomllib
from importlib.resources import files
for verb in {verbs}:
    print(verb, len(tomllib.loads(files("medmllm.pipelines").joinpath(verb + ".toml").read_text())))
"""
    sizes = dict(line.split() for line in run(installed / "python", "-c", show, cwd=tmp_path).splitlines())
    assert sorted(sizes) == verbs
    assert "0" not in sizes.values()


def test_the_installed_command_runs_the_demo_small(installed: Path, tmp_path: Path) -> None:
    small = (
        "cohort.training_patients=16",
        "cohort.scoring_patients=4",
        "train.training.folds=2",
        "train.training.epochs=1",
        "train.training.batch_size=4",
        "train.tracking.enabled=false",
        "train.evaluation.bootstrap_samples=100",
    )
    settings = [part for setting in small for part in ("--set", setting)]
    printed = run(installed / "medmllm", "demo", "--out", tmp_path / "demo", *settings, cwd=tmp_path)
    assert str(tmp_path / "demo" / "scored" / "index.html") in printed
    assert list((tmp_path / "demo" / "scored" / "studies").glob("*/prediction.json"))
