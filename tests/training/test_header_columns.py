"""Groups by DICOM headers: of the series that are read, and of no header that names anybody."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ConfigError, SplitError
from medmllm.records import SeriesReference, Study, Technique
from medmllm.training.groups import read_groups
from medmllm.training.header_columns import with_headers
from medmllm.training.sites import read_sites


def a_study(number: int, *techniques: Technique, descriptions: Sequence[str] = ("ct", "scout")) -> Study:
    series = tuple(
        SeriesReference(f"se-{number}-{k}", "dicom", "CT", (4, 4, 4), (1.0, 1.0, 1.0), description, (), None, (), own)
        for k, (own, description) in enumerate(zip(techniques, descriptions, strict=False))
    )
    return Study(f"st-{number:016x}", f"pt-{number:016x}", "dicom", series, facts={"outcome": "1"})


def config(*columns: str, bands: str = "", group_out: str = "", inputs: str = "") -> TrainConfig:
    overrides = [
        f"evaluation.subgroups.columns={[*columns]}".replace("'", '"'), f'training.group_out="{group_out}"',
        'image.channels={ct={modality="CT", description="ct"}}',
    ]  # fmt: skip
    overrides += [f"evaluation.subgroups.bands={{{bands}}}"] if bands else []
    overrides += [f'table.columns=["{inputs}"]'] if inputs else []
    return load_config(TrainConfig, "train", overrides=overrides)


SIEMENS, GE = Technique(manufacturer="SIEMENS", thickness_mm=1.0), Technique(manufacturer="GE", thickness_mm=5.0)


def test_a_study_is_in_the_group_of_the_series_that_is_read() -> None:
    asked = config("dicom:Manufacturer", "dicom:SliceThickness", bands='"dicom:SliceThickness"=[2.5]')
    studies = [a_study(0, SIEMENS, GE), a_study(1, GE, SIEMENS), a_study(2, Technique()), a_study(3)]
    told = with_headers(studies, asked)
    found = read_groups(told, asked.evaluation.subgroups)
    assert list(found["dicom:Manufacturer"].values()) == ["SIEMENS", "GE", None, None]
    assert list(found["dicom:SliceThickness"].values()) == ["below 2.5", "2.5 and above", None, None]
    assert [study.facts["outcome"] for study in told] == ["1"] * 4


def test_where_no_series_is_read_all_must_tell_alike() -> None:
    studies = [
        a_study(0, SIEMENS, replace(SIEMENS, thickness_mm=3.0), descriptions=("head", "scout")),
        a_study(1, SIEMENS, GE, descriptions=("head", "scout")),
    ]
    told = with_headers(studies, config("dicom:Manufacturer"))
    assert [study.facts["dicom:Manufacturer"] for study in told] == ["SIEMENS", ""]


def test_what_no_study_tells_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="no study's headers tell MagneticFieldStrength; NIfTI files never do"):
        with_headers([a_study(0, SIEMENS)], config("dicom:MagneticFieldStrength"))
    assert with_headers([a_study(0)], config())[0].facts == {"outcome": "1"}
    with pytest.raises(ConfigError, match="is no input: take it out"):
        with_headers([a_study(0, SIEMENS)], config("dicom:Manufacturer", inputs="dicom:Manufacturer"))


def test_a_site_left_out_must_be_told_by_every_study() -> None:
    asked = config(group_out="dicom:Manufacturer")
    told = with_headers([a_study(0, SIEMENS), a_study(1, GE)], asked)
    assert list(read_sites(told, "dicom:Manufacturer").values()) == ["SIEMENS", "GE"]
    told = with_headers([a_study(0, SIEMENS), a_study(1)], asked)
    with pytest.raises(SplitError, match=r"1 labelled .*: st-0{15}1\. Their headers do not tell it"):
        read_sites(told, "dicom:Manufacturer")


@pytest.mark.parametrize(
    "keyword", ["InstitutionName", "StationName", "DeviceSerialNumber", "PatientName", "manufacturer"]
)
def test_headers_that_may_name_somebody_are_refused(keyword: str) -> None:
    for asked in ({"columns": (f"dicom:{keyword}",)}, {"group_out": f"dicom:{keyword}"}):
        with pytest.raises(ConfigError, match=f"'dicom:{keyword}' is none of dicom:Manufacturer, .*may name persons"):
            config(*asked.get("columns", ()), group_out=str(asked.get("group_out", "")))
