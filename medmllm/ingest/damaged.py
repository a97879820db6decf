"""Say which series may lack the slices that cannot be read.

    files that cannot be read -> the series that a cut one still names, else those in its folder -> Damage of a study

Most headers name their series long before they end: such a file speaks of that series alone, wherever it lies. What was
emptied, overwritten or cut before may have been a slice of any series in its folder.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

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
IMAGE, STUDY, SERIES = 0x00080018, 0x0020000D, 0x0020000E
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class Named(NamedTuple):
    """UIDs in the header of a file that cannot be read otherwise."""

    study: str
    series: str
    image: str | None


@dataclass(frozen=True, slots=True)
class Damage:
    """How many files that cannot be read may have been slices of the series of one study."""

    named: Mapping[str, Sequence[str | None]] = field(repr=False)  # SeriesInstanceUID -> SOPInstanceUIDs beside it
    beside: Mapping[str, int] = field(repr=False)  # folder -> files in it that name no series

    def lost_of(self, series: str, there: Sequence[str | None]) -> int:
        """Return how many files that name a series may be slices it lacks; none of those that were copied again.

        Args:
            series: SeriesInstanceUID.
            there: SOPInstanceUID of each of its slices that can be read.
        """
        again = set(there) if len(set(there)) == len(there) else set()  # some programs give one to all slices
        return sum(image is None or image not in again for image in self.named.get(series, ()))


class DamagedFiles:
    """The files under a folder that cannot be read and may have been slices.

    Args:
        root: The folder.
        problems: Path relative to it, and fate, of each file of no study.
    """

    def __init__(self, root: Path, problems: Iterable[tuple[str, Fate]]) -> None:
        self._named: defaultdict[str, defaultdict[str, list[str | None]]] = defaultdict(lambda: defaultdict(list))
        self._beside: Counter[str] = Counter()
        for relative, fate in problems:
            if fate.status != "refused" or fate.code not in DAMAGED:
                continue
            folder, _, name = relative.rpartition("/")
            named = named_by(root / relative) if fate.code in WITH_A_HEADER else None
            if named:
                self._named[named.study][named.series].append(named.image)
            elif fate.code not in OF_ANY_KIND or may_be_a_slice(name):
                self._beside[folder] += 1

    @cached_property
    def _of_every_study(self) -> dict[str, list[str | None]]:
        found: defaultdict[str, list[str | None]] = defaultdict(list)
        for of_study in self._named.values():
            for series, images in of_study.items():
                found[series] += images
        return dict(found)

    def of_study(self, study: StudyDraft) -> Damage:
        """Return those that may have been slices of a study; one of a list is not known by its StudyInstanceUID."""
        named = self._of_every_study if study.layout == "list" else dict(self._named.get(study.original, {}))
        return Damage(named, {folder: self._beside[folder] for folder in study.folders if folder in self._beside})


def named_by(path: Path) -> Named | None:
    """Return what a DICOM file names, however it goes on.

    None where it was cut before the end of the UIDs: part of one may be another one.
    """
    beyond = False

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal beyond
        beyond = tag > SERIES
        return beyond

    try:
        with open_regular(path) as file, one_error(DicomError, "the header cannot be parsed", also=DICOM_FAILURES):
            stream, force, _ = data_set_stream(file, HEADER_INFLATES_TO)
            data = read_partial(stream, stop, force=force, specific_tags=[IMAGE, STUDY, SERIES])
            study, series, image = (element_text(data, keyword) for keyword in UIDS)
    except IngestError:
        return None
    return Named(study, series, image) if beyond and study and series else None
