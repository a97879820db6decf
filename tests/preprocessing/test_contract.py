import nibabel as nib
import numpy as np
import pytest

from medmllm.documents import AcceptedRange, Channel, ImageSettings, PreprocessingContract, TextSettings
from medmllm.errors import ContractError
from medmllm.preprocessing.contract import VolumeFacts, accept, check_present, check_volume, measure
from medmllm.records import Volume
from tests.factories import a_volume
from tests.models.small import RECORDING, TABLE
from tests.preprocessing.small import IMAGE, TEXT, reading


def test_a_volume_is_measured_in_the_patients_axes_whatever_its_own_order() -> None:
    # Voxel axes run to the head, to the left and to the front: columns of the affine.
    affine = np.array([[0, -2.0, 0, 0], [0, 0, 3.0, 0], [5.0, 0, 0, 0], [0, 0, 0, 1]])
    assert nib.aff2axcodes(affine) == ("S", "L", "A")
    voxels = np.arange(4 * 6 * 7, dtype=np.float32).reshape(4, 6, 7)
    facts = measure(Volume(voxels, affine, None, "MR"))
    assert facts.spacing_mm == pytest.approx((2.0, 3.0, 5.0))
    assert facts.extent_mm == pytest.approx((6 * 2.0, 7 * 3.0, 4 * 5.0))
    assert (facts.low, facts.high) == pytest.approx((0.01 * 167, 0.99 * 167))  # of 0, 1 ... 167, linear
    assert facts.modality == "MR"


def facts(low: float, high: float, spacing: float = 2.0, extent: float = 100.0, modality: str = "CT") -> VolumeFacts:
    return VolumeFacts(modality, (spacing, 3.0, 4.0), (extent, 30.0, 40.0), low, high)


def test_accepted_ranges_are_the_cohorts_widened_by_the_margin() -> None:
    found = accept([facts(-900, 300, 2.0, 100), facts(-1000, 200, 3.0, 80)], margin=0.25)
    assert found.spacing_mm[0] == AcceptedRange(low=2.0 / 1.25, high=3.0 * 1.25)
    assert found.spacing_mm[1] == AcceptedRange(low=3.0 / 1.25, high=3.0 * 1.25)
    assert found.extent_mm[0] == AcceptedRange(low=80 / 1.25, high=100 * 1.25)
    assert found.intensity == AcceptedRange(low=-1000 - 0.25 * 1300, high=300 + 0.25 * 1300)
    assert found.modalities == ("CT",)


def test_a_volume_like_the_cohort_is_accepted_without_any_margin() -> None:
    volume = a_volume(turn_deg=30.0)
    check_volume(volume, "ct", accept([measure(volume)], margin=0.0))


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"modality": "MR"}, "wrong_modality", r"'ct': .* modality MR, .* trained on CT"),
        ({"spacing_mm": (2.0, 4.6, 4.0), "size": (6, 3, 4)}, "spacing_out_of_range", r"posterior spacing is 4\.60"),
        ({"size": (6, 5, 7)}, "extent_out_of_range", r"superior-inferior extent is 28\.00 mm, .* 10\.67 to 24\.00"),
        ({"size": (3, 5, 4)}, "extent_out_of_range", r"right-left extent is 6\.00 mm, .* 8\.00 to 18\.00"),
    ],
)  # fmt: skip
def test_a_volume_unlike_the_cohort_is_refused_with_value_and_bounds(
    change: dict[str, object], code: str, says: str
) -> None:
    accepted = accept([measure(a_volume())], margin=0.5)  # 6 x 5 x 4 voxels of 2 x 3 x 4 mm
    with pytest.raises(ContractError, match=says) as caught:
        check_volume(a_volume(**change), "ct", accepted)  # type: ignore[arg-type]
    assert caught.value.code == code


