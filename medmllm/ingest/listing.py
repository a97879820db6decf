"""Read a list of studies: a MONAI datalist (JSON) or a manifest (CSV, TSV).

    datalist.json  {"training": [{"image": "a.nii.gz", "label": 1, "patient_id": "7"}, ...], "testing": [...]}
    manifest.csv   study_id,patient_id,flair,t1,report,outcome     one row a study, a column per series
                   study_id,path,channel                            or one row a series
    -> Listing: which file belongs to which study, under which name, and the other cells as its facts

A list lies beside or above what it names. Paths are relative to it and may not lead out of its folder. Masks and
segmentations (`label`, `seg`, `mask`) are no images of a study and are passed over. Messages name lines, never cells.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmllm.errors import IngestError, MisuseError
from medmllm.ingest.opening import open_regular
from medmllm.ingest.tables import PATIENT_COLUMNS, STUDY_COLUMNS, TableRow, parse_cells
from medmllm.ingest.walk import Severity

LARGEST_LIST_BYTES = 200_000_000
STUDY_NAMES = (*STUDY_COLUMNS, "study", "case_id", "case", "id")
PATIENT_NAMES = (*PATIENT_COLUMNS, "patient", "subject_id", "subjectid", "subject")
PATH_NAMES = ("path", "file", "filename", "image", "image_path")
CHANNEL_NAMES = ("channel", "series", "sequence", "description")
MASKS = ("label", "seg", "mask", "lesion", "roi")
FILE_ENDS = (".nii", ".nii.gz", ".hdr", ".dcm", ".ima", ".txt", ".md", ".wav", ".flac")


@dataclass(frozen=True, slots=True)
class Listed:
    """One file or folder that the list names."""

    study: str = field(repr=False)  # original identifier of its study
    channel: str = field(repr=False)  # the key or column it stands under, or what the row calls it
    mask: bool


@dataclass(slots=True, repr=False)
class ListedStudy:
    """One study of the list, under its original identifiers."""

    original: str
    patient: str | None
    line: int  # of the list, 1-based; of a datalist the number of the entry
    facts: dict[str, str]


@dataclass(frozen=True, slots=True, repr=False)
class Listing:
    """A list of studies that was read."""

    path: Path
    studies: Mapping[str, ListedStudy]
    places: Mapping[str, Listed]  # path relative to the list's folder -> what it is
    outside: tuple[int, ...]  # lines whose paths lead out of the folder
    nameless: tuple[int, ...] = ()  # lines that name neither a study nor an image, note or recording

    @property
    def root(self) -> Path:
        """The folder that the list's paths are relative to."""
        return self.path.parent

    def find(self, relative: str) -> Listed | None:
        """Return what the list says of a file, by its own path or that of a folder around it."""
        while relative:
            if relative in self.places:
                return self.places[relative]
            relative = relative.rpartition("/")[0]
        return None

    @property
    def without_files(self) -> tuple[ListedStudy, ...]:
        """The studies of which the list names no file, or masks alone: known by their other cells, they are none."""
        named = {place.study for place in self.places.values() if not place.mask}
        return tuple(
            study for study in self.studies.values() if study.original not in named and study.line not in self.outside
        )

    @property
    def lines_told(self) -> Iterator[tuple[int, Severity, str, str]]:
        """Yield (line, severity, code, what it names) of lines that are told by their number alone."""
        for line in self.nameless:
            yield line, "warning", "line_without_study", "neither a study nor an image, note or recording"
        for line in self.outside:
            yield line, "refused", "outside_root", "a path outside its folder: put the list above the data"

    def row(self, original: str) -> TableRow:
        """Return the other cells of a study's entry."""
        study = self.studies[original]
        return TableRow(study.line, study.facts)


def read_listing(path: Path) -> Listing:
    """Read a datalist or a manifest.

    Raises:
        MisuseError: It cannot be read, is neither, names no file, or gives a study two patients; says where.
    """
    if path.suffix.lower() == ".json":
        entries = list(_of_datalist(_parse_json(path)))
    elif path.suffix.lower() in (".csv", ".tsv"):
        entries = list(_of_manifest(path))
    else:
        raise MisuseError("the studies are given by a file that is no list: give a folder, a MONAI datalist (.json) "
                          "or a manifest (.csv, .tsv)")  # fmt: skip
    builder = _Builder(path)
    for entry in entries:
        builder.add(entry)
    if not builder.places:
        raise MisuseError("the list of studies names no image, note or recording: it needs a column or key that holds "
                          "paths relative to the list")  # fmt: skip
    return Listing(path, builder.studies, builder.places, tuple(builder.outside), tuple(builder.nameless))


@dataclass(slots=True, repr=False)
class _Entry:
    """One entry of either kind of list."""

    line: int
    study: str | None
    patient: str | None
    files: list[tuple[str, str]]  # (channel, path as written)
    facts: dict[str, str]


