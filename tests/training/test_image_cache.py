"""Prepared images are kept on the disk under a digest of all they depend on; what was damaged is made again."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import torch

from medmllm.config import QualityPolicy
from medmllm.errors import MedmllmError, MisuseError
from medmllm.ingest.study_folder import index_folder
from medmllm.ingest.tables import read_label_table
from medmllm.preprocessing import stored_image
from medmllm.preprocessing.sample import collate
from medmllm.preprocessing.stored_image import load_image
from medmllm.records import SeriesReference, StoredImage, Study, Volume
from medmllm.training import cohort as cohort_module
from medmllm.training.arms import mean_image
from medmllm.training.cohort import Cohort, read_cohort
from medmllm.training.image_cache import ImageCache
from medmllm.training.resuming import _digest
from tests.factories import write_nifti_cohort, write_nifti_study
from tests.quality.phantoms import a_scan, a_trunk
from tests.training.small_draft import DRAFT, KEYRING, POLICY, a_policy


@pytest.fixture
def studies(tmp_path: Path) -> tuple[Study, ...]:
    """Eight studies: one without an image, one whose image is cut, one whose image was rescaled twice."""
    folder = tmp_path / "data" / "studies"
    labels = write_nifti_cohort(tmp_path / "data", patients=6, without_image=[1])
    cut = folder / "case-002-0" / "image.nii.gz"
    cut.write_bytes(cut.read_bytes()[:900])
    write_nifti_study(folder / "case-003-1", {"image": a_scan(a_trunk() - 1024, modality=None)})
    return index_folder(folder, keyring=KEYRING, table=read_label_table(labels)).studies


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache.open(tmp_path / "kept", tmp_path / "data")


def read(studies: tuple[Study, ...], cache: ImageCache | None, policy: QualityPolicy = POLICY) -> Cohort:
    targets = {study.study_key: int(study.facts["outcome"]) for study in studies}
    return read_cohort(studies, targets, DRAFT, policy=policy, workers=2, advance=lambda more: None, cache=cache)


def files(cache: ImageCache) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.folder.iterdir()}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The series whose voxels were read, filled in as they are."""
    seen: list[str] = []
    real: Callable[..., Volume] = cohort_module.read_volume

    def counting(reference: SeriesReference, *, regrid: str) -> Volume:
        seen.append(reference.series_key)
        return real(reference, regrid=regrid)

    monkeypatch.setattr(cohort_module, "read_volume", counting)
    return seen


def same(one: Cohort, two: Cohort) -> bool:
    assert one.findings == two.findings
    assert one.refused == two.refused
    assert one.note_copies == two.note_copies
    for first, second in zip(one.members, two.members, strict=True):
        assert (first.facts, first.pixels, first.note) == (second.facts, second.pixels, second.note)
        images = first.sample.image, second.sample.image
        bare = [replace(sample, image=None) for sample in (first.sample, second.sample)]
        assert repr(bare[0]) == repr(bare[1])
        assert (images[0] is None) == (images[1] is None)
        if images[0] is not None and images[1] is not None:
            assert torch.equal(load_image(images[0]), load_image(images[1]))
    return True


def test_a_second_reading_reads_no_series_that_is_kept_and_finds_the_same(
    studies: tuple[Study, ...], cache: ImageCache, opened: list[str]
) -> None:
    policy = a_policy(ct_double_rescale="warn")
    plain = read(studies, None, policy)
    assert [f.code for _, f in plain.findings if f.where.startswith("se-")] == ["ct_double_rescale"]
    first = read(studies, cache, policy)
    assert all(isinstance(m.sample.image, StoredImage) for m in first.members if m.sample.image is not None)
    opened.clear()
    second = read(studies, cache, policy)
    cut = next(study for study in studies if study.study_key == KEYRING.study("case-002-0"))
    assert opened == [cut.series[0].series_key], "what cannot be read is not kept, and is tried again"
    assert same(plain, first)
    assert same(first, second)


def test_a_stricter_policy_refuses_what_is_kept_without_reading_it(
    studies: tuple[Study, ...], cache: ImageCache, opened: list[str]
) -> None:
    read(studies, cache, a_policy(ct_double_rescale="warn"))
    opened.clear()
    again = read(studies, cache)
    assert len(opened) == 1
    assert [r.code for _, r in again.refused] == [r.code for _, r in read(studies, None).refused]
    assert "ct_double_rescale" in [r.code for _, r in again.refused]


def test_what_is_kept_does_not_depend_on_what_the_policy_makes_of_it(
    studies: tuple[Study, ...], cache: ImageCache, tmp_path: Path
) -> None:
    other = ImageCache.open(tmp_path / "other", tmp_path / "data")
    read(studies, cache, a_policy(ct_double_rescale="warn"))
    read(studies, other, a_policy(ct_double_rescale="accept"))
    assert files(cache) == files(other)


