"""A folder of made-up studies with every planted identifier in its own place, to look for afterwards.

PLANTED says what stands where; `write_planted` puts it there; `leaks` looks for it in every byte of a folder.
"""

import gzip
import json
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

from tests.factories import a_volume, write_dicom_study

PLANTED = {
    "family name": "Quillfeather",
    "given name": "Ambrosius",
    "other patient name": "Zwetschgenbaum",
    "mother's birth name": "Oxenhandler",
    "patient number": "MRN90417733",
    "birth date": "19530417",
    "accession number": "ACC5501928",
    "private attribute": "Privatdozentin",
    "private sequence": "Vaultkeeper",
    "nested sequence": "Nightingale",
    "deeply nested text": "Underwoodsman",
    "element of VR UN": "Unterlechner",
    "public element of VR UN": "Unbekanntova",
    "wrong VR": "Vrbatinsky",
    "unknown element": "Unknownbury",
    "retired element": "Retiredfield",
    "overlay comment": "Overlayson",
    "overlay data": "OVERLAYBITSNAME",
    "curve description": "Kurvenreiter",
    "application entity": "WARD7SCANNER",
    "private information of the file meta": "Metaphysikus",
    "preamble": "Preamblewick",
    "institution": "Saint Eustache Infirmary",
    "physician": "Hippolytus",
    "operator": "Operantova",
    "comments": "Lieblingspatient",
    "series description": "Seriesmarker",
    "protocol": "Protokolski",
    "code meaning": "Codewright",
    "station": "STATIONMASTER9",
    "serial number": "SN88123477",
    "telephone": "0171-5550143",
    "bytes after the pixels": "Trailingham",
    "trailing padding": "Paddington7",
    "long pixel data": "Pixelsworth",
    "original study UID": "1.2.826.0.1.3680043.9999.4711",
    "file name": "Filenamesen",
    "folder name": "Foldersdottir",
    "note: signature": "Wigglesworth",
    "note: relative": "Snodgrass",
    "note: address": "Larkspur",
    "note: mail": "octavia.bell@example.org",
    "NIfTI description": "Niftibergen",
    "NIfTI auxiliary file": "Auxiliarsson",
    "NIfTI extension": "Extensionova",
    "NIfTI name": "Intentional1",
    "bytes after NIfTI voxels": "Aftervoxels",
    "name in the gzip head": "Gzipperstein",
    "sidecar": "Sidecarlotta",
    "label table": "Tablespoon",
    "recording": "Voicecroft",
}  # fmt: skip


def write_planted(root: Path) -> None:
    """Write a DICOM study of two CT slices, a NIfTI study and a label table, all full of identifiers."""
    patient = root / PLANTED["folder name"]
    write_dicom_study(patient, a_volume((4, 3, 2)), patient=PLANTED["patient number"], note=planted_note())
    for number, file in enumerate(sorted(patient.glob("*.dcm"))):
        plant_identifiers(file)
        file.rename(patient / f"{PLANTED['file name']}{number}.dcm")
    (patient / "dictation.wav").write_bytes(_recording())
    nifti = root / "case-b"
    nifti.mkdir()
    _write_nifti(nifti / f"t1_{PLANTED['file name']}.nii.gz")
    sidecar = {
        "EchoTime": 0.03,
        "Modality": "MR",
        "PatientName": PLANTED["sidecar"],
        "TaskName": PLANTED["sidecar"] + " x",
    }
    (nifti / f"t1_{PLANTED['file name']}.json").write_text(json.dumps(sidecar))
    (root / "labels.csv").write_text(
        "study_id,patient_name,grade,seen_on,remark\n"
        f"case-b,{PLANTED['label table']},3,2020-02-03,{PLANTED['label table']} came\n"
    )


def planted_note() -> str:
    family, given, number = (PLANTED[key] for key in ("family name", "given name", "patient number"))
    return (
        f"HISTORY: Mr. {family}, {given.upper()}, MRN: {number}, born 17.04.1953, has a 3.5 x 2 cm mass at T12. "
        f"Mother: Mrs {PLANTED['note: relative']}. Lives at 12 {PLANTED['note: address']} Street, Springfield, IL "
        f"60614, {PLANTED['note: mail']}.\n"
        f"Dictated by: Octavia {PLANTED['note: signature']}, MD. Referred from {PLANTED['institution']}.\n"
    )


def plant_identifiers(file: Path, *, own_uids: bool = False) -> None:
    """Fill the header of a DICOM file with identifiers, and the bytes around it; `own_uids` leaves its UIDs alone."""
    data = pydicom.dcmread(file)
    if own_uids:
        data.PatientID = PLANTED["patient number"]
    else:
        data.StudyInstanceUID = PLANTED["original study UID"]
    data.PatientName = f"{PLANTED['family name']}^{PLANTED['given name']}"
    data.OtherPatientNames = PLANTED["other patient name"]
    data.PatientMotherBirthName = PLANTED["mother's birth name"]
    data.PatientBirthDate, data.AccessionNumber = PLANTED["birth date"], PLANTED["accession number"]
    data.PatientAge, data.PatientSex = "093Y", "F"
    data.InstitutionName, data.ReferringPhysicianName = PLANTED["institution"], PLANTED["physician"]
    data.OperatorsName, data.ImageComments = PLANTED["operator"], PLANTED["comments"]
    data.SeriesDescription = f"CT Thorax {PLANTED['series description']} 5.0 B30f"
    data.ProtocolName = PLANTED["protocol"]
    data.StationName, data.DeviceSerialNumber = PLANTED["station"], PLANTED["serial number"]
    data.PatientTelephoneNumbers = PLANTED["telephone"]
    data.SpecificCharacterSet = "ISO_IR 192"
    data.Manufacturer = f"Scanners of {PLANTED['family name']}"  # text that may stay, but for the name
    data.FilterType, data.ReceiveCoilName = PLANTED["birth date"], f"{PLANTED['family name'].upper()}Q"
    _plant_private(data)
    _plant_sequences(data)
    _plant_oddities(data)
    data.file_meta.SourceApplicationEntityTitle = PLANTED["application entity"]
    data.file_meta.PrivateInformationCreatorUID = generate_uid(entropy_srcs=["tests", "private"])
    data.file_meta.PrivateInformation = PLANTED["private information of the file meta"].encode() + b"\0"
    data.preamble = PLANTED["preamble"].encode().ljust(128, b"\0")
    data.DataSetTrailingPadding = PLANTED["trailing padding"].encode() + b"\0"
    data.PixelData = data.PixelData + PLANTED["long pixel data"].encode().ljust(12)
    data.save_as(file)
    written = file.read_bytes()
    assert written.count(b"\x40\x00\x60\xa1UT") == 1
    file.write_bytes(written.replace(b"\x40\x00\x60\xa1UT", b"\x40\x00\x60\xa1UN"))
    with file.open("ab") as stream:
        stream.write(b"\0" * 8 + PLANTED["bytes after the pixels"].encode())


