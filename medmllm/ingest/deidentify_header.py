"""Clean a DICOM data set, sequence by sequence: what is not known to be technical does not come through.

    Dataset -> the table's action, or for attributes outside the table a rule by kind of value -> a new Dataset

The result is built from nothing. An attribute that PS3.15 table E.1-1 names gets the table's action; a number, code
string or date outside the table is kept if it is of its VR's form; text only where `TECHNICAL_TEXT` names it; unknown,
private and retired text, curves, overlays, signatures and whatever cannot be decoded is left out. A known identifier
or a date in a text that would be kept empties it, and so does the patient's number in a number.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom import config
from pydicom.datadict import (
    dictionary_has_tag,
    dictionary_is_retired,
    dictionary_keyword,
    dictionary_VR,
    tag_for_keyword,
)
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID_dictionary

from medmllm.deidentify_config import DicomRules
from medmllm.errors import DicomError
from medmllm.ingest.deidentify_dates import plain_time, shift_date, shift_moment
from medmllm.ingest.deidentify_descriptors import Descriptors
from medmllm.ingest.deidentify_identifiers import ELEMENT_FAILURES, Identifiers, holds_a_date, texts_of
from medmllm.ingest.deidentify_mosaic import keep_tiling
from medmllm.ingest.deidentify_private import PrivateRules
from medmllm.ingest.deidentify_profile import (
    CODES,
    DESCRIPTORS,
    DEVICE_IDENTITY,
    PATIENT_CHARACTERISTICS,
    TABLE,
    TECHNICAL_BYTES,
    TECHNICAL_TEXT,
)
from medmllm.ingest.keys import Keyring

DEEPEST = 16
OLDEST_YEARS = 89  # HIPAA, 45 CFR 164.514(b)(2)(i)(C)
LONGEST_TEXT = 64
LONGEST_NAME = 16  # of VR SH: kernels, sequences, coils, filters
DUMMY = "REMOVED"
FAMILIES = {
    **dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT", "UR", "AE", "PN"), "text"),
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT", "DS", "IS"), "number"),
    **dict.fromkeys(("OB", "OW", "OF", "OD", "OL", "OV", "UN"), "bytes"),
    **dict.fromkeys(("DA", "DT", "TM"), "date"),
    "CS": "code", "AS": "age", "UI": "uid", "SQ": "sequence",
}  # fmt: skip
STANDARD_SCHEMES = frozenset({
    "DCM", "SRT", "SCT", "SNM3", "SNM", "99SDM", "UCUM", "LN", "FMA", "RADLEX", "NDC", "RXNORM", "MDC", "NCIT", "UMLS",
    "I10", "I9C", "ICDO3", "BI", "ACR", "NEU", "UBERON", "UNS", "PUBCHEM_CID", "IBSI", "ISO639_2", "ISO3166_1",
})  # fmt: skip
"""Coding schemes whose meanings are printed in books; those of a site or vendor may say anything."""

BIRTH = frozenset(map(tag_for_keyword, ("PatientBirthDate", "PatientBirthTime")))
NEVER_SWEPT = frozenset(map(tag_for_keyword, ("Modality", "PhotometricInterpretation", "PatientPosition")))
_CODE = re.compile(r"[A-Za-z0-9_ .+\-/]{0,16}")
_NAME = re.compile(rf"[A-Za-z0-9_ .,:+\-/*#()<>=]{{0,{LONGEST_NAME}}}")
_CODE_VALUE = re.compile(rf"[!-~]{{0,{LONGEST_NAME}}}")  # UCUM has brackets and braces
_DECIMAL = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_AGE = re.compile(r"\d{3}[DWMY]")
_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}


@dataclass(slots=True)
class HeaderCleaner:
    """Cleans the headers of one patient's study."""

    rules: DicomRules
    keyring: Keyring = field(repr=False)
    descriptors: Descriptors = field(repr=False)
    known: Identifiers = field(repr=False)
    patient_key: str
    actions: Counter[tuple[str, str]]  # (what was done, keyword)
    private: PrivateRules = field(repr=False)

    def clean(self, data: Dataset, depth: int = 0) -> Dataset:
        """Return a new data set; `data` is not changed.

        Raises:
            DicomError: Sequences lie within sequences more than 16 deep.
        """
        if depth > DEEPEST:
            raise DicomError(f"sequences lie more than {DEEPEST} deep in each other", code="nested_too_deep")
        made = Dataset()
        for tag in sorted(data.keys()):
            if tag.is_private or _is_written_anew(tag):
                continue
            try:
                self._attribute(data, tag, made, depth)
            except ELEMENT_FAILURES:
                made.pop(tag, None)
                self._count("removed, not decodable", tag)
        self._coded(made)
        for creator_or_value in (*self.private.keep(data), *(keep_tiling(data) if depth == 0 else ())):
            if creator_or_value.tag not in made and not self._is_known_number(creator_or_value):
                made.add(creator_or_value)
        private = _count_private(data) - _count_private(made)
        if private:
            self.actions["removed", "private attributes"] += private
        return made

    def _attribute(self, data: Dataset, tag: BaseTag, made: Dataset, depth: int) -> None:
        """Put what may stay of one attribute into `made`."""
        if tag.group < 8 or not dictionary_has_tag(tag):  # curves and overlays are in no dictionary of single tags
            self._count("removed", tag)
            return
        element = data[tag]
        vr = element.VR.partition(" ")[0]
        options = {part for part in dictionary_VR(tag).replace(" or ", " ").split() if part in FAMILIES}
        family = FAMILIES.get(vr)
        known_family = {FAMILIES[option] for option in options}
        action = TABLE.get(int(tag))
        if family == "sequence" and "sequence" in known_family:
            self._sequence(element, made, action, depth)
        elif int(tag) in DESCRIPTORS and self.rules.descriptors == "clean" and family == "text":
            self._put(made, element, "cleaned", lambda text: self.descriptors.clean(text, self.known) or None)
        elif self._retained(tag):
            self._keep(made, element, family, depth)
        elif "date" in known_family and int(tag) not in BIRTH:
            self._date(made, element, action)
        elif "uid" in known_family:
            self._uid(made, element, action)
        elif action is not None:
            self._act(made, element, action, sorted(options)[0])
        elif family not in known_family:
            self._count("removed, of another VR than its own", tag)
        else:
            self._keep(made, element, family, depth)

    def _retained(self, tag: BaseTag) -> bool:
        return (self.rules.patient_characteristics and int(tag) in PATIENT_CHARACTERISTICS) or (
            self.rules.device_identity and int(tag) in DEVICE_IDENTITY and dictionary_VR(tag) != "UI"
        )

    # --- by action ---------------------------------------------------------------------------

    def _act(self, made: Dataset, element: DataElement, action: str, vr: str) -> None:
        """Remove, empty or replace by a dummy."""
        if action == "X":
            self._count("removed", element.tag)
        elif action == "D" and FAMILIES[vr] != "sequence":
            dummies = {"number": "0" if vr in ("DS", "IS") else 0, "bytes": b"\0\0", "age": "000Y"}
            made.add(_element(element.tag, vr, dummies.get(FAMILIES[vr], DUMMY)))
            self._count("replaced by a dummy", element.tag)
        else:
            nothing: object = {"sequence": [], "number": None, "bytes": b""}.get(FAMILIES[vr], "")
            made.add(_element(element.tag, vr, nothing))
            self._count("emptied", element.tag)

    def _sequence(self, element: DataElement, made: Dataset, action: str | None, depth: int) -> None:
        if action in ("X", "Z"):
            self._act(made, element, action, "SQ")
        else:  # U*, and D: what is in it is cleaned, attribute by attribute
            made.add(_element(element.tag, "SQ", [self.clean(item, depth + 1) for item in element.value]))

    def _date(self, made: Dataset, element: DataElement, action: str | None) -> None:
        vr = dictionary_VR(element.tag)
        days = self.keyring.date_shift_days(self.patient_key) if self.rules.dates == "shift" else 0

        def moved(text: str) -> str | None:
            if vr == "TM":
                return plain_time(text)
            return shift_date(text, days) if vr == "DA" else shift_moment(text, days)

        if self.rules.dates != "remove":
            texts = texts_of(element.value)
            found = [moved(text) if text else text for text in texts]
            if None not in found:
                made.add(_element(element.tag, vr, _joined(found)))
                if texts and vr != "TM" and self.rules.dates == "shift":
                    self._count("shifted", element.tag)
                return
        if action == "D":
            dummy = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}[vr]
            made.add(_element(element.tag, vr, dummy))
            self._count("replaced by a dummy", element.tag)
        else:
            self._act(made, element, "X" if action == "X" else "Z", vr)

    def _uid(self, made: Dataset, element: DataElement, action: str | None) -> None:
        if action in ("X", "Z") and self.rules.uids == "replace":
            self._act(made, element, action, "UI")
            return
        found = [self.uid(text) if text else text for text in texts_of(element.value)]
        made.add(_element(element.tag, "UI", _joined(found)))
        if found != texts_of(element.value):
            self._count("replaced", element.tag)

    def uid(self, original: str) -> str:
        """Return what stands for a UID: itself when the standard defines it (a class, a well-known frame)."""
        if original in UID_dictionary:
            return original
        if self.rules.uids == "keep" and re.fullmatch(r"[0-9.]{1,64}", original):
            return original
        return self.keyring.uid(original)

    # --- outside the table, or retained ------------------------------------------------------

    def _keep(self, made: Dataset, element: DataElement, family: str | None, depth: int) -> None:
        tag = int(element.tag)
        if family == "number":
            self._number(made, element)
        elif family == "code":
            unswept = tag in NEVER_SWEPT
            self._put(made, element, "emptied", lambda text: text if _is_code(text) else None, swept=not unswept)
        elif family == "age":
            self._put(made, element, "capped", cap_age)
        elif family == "bytes" and tag in TECHNICAL_BYTES and not self.known.in_bytes(element.value or b""):
            made.add(_element(element.tag, element.VR, element.value))
        elif family == "text" and (tag in TECHNICAL_TEXT or tag in DEVICE_IDENTITY):
            self._put(made, element, "emptied", lambda text: text if _is_technical(text, tag) else None)
        elif family == "text" and not dictionary_is_retired(element.tag):
            self._act(made, element, "D" if depth else "Z", dictionary_VR(element.tag).partition(" ")[0])
        else:
            self._count("removed", element.tag)

    def _number(self, made: Dataset, element: DataElement) -> None:
        vr = element.VR.partition(" ")[0]
        texts = texts_of(element.value) if vr in ("DS", "IS") else []
        if self._is_known_number(element) or not all(_DECIMAL.fullmatch(text) for text in texts if text):
            self._act(made, element, "Z", vr)
            return
        made.add(_element(element.tag, element.VR, element.value))

    def _is_known_number(self, element: DataElement) -> bool:
        if element.VR in ("US", "SS", "AT"):  # too small to be one, and long tables
            return False
        value = element.value.decode("ascii", "replace") if isinstance(element.value, bytes) else element.value
        many = (
            value.split("\\") if isinstance(value, str) else value if isinstance(value, MultiValue | list) else [value]
        )
        return any(self.known.is_number(part) for part in many)

    def _put(
        self, made: Dataset, element: DataElement, doing: str, clean: Callable[[str], str | None], *, swept: bool = True
    ) -> None:
        """Keep what `clean` leaves of each text; all of it goes where that is nothing, or a known identifier."""
        texts = texts_of(element.value)
        cleaned = [clean(text) if text else text for text in texts]
        vr = element.VR if FAMILIES[element.VR] == "text" else dictionary_VR(element.tag)
        if None in cleaned or (swept and any(self._is_known(text or "") for text in cleaned)):
            may_be_empty = FAMILIES[vr] != "text" or int(element.tag) in DESCRIPTORS & TABLE.keys()
            self._act(made, element, "Z" if may_be_empty else "D", vr)
            return
        made.add(_element(element.tag, vr, _joined(cleaned)))
        if cleaned != texts:
            self._count(doing, element.tag)

    def _is_known(self, text: str) -> bool:
        return self.known.in_value(text) and not self.descriptors.allows(text)

    def _coded(self, made: Dataset) -> None:
        """Take the words out of a code whose scheme is not a published one."""
        if str(made.get("CodingSchemeDesignator", "")).upper() not in STANDARD_SCHEMES:
            for keyword, dummy in (("CodeMeaning", DUMMY), ("CodeValue", DUMMY), ("CodingSchemeDesignator", "99LOCAL")):
                if keyword in made:
                    made[keyword].value = dummy
                    self._count("replaced by a dummy", made[keyword].tag)

    def _count(self, doing: str, tag: BaseTag) -> None:
        self.actions[doing, name_of(tag)] += 1


