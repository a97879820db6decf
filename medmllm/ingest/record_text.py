"""Write down what was recognised of a file as text, and read it back.

    Recognised -> JSON text in UTF-8 -> Recognised

What the index keeps between runs, and what worker processes hand over. No pickle: text can be looked at and cannot run.
"""

import json
from dataclasses import asdict, fields
from operator import attrgetter
from typing import Any

import numpy as np
from pydantic_core import PydanticSerializationError, from_json, to_json

from medmllm.ingest.dicom_header import TAGS, DicomHeader
from medmllm.ingest.nifti import NiftiHeader
from medmllm.ingest.recognise import Kind, Recognised
from medmllm.ingest.technique import ToldTechnique
from medmllm.ingest.walk import FileProblem, FoundFile
from medmllm.records import Refusal

_DICOM = tuple(field.name for field in fields(DicomHeader) if field.name != "file")
_NIFTI = tuple(field.name for field in fields(NiftiHeader))
_TOLD_PLACE, _ACQUISITION_PLACE = _DICOM.index("told"), _DICOM.index("acquisition")
_TUPLE_PLACES = tuple(map(_DICOM.index, ("image_type", "pixel_spacing_mm", "position", "orientation", "padding")))
_TOLD = tuple(field.name for field in fields(ToldTechnique))
_dicom_values, _told_values = attrgetter(*_DICOM), attrgetter(*_TOLD)
FORM = json.dumps([TAGS, _DICOM, _NIFTI, _TOLD])
"""What a text depends on: kept texts of another form are of no use."""


def write(item: Recognised) -> bytes:
    """Return what was recognised as JSON text; the file's own place is not part of it."""
    nifti: list[Any] | None = None
    if item.nifti:
        nifti = [getattr(item.nifti, name) for name in _NIFTI]
        nifti = [value.tolist() if isinstance(value, np.ndarray) else value for value in nifti]
    problem = item.problem and [item.problem.severity, item.problem.code, item.problem.reason, item.problem.retryable]
    dicom = [list(_dicom_values(header)) for header in item.dicom]
    for values in dicom:
        values[_TOLD_PLACE] = _told_values(values[_TOLD_PLACE])
    told = [dicom, nifti, item.refusal and asdict(item.refusal), problem]
    try:
        return to_json(told)
    except PydanticSerializationError:  # half a surrogate pair, which UTF-8 cannot hold
        return json.dumps(told).encode()


def read(text: bytes, found: FoundFile, kind: Kind) -> Recognised:
    """Return what `write` was given, about this file."""
    try:
        dicom, nifti, refusal, problem = from_json(text)
    except ValueError:  # what `write` could not do in UTF-8
        dicom, nifti, refusal, problem = json.loads(text)
    return Recognised(
        found,
        kind,
        dicom=tuple(_dicom(found, values) for values in dicom),
        nifti=_nifti(nifti) if nifti else None,
        refusal=Refusal(**refusal) if refusal else None,
        problem=FileProblem(found.relative, *problem) if problem else None,
    )


def _dicom(found: FoundFile, values: list[Any]) -> DicomHeader:
    for place in _TUPLE_PLACES:
        if values[place] is not None:
            values[place] = tuple(values[place])
    values[_ACQUISITION_PLACE] = tuple(map(tuple, values[_ACQUISITION_PLACE]))
    values[_TOLD_PLACE] = ToldTechnique(*values[_TOLD_PLACE])
    return DicomHeader(found.path, *values)


def _nifti(values: list[Any]) -> NiftiHeader:
    named = dict(zip(_NIFTI, map(_frozen, values), strict=True))
    return NiftiHeader(**(named | {"affine": np.array(named["affine"])}))


def _frozen(value: Any) -> Any:
    """Return lists, and lists within them, as tuples."""
    if type(value) is not list:
        return value
    return tuple([tuple(item) if type(item) is list else item for item in value])
