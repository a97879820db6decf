"""What is known of a person before anything is written: the words and numbers that must not come through.

    PatientName, physicians, PatientID, accession number, folder names, label table -> Identifiers -> is it in here?

Known identifiers are the second line: what is not known to be technical is left out anyway. They catch a name,
number or birth date in a place where text is allowed, in a note, or in what is kept of a compressed frame.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import PersonName

from medmllm.ingest.deidentify_spelling import (
    COMPOUND,
    SHORTEST_NAME,
    SPACELESS,
    WORD,
    KnownNames,
    Likeness,
    folded,
    spellings,
)
from medmllm.ingest.deidentify_words import NEVER_NAMES
from medmllm.ingest.dicom_stream import DICOM_FAILURES
from medmllm.ingest.opening import PARSER_FAILURES

ELEMENT_FAILURES = (*PARSER_FAILURES, *DICOM_FAILURES)
SHORTEST_NUMBER = 4  # characters
SHORTEST_DIGITS = 6  # of a number where numbers belong: shorter ones are measured by chance
NUMBERS = (
    "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "RequestedProcedureID",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest", "MedicalRecordLocator",
    "PatientTelephoneNumbers", "PatientInsurancePlanCodeSequence", "DeviceSerialNumber", "StationName",
    "ScheduledProcedureStepID", "PerformedProcedureStepID", "MilitaryRank", "InsurancePlanIdentification",
)  # fmt: skip
PHRASES = (
    "InstitutionName", "InstitutionAddress", "PatientAddress", "InstitutionalDepartmentName",
    "ReferringPhysicianAddress", "CurrentPatientLocation", "ResponsibleOrganization",
)  # fmt: skip
BIRTH_DATE = tag_for_keyword("PatientBirthDate")
DATE_SPELLINGS = (  # the first seven are read, all are looked for
    "%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d%m%Y", "%m%d%Y", "%d-%m-%Y",
    "%m-%d-%Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%Y", "%d%b%Y", "%y%m%d", "%d%m%y",
)  # fmt: skip
NO_NAMES = frozenset({
    "anonymous", "anonymized", "anonymised", "anon", "unknown", "patient", "test", "phantom", "synthetic", "volunteer",
    "dr", "prof", "med", "mr", "mrs", "ms", "md", "phd", "jr", "sr", "von", "van", "der", "den", "de", "del", "della",
    "di", "da", "la", "le", "el", "al", "bin", "ibn", "the", "and", "none", "removed", "deidentified", "subject",
    "case", "study", "brain", "chest", "head", "neck", "axial", "ct", "mri", "provider", "physician", "doctor", "self",
    "referred", "system", "clinic", "department", "technologist", "tech", "operator", "admin", "outside", "unassigned",
    "oncology", "radiology", "neurology", "cardiology", "surgery", "emergency", "orthopedics", "pediatrics",
})  # fmt: skip
"""Words in the place of a name that name nobody."""

NAME_COLUMNS = re.compile(r"name|surname|physician|doctor", re.IGNORECASE)
STAFF_COLUMNS = re.compile(r"physician|doctor|radiologist|operator|surgeon|referr", re.IGNORECASE)
NUMBER_COLUMNS = re.compile(r"mrn|accession|phone|(patient|subject|record|case).?(id|no|number)", re.IGNORECASE)
BIRTH_COLUMNS = re.compile(r"birth|(^|_)dob($|_)", re.IGNORECASE)
_YEAR, _MONTH, _DAY = r"(?:18|19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_DATE = re.compile(
    rf"(?<!\d)(?:{_YEAR}{_MONTH}{_DAY}|{_DAY}{_MONTH}{_YEAR}|{_MONTH}{_DAY}{_YEAR})(?!\d)"
    rf"|(?<!\d){_YEAR}(?P<one>[-./ ])\d{{1,2}}(?P=one)\d{{1,2}}(?!\d)"
    rf"|(?<!\d)\d{{1,2}}(?P<two>[-./ ])\d{{1,2}}(?P=two){_YEAR}(?!\d)"
    r"|(?<!\d)\d{1,2}(?P<three>[-/])\d{1,2}(?P=three)\d\d(?!\d)"
)
_NUMBERS = frozenset(map(tag_for_keyword, NUMBERS))
_OF_THE_PATIENT = frozenset(map(tag_for_keyword, (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson",
)))  # fmt: skip
_PHRASES = frozenset(map(tag_for_keyword, PHRASES))


@dataclass(slots=True, repr=False)
class Identifiers:
    """Words, numbers and phrases that belong to one study; folded to lower case."""

    names: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    phrases: set[str] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)  # the birth date, as people write it
    guesses: set[str] = field(default_factory=set)  # words of paths: names if they are written like one
    staff: set[str] = field(default_factory=set)  # of the names those of physicians and others who are not the patient
    _spelt: KnownNames | None = None
    _spelt_guesses: KnownNames | None = None

    def add_name(self, text: str, *, staff: bool = False) -> None:
        """Add the words of a person's name, in whatever order and with whatever between them.

        Args:
            text: The name.
            staff: It is that of a physician or the like, not of the patient.

        >>> known = Identifiers(); known.add_name("O'Brien^Máire"); known.add_name("山田^明"); known.add_name("MC COY")
        >>> sorted(known.names)
        ['brien', 'coy', 'mc', 'mccoy', 'máire', 'obrien', '山田', '山田明', '明']
        """
        name = folded(text)
        found = {"".join(WORD.findall(compound)) for compound in COMPOUND.findall(name)}  # O'Brien is OBrien as well
        for part in re.split("[=^]", name):
            if len(words := WORD.findall(part)) > 1 and not NO_NAMES.issuperset(words):
                found.add("".join(words))  # a VAN DER BERG is written Vanderberg, a MC COY McCoy
        for group in name.split("="):
            words = WORD.findall(group)
            if words and all(map(SPACELESS.fullmatch, words)):
                found.add("".join(words))
            found |= {word for word in words if (len(word) > 1 or SPACELESS.match(word)) and word not in NO_NAMES}
        self.names |= found
        self.staff |= found if staff else set()

    @property
    def spelt(self) -> KnownNames:
        """The names in all their spellings."""
        if self._spelt is None or self._spelt.count != len(self.names):  # no name is ever taken back
            self._spelt = KnownNames(self.names)
        return self._spelt

    @property
    def spelt_guesses(self) -> KnownNames:
        """The guesses in all their spellings."""
        if self._spelt_guesses is None or self._spelt_guesses.count != len(self.guesses):
            self._spelt_guesses = KnownNames(self.guesses)
        return self._spelt_guesses

    def add_number(self, text: str) -> None:
        """Add an identifying number; one that is made of letters alone counts as a name."""
        number = folded(text.strip(" \0"))
        if not any(character.isdigit() for character in number):
            self.add_name(number)
        elif len(number) >= SHORTEST_NUMBER:
            self.numbers.add(number)
            for word in WORD.findall(number):  # MEIER_1960 holds a name, GLIOMA-001 does not
                if len(word) >= SHORTEST_NUMBER and word not in NO_NAMES:
                    self.guesses.add(word)

    def add_phrase(self, text: str) -> None:
        """Add several words that tell something together only, such as a hospital's name or an address."""
        phrase = " ".join(folded(text).split())
        if len(phrase) >= SHORTEST_NUMBER and phrase not in NO_NAMES | NEVER_NAMES:
            self.phrases.add(phrase)

    def add_date(self, text: str) -> None:
        """Add a birth date in its usual spellings, both where day and month may be either; other text adds nothing.

        >>> known = Identifiers(); known.add_date("19530417"); known.add_date("spring of 1953")
        >>> {"19530417", "17.04.1953", "04/17/1953"} <= known.dates, len(known.dates) == len(DATE_SPELLINGS)
        (True, True)
        """
        written = text.strip(" \0")
        for spelling in DATE_SPELLINGS[:7] if len(written) >= 8 else ():
            with suppress(ValueError):
                day = datetime.strptime(written, spelling)
                self.dates |= {day.strftime(other).casefold() for other in DATE_SPELLINGS}

    def update(self, other: "Identifiers") -> None:
        """Add all that another set holds."""
        self.names |= other.names
        self.numbers |= other.numbers
        self.phrases |= other.phrases
        self.dates |= other.dates
        self.guesses |= other.guesses
        self.staff |= other.staff

    def in_text(self, text: str) -> bool:
        """Return whether a text holds one of them; names as whole words in any spelling, numbers and phrases anywhere.

        >>> known = Identifiers(); known.add_name("Müller^Hans"); known.add_number("4711-08")
        >>> [known.in_text(text) for text in ("T1 MUELLER", "MUELLERHOFF", "id4711-08", "ax T2")]
        [True, False, True, False]
        """
        plain = " ".join(folded(text).split())
        words = {word for word in WORD.findall(plain) if len(word) >= SHORTEST_NAME}
        return (
            any(
                known.likeness(word) is not Likeness.NONE
                for word in words
                for known in (self.spelt, self.spelt_guesses)
            )
            or self.spelt.without_spaces.search(plain) is not None
            or any(part in plain for many in (self.numbers, self.phrases, self.dates) for part in many)
        )

    def in_value(self, text: str) -> bool:
        """Return whether a value that would be kept holds one of them; longer names within other words too.

        >>> known = Identifiers(); known.add_name("Meier^Ott^Philip")
        >>> [known.in_value(text) for text in ("MEIERHOFF", "H_Meier", "PLOTTED", "Philips")]
        [True, True, False, False]
        """
        return self.in_text(text) or any(map(self.spelt.is_within, WORD.findall(folded(text))))

    def is_number(self, value: object) -> bool:
        """Return whether a number is one of theirs, or the birth date, digit by digit.

        >>> known = Identifiers(); known.add_number("90417733"); known.add_date("19530417")
        >>> [known.is_number(value) for value in (90417733, "90417733.0", 19530417.0, 904177, None)]
        [True, True, True, False, False]
        """
        text = re.sub(r"\.0*$", "", str(value).strip(" \0+"))
        if isinstance(value, float) and value.is_integer():
            text = f"{value:.0f}"
        return len(text) >= SHORTEST_DIGITS and (text in self.numbers or text in self.dates)

    def in_bytes(self, data: bytes | bytearray, *, shortest: int = SHORTEST_NUMBER + 1) -> bool:
        """Return whether bytes that are no text hold a name, number or birth date of so many characters or more."""
        lowered = data.lower()
        names = {spelt for name in (*self.names, *self.guesses) for spelt in spellings(name)}
        words = (word for word in (*names, *self.numbers, *self.dates) if len(word) >= shortest)
        forms = {form for word in words for form in (word, word.upper())}  # bytes are lowered as ASCII alone
        return any(form.encode(code, "replace").lower() in lowered for form in forms for code in _codes(form))


