"""Which series becomes which channel, what decides among several, and why the others lost."""

from dataclasses import replace

import pytest

from medmllm.documents import Channel
from medmllm.errors import ContractError
from medmllm.preprocessing.selection import Considered, choose_series, select_series
from medmllm.records import NoteReference, Refusal, SeriesReference, Study, Technique
from tests.preprocessing.small import IMAGE, reading


def series(
    number: int, modality: str | None = "CT", description: str | None = None, refused: str | None = None
) -> SeriesReference:
    refusal = None if refused is None else Refusal("index", "missing_slice", refused)
    return SeriesReference(f"se-{number:016x}", "dicom", modality, (6, 5, 4), None, description, (), refusal)


def study(*found: SeriesReference, notes: int = 0) -> Study:
    return Study("st-1", "pt-1", "dicom", found, tuple(NoteReference(None) for _ in range(notes)))  # type: ignore[arg-type]


def test_each_channel_takes_the_one_series_that_fits_and_optional_ones_may_be_absent() -> None:
    chosen = choose_series(study(series(1, "CT"), series(2, "SR")), IMAGE)
    assert {name: found.series_key[-1] for name, found in chosen.items()} == {"ct": "1"}
    both = choose_series(study(series(2, "PT"), series(1, "CT")), IMAGE)
    assert {name: found.series_key[-1] for name, found in both.items()} == {"ct": "1", "pet": "2"}


def test_two_series_for_one_channel_are_refused_and_both_are_named() -> None:
    with pytest.raises(ContractError, match=r"'ct' \(se-0{15}1, se-0{15}2\)") as caught:
        choose_series(study(series(2), series(1)), IMAGE)
    assert caught.value.code == "ambiguous_series"


def test_one_series_for_two_channels_is_refused_rather_than_read_twice() -> None:
    with_contrast = reading(t1=Channel(description="t1"), t1c=Channel(description="t1.*contrast"))
    with pytest.raises(ContractError, match=r"se-0{15}7 matches 2 channels \(t1, t1c\)") as caught:
        choose_series(study(series(7, "MR", "T1 with contrast")), with_contrast)
    assert caught.value.code == "ambiguous_series"


def test_an_unreadable_series_beside_a_readable_one_makes_nothing_ambiguous() -> None:
    chosen = choose_series(study(series(1, refused="slice 3 is missing"), series(2)), IMAGE)
    assert chosen["ct"].series_key == "se-" + "2".zfill(16)


def test_a_series_refused_for_its_gaps_is_taken_where_the_settings_mend_gaps() -> None:
    gaps = study(series(1, refused="1 slice is missing"))
    mending = IMAGE.model_copy(update={"regrid": "uneven"})
    assert choose_series(gaps, mending)["ct"].series_key == "se-" + "1".zfill(16)
    cut = study(replace(series(1), refusal=Refusal("index", "truncated_pixels", "cut short")))
    for unreadable, chosen_by in ((gaps, IMAGE.model_copy(update={"regrid": "tilted"})), (cut, mending)):
        with pytest.raises(ContractError, match="cannot be read"):
            choose_series(unreadable, chosen_by)


def test_a_missing_required_channel_is_refused_with_what_was_wanted_and_what_is_there() -> None:
    wanted = reading(t2=Channel(modality="MR", description="t2", required=True))
    with pytest.raises(
        ContractError, match=r"modality MR and a description like 't2'.* present: CT, unknown"
    ) as caught:
        choose_series(study(series(1), series(2, None)), wanted)
    assert caught.value.code == "no_matching_series"


@pytest.mark.parametrize(("min_slices", "found"), [(None, [2]), (1, []), (5, [])])
def test_lone_slices_are_passed_over_unless_a_channel_asks_for_them(min_slices: int | None, found: list[int]) -> None:
    both = study(replace(series(1), shape=(6, 5, 1)), replace(series(2), shape=(6, 5, 4)))
    channel = Channel(modality="CT") if min_slices is None else Channel(modality="CT", min_slices=min_slices)
    if min_slices == 1:
        with pytest.raises(ContractError, match="2 series match channel 'ct'"):
            choose_series(both, reading(ct=channel))
        return
    assert list(choose_series(both, reading(ct=channel)).values()) == [both.series[number - 1] for number in found]


def test_why_a_required_series_cannot_be_read_is_passed_on() -> None:
    with pytest.raises(ContractError, match=r"channel 'ct' cannot be read: slice 3 is missing") as caught:
        choose_series(study(series(1, refused="slice 3 is missing")), IMAGE)
    assert caught.value.code == "no_matching_series"


