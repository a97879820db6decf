"""Lay out what `medmllm train` reads, for the two cohorts that do not come as it needs them.

    nodule_stacks_64.npz -> a folder per nodule with one NIfTI volume, labels.csv
    LGG studies          -> the same images, notes without the words that tell the sex, the same labels.csv

Both go to a temporary folder, never into the repository: the data cannot be shared.
"""

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

STACK_SPACING_MM = (1.0, 1.0, 2.0)
"""Made up: the archive tells no spacing. A slice is taken as two voxels thick."""

TELLS_SEX = re.compile(
    r"\b(fe)?males?\b|\b(wo)?m[ae]n\b|\b(lady|gentleman|girl|boy|s?he|hers?|him|his)\b"
    r"|\b(menopaus|pregnan|gravid|hyster|ovari|uter|prostat|testic|gyn[ae]|breast)\w*",
    re.IGNORECASE,
)


def lay_out_stacks(archive: Path, out: Path) -> None:
    """Write each nodule's slices as a NIfTI volume (x, y, z); nodules of one exam share a patient_id.

    Args:
        archive: Holds slices (all, rows, columns), and per nodule slice_count, exam, malignant.
        out: Gets studies/ and labels.csv.
    """
    stacks = np.load(archive, allow_pickle=False)
    ends = np.cumsum(stacks["slice_count"])
    affine = np.diag([*STACK_SPACING_MM, 1.0])
    rows = []
    for number, (end, count) in enumerate(zip(ends, stacks["slice_count"], strict=True)):
        name = f"nodule_{number:04d}"
        folder = out / "studies" / name
        folder.mkdir(parents=True)
        image = nib.Nifti1Image(stacks["slices"][end - count : end].transpose(2, 1, 0), affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / "nodule.nii.gz")
        rows.append((stacks["exam"][number], name, int(stacks["malignant"][number])))
    pd.DataFrame(rows, columns=["patient_id", "study_id", "malignant"]).to_csv(out / "labels.csv", index=False)


def mask_sex(cohort: Path, out: Path) -> None:
    """Copy a cohort with every word of its notes that tells the sex replaced by "patient".

    Args:
        cohort: Holds studies/ and labels.csv.
        out: Gets the same.
    """
    for source in sorted(path for path in (cohort / "studies").iterdir() if path.is_dir()):
        folder = out / "studies" / source.name
        folder.mkdir(parents=True)
        for file in source.iterdir():
            if file.name == "note.txt":
                text = TELLS_SEX.sub("patient", file.read_text(encoding="utf-8"))
                (folder / file.name).write_text(text, encoding="utf-8")
            else:
                shutil.copyfile(file, folder / file.name)
    shutil.copyfile(cohort / "labels.csv", out / "labels.csv")
