"""Sum attributions by modality and by section of the note.

    attributions of each modality -> share of all absolute attribution, signed sum
    words -> signed sum of each section

The unit of the image is the voxel, that of the note is the word: contributions of both signs within one
voxel or word cancel, those of different voxels or words do not. A share says how much the model
reacted to a modality, not whether that helped.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medmllm.records import FloatArray, WordAttribution


def modality_shares(attributions: Mapping[str, FloatArray]) -> dict[str, float]:
    """Return each modality's share of the summed absolute attribution; sums to 1, or all 0 when there is none.

    Args:
        attributions: By modality: one value per voxel, or per word, in logit units.

    >>> modality_shares({"image": np.array([0.5, -1.0]), "text": np.array([-0.5])})
    {'image': 0.75, 'text': 0.25}
    """
    absolute = {name: float(np.abs(values).sum()) for name, values in attributions.items()}
    total = sum(absolute.values())
    return {name: value / total if total > 0 else 0.0 for name, value in absolute.items()}


def modality_sums(attributions: Mapping[str, FloatArray]) -> dict[str, float]:
    """Return each modality's signed sum, in logit units: how far it moved the logit from the baseline.

    >>> modality_sums({"image": np.array([0.5, -1.0]), "text": np.array([-0.5])})
    {'image': -0.5, 'text': -0.5}
    """
    return {name: float(values.sum()) for name, values in attributions.items()}


def section_sums(words: Sequence[WordAttribution]) -> dict[str, float]:
    """Return the signed sum of each section, in logit units, in the order of the note.

    A section of which the model read no word is absent.

    >>> section_sums([WordAttribution(0, 2, "history", 0.5), WordAttribution(3, 5, "history", -0.25)])
    {'history': 0.25}
    """
    names = dict.fromkeys(word.section for word in sorted(words, key=lambda word: word.start))
    return {name: math.fsum(word.attribution for word in words if word.section == name) for name in names}
