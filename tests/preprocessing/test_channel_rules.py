"""Each rule of a channel: what it lets pass, what it stops and in which words, and what a series does not tell."""

from dataclasses import replace
from typing import Any

import pytest

from medmllm.documents import Channel
from medmllm.preprocessing.channel_rules import mismatches, slice_count, wanted
from medmllm.records import Refusal, SeriesReference, Technique

SERIES = SeriesReference(
    "se-0", "dicom", "CT", (6, 5, 40), (0.7, 0.7, 2.5), "Thorax native", (),
    technique=Technique("B70f", "axial", False, 3.0, 2),
)  # fmt: skip
SILENT = SeriesReference("se-1", "nifti", None, None, None, None, ())


@pytest.mark.parametrize(
    ("fits", "stops", "words", "untold"),
    [
        ({"modality": "CT"}, {"modality": "MR"}, "modality CT, not MR", "modality"),
        (
            {"description": "^thorax"},
            {"description": "contrast"},
            "description does not match 'contrast'",
            "description",
        ),
        ({"kernel": "^b[67]"}, {"kernel": "b30"}, "kernel B70f does not match 'b30'", "kernel"),
        ({"plane": "axial"}, {"plane": "coronal"}, "plane axial, not coronal", "plane"),
        ({"contrast": "no"}, {"contrast": "yes"}, "no contrast agent is recorded", "contrast agent"),
        ({"min_slices": 40}, {"min_slices": 41}, "40 slices, fewer than 41", "number of slices"),
        ({"max_slices": 40}, {"max_slices": 39}, "40 slices, more than 39", "number of slices"),
        ({"max_spacing_mm": 2.5}, {"max_spacing_mm": 2.4}, "2.50 mm between voxels, more than 2.40", "spacing"),
        ({"max_thickness_mm": 3.0}, {"max_thickness_mm": 2.9}, "3.00 mm thick, more than 2.90", "slice thickness"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_rule_lets_its_like_pass_and_says_why_it_stops_another(
    fits: dict[str, Any], stops: dict[str, Any], words: str, untold: str
) -> None:
    assert mismatches(SERIES, Channel(**fits)) == []
    assert mismatches(SERIES, Channel(**stops)) == [words]
    assert f"does not tell its {untold}" in mismatches(SILENT, Channel(**fits))
    assert len(wanted(Channel(**stops))) == 1


def test_no_rule_but_the_least_number_of_slices_stops_a_silent_series() -> None:
    assert mismatches(SILENT, Channel()) == ["does not tell its number of slices"]
    assert wanted(Channel()) == []


def test_contrast_may_be_asked_away() -> None:
    given = replace(SERIES, technique=replace(SERIES.technique, contrast=True))
    assert mismatches(given, Channel(contrast="yes")) == []
    assert mismatches(given, Channel(contrast="no")) == ["a contrast agent is recorded"]


def test_every_reason_is_told() -> None:
    asked = Channel(modality="MR", plane="sagittal", min_slices=50)
    assert mismatches(SERIES, asked) == ["modality CT, not MR", "plane axial, not sagittal", "40 slices, fewer than 50"]


def test_an_oblique_series_is_in_none_of_the_three_planes() -> None:
    oblique = replace(SERIES, technique=replace(SERIES.technique, plane="oblique"))
    assert [mismatches(oblique, Channel(plane=plane)) for plane in ("axial", "coronal", "sagittal")] == [
        [f"plane oblique, not {plane}"] for plane in ("axial", "coronal", "sagittal")
    ]
    assert mismatches(oblique, Channel()) == []


def test_what_a_refused_series_does_not_tell_is_not_held_against_it_but_for_what_it_is() -> None:
    refused = replace(SILENT, refusal=Refusal("index", "missing_slice", "a slice is missing"))
    every = Channel(kernel="B", plane="axial", contrast="yes", min_slices=9, max_spacing_mm=1, max_thickness_mm=1)
    assert len(mismatches(SILENT, every)) == 6
    assert mismatches(refused, every) == []
    assert mismatches(refused, Channel(modality="CT", description="x")) == [
        "does not tell its modality",
        "does not tell its description",
    ]
    assert mismatches(replace(refused, technique=SERIES.technique), Channel(plane="coronal")) == [
        "plane axial, not coronal"
    ]


@pytest.mark.parametrize(
    ("shape", "axis", "slices"),
    [
        ((9, 8, 7), 2, 7),
        ((9, 8, 7), 0, 9),
        ((9, 8, 7), None, 7),
        ((1, 8, 7), None, 1),
        ((9, 8, 1), 0, 1),
        (None, 2, None),
    ],
)
def test_slices_are_counted_along_the_axis_across_them(
    shape: tuple[int, int, int] | None, axis: int | None, slices: int | None
) -> None:
    assert slice_count(replace(SERIES, shape=shape, technique=Technique(slice_axis=axis))) == slices