class _Builder:
    def __init__(self, path: Path) -> None:
        self.root = path.parent
        self.studies: dict[str, ListedStudy] = {}
        self.places: dict[str, Listed] = {}
        self.outside: list[int] = []
        self.nameless: list[int] = []

    def add(self, entry: _Entry) -> None:
        """Add one entry to its study."""
        files = [(channel, self._inside(text, entry.line)) for channel, text in entry.files]
        named = [(channel, relative) for channel, relative in files if relative]
        images = [relative for channel, relative in named if not _is_mask(channel)]
        original = entry.study or (_stem(images[0]) if images else None)
        if original is None:
            self.nameless += [] if entry.line in self.outside else [entry.line]
            return
        study = self.studies.setdefault(original, ListedStudy(original, entry.patient, entry.line, {}))
        if entry.patient and study.patient not in (None, entry.patient):
            raise MisuseError(f"lines {study.line} and {entry.line} of the list give one study two patients")
        study.patient = study.patient or entry.patient
        study.facts |= entry.facts
        for channel, relative in named:
            known = self.places.setdefault(relative, Listed(original, channel, _is_mask(channel)))
            if known.study != original:
                line = self.studies[known.study].line
                raise MisuseError(f"lines {line} and {entry.line} of the list give one file to two studies")

    def _inside(self, text: str, line: int) -> str | None:
        """Return a path relative to the root; None, and the line kept, where it leads out of it."""
        written = os.path.normpath(text.strip().replace("\\", "/"))
        relative = os.path.relpath(written, self.root) if os.path.isabs(written) else written
        if relative == ".." or relative.startswith("../") or relative == ".":
            self.outside.append(line)
            return None
        return relative


def _is_mask(channel: str) -> bool:
    return channel.lower().startswith(MASKS)


def _stem(relative: str) -> str:
    folder, slash, name = relative.rpartition("/")
    for end in FILE_ENDS[:2][::-1]:
        name = name.removesuffix(end)
    return f"{folder}{slash}{name}"


# --- MONAI datalist ------------------------------------------------------------------------


def _parse_json(path: Path) -> Any:
    try:
        with open_regular(path) as stream:
            text = stream.read(LARGEST_LIST_BYTES + 1)
        if len(text) > LARGEST_LIST_BYTES:
            raise MisuseError(f"the list of studies is larger than {LARGEST_LIST_BYTES:,} bytes")
        return json.loads(text)
    except (IngestError, OSError, ValueError, RecursionError) as error:
        raise MisuseError(f"the list of studies cannot be read as JSON ({type(error).__name__})") from None


def _of_datalist(parsed: Any) -> Iterator[_Entry]:
    """Yield the entries of every part: training, validation, testing, or a list alone."""
    if not isinstance(parsed, dict | list):
        raise MisuseError("the list of studies is JSON, but no datalist: it has no list of entries")
    parts = parsed if isinstance(parsed, dict) else {"": parsed}
    number = 0
    for part, entries in parts.items():
        for entry in entries if isinstance(entries, list) else ():
            number += 1
            if isinstance(entry, str | dict):
                yield _datalist_entry({"image": entry} if isinstance(entry, str) else entry, number, part)


def _datalist_entry(entry: Mapping[str, Any], number: int, part: str) -> _Entry:
    files, facts = [], {"split": part} if part else {}
    for key, value in entry.items():
        texts = value if isinstance(value, list) else [value]
        paths = [text for text in texts if isinstance(text, str) and (_names_file(text) or key.lower() in PATH_NAMES)]
        if paths:
            channels = [key if len(paths) == 1 else f"{key}_{index:04d}" for index in range(len(paths))]
            files += list(zip(channels, paths, strict=True))
        elif isinstance(value, str | int | float):
            facts[key] = str(value)
    return _Entry(number, _taken(facts, STUDY_NAMES), _taken(facts, PATIENT_NAMES), files, facts)


def _names_file(text: str) -> bool:
    return text.strip().lower().endswith(FILE_ENDS)


def _taken(facts: dict[str, str], names: Iterable[str]) -> str | None:
    """Take these names out of the facts, upper and lower case alike, and return the first that is not empty."""
    by_name = {key.lower(): key for key in facts}
    found = [facts.pop(by_name[name]).strip() for name in names if name in by_name]
    return next(filter(None, found), None)


# --- manifest ------------------------------------------------------------------------------


def _of_manifest(path: Path) -> Iterator[_Entry]:
    rows = parse_cells(path, "the manifest")
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise MisuseError(f"line {line} of the manifest has {len(cells)} cells, the header has {len(header)}")
    columns = {name for index, name in enumerate(header) if _holds_paths(name, index, rows[1:], path.parent)}
    if not columns:
        raise MisuseError("no column of the manifest holds paths of images, notes or recordings, relative to it")
    if not {name.lower() for name in header} & set(STUDY_NAMES):
        raise MisuseError(f"the manifest has none of the columns {', '.join(STUDY_NAMES)}")
    for line, cells in rows[1:]:
        facts = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        study, patient = _taken(facts, STUDY_NAMES), _taken(facts, PATIENT_NAMES)
        if study is None:
            raise MisuseError(f"line {line} of the manifest names no study")
        paths = {name: facts.pop(name) for name in columns}
        channel = _taken(facts, CHANNEL_NAMES) if len(columns) == 1 else None
        files = [(channel or name, text) for name, text in sorted(paths.items()) if text]
        yield _Entry(line, study, patient, files, facts)


def _holds_paths(name: str, index: int, rows: list[tuple[int, list[str]]], root: Path) -> bool:
    cells = [cells[index].strip() for _, cells in rows if index < len(cells) and cells[index].strip()]
    if name.lower() in PATH_NAMES or any(map(_names_file, cells)):
        return bool(cells)
    return any("/" in cell and (root / cell).is_dir() for cell in cells[:100])
