"""Say where a result came from: commit, versions, seed, input digests, command, time.

    what ran, on what -> Provenance, stamped on every file written

The command is written with its paths replaced by their roles ("STUDIES", "OUT"): a hospital
path may name a patient.
"""

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medmllm import __version__
from medmllm.records import Provenance

SHAPING_PACKAGES = (
    "torch", "monai", "pydicom", "nibabel", "transformers", "tokenizers", "scikit-learn",
    "pandas", "numpy", "scipy", "mlflow", "captum", "imagecodecs",
)  # fmt: skip


def stamp(command: str, *, seed: int | None = None, inputs: Mapping[str, str] | None = None) -> Provenance:
    """Return the provenance of a result made now.

    Args:
        command: The verb and its settings, paths replaced by their roles.
        seed: The seed that the run started from; None when nothing was random.
        inputs: Role -> sha256 of what went in.
    """
    commit, dirty = git_state()
    return Provenance(
        medmllm_version=__version__,
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages=package_versions(),
        command=command,
        seed=seed,
        inputs=dict(inputs or {}),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@cache
def package_versions() -> dict[str, str]:
    """Return name -> version of the installed libraries that shape the numbers."""
    found = {}
    for name in SHAPING_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Return (commit, dirty) of the checkout this code runs from; (None, None) outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_digest(parts: Iterable[str]) -> str:
    """Return the sha256 of several texts, each ended so that no two lists collide.

    >>> text_digest(["ab", "c"]) == text_digest(["a", "bc"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
