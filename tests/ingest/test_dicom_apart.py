"""Parts of one series are told from each other by their numbers, so that a rule can choose one."""

import re
from pathlib import Path

import pytest

from medmllm.ingest.dicom_parts import split
from tests.factories import edit_dicom, write_dicom_study
from tests.ingest.dicom_slices import a_slice
from tests.ingest.indexed import index

HEIGHTS = (0.0, 2.0, 4.0)


def apart_of(**values: list[object]) -> list[str]:
    """Return what parts are told apart by, of slices that are there once for each of these values."""
    (count,) = {len(each) for each in values.values()}
    slices = [a_slice(z, **{key: each[k] for key, each in values.items()}) for z in HEIGHTS for k in range(count)]
    return [part.apart for part in split(slices)]


def test_each_b_value_is_told_in_order_of_size() -> None:
    assert apart_of(DiffusionBValue=["1000.0", "0", "50"]) == [
        "DiffusionBValue=0", "DiffusionBValue=50", "DiffusionBValue=1000",
    ]  # fmt: skip


def test_a_b_value_keeps_its_name_where_another_study_has_more_of_them() -> None:
    few, many = apart_of(DiffusionBValue=[0, 1000]), apart_of(DiffusionBValue=[0, 400, 1000])
    rule = re.compile(r"DiffusionBValue=1000\b")
    assert [[bool(rule.search(one)) for one in each] for each in (few, many)] == [[False, True], [False, False, True]]


def test_directions_of_one_b_value_are_parts_that_all_tell_it() -> None:
    # Directions alone tell the volumes apart; what a rule asks for is the b-value.
    told = apart_of(DiffusionBValue=[0, 1000, 1000], DiffusionGradientOrientation=["", "1\\0\\0", "0\\1\\0"])
    assert sorted(told) == ["DiffusionBValue=0", "DiffusionBValue=1000", "DiffusionBValue=1000"]


def test_a_number_that_only_one_part_has_is_told_of_that_one() -> None:
    assert sorted(apart_of(EchoTime=[12, 12], InversionTime=["", 2200])) == ["", "InversionTime=2200"]


def test_a_number_that_is_spelt_in_two_ways_tells_nothing_apart() -> None:
    told = apart_of(EchoTime=["90", "90.0"], FlipAngle=["-0", "0"], DiffusionBValue=[0, 1000])
    assert told == ["DiffusionBValue=0", "DiffusionBValue=1000"]


def test_a_number_that_changes_within_a_part_is_not_told() -> None:
    slices = [a_slice(z, EchoTime=echo, TriggerTime=z + echo) for z in HEIGHTS for echo in (10, 90)]
    assert [part.apart for part in split(slices)] == ["EchoTime=10", "EchoTime=90"]


@pytest.mark.parametrize("value", ["19510317", "MEIER", "nan", "inf"])
def test_what_is_no_plain_number_is_not_shown(value: str) -> None:
    assert apart_of(SeriesNumber=["2", value]) in (["SeriesNumber=2", ""], ["", "SeriesNumber=2"])


def test_of_words_only_those_of_the_standard_are_shown() -> None:
    assert apart_of(ImageType=["ORIGINAL\\PRIMARY\\M\\MEIER", "ORIGINAL\\PRIMARY\\P\\MEIER"]) == [
        "ImageType=M", "ImageType=P",
    ]  # fmt: skip
    assert apart_of(ImageType=["ORIGINAL\\PRIMARY\\HUBER", "ORIGINAL\\PRIMARY\\MEIER"]) == ["", ""]


def test_a_whole_series_is_told_nothing() -> None:
    assert [part.apart for part in split([a_slice(z, EchoTime=10) for z in HEIGHTS])] == [""]


def test_the_series_of_an_index_match_by_their_numbers(tmp_path: Path) -> None:
    for value in (0, 800):
        write_dicom_study(tmp_path / str(value), note=None)
        edit_dicom(tmp_path / str(value), Modality="MR", DiffusionBValue=value, SeriesDescription="DWI")
        for number in range(4):
            edit_dicom(tmp_path / str(value), only=[number], SOPInstanceUID=f"1.2.{value}.{number}")
    (study,) = index(tmp_path).studies
    assert [(series.technique.apart, series.description) for series in study.series] == [
        ("DiffusionBValue=0", "DWI DiffusionBValue 1 of 2 DiffusionBValue=0"),
        ("DiffusionBValue=800", "DWI DiffusionBValue 2 of 2 DiffusionBValue=800"),
    ]