def test_a_series_that_cannot_be_read_is_not_taken_for_a_missing_one_even_beside_a_note() -> None:
    optional = reading(ct=Channel(modality="CT"))
    with pytest.raises(ContractError, match="channel 'ct' cannot be read: slice 3 is missing"):
        choose_series(study(series(1, refused="slice 3 is missing"), notes=1), optional)
    assert choose_series(study(notes=1), optional) == {}


@pytest.mark.parametrize(
    ("pattern", "description", "fits"),
    [
        ("flair", "Ax FLAIR fs", True),
        (r"^t1(?!.*gd)", "T1 sag", True),
        (r"^t1(?!.*gd)", "t1 sag GD", False),
        ("flair", None, False),
        ("", None, True),
    ],
)
def test_a_description_is_searched_as_a_regular_expression_without_case(
    pattern: str, description: str | None, fits: bool
) -> None:
    chosen = choose_series(study(series(1, "MR", description)), reading(one=Channel(description=pattern)))
    assert bool(chosen) is fits


# --- what decides among several ------------------------------------------------------------


def deep(
    number: int, slices: int = 4, spacing: float = 4.0, modality: str = "CT", **technique: object
) -> SeriesReference:
    """An axial series; `technique` is what its headers tell besides."""
    told = Technique(slice_axis=2, **technique)  # type: ignore[arg-type]
    return replace(series(number, modality), shape=(6, 5, slices), spacing_mm=(2.0, 3.0, spacing), technique=told)


def why(study: Study, *, prefer: tuple[str, ...], **rules: object) -> dict[str, str]:
    """Outcome and reason of every series for a CT channel, by the last digit of its key."""
    channel = Channel(modality="CT", prefer=prefer, **rules)  # type: ignore[arg-type]
    (found,) = select_series(study, reading(ct=channel), reads_more=False).channels
    return {one.series.series_key[-1]: f"{one.outcome} {one.why}".strip() for one in found.considered}


@pytest.mark.parametrize(
    ("preference", "winner", "against"),
    [
        ("most_slices", "2", "40 slices against 41 slices"),
        ("thinnest", "1", "1.50 mm thick against 1.00 mm thick"),
        ("closest_slices", "2", "2.00 mm between slices against 1.50 mm between slices"),
        ("earliest", "1", "number 3 in time against number 2 in time"),
        ("latest", "2", "number 2 in time against number 3 in time"),
    ],
)
def test_a_preference_decides_and_the_loser_is_told_by_what(preference: str, winner: str, against: str) -> None:
    both = study(
        deep(1, slices=40, spacing=2.0, thickness_mm=1.0, time_order=2),
        deep(2, slices=41, spacing=1.5, thickness_mm=1.5, time_order=3),
    )
    loser = {"1": "2", "2": "1"}[winner]
    assert why(both, prefer=(preference,)) == {
        winner: f"used by {preference}",
        loser: f"lost lost to se-{winner:0>16} by {preference} ({against})",
    }
    chosen = choose_series(both, reading(ct=Channel(modality="CT", prefer=(preference,))))  # type: ignore[arg-type]
    assert chosen["ct"].series_key[-1] == winner


def test_without_a_preference_the_same_two_are_ambiguous() -> None:
    both = study(deep(1, slices=40), deep(2, slices=41))
    assert why(both, prefer=()) == {
        "1": "refused fits as well as se-0000000000000002",
        "2": "refused fits as well as se-0000000000000001",
    }


def test_preferences_are_asked_in_order_and_only_those_that_decide_are_named() -> None:
    three = study(
        deep(1, slices=40, thickness_mm=2.0, time_order=1),
        deep(2, slices=40, thickness_mm=1.0, time_order=2),
        deep(3, slices=20, thickness_mm=1.0, time_order=3),
    )
    assert why(three, prefer=("most_slices", "earliest")) == {
        "1": "used by most_slices, earliest",
        "2": "lost lost to se-0000000000000001 by earliest (number 2 in time against number 1 in time)",
        "3": "lost lost to se-0000000000000001, se-0000000000000002 by most_slices (20 slices against 40 slices)",
    }
    assert why(three, prefer=("latest", "most_slices"))["3"] == "used by latest"


def test_a_preference_that_a_series_does_not_tell_decides_nothing() -> None:
    both = study(deep(1, thickness_mm=1.0), deep(2))
    assert "thinnest decides nothing, as 1 do not tell it" in why(both, prefer=("thinnest",))["1"]
    with pytest.raises(ContractError, match="thinnest decides nothing, as 1 do not tell it") as caught:
        choose_series(both, reading(ct=Channel(prefer=("thinnest",))))
    assert caught.value.code == "ambiguous_series"
    assert why(both, prefer=("thinnest", "most_slices"))["2"].endswith("most_slices decides nothing, as all are alike")


