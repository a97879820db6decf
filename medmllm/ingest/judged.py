"""Load every volume of a folder, as an outside judge of readers asks for it.

    folder -> index -> volumes -> [(voxels (x, y, z), affine RAS+ mm)]; what the index remarks goes to the log

Nothing here decides anything: it is the index and the readers, without keys, tables and studies.
"""

import logging
import secrets
from pathlib import Path

import numpy as np

from medmllm.errors import IngestError, MedmllmError
from medmllm.ingest.keys import Keyring
from medmllm.ingest.study_folder import index_folder, read_volume
from medmllm.records import FloatArray

log = logging.getLogger(__name__)


def load(folder: str) -> list[tuple[FloatArray, FloatArray]]:
    """Return voxels (x, y, z) float32 and affine (4, 4) RAS+ mm of every series that can be read.

    Raises:
        IngestError: No series can be read; says why the last one could not.
    """
    index = index_folder(Path(folder), keyring=Keyring(secrets.token_bytes(32)))
    for problem in index.problems:
        log.warning("%s %s: %s", problem.severity, problem.code, problem.reason)
    volumes, last = [], MedmllmError("the folder holds no image series")
    for series in (series for study in index.studies for series in study.series):
        try:
            volume = read_volume(series)
        except MedmllmError as error:
            log.warning("refused %s: %s", error.code, error.reason)
            last = error
        else:
            bad = volume.voxels.size - np.count_nonzero(np.isfinite(volume.voxels))
            if bad:
                log.warning("warning nan_voxels: %d voxels are NaN or infinite", bad)
            volumes.append((volume.voxels, volume.affine))
    if not volumes:
        raise IngestError(last.reason, code=last.code)
    return volumes
