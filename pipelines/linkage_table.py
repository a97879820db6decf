"""Write the linkage table: which original each key stands for. On request only, and never among the results.

LinkageRow, one after the other -> a CSV readable by its owner alone; or the same encrypted with a passphrase
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from medmllm.csv_tables import table_writer
from medmllm.errors import MedmllmError, MisuseError
from medmllm.ingest.linkage import seal
from medmllm.ingest.study_folder import StudyIndex
from medmllm.table_rows import LinkageRow


def check_linkage(path: Path | None, out: Path) -> None:
    """Make the folder of a linkage table, for its owner alone, and try whether it can be written; before the long part.

    Raises:
        MisuseError: It would lie inside the results folder.
        MedmllmError: Its folder cannot be made, or it cannot be written.
    """
    if path is None:
        return
    if path.resolve().is_relative_to(out.resolve()):
        raise MisuseError("the linkage table may not lie among the results: choose another --linkage")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(error, "its folder cannot be made") from None
    try:
        there = path.exists()
        with path.open("ab"):  # an earlier table stays as it is until there is another one
            path.chmod(0o600)
        if not there:
            path.unlink()
    except OSError as error:
        raise _cannot_write(error) from None


def write_linkage(path: Path, index: StudyIndex, *, passphrase: str | None = None) -> None:
    """Write the linkage table where `check_linkage` found that it may lie, for its owner alone.

    Args:
        path: The table.
        index: Has its rows.
        passphrase: Encrypts it; None leaves it readable.

    Raises:
        MedmllmError: It cannot be written.
    """
    if passphrase is None:
        with ExitStack() as stack:
            linkage_writer(path, stack)(index.linkage)
        return
    try:
        with TemporaryDirectory(dir=path.parent) as folder:  # of mode 0700, beside the file that may hold it
            with ExitStack() as stack:
                linkage_writer(Path(folder) / path.name, stack)(index.linkage)
            path.touch(mode=0o600)
            path.chmod(0o600)
            path.write_bytes(seal((Path(folder) / path.name).read_bytes(), passphrase))
    except OSError as error:
        raise _cannot_write(error) from None


def linkage_writer(path: Path, stack: ExitStack) -> Callable[[Iterable[LinkageRow]], None]:
    """Return what appends rows to the linkage table, each key once."""
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        writer = stack.enter_context(table_writer(path, LinkageRow))
    except OSError as error:
        raise _cannot_write(error) from None
    seen: set[str] = set()

    def write(rows: Iterable[LinkageRow]) -> None:
        for row in rows:
            if row.key not in seen:
                seen.add(row.key)
                writer.write(row)

    return write


def _cannot_write(error: OSError, what: str | None = None) -> MedmllmError:
    reason = f"{what}: {error.strerror}" if what else error.strerror
    way_out = "Choose another place for --linkage, or make this one writable."
    return MedmllmError(f"cannot write the linkage table: {reason}. {way_out}", code="cannot_write")