def collect(data: Dataset, depth: int = 0) -> Identifiers:
    """Return the identifiers in a data set and the sequences within it; what cannot be decoded tells nothing."""
    found = Identifiers()
    for tag in list(data.keys()):
        try:
            element = data[tag]
            if element.VR == "SQ":
                for item in element.value if depth < 8 else ():
                    found.update(collect(item, depth + 1))
            elif element.VR == "PN":
                for text in (*texts_of(element.value), *_in_utf8(element.value)):
                    found.add_name(text, staff=int(tag) not in _OF_THE_PATIENT)
            elif int(tag) == BIRTH_DATE:
                for text in texts_of(element.value):
                    found.add_date(text)
            elif int(tag) in _NUMBERS:
                for text in texts_of(element.value):
                    found.add_number(text)
            elif int(tag) in _PHRASES:
                for text in texts_of(element.value):
                    found.add_phrase(text)
        except ELEMENT_FAILURES:
            continue
    return found


def holds_a_date(text: str) -> bool:
    """Return whether eight digits, or numbers with the same separators between them, are a date.

    >>> [holds_a_date(text) for text in ("VB10 20150317", "17.04.1953", "4/17/53", "5.1.10", "12345678")]
    [True, True, True, False, False]
    """
    return _DATE.search(text) is not None


def _in_utf8(value: object) -> list[str]:
    """Return the names whose bytes are UTF-8, whatever Specific Character Set says of them."""
    many: Iterable[object] = value if isinstance(value, MultiValue | list) else [value]
    stored = [name.original_string for name in many if isinstance(name, PersonName)]
    texts = []
    for name in stored:
        if isinstance(name, bytes) and not name.isascii():
            with suppress(UnicodeDecodeError):
                texts.append(name.decode("utf-8"))
    return texts


def _codes(word: str) -> tuple[str, ...]:
    return ("utf-8",) if word.isascii() else ("utf-8", "latin-1")


def texts_of(value: object) -> list[str]:
    """Return a DICOM value as texts, one for each of several, empty ones among them too; none for an empty value."""
    many: Iterable[object] = value if isinstance(value, MultiValue | list) else [value]
    texts = [str("" if part is None else part).strip(" \0") for part in many]
    return texts if any(texts) else []
