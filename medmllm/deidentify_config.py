"""Settings of `medmllm deidentify`: what of headers, notes, tables and sidecars is kept.

pipelines/deidentify.toml -> DeidentifyConfig (read by `medmllm.config`)
"""

import re
from typing import Literal

from pydantic import Field, field_validator

from medmllm.documents import Document


class DicomRules(Document):
    """What of a DICOM header is kept; PS3.15 E.3 names the options."""

    dates: Literal["shift", "remove", "keep"] = Field(
        description="shift: by a number of days of each patient's own; times of day stay"
    )
    uids: Literal["replace", "keep"]
    patient_characteristics: bool = Field(description="keep age (90 at most), sex, size, weight, pregnancy, smoking")
    device_identity: bool = Field(description="keep station names, serial numbers and the like")
    descriptors: Literal["clean", "remove"] = Field(
        description="clean: keep of Series Description and the like the words that [descriptors] allows"
    )
    private_tags: tuple[str, ...] = Field(
        description="'gggg,CREATOR,ee' kept where the value is a number; text never is"
    )
    objects: tuple[str, ...] = Field(description="SOP Class UIDs that are taken; all others are refused")
    refused_modalities: tuple[str, ...] = Field(description="refused whatever their SOP class")
    take_anyway: tuple[Literal["burned_in", "screen", "colour", "overlay_bits"], ...] = Field(
        description="risks of text in the pixels that somebody has looked at and accepts"
    )

    @field_validator("private_tags")
    @classmethod
    def _name_group_creator_and_element(cls, tags: tuple[str, ...]) -> tuple[str, ...]:
        for tag in tags:
            if not re.fullmatch(r"[0-9A-Fa-f]{3}[13579BDFbdf],[^,]+,[0-9A-Fa-f]{2}", tag):
                raise ValueError(f"{tag!r} is not of the form '0019,SIEMENS MR HEADER,0C'")
        return tags


class DescriptorRules(Document):
    """Which words of a description or file name say how an image was made, and nothing of a person."""

    words: tuple[str, ...] = Field(description="case ignored")
    patterns: tuple[str, ...] = Field(description="regular expressions that a whole word may match, case ignored")

    @field_validator("patterns")
    @classmethod
    def _are_regular_expressions(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return patterns


class NoteRules(Document):
    """How notes are scrubbed."""

    dates: Literal["shift", "replace"] = Field(description="shift: where day, month and year are beyond doubt")
    names: tuple[str, ...] = Field(description="further names to replace, such as the department's radiologists")
    keep: tuple[str, ...] = Field(description="words that are never taken for a name")


class DeidentifyConfig(Document):
    """pipelines/deidentify.toml."""

    take_recordings: bool = Field(description="a voice identifies: copied without their tags only when true")
    table_columns: tuple[str, ...] = Field(description="columns of the label table that are kept beside the keys")
    sidecar_keys: tuple[str, ...] = Field(description="keys of BIDS JSON sidecars that are kept")
    dicom: DicomRules
    descriptors: DescriptorRules
    notes: NoteRules