def name_of(tag: BaseTag) -> str:
    """Return the keyword of an attribute, or what kind of attribute it is."""
    if 0x5000 <= tag.group <= 0x501E:
        return "curves"
    if 0x6000 <= tag.group <= 0x60FF:
        return "overlays"
    return dictionary_keyword(tag) if dictionary_has_tag(tag) and dictionary_keyword(tag) else "unknown attributes"


def cap_age(text: str) -> str | None:
    """Return an age string, 90 years for all above 89; None when it is no age string.

    >>> cap_age("067Y"), cap_age("093Y"), cap_age("999M"), cap_age("old")
    ('067Y', '090Y', '999M', None)
    """
    if not _AGE.fullmatch(text):
        return None
    return "090Y" if int(text[:3]) / _PER_YEAR[text[3]] > OLDEST_YEARS else text


def _is_code(text: str) -> bool:
    return _CODE.fullmatch(text) is not None and not holds_a_date(text)


def _is_technical(text: str, tag: int) -> bool:
    """Return whether a technical text is of its kind's form; a date is of none, but for codes and device identity."""
    if tag in CODES:
        return _CODE_VALUE.fullmatch(text) is not None
    if tag in TECHNICAL_TEXT and holds_a_date(text):
        return False
    if tag in TECHNICAL_TEXT and dictionary_VR(tag) == "SH":
        return _NAME.fullmatch(text) is not None
    return len(text) <= LONGEST_TEXT and text.isprintable()


def _count_private(data: Dataset) -> int:
    return sum(tag.is_private for tag in list(data.keys()))


def _is_written_anew(tag: BaseTag) -> bool:
    """Return whether an attribute follows from others or from the file: group lengths, character set, pixels."""
    return tag.element == 0 or tag == 0x00080005 or tag in (0x7FE00008, 0x7FE00009, 0x7FE00010)


def _joined(texts: list[str] | list[str | None]) -> list[str | None] | str | None:
    return texts[0] if len(texts) == 1 else list(texts) or None


def _element(tag: BaseTag | int, vr: str, value: object) -> DataElement:
    return DataElement(Tag(tag), vr, value, validation_mode=config.IGNORE)
