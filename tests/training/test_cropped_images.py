"""A field that leaves most of the images out is told, with what it holds of them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from medmllm.documents import ImageSettings
from medmllm.preprocessing.contract import VolumeFacts
from medmllm.training.arms import usable_arms
from medmllm.training.cohort import Cohort
from medmllm.training.cropped_images import remark_cropped
from medmllm.training_config import Arm
from tests.models.small import IMAGE
from tests.training.small_cohort import a_cohort, a_config

Extent = tuple[float, float, float]
CUBE = IMAGE.model_copy(update={"spacing_mm": (1.0, 2.0, 3.0), "size": (48, 24, 16)})  # 48 mm along each axis
ALONE = CUBE.model_copy(update={"channels": {"ct": IMAGE.channels["ct"]}})


def of_extents(*extents: Extent, channel: str = "ct") -> Cohort:
    """Return a cohort whose images reach so far, in mm; the last member has none."""
    members = a_cohort(6).members[: len(extents) + 1]
    facts = [{channel: VolumeFacts("CT", (1.0, 1.0, 1.0), own, 0.0, 1.0)} for own in extents]
    return Cohort(tuple(replace(m, facts=own) for m, own in zip(members, [*facts, {}], strict=True)), ())


def said(cohort: Cohort, settings: ImageSettings = ALONE, arms: Sequence[Arm] = ("image",)) -> list[str]:
    return list(remark_cropped(cohort, settings, arms))


def test_the_share_is_that_of_the_median_extent_along_each_axis() -> None:
    cohort = of_extents((300.0, 350.0, 900.0), (350.0, 340.0, 200.0), (360.0, 400.0, 100.0))
    assert said(cohort) == [  # 48 x 48 x 48 of 350 x 350 x 200: 0.0045
        "Of the images the model reads the middle 48 x 48 x 48 mm, 0.45 % of the median study's 350 x 350 x 200 mm: "
        "set [image] spacing_mm and size if more should be seen."
    ]


def test_along_an_axis_that_the_field_holds_whole_no_more_is_read_than_there_is() -> None:
    (line,) = said(of_extents((240.0, 192.0, 24.0)))  # 48 / 240 x 48 / 192 = 1 / 20
    assert "the middle 48 x 48 x 24 mm, 5 % of the median study's 240 x 192 x 24 mm" in line


def test_it_is_told_before_anything_is_trained(caplog: pytest.LogCaptureFixture) -> None:
    cohort = of_extents((240.0, 192.0, 24.0))
    _, remarks = usable_arms(cohort, a_config(arms=("image",)).model_copy(update={"image": ALONE}))
    (line,) = said(cohort)
    assert line in remarks
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [line]


@pytest.mark.parametrize(("extent", "count"), [(95.9, 0), (96.0, 0), (96.1, 1)])
def test_half_of_the_volume_is_enough(extent: float, count: int) -> None:
    assert len(said(of_extents((48.0, extent, 10.0)))) == count


def test_each_of_several_channels_is_looked_at_alone_and_named() -> None:
    (line,) = said(of_extents((480.0, 48.0, 48.0), channel="pet"), CUBE)
    assert line.startswith("Channel 'pet': of the images the model reads the middle 48 x 48 x 48 mm, 10 % of ")


@pytest.mark.filterwarnings("error")  # numpy's, of a median of nothing
def test_a_cohort_without_images_is_told_nothing() -> None:
    assert said(Cohort((), ())) == []


def test_only_arms_that_read_images_are_told() -> None:
    cohort = of_extents((480.0, 480.0, 480.0))
    counts = [len(said(cohort, arms=arms)) for arms in (("text", "table"), ("fused",), ("image",))]
    assert counts == [0, 1, 1]


def test_a_training_remarks_it() -> None:
    config = a_config()
    there = a_cohort(4)
    assert not [line for line in usable_arms(there, config)[1] if "spacing_mm" in line]
    small = config.model_copy(update={"image": config.image.model_copy(update={"size": (3, 4, 5)})})
    (line,) = (line for line in usable_arms(there, small)[1] if "spacing_mm" in line)
    assert "the middle 12 x 16 x 20 mm, 8.3 % of the median study's 36 x 32 x 40 mm" in line  # 1 / 3 x 1 / 2 x 1 / 2