@pytest.mark.parametrize("spoil", [
    lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    lambda data: data[:-400],
    lambda data: data[:60],
    lambda data: b"",
    lambda data: data.replace(b"spacing_mm", b"spacing_nm", 1),
    lambda data: data.replace(b"[4.0,4.0,4.0]", b"[4.0,4.0,5.0]", 1),
], ids=["a bit of a voxel", "cut", "cut in the header", "empty", "another field", "another fact"])  # fmt: skip
def test_what_was_damaged_is_made_again(
    studies: tuple[Study, ...], cache: ImageCache, opened: list[str], spoil: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    read(studies, cache)
    before = files(cache)
    name = next(name for name, data in before.items() if spoil(data) != data)
    (cache.folder / name).write_bytes(spoil(before[name]))
    opened.clear()
    again = read(studies, cache)
    assert files(cache) == before
    assert len(opened) == 3, "the damaged one, and the two that are refused"
    assert "damaged, and is made again" in caplog.text
    assert same(again, read(studies, None))


def test_the_same_bytes_under_other_names_are_kept_once(tmp_path: Path, cache: ImageCache) -> None:
    write_nifti_study(tmp_path / "data" / "a", note="HISTORY: Made up, clear signs of one.\n")
    shutil.copytree(tmp_path / "data" / "a", tmp_path / "data" / "b")
    found = index_folder(tmp_path / "data", keyring=KEYRING).studies
    read_cohort(
        found, {s.study_key: 0 for s in found}, DRAFT, policy=POLICY, workers=1, advance=lambda more: None, cache=cache
    )
    assert len(found) == 2
    assert len(files(cache)) == 1


def test_other_bytes_settings_bounds_or_versions_are_another_file(
    studies: tuple[Study, ...], cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = {"image": studies[0].series[0]}
    assert DRAFT.image is not None

    def key(draft: object = DRAFT, bounds: object = POLICY.bounds, **changes: object) -> str | None:
        return cache.key({"image": replace(series["image"], **changes)}, draft, bounds)  # type: ignore[arg-type]

    plain = key()
    finer = DRAFT.model_copy(update={"image": DRAFT.image.model_copy(update={"spacing_mm": (2.0, 2.0, 3.0)})})
    strict = POLICY.bounds.model_copy(update={"spacing_mm": (1.0, 2.0)})
    others = [key(finer), key(bounds=strict), key(files=studies[3].series[0].files), key(frames=(1,))]
    with monkeypatch.context() as patch:
        patch.setattr("medmllm.training.image_cache.package_versions", lambda: {"monai": "0.0"})
        others.append(key())
    others.append(key(damaged_beside=1))
    assert len({plain, *others}) == 7
    assert key(series_key="se-other", description="other") == plain
    assert key(DRAFT.model_copy(update={"text": None})) == plain, "no image depends on what is read of a note"
    with series["image"].files[0].open("ab") as stream:
        stream.write(b"\0")
    assert key() not in (plain, None)
    series["image"].files[0].unlink()
    assert key() is None


def test_files_are_named_by_digests_and_hold_no_key_name_or_place(
    studies: tuple[Study, ...], cache: ImageCache, tmp_path: Path
) -> None:
    read(studies, cache, a_policy(ct_double_rescale="warn"))
    kept = files(cache)
    assert len(kept) == 6
    words = [study.study_key for study in studies] + [study.patient_key for study in studies]
    words += [one.series_key for study in studies for one in study.series] + [
        "case-",
        "P00",
        tmp_path.name,
        "image.nii",
    ]
    for name, data in kept.items():
        assert len(name) == 64 + len(".safetensors")
        assert [word for word in words if word.encode() in data or word in name] == []


def test_batches_means_and_checkpoints_are_those_of_images_in_memory(
    studies: tuple[Study, ...], cache: ImageCache
) -> None:
    stored, plain = read(studies, cache), read(studies, None)
    one, two = (collate([m.sample for m in cohort.members], DRAFT) for cohort in (stored, plain))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.present, two.present)
    assert torch.equal(mean_image(stored), mean_image(plain))
    pairs = [(a.sample.image, b.sample.image) for a, b in zip(stored.members, plain.members, strict=True)]
    assert [_digest(a) for a, _ in pairs if a is not None] == [_digest(b) for _, b in pairs if b is not None]


def test_a_full_disk_ends_the_run_and_is_no_fault_of_a_study(
    studies: tuple[Study, ...], cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(MedmllmError, match=r"No space left on device.*\[training\] cache") as caught:
        read(studies, cache)
    assert caught.value.code == "cannot_write"
    assert files(cache) == {}


def test_the_same_bytes_of_two_studies_read_side_by_side_do_not_write_over_each_other(
    cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, real = Barrier(2), stored_image.save_file

    def both_first(*given: object, **more: object) -> None:
        real(*given, **more)  # type: ignore[arg-type]
        written.wait(120)  # neither is in its place before both are written

    monkeypatch.setattr(stored_image, "save_file", both_first)
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: stored_image.store_image(cache.folder / "one.safetensors", image, {}), range(2)))
    assert list(files(cache)) == ["one.safetensors"]
    assert torch.equal(stored_image.read_stored(cache.folder / "one.safetensors")[0], image)


@pytest.mark.parametrize("loss", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")])
def test_an_image_that_is_lost_while_training_is_named_as_such(
    studies: tuple[Study, ...], cache: ImageCache, loss: Callable[[Path], object]
) -> None:
    image = next(m.sample.image for m in read(studies, cache).members if m.sample.image is not None)
    assert isinstance(image, StoredImage)
    loss(image.file)
    with pytest.raises(MedmllmError, match="--resume, which prepares it again") as caught:
        load_image(image)
    assert caught.value.code == "prepared_image_lost"


def test_a_folder_among_the_studies_or_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    with pytest.raises(MisuseError, match="outside it"):
        ImageCache.open(tmp_path / "studies" / "kept", tmp_path / "studies")
    (tmp_path / "file").write_text("")
    with pytest.raises(MedmllmError, match="cannot make the folder"):
        ImageCache.open(tmp_path / "file" / "kept", tmp_path / "studies")
