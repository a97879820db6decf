"""Say which study a file belongs to, from where it lies.

    a list of studies                      -> as it says
    imagesTr/CASE_0000.nii.gz, dataset.json -> nnU-Net: CASE, channel 0000
    sub-X/ses-Y/...                         -> BIDS: subject and session
    any other NIfTI file                    -> its folder
    DICOM                                   -> its StudyInstanceUID, wherever it lies

nnU-Net's data format: github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md. BIDS: bids-specification 1.10.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medmllm.errors import IngestError
from medmllm.ingest.listing import Listing
from medmllm.ingest.opening import open_regular
from medmllm.ingest.recognise import Kind
from medmllm.ingest.walk import BIDS_LABEL, FileProblem, FoundFile

Layout = Literal["dicom", "folder", "bids", "nnunet", "list"]

LARGEST_DATASET_BYTES = 50_000_000
_BIDS_FILE = re.compile(rf"^(?P<subject>sub-{BIDS_LABEL})_(?:(?P<session>ses-{BIDS_LABEL})_)?")
_BIDS_MASK = re.compile(r"_(mask|dseg|probseg|roi|defacemask)\.nii(\.gz)?$")  # suffixes of what is drawn on images
_BIDS_TYPES = frozenset({"anat", "func", "dwi", "fmap", "perf", "pet"})
_NNUNET_IMAGE = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})\.nii(\.gz)?$")
_NNUNET_FOLDERS = {"imagesTr": True, "imagesTs": True, "imagesVal": True, "labelsTr": False, "labelsTs": False}
_MODALITIES = {"ct": "CT", "pet": "PT", "pt": "PT"} | dict.fromkeys(
    ("mri", "mr", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "dwi", "adc", "pd", "t1wce"), "MR"
)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which study an image belongs to, under original identifiers."""

    layout: Layout
    original: str = field(repr=False)  # StudyInstanceUID, folder, case ...
    patient: str = field(repr=False)  # empty when a DICOM header names none
    folder: str = field(repr=False)  # the file lies in, relative to the root


@dataclass(frozen=True, slots=True)
class Layouts:
    """The ways in which one folder of studies is laid out."""

    root: Path = field(repr=False)
    listing: Listing | None = None
    _channels: dict[Path, dict[int, str]] = field(default_factory=dict, repr=False)  # of nnU-Net data sets
    root_name: str = field(init=False, repr=False)  # of the root, however the path to it is written

    def __post_init__(self) -> None:
        object.__setattr__(self, "root_name", self.root.resolve().name)  # asked for every file

    def place(self, found: FoundFile, kind: Kind, uids: Sequence[str | None] = ()) -> Place | FileProblem | None:
        """Return the study of an image, a problem for a mask, or None for what has no study of its own.

        Args:
            found: The file.
            kind: What it is.
            uids: StudyInstanceUID and PatientID of a DICOM file.
        """
        if self.listing is not None:
            return self._listed(found, kind)
        if kind is Kind.DICOM:
            study, patient = uids
            return Place("dicom", study or f"folder {found.folder or '.'}", patient or "", found.folder)
        if kind in (Kind.NIFTI, Kind.NIFTI_VOXELS):
            return self._nnunet(found) or self._by_folder(found)
        return None

    def channel(self, found: FoundFile) -> tuple[str | None, str | None]:
        """Return (name, modality) that a list or an nnU-Net dataset.json gives the series of a file."""
        if self.listing is not None:
            listed = self.listing.find(found.relative)
            return (listed.channel, _MODALITIES.get(listed.channel.lower())) if listed else (None, None)
        match = _NNUNET_IMAGE.match(found.name)
        if match is None or _NNUNET_FOLDERS.get(found.path.parent.name) is None:
            return None, None
        data_set = found.path.parents[1]
        if data_set not in self._channels:
            self._channels[data_set] = nnunet_channels(data_set)
        name = self._channels[data_set].get(int(match["channel"]))
        return name, _MODALITIES.get((name or "").lower())

    def _listed(self, found: FoundFile, kind: Kind) -> Place | FileProblem | None:
        assert self.listing is not None
        listed = self.listing.find(found.relative)
        if listed is None or kind in (Kind.OTHER, Kind.TABLE):
            return None
        if listed.mask:
            return FileProblem(found.relative, "ignored", "mask", "a mask or segmentation of the list, not an image")
        study = self.listing.studies[listed.study]
        return Place("list", study.original, study.patient or study.original, found.folder)

    def _nnunet(self, found: FoundFile) -> Place | FileProblem | None:
        images = _NNUNET_FOLDERS.get(found.folder.rpartition("/")[2])
        if images is None or not (found.path.parents[1] / "dataset.json").is_file():
            return None
        if not images:
            return FileProblem(found.relative, "ignored", "mask", "a segmentation of an nnU-Net data set, not an image")
        match = _NNUNET_IMAGE.match(found.name)
        if match is None:
            reason = "an image of an nnU-Net data set is called CASE_0000.nii.gz, with its channel in four digits"
            return FileProblem(found.relative, "refused", "nnunet_name", reason)
        around = found.folder.rpartition("/")[0]
        case = f"{around}/{match['case']}" if around else match["case"]
        return Place("nnunet", case, case, found.folder)

    def _by_folder(self, found: FoundFile) -> Place | FileProblem:
        """Return the place of a NIfTI file in a BIDS tree, a problem for a mask there; else its folder's.

        A root that is itself one study goes by its own name, so that a study has the same key whether it was indexed
        alone or among others.
        """
        folders = found.folder.split("/") if found.folder else []
        bids = _BIDS_FILE.match(found.name)
        if bids and bids["subject"] in (self.root_name, *folders):
            if _BIDS_MASK.search(found.name):
                reason = "a mask or segmentation of a BIDS tree, not an image"
                return FileProblem(found.relative, "ignored", "mask", reason)
            subject, session = bids["subject"], bids["session"]
            patient = "/".join(folders[: folders.index(subject) + 1]) if subject in folders else subject
            return Place("bids", f"{patient}/{session}" if session else patient, patient, found.folder)
        folder = found.folder or self.root_name
        return Place("folder", folder, folder, found.folder)


def looks_like_bids(folder: str) -> bool:
    """Say whether a folder is one for images of a BIDS subject, by its name and those around it.

    >>> [looks_like_bids(folder) for folder in ("in/sub-0_1/anat", "sub-01/ses-1/dwi", "in/anat", "sub-01")]
    [True, True, False, False]
    """
    *around, last = folder.split("/")
    return last in _BIDS_TYPES and any(name.startswith("sub-") for name in around)


def nnunet_channels(folder: Path) -> dict[int, str]:
    """Return channel number -> name of the data set in a folder; nnU-Net v1 called them modalities."""
    try:
        with open_regular(folder / "dataset.json") as stream:
            said = json.loads(stream.read(LARGEST_DATASET_BYTES))
        names = said.get("channel_names") or said.get("modality") or {}
        return {int(number): str(name) for number, name in names.items()}
    except (IngestError, OSError, ValueError, AttributeError, RecursionError):
        return {}