def _plant_private(data: Dataset) -> None:
    block = data.private_block(0x0029, "ACME 1.1", create=True)
    block.add_new(0x01, "LO", PLANTED["private attribute"])
    inside = Dataset()
    inside.PatientName = PLANTED["private sequence"]
    block.add_new(0x02, "SQ", Sequence([inside]))
    listed = data.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    listed.add_new(0x0C, "IS", "800")  # a b-value: kept
    listed.add_new(0x0E, "LO", PLANTED["private attribute"])  # listed, but text


def _plant_sequences(data: Dataset) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99HOSPITAL", PLANTED["code meaning"]
    deep = Dataset()
    deep.FrameComments = PLANTED["deeply nested text"]
    deep.ReferencedImageSequence = Sequence([_reference(data)])
    view = Dataset()
    view.PersonName = PLANTED["nested sequence"]
    view.FrameLabel = PLANTED["nested sequence"]
    view.ViewModifierCodeSequence = Sequence([code])
    view.SourceImageSequence = Sequence([deep])
    data.ViewCodeSequence = Sequence([view])
    data.SourceImageSequence = Sequence([_reference(data)])


def _reference(data: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    return item


def _plant_oddities(data: Dataset) -> None:
    data.add_new(0x00181115, "UN", PLANTED["element of VR UN"].encode())  # no such attribute
    data.TextValue = PLANTED["public element of VR UN"]  # its VR becomes UN when the file is there
    data.add_new(tag_for_keyword("ExposureTime"), "LO", PLANTED["wrong VR"])
    data.add_new(0x00289999, "LO", PLANTED["unknown element"])
    data.add_new(0x00084000, "LT", PLANTED["retired element"])  # Identifying Comments
    data.add_new(0x60000010, "US", 3)
    data.add_new(0x60000011, "US", 4)
    data.add_new(0x60000040, "CS", "G")
    data.add_new(0x60000050, "SS", [1, 1])
    data.add_new(0x60000100, "US", 1)
    data.add_new(0x60000102, "US", 0)
    data.add_new(0x60003000, "OW", PLANTED["overlay data"].encode() + b"\0")
    data.add_new(0x60004000, "LT", PLANTED["overlay comment"])
    data.add_new(0x50000022, "LO", PLANTED["curve description"])


def _write_nifti(file: Path) -> None:
    volume = a_volume((5, 4, 3))
    image = nibabel.Nifti1Image(volume.voxels.astype(np.float32), volume.affine)
    image.header["descrip"] = PLANTED["NIfTI description"].encode()
    image.header["aux_file"] = PLANTED["NIfTI auxiliary file"].encode()
    image.header["intent_name"] = PLANTED["NIfTI name"].encode()
    image.header["db_name"] = PLANTED["NIfTI name"].encode()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", PLANTED["NIfTI extension"].encode()))
    plain = image.to_bytes() + PLANTED["bytes after NIfTI voxels"].encode()
    with (
        file.open("wb") as stream,
        gzip.GzipFile(PLANTED["name in the gzip head"] + ".nii", "wb", fileobj=stream) as out,
    ):
        out.write(plain)


def _recording() -> bytes:
    words = PLANTED["recording"].encode()
    info = b"INFOIART" + struct.pack("<I", len(words)) + words
    kind = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    chunks = b"fmt " + struct.pack("<I", 16) + kind + b"LIST" + struct.pack("<I", len(info)) + info
    chunks += b"data" + struct.pack("<I", 8) + struct.pack("<4h", 1, -2, 300, -400)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


# --- looking for them ----------------------------------------------------------------------


def leaks(*places: Path | bytes) -> list[str]:
    """Return what was planted and stands in any file below these folders, its name, or these bytes."""
    held = b"".join(place if isinstance(place, bytes) else _all_bytes(place) for place in places).lower()
    found = []
    for where, text in PLANTED.items():
        lowered = text.lower()
        forms = {lowered.encode(code) for code in ("utf-8", "latin-1", "utf-16-le", "utf-16-be")}
        if any(form in held for form in forms):
            found.append(where)
    return found


def _all_bytes(folder: Path) -> bytes:
    pieces = []
    for file in sorted(folder.rglob("*")):
        pieces.append(str(file.relative_to(folder)).encode() + b"\n")
        if file.is_file():
            data = file.read_bytes()
            pieces.append(data)
            if data[:2] == b"\x1f\x8b":
                pieces.append(zlib.decompress(data, 31))
    return b"".join(pieces)