@pytest.mark.parametrize(("apart_mm", "decides"), [(0.01, False), (0.02, True)])
def test_rounded_lengths_decide_nothing(apart_mm: float, decides: bool) -> None:
    both = study(deep(1, spacing=2.5), deep(2, spacing=2.5 + apart_mm))
    assert why(both, prefer=("closest_slices",))["1"].startswith("used") is decides


def test_a_preference_is_not_asked_where_one_series_fits() -> None:
    assert why(study(deep(1), deep(2, modality="MR")), prefer=("most_slices",)) == {
        "1": "used",
        "2": "lost modality MR, not CT",
    }


def test_a_series_that_cannot_be_read_is_not_preferred() -> None:
    refusal = Refusal("index", "missing_slice", "a slice is missing")
    both = study(deep(1, slices=4), replace(deep(2, slices=99), refusal=refusal))
    assert why(both, prefer=("most_slices",)) == {"1": "used", "2": "refused missing_slice: a slice is missing"}


# --- the study as a whole ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "notes", "outcome", "is_refused"),
    [
        ((series(1, "CT"), series(2, "PT")), 0, "complete", False),
        ((series(1, "CT"),), 0, "incomplete", False),
        ((series(1, "CT"), series(2, "CT")), 0, "ambiguous", True),
        ((series(2, "PT"),), 0, "refused", True),
        ((series(1, "CT", refused="cut off"),), 0, "refused", True),
    ],
)
def test_a_study_is_as_good_as_its_channels(
    found: tuple[SeriesReference, ...], notes: int, outcome: str, is_refused: bool
) -> None:
    selection = select_series(study(*found), IMAGE, reads_more=bool(notes))
    assert (selection.outcome, selection.is_refused) == (outcome, is_refused)
    assert (selection.refusal is None) == (outcome in ("complete", "incomplete"))


@pytest.mark.parametrize("reads_more", [False, True])
def test_a_study_without_series_needs_something_else_to_read(reads_more: bool) -> None:
    selection = select_series(study(series(1, "SR")), reading(ct=Channel(modality="CT")), reads_more=reads_more)
    assert (selection.outcome, selection.refusal, selection.is_refused) == ("without", None, not reads_more)


def test_a_series_that_two_channels_choose_is_refused_for_both_and_others_keep_theirs() -> None:
    channels = reading(t1=Channel(description="t1"), t1c=Channel(description="t1.*gd"), t2=Channel(description="t2"))
    selection = select_series(study(series(1, "MR", "t1 gd"), series(2, "MR", "t2")), channels, reads_more=False)
    t1, t1c, t2 = selection.channels
    assert [one.chosen and one.chosen.series_key[-1] for one in (t1, t1c, t2)] == [None, None, "2"]
    assert t1.considered[0] == Considered(t1.considered[0].series, "refused", "matches 2 channels (t1, t1c)")
    assert selection.outcome == "ambiguous"


def test_a_plain_nifti_file_that_lost_for_its_modality_is_answered_with_the_way_out() -> None:
    plain = replace(series(1, None), kind="nifti")
    with pytest.raises(ContractError, match=r"modalities present: unknown\. .* set nifti_modality to") as caught:
        choose_series(study(plain), IMAGE)
    assert caught.value.code == "no_matching_series"
    with pytest.raises(ContractError, match="`medmllm select` shows why"):
        choose_series(study(series(1, "MR")), IMAGE)


def test_a_plain_nifti_file_counts_as_what_the_channel_says_such_files_are() -> None:
    plain = replace(series(1, None), kind="nifti")
    settings = reading(ct=Channel(modality="CT", nifti_modality="CT"))
    assert choose_series(study(plain), settings)["ct"].modality == "CT"
    for other in (replace(plain, modality="MR"), series(1, None)):  # it says another; DICOM without a modality
        with pytest.raises(ContractError, match=f"modalities present: {other.modality or 'unknown'}"):
            choose_series(study(other), reading(ct=Channel(modality="CT", nifti_modality="CT", required=True)))


def test_a_channel_of_any_modality_still_learns_what_plain_nifti_is() -> None:
    plain = replace(series(1, None), kind="nifti")
    assert choose_series(study(plain), reading(ct=Channel(nifti_modality="CT")))["ct"].modality == "CT"
    assert choose_series(study(plain), reading(ct=Channel()))["ct"].modality is None


def test_a_channel_that_does_not_use_it_keeps_the_fingerprint_of_before() -> None:
    assert "nifti_modality" not in Channel(modality="CT").model_dump(mode="json")
    assert Channel(nifti_modality="CT").model_dump(mode="json")["nifti_modality"] == "CT"
