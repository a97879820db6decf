"""What shares a series and is no one volume: told apart by what the headers record, or left whole and refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from medmllm.ingest import dicom_parts
from medmllm.ingest.dicom_parts import split
from medmllm.ingest.dicom_stack import arrange
from tests.ingest.dicom_slices import TURNED, a_slice, code_of


def places(part: dicom_parts.Part) -> list[float]:
    return sorted(header.position[2] for header in part.headers if header.position)


def test_a_whole_series_is_one_part_without_a_label() -> None:
    (part,) = split([a_slice(z) for z in (0.0, 2.0, 4.0)])
    assert (part.label, places(part)) == ("", [0.0, 2.0, 4.0])


@pytest.mark.parametrize("keyword", ["EchoTime", "FlipAngle", "KVP", "DiffusionBValue", "SeriesNumber"])
@pytest.mark.parametrize("spelt", [lambda k: k % 2, lambda k: k < 6])
def test_a_number_that_is_spelt_in_two_ways_divides_nothing(keyword: str, spelt: Callable[[int], bool]) -> None:
    (part,) = split([a_slice(2.0 * k, **{keyword: "90.0" if spelt(k) else "90"}) for k in range(12)])
    assert (part.label, len(part.headers), part.remarks) == ("", 12, ())


def test_words_that_look_like_one_number_are_two() -> None:
    parts = split([a_slice(z, SequenceName=name) for z in (0.0, 2.0, 4.0) for name in ("1.20", "1.2")])
    assert [dict(part.headers[0].acquisition)["SequenceName"] for part in parts] == ["1.2", "1.20"]


def test_a_scout_is_told_apart_by_its_orientation_and_size() -> None:
    scout = a_slice(orientation=TURNED, rows=50)
    parts = split([a_slice(0.0), scout, a_slice(2.0)])
    assert [(part.label, len(part.headers)) for part in parts] == [("stack 1 of 2", 2), ("stack 2 of 2", 1)]


def test_stacks_are_numbered_by_what_they_look_like_not_by_the_order_of_files() -> None:
    slices = [a_slice(0.0, orientation=TURNED), a_slice(1.0), a_slice(2.0, rows=4), a_slice(3.0)]
    forth, back = split(slices), split(slices[::-1])
    assert [(part.label, places(part)) for part in forth] == [(part.label, places(part)) for part in back]


@pytest.mark.parametrize("keyword", ["AcquisitionNumber", "EchoTime", "TemporalPositionIdentifier", "ImageType"])
def test_volumes_at_the_same_places_are_told_apart_by_a_recorded_attribute(keyword: str) -> None:
    parts = split([a_slice(z, **{keyword: value}) for z in (0.0, 2.0, 4.0) for value in (10, 20)])
    assert [part.label for part in parts] == [f"{keyword} 1 of 2", f"{keyword} 2 of 2"]
    assert [places(part) for part in parts] == [[0.0, 2.0, 4.0]] * 2
    assert {dict(header.acquisition)[keyword] for header in parts[0].headers} == {"10"}


def test_volumes_that_nothing_tells_apart_stay_together_and_are_refused() -> None:
    (part,) = split([a_slice(z) for z in (0.0, 2.0) for _ in range(3)])
    assert len(part.headers) == 6
    assert code_of(part.headers) == "doubled_slice"


def test_an_attribute_that_changes_from_slice_to_slice_divides_nothing() -> None:
    (part,) = split([a_slice(z, AcquisitionNumber=z) for z in (0.0, 2.0, 4.0)])
    assert part.label == ""


def test_an_attribute_under_which_a_volume_would_lack_places_divides_nothing() -> None:
    # Each of four trigger times has every second place once: none of them is a volume.
    slices = [a_slice(z, TriggerTime=f"{z % 4}-{copy}") for z in (0.0, 2.0, 4.0, 6.0) for copy in range(2)]
    (part,) = split(slices)
    assert part.label == ""


def test_images_without_a_place_stay_together() -> None:
    (part,) = split([a_slice(position=None, orientation=None), a_slice(position=None, orientation=None)])
    assert len(part.headers) == 2


def test_images_of_a_bent_orientation_stay_together() -> None:
    bent = (1.0, 0, 0, 0.6, 0.8, 0)
    (part,) = split([a_slice(0.0, orientation=bent), a_slice(0.0, orientation=bent)])
    assert len(part.headers) == 2


# --- another image at other places ---------------------------------------------------------


def labels(parts: tuple[dicom_parts.Part, ...]) -> list[str]:
    return [part.label for part in parts]


@pytest.mark.parametrize(
    ("keyword", "shift"),
    [(keyword, shift) for keyword in ("EchoTime", "DiffusionBValue", "StackID") for shift in (1.0, 8.0)]
    + [(keyword, 1.0) for keyword in ("ImageType", "KVP", "ConvolutionKernel", "SeriesDescription", "SequenceName")]
    + [(keyword, 1.0) for keyword in ("ContrastBolusAgent", "FlipAngle")],
)
def test_another_kind_of_image_between_the_slices_or_behind_them_is_another_volume(keyword: str, shift: float) -> None:
    slices = [a_slice(2.0 * k + shift * one, **{keyword: 10 + one}) for k in range(4) for one in (0, 1)]
    parts = split(slices)
    assert labels(parts) == [f"{keyword} 1 of 2", f"{keyword} 2 of 2"]
    assert [places(part) for part in parts] == [[0, 2, 4, 6], [shift, 2 + shift, 4 + shift, 6 + shift]]


@pytest.mark.parametrize("keyword", ["ImageType", "KVP", "ConvolutionKernel"])
def test_a_technique_that_changes_on_the_way_is_remarked(keyword: str) -> None:
    (part,) = split([a_slice(2.0 * k, **{keyword: 80 if k < 4 else 120}) for k in range(8)])
    assert (part.label, dict(part.remarks).keys()) == ("", {"mixed_technique"})


def test_phase_images_behind_magnitude_images_are_another_volume() -> None:
    words = [("ORIGINAL", "PRIMARY", "M" if k < 4 else "P") for k in range(8)]
    slices = [a_slice(2.0 * k, image_type=kind, ImageType="-".join(kind)) for k, kind in enumerate(words)]
    assert [places(part) for part in split(slices)] == [[0, 2, 4, 6], [8, 10, 12, 14]]


def test_an_image_type_of_one_slice_alone_divides_nothing_and_is_remarked() -> None:
    (part,) = split([a_slice(2.0 * k, ImageType="DERIVED" if k == 1 else "ORIGINAL") for k in range(5)])
    assert (part.label, len(part.headers), dict(part.remarks).keys()) == ("", 5, {"mixed_technique"})
    assert "ImageType" in part.remarks[0][1]


def test_acquisitions_between_each_other_are_one_volume_and_are_remarked() -> None:
    (part,) = split([a_slice(float(k), AcquisitionNumber=k % 2) for k in range(8)])
    assert (part.label, dict(part.remarks).keys()) == ("", {"interleaved_acquisitions"})


def test_acquisitions_after_each_other_are_one_volume_without_a_word() -> None:
    (part,) = split([a_slice(float(k), AcquisitionNumber=k // 4) for k in range(8)])
    assert (part.label, part.remarks) == ("", ())


def test_acquisitions_of_which_one_is_missing_are_no_volumes_of_their_own() -> None:
    (part,) = split([a_slice(float(k), AcquisitionNumber=k // 4) for k in range(16) if k // 4 != 2])
    assert code_of(part.headers) == "missing_slice"


@pytest.mark.parametrize(
    ("second", "remarked"),
    [
        ([0.2, 2.2, 4.2, 6.2], False),  # shifted a little
        ([4, 6, 8, 10], False),  # overlapping
        ([0, 1, 2, 3, 4, 5, 6], False),  # another gap, more slices
        ([2, 4, 6], True),  # fewer
    ],
)
def test_phases_at_other_places_are_volumes_if_each_is_a_grid(second: list[float], remarked: bool) -> None:
    first = [0.0, 2.0, 4.0, 6.0]
    slices = [a_slice(z, AcquisitionNumber=2) for z in second] + [a_slice(z, AcquisitionNumber=1) for z in first]
    parts = split(slices)
    assert labels(parts) == ["AcquisitionNumber 1 of 2", "AcquisitionNumber 2 of 2"]
    assert [places(part) for part in parts] == [first, second]
    assert [code for part in parts for code, _ in part.remarks] == (
        ["fewer_slices"] if remarked or len(second) > len(first) else []
    )
    assert [arrange(part.headers).shape[2] for part in parts] == [4, len(second)]


def test_two_slices_are_no_evidence_of_a_grid() -> None:
    (part,) = split([a_slice(z, EchoTime=te) for te, heights in ((1, (0, 2)), (2, (0, 3))) for z in heights])
    assert code_of(part.headers) == "doubled_slice"


@pytest.mark.parametrize("keyword", ["FlipAngle", "RepetitionTime", "SequenceName", "SeriesNumber", "AcquisitionTime",
                                     "NominalPercentageOfCardiacPhase", "ReconstructionDiameter"])  # fmt: skip
def test_numbers_that_start_again_do_not_matter_where_another_attribute_tells(keyword: str) -> None:
    slices = [a_slice(2.0 * k, instance=k + 1, **{keyword: one}) for k in range(3) for one in (7, 8)]
    assert labels(split(slices)) == [f"{keyword} 1 of 2", f"{keyword} 2 of 2"]


def test_time_points_are_told_apart_by_times_where_numbers_start_again() -> None:
    slices = [
        a_slice(2.0 * k, instance=k + 1, AcquisitionTime=f"1010{10 * one + k}") for one in (1, 2) for k in (2, 0, 1)
    ]
    parts = split(slices)
    assert labels(parts) == ["AcquisitionTime 1 of 2", "AcquisitionTime 2 of 2"]
    times = [{dict(header.acquisition)["AcquisitionTime"] for header in part.headers} for part in parts]
    assert times == [{"101010", "101011", "101012"}, {"101020", "101021", "101022"}]


@pytest.mark.parametrize(
    "other",
    [
        {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")},
        {"samples": 3, "photometric": "RGB"},
        {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "position": None},
    ],
)
def test_a_page_or_scout_of_the_same_size_and_orientation_is_a_part_of_its_own(other: dict[str, Any]) -> None:
    parts = split([a_slice(0.0), a_slice(2.0), a_slice(4.0, **other), a_slice(6.0), a_slice(4.0)])
    assert sorted(len(part.headers) for part in parts) == [1, 4]
    (volume,) = (part for part in parts if len(part.headers) == 4)
    assert arrange(volume.headers).shape == (6, 5, 4)


def test_a_slice_that_is_cut_short_stays_with_its_series() -> None:
    (part,) = split([a_slice(0.0), a_slice(2.0, truncated=True), a_slice(4.0)])
    assert code_of(part.headers) == "truncated_pixels"


def test_two_fields_of_view_are_two_volumes() -> None:
    slices = [a_slice(2.0 * k, pixel_spacing_mm=(side, side)) for side in (0.8, 0.5) for k in range(3)]
    assert sorted(len(part.headers) for part in split(slices)) == [3, 3]


def test_a_slice_of_another_spacing_stays_and_is_refused() -> None:
    (part,) = split([a_slice(0.0), a_slice(2.0, pixel_spacing_mm=(1.0, 1.0)), a_slice(4.0)])
    assert code_of(part.headers) == "mixed_spacing"


def test_orientations_that_jitter_within_the_tolerance_are_one_stack() -> None:
    jitter = (9e-4, -9e-4, 4e-4, -9e-4)
    slices = [a_slice(2.0 * k, orientation=(1.0, by, 0, -by, 1.0, 0)) for k, by in enumerate(jitter)]
    (part,) = split(slices)
    assert arrange(part.headers).shape == (6, 5, 4)


def test_series_under_one_uid_are_told_apart_by_their_number_where_they_lie_between_each_other() -> None:
    slices = [a_slice(z + number, SeriesNumber=number) for z in (0.0, 2.0, 4.0) for number in (0, 1)]
    assert [places(part) for part in split(slices)] == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]


def test_images_of_another_modality_are_never_stacked_with_the_others() -> None:
    slices = [replace(a_slice(z), modality=("CT", "PT")[int(z) % 2]) for z in range(6)]
    assert [places(part) for part in split(slices)] == [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]


# --- frames of reference, slabs of another thickness ----------------------------------------


def test_volumes_in_different_frames_of_reference_are_told_apart_where_their_places_meet() -> None:
    numbers = {0.0: (1, 2), 2.0: (5, 3), 4.0: (4, 6)}  # neither volume by volume nor place by place
    slices = [a_slice(z, FrameOfReferenceUID=uid, frame_of_reference_uid=uid, instance=numbers[z][k])
              for z in numbers for k, uid in enumerate(("1.8", "1.9"))]  # fmt: skip
    parts = split(slices)
    assert labels(parts) == ["FrameOfReferenceUID 1 of 2", "FrameOfReferenceUID 2 of 2"]
    assert [{header.frame_of_reference_uid for header in part.headers} for part in parts] == [{"1.8"}, {"1.9"}]
    assert [arrange(part.headers).shape for part in parts] == [(6, 5, 3)] * 2


def test_a_frame_of_reference_does_not_say_which_volume_comes_first() -> None:
    slices = [a_slice(2.0 * k, FrameOfReferenceUID=uid, frame_of_reference_uid=uid, instance=first + k)
              for uid, first in (("1.8", 4), ("1.9", 1)) for k in range(3)]  # fmt: skip
    parts = split(slices)
    assert [{header.frame_of_reference_uid for header in part.headers} for part in parts] == [{"1.9"}, {"1.8"}]


def test_one_grid_whose_frame_of_reference_changes_on_the_way_is_refused_whole() -> None:
    slices = [a_slice(2.0 * k, FrameOfReferenceUID=f"1.{k // 3}", frame_of_reference_uid=f"1.{k // 3}")
              for k in range(6)]  # fmt: skip
    (part,) = split(slices)
    assert code_of(part.headers) == "mixed_frames_of_reference"


def test_slabs_of_another_thickness_and_gap_are_volumes_of_their_own() -> None:
    base = [a_slice(2.5 * k, SliceThickness="2.5") for k in range(4)]  # as a head is often scanned
    above = [a_slice(7.5 + 5.0 * k, SliceThickness="5") for k in range(1, 5)]
    parts = split([*above, *base])
    assert labels(parts) == ["SliceThickness 1 of 2", "SliceThickness 2 of 2"]
    assert [places(part) for part in parts] == [[0.0, 2.5, 5.0, 7.5], [12.5, 17.5, 22.5, 27.5]]
