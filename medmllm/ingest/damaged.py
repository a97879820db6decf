"""Say which series may lack the slices that cannot be read.

    files that cannot be read -> the series that a cut one still names, else those in its folder -> Damage of a study

Most headers name their series long before they end: such a file speaks of that series alone, wherever it lies. What was
emptied, overwritten or cut before may have been a slice of any series in its folder.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from medmllm.errors import DicomError, IngestError
from medmllm.ingest.dicom_header import element_text
from medmllm.ingest.dicom_stream import DICOM_FAILURES, HEADER_INFLATES_TO, data_set_stream
from medmllm.ingest.draft import StudyDraft
from medmllm.ingest.fate import Fate
from medmllm.ingest.opening import one_error, open_regular
from medmllm.ingest.recognise import may_be_a_slice

WITH_A_HEADER = frozenset({"dicom_unreadable", "no_pixels"})  # codes of files that were DICOM, as far as they go
OF_ANY_KIND = frozenset({"unreadable", "empty_file", "listed_file_missing"})  # and of those that may be anything
DAMAGED = WITH_A_HEADER | OF_ANY_KIND | {"damaged_dicom"}
STUDY, SERIES = 0x0020000D, 0x0020000E


@dataclass(frozen=True, slots=True)
class Damage:
    """How many files that cannot be read may have been slices of the series of one study."""

    named: Mapping[str, int] = field(default_factory=dict, repr=False)  # by the SeriesInstanceUID that they name
    beside: Mapping[str, int] = field(default_factory=dict, repr=False)  # by the folder that they lie in; name none


class DamagedFiles:
    """The files under a folder that cannot be read and may have been slices.

    Args:
        root: The folder.
        problems: Path relative to it, and fate, of each file of no study.
    """

    def __init__(self, root: Path, problems: Iterable[tuple[str, Fate]]) -> None:
        self._named: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by StudyInstanceUID
        self._beside: Counter[str] = Counter()
        for relative, fate in problems:
            if fate.status != "refused" or fate.code not in DAMAGED:
                continue
            folder, _, name = relative.rpartition("/")
            uids = named_series(root / relative) if fate.code in WITH_A_HEADER else None
            if uids:
                study, series = uids
                self._named[study][series] += 1
            elif fate.code not in OF_ANY_KIND or may_be_a_slice(name):
                self._beside[folder] += 1

    @cached_property
    def _of_every_study(self) -> Counter[str]:
        return sum(self._named.values(), Counter())

    def of_study(self, study: StudyDraft) -> Damage:
        """Return those that may have been slices of a study; one of a list is not known by its StudyInstanceUID."""
        named = self._of_every_study if study.layout == "list" else self._named.get(study.original, Counter())
        return Damage(dict(named), {folder: self._beside[folder] for folder in study.folders if folder in self._beside})


def named_series(path: Path) -> tuple[str, str] | None:
    """Return the (StudyInstanceUID, SeriesInstanceUID) that a DICOM file names, however it goes on.

    None where it was cut before their end: part of a UID may be another one.
    """
    beyond = False

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal beyond
        beyond = tag > SERIES
        return beyond

    try:
        with open_regular(path) as file, one_error(DicomError, "the header cannot be parsed", also=DICOM_FAILURES):
            stream, force, _ = data_set_stream(file, HEADER_INFLATES_TO)
            data = read_partial(stream, stop, force=force, specific_tags=[STUDY, SERIES])
            study, series = (element_text(data, keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID"))
    except IngestError:
        return None
    return (study, series) if beyond and study and series else None
