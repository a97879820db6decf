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
    """Refuse a linkage table among the results.

    Raises:
        MisuseError: It would lie inside the results folder.
    """
    if path is not None and path.resolve().is_relative_to(out.resolve()):
        raise MisuseError("the linkage table may not lie among the results: choose another --linkage")


def write_linkage(path: Path, index: StudyIndex, *, out: Path, passphrase: str | None = None) -> None:
    """Write the linkage table, readable by its owner alone, never among the results, encrypted with a passphrase.

    Raises:
        MisuseError: It would lie inside the results folder.
        MedmllmError: It cannot be written.
    """
    check_linkage(path, out)
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
        raise MedmllmError(f"cannot write the linkage table: {error.strerror}", code="cannot_write") from None


def linkage_writer(path: Path, stack: ExitStack) -> Callable[[Iterable[LinkageRow]], None]:
    """Return what appends rows to the linkage table, each key once."""
    try:
        path.touch(mode=0o600)
        path.chmod(0o600)
        writer = stack.enter_context(table_writer(path, LinkageRow))
    except OSError as error:
        raise MedmllmError(f"cannot write the linkage table: {error.strerror}", code="cannot_write") from None
    seen: set[str] = set()

    def write(rows: Iterable[LinkageRow]) -> None:
        for row in rows:
            if row.key not in seen:
                seen.add(row.key)
                writer.write(row)

    return write
