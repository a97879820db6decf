"""The smaller parts of de-identification: descriptions, dates, known identifiers, paths, NIfTI, the linkage table."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medmllm.config import load_config
from medmllm.deidentify_config import DeidentifyConfig
from medmllm.errors import ConfigError, IngestError, MedmllmError, MisuseError, NiftiError
from medmllm.ingest import nifti
from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_identifiers import Identifiers
from medmllm.ingest.deidentify_nifti import copy_numbers, deidentify_nifti, deidentify_sidecar
from medmllm.ingest.deidentify_nifti_header import QFORM, SFORM
from medmllm.ingest.deidentify_paths import words_of_paths
from medmllm.ingest.deidentify_writing import write_pieces, write_text
from medmllm.ingest.keys import Keyring
from medmllm.ingest.linkage import seal, unseal
from medmllm.ingest.study_folder import index_folder
from tests.factories import a_volume, write_nifti_study

RING = Keyring(b"a secret for these tests")


def descriptors() -> Descriptors:
    return Descriptors(load_config(DeidentifyConfig, "deidentify").descriptors)


# --- descriptions and keys -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("t1_mprage_sag_p2_iso_1.0", "t1_mprage_sag_p2_iso_1.0"),
        ("CT Thorax 5.0 B30f", "CT Thorax 5.0 B30f"),
        ("t2_tse_sag MEIER 14:30", "t2 tse sag"),
        ("Thorax 2020-01-02", "Thorax"),
        ("Thorax 01/02/60", "Thorax"),
        ("MÜLLER ax", "ax"),
        ("t2 山田", "t2"),
        ("12 04 1960", ""),
        ("Meier", ""),
        ("", ""),
    ],
)
def test_a_description_keeps_its_technical_words_alone(text: str, left: str) -> None:
    assert descriptors().clean(text, Identifiers()) == left


def test_a_technical_word_that_is_the_patients_name_goes_too() -> None:
    known = Identifiers()
    known.add_name("Knee^Anna")
    assert descriptors().clean("Knee t1", known) == "t1"


def test_a_uid_and_a_shift_are_of_their_forms_and_depend_on_secret_and_original() -> None:
    uid = RING.uid("1.2.3")
    assert uid.startswith("2.25.")
    assert int(uid[5:]) < 2**128
    assert uid != RING.uid("1.2.4") != Keyring(b"another secret of a site").uid("1.2.4")
    shifts = {RING.date_shift_days(f"pt-{number}") for number in range(500)}
    assert len(shifts) > 400
    assert -3650 <= min(shifts) < -3000
    assert -600 < max(shifts) <= -1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ('dicom.private_tags=["0018,A,0C"]', "is not of the form"),
        ('descriptors.patterns=["("]', "not a regular expression"),
        ("dicom.dates=guess", "dates"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(DeidentifyConfig, "deidentify", overrides=[override])


# --- known identifiers ---------------------------------------------------------------------


def test_a_patient_number_made_of_letters_counts_as_a_name_and_one_with_letters_as_both() -> None:
    known = Identifiers()
    known.add_number("HUBER")
    known.add_number("MEIER_1960")
    known.add_number("17")  # too short to mean anything
    assert (known.names, known.guesses) == ({"huber"}, {"meier"})
    assert known.numbers == {"meier_1960"}
    assert "meier" not in repr(known)


def test_a_birth_date_is_read_as_tables_write_it_and_known_as_people_do() -> None:
    known = Identifiers()
    known.add_date("04/03/1953")  # the fourth of March, or the third of April
    known.add_date("1953")
    assert [text for text in ("19530304", "19530403", "04.03.53", "03-apr-1953") if text not in known.dates] == []
    other = Identifiers()
    other.update(known)
    assert other.dates == known.dates
    assert known.in_text("born 4 or 1953-03-04?")
    assert not known.in_text("1953")


def test_what_stands_for_nobody_is_no_name() -> None:
    known = Identifiers()
    known.add_name("Anonymous^Patient^Dr von der")
    known.add_phrase("unknown")
    assert (known.names, known.phrases) == (set(), set())


def test_what_the_paths_of_several_patients_share_belongs_to_nobody(tmp_path: Path) -> None:
    for patient in ("Meier_Hans", "Kowalski-4711081"):
        write_nifti_study(tmp_path / "siteone" / patient / "brain", {"t1_scan": a_volume((5, 4, 3))})
    index = index_folder(tmp_path, keyring=RING)
    found = words_of_paths(index.studies, tmp_path, descriptors())
    names = [known.guesses for known in found.values()]
    assert sorted(map(sorted, names)) == [["hans", "meier"], ["kowalski"]]
    assert [known.numbers for known in found.values() if known.numbers] == [{"4711081"}]


@pytest.mark.parametrize("folder", ["H.MEIER", "Dr.Meier_4711081", "a.meier.4711081"])
def test_a_dot_in_the_name_of_a_folder_or_file_hides_no_name(tmp_path: Path, folder: str) -> None:
    write_nifti_study(tmp_path / folder, {"t1": a_volume((5, 4, 3))})
    write_nifti_study(tmp_path / "other", {"J.Zwick.t1": a_volume((5, 4, 3))})
    index = index_folder(tmp_path, keyring=RING)
    found = words_of_paths(index.studies, tmp_path, descriptors()).values()
    assert sorted(sorted(known.guesses - {"other"}) for known in found) == [["meier"], ["zwick"]]
    assert set().union(*(known.numbers for known in found)) == set(re.findall(r"\d+", folder))


# --- NIfTI ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_nifti_file_keeps_voxels_and_affine_and_loses_its_texts(
    tmp_path: Path, kind: type[nibabel.Nifti1Image], order: str
) -> None:
    volume = a_volume((5, 4, 3), turn_deg=20)
    image = kind(volume.voxels.astype(f"{order}i2"), volume.affine, kind.header_class(endianness=order))
    image.header["descrip"], image.header["intent_name"] = b"Meier", b"Hans"
    image.header.set_slope_inter(2.0, -7.0)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"born 1950"))
    source = tmp_path / ("in.hdr" if kind is nibabel.Nifti1Pair else "in.nii")
    nibabel.save(image, source)
    files = deidentify_nifti(source, tmp_path / "out")
    assert [file.name for file in files] == (["out.hdr", "out.img"] if source.suffix == ".hdr" else ["out.nii"])
    old, new = nifti.read_volume(source), nifti.read_volume(files[0])
    np.testing.assert_array_equal(new.voxels, old.voxels)
    np.testing.assert_array_equal(new.affine, old.affine)
    held = b"".join(file.read_bytes() for file in files)
    assert [word for word in (b"Meier", b"Hans", b"1950") if word in held] == []


def plain_header(**fields: Any) -> nibabel.Nifti1Header:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((5, 4, 3))
    header["vox_offset"], header["scl_slope"] = 352, 0
    for name, value in fields.items():
        header[name] = value
    return header


def write_plain(file: Path, header: nibabel.Nifti1Header, behind: bytes = b"") -> None:
    file.write_bytes(header.binaryblock + bytes(4) + np.arange(60, dtype="<i2").tobytes() + behind)


def test_voxels_are_as_many_bytes_as_their_type_whatever_bitpix_says(tmp_path: Path) -> None:
    write_plain(tmp_path / "in.nii", plain_header(bitpix=8))
    (file,) = deidentify_nifti(tmp_path / "in.nii", tmp_path / "out")
    assert file.read_bytes()[352:] == np.arange(60, dtype="<i2").tobytes()
    assert nibabel.Nifti1Header(file.read_bytes()[:348], check=False)["bitpix"] == 16


@pytest.mark.parametrize("zipped", [False, True])
def test_a_long_tail_behind_the_voxels_is_refused_as_the_reader_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    for module in ("nifti", "deidentify_nifti"):
        monkeypatch.setattr(f"medmllm.ingest.{module}.LARGEST_EXTRA_BYTES", 2**20)
    source = tmp_path / "in.nii"
    for behind, fine in ((2**20, True), (2**20 + 1, False)):
        write_plain(source, plain_header(), bytes(behind))
        if zipped:
            source.write_bytes(gzip.compress(source.read_bytes(), 1))
        if fine:
            assert len(deidentify_nifti(source, tmp_path / "fine")) == 1
            continue
        with pytest.raises(NiftiError) as ours:
            deidentify_nifti(source, tmp_path / "long")
        with pytest.raises(NiftiError) as readers:
            nifti.read_volume(source)
        assert (ours.value.code, ours.value.reason) == (readers.value.code, readers.value.reason)
        assert list(tmp_path.glob("long*")) == []


UNUSED = {
    "pixdim": np.frombuffer(b"\0\0\x80\x3f" * 4 + b"Kim Ott  Meier !", "<f4"),
    "dim": [3, 5, 4, 3, *np.frombuffer(b"Kim Otto", "<i2")],
    **{f"intent_p{number}": np.frombuffer(b"Meie", "<f4")[0] for number in (1, 2, 3)},
    **{name: np.frombuffer(b"Meie", "<f4")[0] for name in ("cal_max", "cal_min", "slice_duration", "toffset")},
    **{name: np.frombuffer(b"Meie", "<f4")[0] for name in QFORM},
    **{name: np.frombuffer(b"Meier, Hans 1950", "<f4") for name in SFORM},
    **{name: np.frombuffer(b"Meie", "<i4")[0] for name in ("extents", "glmax", "glmin")},
    **{name: np.frombuffer(b"Me", "<i2")[0] for name in ("session_error", "slice_start", "slice_end")},
    "scl_slope": np.frombuffer(b"Me\xc0\x7f", "<f4")[0],  # a NaN: not scaled
    "scl_inter": np.frombuffer(b"Meie", "<f4")[0],
    "vox_offset": 352.25, "regular": b"M", "descrip": b"Meier", "intent_name": b"Meier",
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSED)
def test_a_field_that_nobody_goes_by_is_as_in_a_new_file(tmp_path: Path, name: str) -> None:
    write_plain(tmp_path / "plain.nii", plain_header())
    write_plain(tmp_path / "in.nii", plain_header(**{name: UNUSED[name]}))
    (plain,), (made,) = (
        deidentify_nifti(tmp_path / f"{stem}.nii", tmp_path / f"{stem}_out") for stem in ("plain", "in")
    )
    assert made.read_bytes() == plain.read_bytes()
    old, new = nifti.read_volume(tmp_path / "in.nii"), nifti.read_volume(made)
    np.testing.assert_array_equal(new.voxels, old.voxels)
    np.testing.assert_array_equal(new.affine, old.affine)


def test_fields_that_are_in_use_stay(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 4, 3, 2), np.int16), np.diag([2.0, 3.0, 4.0, 1.0]))
    header = image.header
    header.set_qform(np.diag([-2.0, 3.0, 4.0, 1.0]), 1)  # a left-handed grid: the sign stands in pixdim[0]
    header.set_xyzt_units("mm", "sec")
    header.set_intent("t test", (7.0,))
    header.set_slope_inter(2.0, -7.0)
    header.set_dim_info(slice=2)
    header["pixdim"][4], header["toffset"] = 1.5, 0.25
    header["slice_code"], header["slice_end"], header["slice_duration"] = 1, 2, 0.5
    header["vox_offset"] = 352
    (tmp_path / "in.nii").write_bytes(header.binaryblock + bytes(4 + image.get_fdata().size * 2))
    (file,) = deidentify_nifti(tmp_path / "in.nii", tmp_path / "out")
    old, new = (nibabel.Nifti1Header(name.read_bytes()[:348]) for name in (tmp_path / "in.nii", file))
    free = {"pixdim", "intent_name", "regular"}
    assert [name for name in old if name not in free and not np.array_equal(old[name], new[name])] == []
    np.testing.assert_array_equal(new["pixdim"], [-1, 2, 3, 4, 1.5, 0, 0, 0])
    assert new["intent_p1"] == 7.0


def test_an_axis_of_no_length_is_refused(tmp_path: Path) -> None:
    header = plain_header(dim=[3, -1, 1, 1, 1, 1, 1, 1], glmin=60)  # FreeSurfer's way to write a long axis
    write_plain(tmp_path / "in.nii", header)
    with pytest.raises(NiftiError, match=r"declares shape \(-1, 1, 1\)"):
        deidentify_nifti(tmp_path / "in.nii", None)


def test_a_zipped_nifti_file_has_no_name_and_no_time_in_its_head(tmp_path: Path) -> None:
    write_nifti_study(tmp_path, {"meier": a_volume((5, 4, 3))})
    (file,) = deidentify_nifti(tmp_path / "meier.nii.gz", tmp_path / "t1")
    head = file.read_bytes()[:10]
    assert head[3] & 8 == 0  # no name
    assert head[4:8] == bytes(4)  # no time


def test_a_damaged_nifti_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    write_nifti_study(tmp_path, {"image": a_volume((5, 4, 3))}, note=None)
    whole = gzip.decompress((tmp_path / "image.nii.gz").read_bytes())
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(whole[:-10]))
    with pytest.raises(NiftiError, match="10 of 240 bytes of voxels are missing"):
        deidentify_nifti(tmp_path / "image.nii.gz", tmp_path / "out")
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(whole)[:-6])
    with pytest.raises(NiftiError, match="cannot be de-identified"):
        deidentify_nifti(tmp_path / "image.nii.gz", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["image.nii.gz"]


def test_a_dry_run_over_a_nifti_file_reads_it_and_writes_nothing(tmp_path: Path) -> None:
    write_nifti_study(tmp_path, {"image": a_volume((5, 4, 3))}, note=None)
    assert deidentify_nifti(tmp_path / "image.nii.gz", None) == []
    assert [file.name for file in tmp_path.iterdir()] == ["image.nii.gz"]


def test_a_sidecar_keeps_allowed_keys_with_numbers_and_single_words(tmp_path: Path) -> None:
    known = Identifiers()
    known.add_name("Meier")
    known.add_number("90417733")
    said = {"EchoTime": [0.1, 0.2], "Units": "BQML", "TaskName": "Meier", "ScanOptions": "seen by Dr X", "Age": 4,
            "ImageType": ["A", {"b": "Meier"}], "ConvolutionKernel": "xMEIERx", "ReconMethodName": "20110305",
            "FlipAngle": 90417733, "InversionTime": ["90417733.0"]}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(said))
    keys = set(said) - {"Age"}
    assert deidentify_sidecar(tmp_path / "a.json", tmp_path / "b.json", keys, known) == {
        "EchoTime": [0.1, 0.2], "Units": "BQML",
    }  # fmt: skip
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(NiftiError, match="not a JSON object"):
        deidentify_sidecar(tmp_path / "a.json", None, keys, known)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(NiftiError, match="cannot be read"):
        deidentify_sidecar(tmp_path / "a.json", None, keys, known)


def test_gradients_are_copied_if_they_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.bval").write_text("0 1000 1e3\n")
    copy_numbers(tmp_path / "a.bval", tmp_path / "b.bval", Identifiers())
    assert (tmp_path / "b.bval").read_text() == "0 1000 1e3\n"
    known = Identifiers()
    known.add_number("90417733")
    (tmp_path / "a.bval").write_text("0 90417733\n")
    with pytest.raises(NiftiError, match="one of the numbers is the patient's"):
        copy_numbers(tmp_path / "a.bval", tmp_path / "c.bval", known)
    (tmp_path / "a.bval").write_text("0 1000 Meier\n")
    with pytest.raises(NiftiError, match="more than numbers"):
        copy_numbers(tmp_path / "a.bval", tmp_path / "b.bval", Identifiers())


# --- writing, and the linkage table --------------------------------------------------------


def test_a_file_whose_source_fails_is_not_there(tmp_path: Path) -> None:
    def pieces() -> object:
        yield b"start"
        raise IngestError("gone")

    with pytest.raises(IngestError, match="gone"):
        write_pieces(tmp_path / "a" / "b.dcm", pieces())  # type: ignore[arg-type]
    assert list((tmp_path / "a").iterdir()) == []


def test_a_folder_that_cannot_be_made_stops_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedmllmError) as caught:
        write_text(tmp_path / "file" / "note.txt", "text")
    assert caught.value.code == "cannot_write"


def test_a_sealed_table_comes_back_and_one_that_was_changed_does_not(tmp_path: Path) -> None:
    file = tmp_path / "table"
    file.write_bytes(seal(b"pt-1,MEIER", "correct horse"))
    assert unseal(file, "correct horse") == b"pt-1,MEIER"
    assert seal(b"pt-1,MEIER", "correct horse") != file.read_bytes()  # another salt each time
    said = json.loads(file.read_text())
    for name in ("salt", "nonce", "table"):
        changed = said | {name: ("B" if said[name][0] == "A" else "A") + said[name][1:]}
        file.write_text(json.dumps(changed))
        with pytest.raises(MisuseError, match="passphrase is another one, or the linkage table was changed"):
            unseal(file, "correct horse")


@pytest.mark.parametrize("held", [b"", b"[]", b"{}", b'{"format": "other"}', b"\xff"])
def test_what_is_no_sealed_table_is_refused(tmp_path: Path, held: bytes) -> None:
    (tmp_path / "table").write_bytes(held)
    with pytest.raises(MisuseError, match="no linkage table written with"):
        unseal(tmp_path / "table", "correct horse")
    with pytest.raises(MisuseError, match="cannot be read"):
        unseal(tmp_path / "absent", "correct horse")


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(MisuseError, match="has 5 characters, at least 8"):
        seal(b"table", "horse")