@pytest.mark.parametrize("stored", [lambda hu: hu + 1024, lambda hu: hu * 2, lambda hu: hu * np.nan])
def test_values_in_another_unit_are_refused(stored: object) -> None:
    volume = a_volume()
    accepted = accept([measure(volume)], margin=0.2)
    other = Volume(stored(volume.voxels), volume.affine, None, "CT")  # type: ignore[operator]
    with pytest.raises(ContractError, match=r"Is the unit \(HU\) right") as caught:
        check_volume(other, "ct", accepted)
    assert caught.value.code == "intensity_out_of_range"


def contract(image: ImageSettings | None = IMAGE, text: TextSettings | None = TEXT) -> PreprocessingContract:
    return PreprocessingContract(version=1, orientation="RAS", image=image, accepted={}, text=text)


@pytest.mark.parametrize(
    "other",
    [
        contract(text=None),
        contract(image=None),
        contract().model_copy(update={"accepted": {"ct": accept([facts(-1000, 300)], margin=0.25)}}),
        *(contract(image=IMAGE.model_copy(update={key: value})) for key, value in {
            "spacing_mm": (2.0, 3.0, 4.5),
            "size": (6, 5, 5),
            "intensity": "zscore",
            "window": (-1000.0, 401.0),
            "channels": dict(reversed(IMAGE.channels.items())),
        }.items()),
        contract(image=reading(ct=Channel(modality="CT", required=True), pet=Channel(modality="PT", required=True))),
        contract(image=reading(ct=Channel(modality="CT", required=True), pt=Channel(modality="PT"))),
        contract(image=reading(ct=Channel(modality="CT", required=True, description="x"), pet=Channel(modality="PT"))),
        *(contract(text=TEXT.model_copy(update={key: value})) for key, value in {
            "encoder": "other", "max_tokens": 17, "window": 15, "overlap": 1,
            "sections": (), "required": True, "tiny_vocabulary": 98,
        }.items()),
    ],
)  # fmt: skip
def test_the_fingerprint_changes_with_every_setting(other: PreprocessingContract) -> None:
    assert other.fingerprint != contract().fingerprint


def test_a_contract_without_sound_and_table_keeps_the_fingerprint_of_before_there_were_any() -> None:
    contract_of_then = {"accepted", "image", "orientation", "text", "version"}
    assert set(contract().model_dump(mode="json")) == contract_of_then
    with_sound = contract().model_copy(update={"recording": RECORDING})
    assert set(with_sound.model_dump(mode="json")) == contract_of_then | {"recording"}
    with_table = contract().model_copy(update={"table": TABLE})
    assert set(with_table.model_dump(mode="json")) == contract_of_then | {"table"}
    turned = TABLE.model_copy(update={"columns": TABLE.columns[::-1]})
    prints = [
        contract().fingerprint,
        with_table.fingerprint,
        with_table.model_copy(update={"table": turned}).fingerprint,
    ]
    assert len(set(prints)) == 3


def test_the_fingerprint_outlives_a_round_trip_through_json() -> None:
    before = contract().model_copy(update={"accepted": {"ct": accept([facts(-1000, 300)], margin=1 / 3)}})
    again = PreprocessingContract.model_validate_json(before.model_dump_json())
    assert again.fingerprint == before.fingerprint
    assert len(again.fingerprint) == 64


@pytest.mark.parametrize(
    ("asked", "image", "note", "code"),
    [
        (contract(), False, False, "nothing_to_read"),
        (contract(text=None), False, True, "nothing_to_read"),
        (contract(image=None), True, False, "nothing_to_read"),
        (contract(text=TEXT.model_copy(update={"required": True})), True, False, "no_note"),
        (contract(), True, False, None),
        (contract(), False, True, None),
    ],
)
def test_a_study_must_give_the_model_something_to_read(
    asked: PreprocessingContract, image: bool, note: bool, code: str | None
) -> None:
    volumes = {"ct": a_volume()} if image else {}
    if code is None:
        assert check_present(asked, volumes, has_note=note) is None
        return
    with pytest.raises(ContractError) as caught:
        check_present(asked, volumes, has_note=note)
    assert caught.value.code == code
