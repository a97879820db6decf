"""Read one folder with one tool, the way its own documentation shows, and save what came back.

    python -m reports.peers.readers TOOL KIND FOLDER OUT.npz

KIND is `series` (a folder of DICOM files) or `nifti`. OUT.npz holds v0, a0, v1, a1 ...: voxels (x, y, z[, t]) and
affine (4, 4), voxel -> RAS+ mm, of each volume. Both output streams carry MARK between importing the tool and reading,
so that only what the tool says about the images counts as a warning. Nothing is repaired here: where a tool reads the
first series of a folder only, or gives stored values, that is its answer.
"""

import importlib
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

MARK = "----- the tool is loaded -----"
MOST_MEMORY_BYTES = 16 * 2**30  # address space, much of which the libraries only reserve
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Found = list[tuple[Any, Any]]


def tried(reads: Iterable[Callable[[], Found]]) -> Found:
    """Return what could be read of several series, the errors of the others on stderr; raise if all failed."""
    found: Found = []
    last: Exception | None = RuntimeError("nothing to read was found")
    for read in reads:
        try:
            found += read()
        except Exception as error:  # noqa: BLE001 - whatever a tool raises is its answer
            sys.stderr.write(f"refused: {type(error).__name__}: {error}\n")
            last = error
    if not found and last:
        raise last
    return found


def first_nifti(folder: Path) -> Path:
    """Return the file of a NIfTI case; of a pair the header."""
    return min(path for path in folder.iterdir() if path.suffix != ".img")


def load_nifti(paths: Iterable[Path]) -> Found:
    """Return NIfTI files as nibabel reads them."""
    import nibabel

    images = [nibabel.load(path) for path in paths]
    return [(image.get_fdata(dtype=np.float32), image.affine) for image in images]


# --- one function per tool: (kind, folder) -> volumes


def medmllm(kind: str, folder: Path) -> Found:
    """Index the folder and read every series that was not refused."""
    from medmllm.ingest.judged import load

    return list(load(str(folder)))


def simpleitk(kind: str, folder: Path) -> Found:
    """ImageSeriesReader over the file names that GDCM puts in order, for each series it finds."""
    import SimpleITK

    def read(files: Any) -> Found:
        image = SimpleITK.ReadImage(files)
        voxels = SimpleITK.GetArrayFromImage(image)
        if image.GetNumberOfComponentsPerPixel() > 1:
            voxels = np.moveaxis(voxels, -1, 0)
        size = image.GetDimension()
        matrix = np.array(image.GetDirection()).reshape(size, size) @ np.diag(image.GetSpacing())
        affine = np.eye(4)
        space = min(size, 3)
        affine[:space, :space] = matrix[:space, :space]
        affine[:space, 3] = image.GetOrigin()[:space]
        return [(voxels.T, LPS_TO_RAS @ affine)]

    if kind == "nifti":
        return read(str(first_nifti(folder)))
    names = SimpleITK.ImageSeriesReader
    return tried(
        lambda uid=uid: read(names.GetGDCMSeriesFileNames(str(folder), uid))
        for uid in names.GetGDCMSeriesIDs(str(folder))
    )


def torchio(kind: str, folder: Path) -> Found:
    """ScalarImage of the folder, or of the NIfTI file."""
    import torchio

    image = torchio.ScalarImage(folder if kind == "series" else first_nifti(folder))
    voxels = image.data.numpy()  # loads it; (channel, x, y, z)
    return [(np.moveaxis(voxels, 0, -1), image.affine)]


def monai(kind: str, folder: Path) -> Found:
    """LoadImage with PydicomReader on the folder, or with NibabelReader on the NIfTI file."""
    from monai.transforms import LoadImage

    reader, path = ("PydicomReader", folder) if kind == "series" else ("NibabelReader", first_nifti(folder))
    image = LoadImage(reader=reader, image_only=True)(path)
    return [(image.numpy(), image.affine.numpy())]


def dicom2nifti(kind: str, folder: Path) -> Found:
    """convert_directory without reorientation."""
    import dicom2nifti

    with tempfile.TemporaryDirectory() as out:
        dicom2nifti.convert_directory(str(folder), out, compression=False, reorient=False)
        return load_written(out)


def dcm2niix(kind: str, folder: Path, *options: str) -> Found:
    """The command with its defaults, but for names and compression of what it writes."""
    import dcm2niix

    with tempfile.TemporaryDirectory() as out:
        command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "image", *options, "-o", out, str(folder)]
        done = subprocess.run(command, check=False)
        if done.returncode < 0:
            os.kill(os.getpid(), -done.returncode)  # a crash of the command is the tool's crash
        return load_written(out)


def dcm2niix_p_n(kind: str, folder: Path) -> Found:
    """The command with `-p n`: the values that Rescale Slope and Intercept give, not Philips' own scale."""
    return dcm2niix(kind, folder, "-p", "n")


def highdicom(kind: str, folder: Path) -> Found:
    """get_volume_from_series for single frames, Image.get_volume for multi-frame files."""
    import highdicom
    import pydicom

    series = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = pydicom.dcmread(path)
            series[data.SeriesInstanceUID].append(data)

    def read(datasets: list[Any]) -> Found:
        if all("PerFrameFunctionalGroupsSequence" in data for data in datasets):
            volumes = [highdicom.Image.from_dataset(data).get_volume() for data in datasets]
        else:
            volumes = [highdicom.get_volume_from_series(datasets)]
        return [(volume.array, LPS_TO_RAS @ volume.affine) for volume in volumes]

    return tried(lambda datasets=datasets: read(datasets) for datasets in series.values())


def nibabel(kind: str, folder: Path) -> Found:
    """`load` and `get_fdata`."""
    return load_nifti([first_nifti(folder)])


def load_written(out: str) -> Found:
    """Return the volumes that a converter wrote.

    Raises:
        RuntimeError: It wrote none.
    """
    written = sorted(Path(out).rglob("*.nii"))
    if not written:
        raise RuntimeError("no volume was written")
    return load_nifti(written)


TOOLS: dict[str, tuple[Callable[[str, Path], Found], str, tuple[str, ...]]] = {
    # by name: the function, the distribution it comes from, what it reads
    "medmllm": (medmllm, "medmllm", ("series", "nifti")),
    "SimpleITK": (simpleitk, "SimpleITK", ("series", "nifti")),
    "TorchIO": (torchio, "torchio", ("series", "nifti")),
    "MONAI": (monai, "monai", ("series", "nifti")),
    "dicom2nifti": (dicom2nifti, "dicom2nifti", ("series",)),
    "dcm2niix": (dcm2niix, "dcm2niix", ("series",)),
    "dcm2niix -p n": (dcm2niix_p_n, "dcm2niix", ("series",)),
    "highdicom": (highdicom, "highdicom", ("series",)),
    "nibabel": (nibabel, "nibabel", ("nifti",)),
}
LOADED_FIRST = {
    "MONAI": "monai.transforms",
    "medmllm": "medmllm.ingest.judged",
}  # the rest by their distribution's name


def main(tool: str, kind: str, folder: str, out: str) -> None:
    """Read and save; an error ends the process with status 1 and its last line."""
    function, distribution, _ = TOOLS[tool]
    importlib.import_module(LOADED_FIRST.get(tool, distribution))
    warnings.simplefilter("always")
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    for stream in (sys.stdout, sys.stderr):
        stream.write(f"{MARK}\n")
        stream.flush()
    arrays: dict[str, Any] = {}
    for number, (voxels, affine) in enumerate(function(kind, Path(folder))):
        arrays |= {f"v{number}": np.asarray(voxels), f"a{number}": np.asarray(affine)}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
