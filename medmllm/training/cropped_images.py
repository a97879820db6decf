"""Say how little of the images a model sees, where most lies beyond its field: a crop is silent everywhere else.

[image] spacing_mm x size, extents of the cohort's images -> remarks

A cohort of cubes cut around a finding, or of one organ, may want this; hence a remark and no refusal.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medmllm.documents import ImageSettings
from medmllm.training.cohort import Cohort
from medmllm.training_config import Arm

READS_IMAGES = frozenset({"image", "fused"})
LEAST_SHARE = 0.5  # of the median image's volume: below it most of an image is not read


def remark_cropped(cohort: Cohort, settings: ImageSettings, arms: Sequence[Arm]) -> Iterator[str]:
    """Yield, of each channel whose images are mostly cropped, how much is read of the median study's and what to set.

    Args:
        cohort: What was read.
        settings: Of [image].
        arms: What is trained.
    """
    if not READS_IMAGES.intersection(arms):
        return
    field_mm = np.multiply(settings.spacing_mm, settings.size)
    for name in settings.channels:
        extents_mm = [member.facts[name].extent_mm for member in cohort.members if name in member.facts]
        if not extents_mm:
            continue
        median_mm = np.median(extents_mm, axis=0)
        read_mm = np.minimum(field_mm, median_mm)  # what lies around a smaller image is padding
        share = float(np.prod(read_mm / median_mm))
        if share < LEAST_SHARE:
            whose = f"Channel '{name}': of" if len(settings.channels) > 1 else "Of"
            yield (
                f"{whose} the images the model reads the middle {_in_mm(read_mm)}, {100 * share:.2g} % of the median "
                f"study's {_in_mm(median_mm)}: set [image] spacing_mm and size if more should be seen."
            )


def _in_mm(lengths: Iterable[float]) -> str:
    """Return lengths along x, y and z in words.

    >>> _in_mm((48.0, 350.24, 1024.0))
    '48 x 350.2 x 1024 mm'
    """
    return " x ".join(f"{round(length, 1):g}" for length in lengths) + " mm"
