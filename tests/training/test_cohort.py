"""A cohort is read once, in order, with bounded look-ahead; what cannot be read is kept beside it with the reason."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from medmllm.config import TrainConfig, load_config
from medmllm.errors import ContractError, DicomError, GeometryError, LabelError, MedmllmError, NiftiError, NoteError
from medmllm.ingest.study_folder import index_folder
from medmllm.ingest.tables import read_label_table
from medmllm.records import Recording, SeriesReference, Study, Volume
from medmllm.training import cohort as cohort_module
from medmllm.training.cohort import (
    Cohort,
    draft_contract,
    final_contract,
    read_cohort,
    read_parts,
    sound_digest,
    stage_of,
)
from tests.factories import a_volume, write_dicom_study, write_nifti_cohort, write_nifti_study
from tests.models.small import TEXT
from tests.quality.phantoms import a_scan, a_trunk
from tests.training.small_draft import DRAFT, KEYRING, ONE, POLICY, a_policy


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Study, ...]:
    """Eight studies of six patients; one has no image, one no note, one an image that is cut."""
    labels = write_nifti_cohort(tmp_path, patients=6, without_image=[1], without_note=[4])
    image = tmp_path / "studies" / "case-002-0" / "image.nii.gz"
    image.write_bytes(image.read_bytes()[:900])
    return index_folder(tmp_path / "studies", keyring=KEYRING, table=read_label_table(labels)).studies


def read(studies: tuple[Study, ...], *, workers: int = 2, steps: list[int] | None = None) -> Cohort:
    targets = {study.study_key: int(study.facts["outcome"]) for study in studies}
    told = [] if steps is None else steps
    return read_cohort(studies, targets, DRAFT, policy=POLICY, workers=workers, advance=told.append)


def test_members_come_in_the_order_of_the_index_whatever_the_number_of_workers(studies: tuple[Study, ...]) -> None:
    expected = [study.study_key for study in studies if study.study_key != KEYRING.study("case-002-0")]
    for workers in (1, 5):
        steps: list[int] = []
        cohort = read(studies, workers=workers, steps=steps)
        assert [member.sample.study_key for member in cohort.members] == expected
        assert steps == [1] * 8
        by_key = {study.study_key: study for study in studies}
        assert cohort.targets == [int(by_key[key].facts["outcome"]) for key in expected]


def test_a_study_that_cannot_be_read_is_kept_beside_the_cohort_with_stage_and_reason(
    studies: tuple[Study, ...],
) -> None:
    ((study, refusal),) = read(studies).refused
    assert study.study_key == KEYRING.study("case-002-0")
    assert (refusal.stage, refusal.code) == ("read", "nifti_unreadable")


@pytest.mark.parametrize("required", [False, True])
def test_a_damaged_recording_refuses_its_study_by_key_as_a_damaged_image_does(tmp_path: Path, required: bool) -> None:
    for name in ("a", "b"):
        write_nifti_study(tmp_path / name)
    soundfile.write(tmp_path / "a" / "heart.wav", np.sin(np.arange(8000)), 4000)
    (tmp_path / "b" / "heart.wav").write_bytes(b"RIFF and no more")
    studies = index_folder(tmp_path, keyring=KEYRING).studies
    packaged = load_config(TrainConfig, "train").recording
    draft = draft_contract(None, TEXT, packaged.model_copy(update={"enabled": True, "required": required}))
    targets = {study.study_key: 0 for study in studies}
    cohort = read_cohort(studies, targets, draft, policy=POLICY, workers=1, advance=lambda more: None)
    ((study, refusal),) = cohort.refused
    assert study.study_key == KEYRING.study("b")
    assert (refusal.stage, refusal.code) == ("read", "recording_unreadable")
    assert f"(in a recording of study {study.study_key})" in refusal.reason


def test_what_a_study_lacks_is_none_and_the_rest_is_read(studies: tuple[Study, ...]) -> None:
    cohort = read(studies)
    without_image = [m.sample.study_key for m in cohort.members if m.sample.image is None]
    without_note = [m.sample.study_key for m in cohort.members if m.note is None]
    # Rows 1 and 4 of the table: case-000-1, and case-003-0 (case-000 and case-003 come twice).
    assert without_image == [KEYRING.study("case-000-1")]
    assert without_note == [KEYRING.study("case-003-0")]
    assert [tuple(m.facts) for m in cohort.members if m.sample.image is None] == [()]
    assert all(m.sample.token_ids is None for m in cohort.members)  # words come fold by fold
    assert cohort.has_images
    assert cohort.has_notes


def test_studies_without_a_target_are_passed_over(studies: tuple[Study, ...]) -> None:
    some = {studies[0].study_key: 1, studies[5].study_key: 0}
    cohort = read_cohort(studies, some, DRAFT, policy=POLICY, workers=2, advance=lambda more: None)
    assert {m.sample.study_key: m.sample.target for m in cohort.members} == some
    assert cohort.refused == ()


def test_no_more_studies_are_read_ahead_than_twice_the_workers(
    studies: tuple[Study, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, lock, seen = [0], threading.Lock(), []
    original = cohort_module.read_parts

    def counting(study: Study, *more: object) -> object:
        with lock:
            started[0] += 1
        return original(study, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(cohort_module, "read_parts", counting)
    targets = {study.study_key: int(study.facts["outcome"]) for study in studies}
    done = [0]

    def advance(more: int) -> None:
        time.sleep(0.05)  # a slow taker: a reader without bounds runs ahead
        done[0] += more
        seen.append(started[0] - done[0])

    read_cohort(studies, targets, DRAFT, policy=POLICY, workers=1, advance=advance)
    assert done[0] == started[0] == 8
    assert max(seen) <= 2


def test_a_cohort_of_which_nothing_can_be_read_is_refused_with_the_first_reason(
    studies: tuple[Study, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(reference: SeriesReference, *, regrid: str) -> Volume:
        raise DicomError("the first reason")

    monkeypatch.setattr(cohort_module, "read_volume", fail)
    with_image = tuple(study for study in studies if study.series)
    with pytest.raises(LabelError, match=r"none of the 7 labelled studies can be used; the first: the first reason"):
        read(with_image)


def test_an_empty_set_of_targets_is_refused(studies: tuple[Study, ...]) -> None:
    with pytest.raises(LabelError, match="no labelled study"):
        read_cohort(studies, {}, DRAFT, policy=POLICY, workers=1, advance=lambda more: None)


def test_only_what_the_contract_reads_is_read(studies: tuple[Study, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*more: object) -> None:
        raise AssertionError("read although the contract does not ask for it")

    with monkeypatch.context() as patch:
        patch.setattr(cohort_module, "read_volume", never)
        parts = read_parts(studies[0], draft_contract(None, TEXT))
    assert parts.volumes == {}
    assert parts.note is not None
    with monkeypatch.context() as patch:
        patch.setattr(cohort_module, "read_study_note", never)
        parts = read_parts(studies[0], draft_contract(ONE, None))
    assert parts.note is None
    assert parts.volumes["image"].voxels.shape == (12, 10, 8)


@pytest.mark.parametrize(
    ("error", "stage"),
    [
        (ContractError("x"), "contract"),
        (NiftiError("x"), "read"),
        (NoteError("x"), "read"),
        (GeometryError("x"), "read"),
        (MedmllmError("x"), "preprocess"),
    ],
)
def test_each_kind_of_error_has_its_stage(error: MedmllmError, stage: str) -> None:
    assert stage_of(error) == stage


def test_the_final_contract_spans_the_cohort_and_a_margin(tmp_path: Path) -> None:
    for name, spacing in (("a", 2.0), ("b", 3.0)):
        volume = a_volume((6, 5, 4), spacing_mm=(spacing, 4.0, 5.0))
        write_nifti_study(tmp_path / name, {"image": volume})
    found = index_folder(tmp_path, keyring=KEYRING).studies
    cohort = read_cohort(
        found, {s.study_key: 0 for s in found}, DRAFT, policy=POLICY, workers=1, advance=lambda more: None
    )
    contract = final_contract(cohort, DRAFT, margin=0.5)
    accepted = contract.accepted["image"]
    assert (accepted.spacing_mm[0].low, accepted.spacing_mm[0].high) == pytest.approx((2.0 / 1.5, 3.0 * 1.5))
    assert (accepted.extent_mm[0].low, accepted.extent_mm[0].high) == pytest.approx((12.0 / 1.5, 18.0 * 1.5))
    assert accepted.modalities == (None,)
    values = a_volume((6, 5, 4)).voxels  # the same values in both
    low, high = np.percentile(values, [1, 99])
    assert accepted.intensity.low == pytest.approx(low - 0.5 * (high - low), rel=1e-5)
    assert contract.fingerprint != DRAFT.fingerprint
    assert contract.model_copy(update={"accepted": {}}) == DRAFT


def test_what_the_policy_refuses_is_kept_beside_the_cohort_and_every_finding_is_listed(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a", {"image": a_scan(a_trunk() - 1024, modality=None)})
    write_nifti_study(tmp_path / "b", {"image": a_scan(a_trunk(), modality=None)}, note="HISTORY: one\n")
    found = index_folder(tmp_path, keyring=KEYRING).studies
    targets = {study.study_key: 0 for study in found}
    cohort = read_cohort(found, targets, DRAFT, policy=POLICY, workers=2, advance=lambda more: None)
    ((study, refusal),) = cohort.refused
    assert (study.study_key, refusal.stage, refusal.code) == (KEYRING.study("a"), "quality", "ct_double_rescale")
    assert [(key, f.code, f.severity) for key, f in cohort.findings] == [
        (KEYRING.study("a"), "ct_double_rescale", "refuse"),
        (KEYRING.study("b"), "note_too_short", "warn"),
    ]
    warned = a_policy(ct_double_rescale="warn")
    cohort = read_cohort(found, targets, DRAFT, policy=warned, workers=2, advance=lambda more: None)
    assert len(cohort.members) == 2
    assert [f.severity for _, f in cohort.findings] == ["warn", "warn"]


def test_plain_nifti_that_its_channel_calls_ct_is_held_to_hounsfield_units(tmp_path: Path) -> None:
    for name, hu_plus in (("a", 1024), ("b", 0)):
        write_nifti_study(tmp_path / name, {"image": a_scan(a_trunk() + hu_plus, modality=None)})
    found = index_folder(tmp_path, keyring=KEYRING).studies
    targets = {study.study_key: 0 for study in found}
    for modality, refused, accepted in (("", [], (None,)), ("CT", ["ct_not_rescaled"], ("CT",))):
        channels = {"image": ONE.channels["image"].model_copy(update={"nifti_modality": modality})}
        draft = draft_contract(ONE.model_copy(update={"channels": channels}), None)
        cohort = read_cohort(found, targets, draft, policy=POLICY, workers=1, advance=lambda more: None)
        assert [refusal.code for _, refusal in cohort.refused] == refused
        assert final_contract(cohort, draft, margin=0.5).accepted["image"].modalities == accepted


def test_of_two_notes_that_are_the_same_the_later_is_the_copy_whatever_the_number_of_workers(tmp_path: Path) -> None:
    note = "HISTORY: " + " ".join(f"word{number}" for number in range(30))
    for name in ("a", "b", "c"):
        write_nifti_study(tmp_path / name, note=note if name != "b" else "HISTORY: another one altogether\n")
    found = index_folder(tmp_path, keyring=KEYRING).studies
    targets = {study.study_key: 0 for study in found}
    for workers in (1, 3):
        strict = a_policy(note_duplicate="refuse")
        cohort = read_cohort(found, targets, DRAFT, policy=strict, workers=workers, advance=lambda more: None)
        assert [(s.study_key, r.code) for s, r in cohort.refused] == [(KEYRING.study("c"), "note_duplicate")]
        assert KEYRING.study("a") in cohort.refused[0][1].reason
        assert [m.sample.study_key for m in cohort.members] == [KEYRING.study("a"), KEYRING.study("b")]


def test_a_note_that_the_model_does_not_read_is_not_looked_at(tmp_path: Path) -> None:
    write_nifti_study(tmp_path / "a", {"image": a_scan(a_trunk(), modality=None)}, note="HISTORY:\n")
    found = index_folder(tmp_path, keyring=KEYRING).studies
    for text, codes in ((TEXT, ["note_only_headings"]), (None, [])):
        draft = draft_contract(ONE, text)
        targets = {found[0].study_key: 0}
        cohort = read_cohort(found, targets, draft, policy=POLICY, workers=1, advance=lambda more: None)
        assert [finding.code for _, finding in cohort.findings] == codes


def test_a_study_is_read_as_the_contract_says_gaps_are_to_be_mended(tmp_path: Path) -> None:
    write_dicom_study(tmp_path, a_volume((6, 5, 7)), leave_out=[2])
    (study,) = index_folder(tmp_path, keyring=KEYRING).studies
    with pytest.raises(ContractError, match="1 slice is missing"):
        read_parts(study, DRAFT)
    mending = draft_contract(ONE.model_copy(update={"regrid": "uneven"}), TEXT)
    assert read_parts(study, mending).volumes["image"].voxels.shape == (6, 5, 7)


def test_copies_of_a_recording_have_one_digest_and_a_constant_one_has_none() -> None:
    sound = np.random.default_rng(2).normal(0, 0.1, (1, 500)).astype(np.float32)
    assert sound_digest(Recording(sound, 4000.0)) == sound_digest(Recording(sound.copy(), 8000.0))
    assert sound_digest(Recording(sound, 4000.0)) != sound_digest(Recording(sound[:, ::-1], 4000.0))
    assert sound_digest(Recording(np.full((1, 500), 0.25, np.float32), 4000.0)) is None
