"""Bring attributions from the model's grid back onto the series, and write them.

    attribution on the model's grid -> trilinear, by the two affines -> the source's own grid
    -> attribution.nii.gz, explanation.json

Voxel for voxel the file lies on the series as it was read, oblique or anisotropic as it may be. Values are
interpolated, in logit units per *model* voxel: they add up to the change of the logit on the model's
grid, not on the source's, which has more or fewer voxels.
"""

import gzip
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medmllm.attribution.modalities import section_sums
from medmllm.records import Explanation, FloatArray, Provenance, Volume
from medmllm.result_documents import CellDocument, ChannelFile, ExplanationDocument, WordDocument

SCANNER = 1  # NIfTI code: coordinates of the scanner
SAME_PLACE_MM = 1e-3


def to_source_grid(attribution: FloatArray, model_affine: FloatArray, source: Volume) -> FloatArray:
    """Return an attribution on the source's grid, shape (x, y, z) of the source, float32.

    Args:
        attribution: Shape (x, y, z), on the model's grid.
        model_affine: Shape (4, 4), model voxel -> RAS+ mm.
        source: The series as read; only its grid is used.

    Returns:
        Trilinear between model voxels; 0 from one model voxel beyond the model's grid on.
    """
    # No coordinates are laid out, unlike with grid_sample: 512 x 512 x 300 voxels of them are gigabytes.
    to_model = np.linalg.inv(model_affine) @ source.affine
    placed: FloatArray = ndimage.affine_transform(
        np.asarray(attribution, dtype=np.float32),
        to_model[:3, :3],
        offset=to_model[:3, 3],
        output_shape=source.voxels.shape,
        order=1,
        mode="grid-constant",
        cval=0.0,
    )
    return placed


def peak_voxel(attribution: FloatArray) -> tuple[int, int, int]:
    """Return the (x, y, z) of the largest absolute attribution; the first one when several are as large.

    >>> peak_voxel(np.array([[[0.1, 0.2], [-0.5, 0.4]]]))
    (0, 1, 0)
    """
    x, y, z = np.unravel_index(int(np.argmax(np.abs(attribution))), attribution.shape)
    return int(x), int(y), int(z)


def to_ras_mm(voxel: tuple[int, int, int], affine: FloatArray) -> tuple[float, float, float]:
    """Return where a voxel's centre lies, RAS+ mm.

    >>> to_ras_mm((1, 0, 2), np.diag([2.0, 2.0, 3.0, 1.0]))
    (2.0, 0.0, 6.0)
    """
    x, y, z = affine[:3, :3] @ np.array(voxel) + affine[:3, 3]
    return float(x), float(y), float(z)


def write_attribution(path: Path, attribution: FloatArray, source: Volume) -> None:
    """Write an attribution as NIfTI on the source's grid, whole or not at all.

    The header holds the grid and nothing of the study or the patient; equal inputs give equal bytes.

    Args:
        path: Ends in .nii.gz.
        attribution: Shape (x, y, z) of the source; float32 is written.
        source: The series as read; gives the affine.
    """
    image = nib.Nifti1Image(np.asarray(attribution, dtype=np.float32), source.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.set_sform(source.affine, code=SCANNER)
    # A quaternion cannot say that a grid is sheared, as with a tilted gantry: then only the sform holds.
    image.set_qform(source.affine, code=SCANNER, strip_shears=True)
    if np.abs(image.get_qform() - source.affine).max() > SAME_PLACE_MM:
        image.set_qform(None, code=0)
    partial = path.with_name(path.name + ".partial")
    with (
        partial.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=1) as stream,
    ):
        image.to_stream(stream)
    os.replace(partial, path)


def write_attributions(folder: Path, explanation: Explanation) -> dict[str, str]:
    """Write each channel's attribution into a folder; return channel name -> file name.

    One channel gives attribution.nii.gz; several give attribution_1_NAME.nii.gz and so on.
    """
    files = {}
    for number, part in enumerate(explanation.channels, start=1):
        suffix = f"_{number}_{re.sub(r'[^A-Za-z0-9-]+', '-', part.channel)}" if len(explanation.channels) > 1 else ""
        files[part.channel] = f"attribution{suffix}.nii.gz"
        write_attribution(folder / files[part.channel], part.attribution, part.source)
    return files


def explanation_document(
    explanation: Explanation, *, classes: Sequence[str], files: Mapping[str, str], provenance: Provenance
) -> ExplanationDocument:
    """Return the explanation as it is written to explanation.json; it holds no text of the note.

    Args:
        explanation: As computed.
        classes: Names of the task's classes.
        files: Channel name -> file name, from `write_attributions`.
        provenance: Of the run.
    """
    channels = []
    for part in explanation.channels:
        peak = peak_voxel(part.attribution)
        channels.append(
            ChannelFile(
                channel=part.channel,
                series_key=part.series_key,
                file=files[part.channel],
                peak_voxel=peak,
                peak_ras_mm=to_ras_mm(peak, part.source.affine),
            )
        )
    return ExplanationDocument(
        study_key=explanation.study_key,
        explained_class=classes[explanation.explained_class],
        method=explanation.method,
        baseline=explanation.baseline,
        steps=explanation.steps,
        logit=explanation.logit,
        baseline_logit=explanation.baseline_logit,
        convergence_delta=explanation.convergence_delta,
        completeness_error=explanation.completeness_error,
        modality_shares=dict(explanation.modality_shares),
        modality_sums=dict(explanation.modality_sums),
        channels=tuple(channels),
        words=tuple(
            WordDocument(start=w.start, end=w.end, section=w.section, attribution=w.attribution)
            for w in explanation.words
        ),
        section_sums=section_sums(explanation.words),
        cells=tuple(CellDocument(column=cell.column, attribution=cell.attribution) for cell in explanation.cells),
        faithfulness=explanation.faithfulness,
        grade=explanation.grade,
        provenance=provenance,
    )
