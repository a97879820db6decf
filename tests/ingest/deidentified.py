"""One DICOM slice, de-identified into a folder beside its own."""

from collections import Counter
from pathlib import Path

import pytest

from medmllm.config import load_config
from medmllm.deidentify_config import DeidentifyConfig
from medmllm.errors import IngestError
from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_dicom import Cleaned, DicomRun, Owner, deidentify_dicom
from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.keys import Keyring
from tests.factories import a_volume, write_dicom_study

RING = Keyring(b"a secret for these tests")


def write_slice(folder: Path) -> Path:
    """Write the smallest study below a folder, beside which `clean` writes; return its one file."""
    write_dicom_study(folder / "in", a_volume((4, 3, 1)), note=None)
    return folder / "in" / "0001.dcm"


def clean(source: Path, *overrides: str, known: Identifiers | None = None) -> tuple[Path, Cleaned]:
    """De-identify one file into a folder beside it; return the new file."""
    config = load_config(DeidentifyConfig, "deidentify", overrides=overrides)
    run = DicomRun(config.dicom, RING, Descriptors(config.descriptors), Counter())
    owner = Owner("pt-1", "st-1", "se-1", known or Identifiers())
    into = source.parent.parent / "out"
    done = deidentify_dicom(source, RING.file(str(source)), owner, run, into=into)
    return into / done.series_key / f"{RING.file(str(source))}.dcm", done


def refused(source: Path, *overrides: str, known: Identifiers | None = None) -> str:
    with pytest.raises(IngestError) as caught:
        clean(source, *overrides, known=known)
    assert list((source.parent.parent / "out").rglob("*.*")) == []
    return caught.value.code
