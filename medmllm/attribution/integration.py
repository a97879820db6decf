"""Integrate the gradients of a logit along a line, with more points where the logit bends.

    Line -> segments, each by Captum with a few Gauss-Legendre points -> the least complete ones are halved
    -> the sum over segments

The integral along a line is the sum of those along its segments, and each segment's completeness can be
checked on its own: its attributions should add up to the change of the logit from one end to the other. A
network of rectifiers has a kink wherever a unit switches, often many close to the baseline, and one rule
for the whole line spends most of its points elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from captum.attr import IntegratedGradients

from medmllm.attribution.baseline import Line
from medmllm.config import ExplainSettings
from medmllm.errors import AttributionError
from medmllm.records import FloatArray

POINTS = 4  # per segment
MOST_ROWS = 32  # points of the line per forward pass
MOST_VALUES = 2**20  # voxels, or embedding values, per forward pass: one volume of 96 x 96 x 96 at a time


@dataclass(frozen=True, slots=True, eq=False)
class Integral:
    """The integrated gradients of one line."""

    attributions: tuple[FloatArray, ...]  # one per modality: (channels, x, y, z) or (tokens, width), float64
    steps: int  # points at which the gradient was taken


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    start: float  # as fractions of the line
    end: float
    attributions: tuple[FloatArray, ...]  # float32: there may be hundreds of segments
    delta: float  # sum of the attributions beyond the change of the logit


def integrate(line: Line, settings: ExplainSettings, *, tolerance: float) -> Integral:
    """Return the integrated gradients along a line.

    Args:
        line: From the baseline to the study.
        settings: Points at first and at most.
        tolerance: Segments are halved until the attributions sum to the change of the logit within this, or
            the points are spent; logit units.

    Raises:
        AttributionError: A logit or an attribution is not finite (`not_finite`).
    """
    most = settings.max_steps
    points = min(POINTS, settings.steps, most)
    segments = _measure(line, _cut(0.0, 1.0, min(settings.steps, most) // points), points)
    spent = points * len(segments)
    while abs(sum(segment.delta for segment in segments)) > tolerance and spent + 2 * points <= most:
        halved = _worst(segments, at_most=(most - spent) // (2 * points))
        halves = [half for segment in halved for half in _cut(segment.start, segment.end, 2)]
        segments = [segment for segment in segments if segment not in halved] + _measure(line, halves, points)
        spent += points * len(halves)
    parts = zip(*(segment.attributions for segment in segments), strict=True)
    return Integral(tuple(np.sum(part, axis=0, dtype=np.float64) for part in parts), spent)


def _cut(start: float, end: float, number: int) -> list[tuple[float, float]]:
    """Return the ends of segments of equal length.

    >>> _cut(0.5, 1.0, 2)
    [(0.5, 0.75), (0.75, 1.0)]
    """
    return list(pairwise(np.linspace(start, end, number + 1).tolist()))


def _worst(segments: Sequence[_Segment], *, at_most: int) -> list[_Segment]:
    """Return the least complete segments: those at least half as bad as the worst."""
    ordered = sorted(segments, key=lambda segment: -abs(segment.delta))
    bound = abs(ordered[0].delta) / 2
    return [segment for segment in ordered[:at_most] if abs(segment.delta) >= bound]


def _measure(line: Line, ends: Sequence[tuple[float, float]], points: int) -> list[_Segment]:
    """Integrate each segment on its own, as many at a time as memory allows."""
    rows = max(1, min(MOST_ROWS, MOST_VALUES // max(tensor.numel() for tensor in line.end)))
    at_once = max(1, rows // points)
    measured = []
    for first in range(0, len(ends), at_once):
        chunk = ends[first : first + at_once]
        starts, stops = ([pair[side] for pair in chunk] for side in (0, 1))
        here, there = line.point(starts), line.point(stops)
        found = IntegratedGradients(line.logit).attribute(
            there,
            baselines=here,
            n_steps=points,
            method="gausslegendre",
            internal_batch_size=max(rows, len(chunk)),
        )
        with torch.no_grad():
            changes = [float(change) for change in line.logit(*there).double() - line.logit(*here).double()]
        arrays = [part.detach().cpu().numpy() for part in found]
        for row, (start, end) in enumerate(chunk):
            attributions = tuple(array[row].copy() for array in arrays)
            delta = sum(float(part.sum(dtype=np.float64)) for part in attributions) - changes[row]
            measured.append(_Segment(start, end, attributions, delta))
    if not np.isfinite([segment.delta for segment in measured]).all():
        raise AttributionError("a logit or an attribution is not a finite number", code="not_finite")
    return measured
