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

from medmllm.ingest.dicom_stream import DICOM_FAILURES
from medmllm.ingest.opening import PARSER_FAILURES

ELEMENT_FAILURES = (*PARSER_FAILURES, *DICOM_FAILURES)
SHORTEST_NAME = 3  # letters; shorter ones are held against a note's exact spelling alone
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
SHORTEST_GLUED = 5  # letters; a shorter name stands within too many words
NO_NAMES = frozenset({
    "anonymous", "anonymized", "anonymised", "anon", "unknown", "patient", "test", "phantom", "synthetic", "volunteer",
    "dr", "prof", "med", "mr", "mrs", "ms", "md", "phd", "jr", "sr", "von", "van", "der", "den", "de", "del", "della",
    "di", "da", "la", "le", "el", "al", "bin", "ibn", "the", "and", "none", "removed", "deidentified", "subject",
    "case", "study", "brain", "chest", "head", "neck", "axial", "ct", "mri",
})  # fmt: skip
"""Words in the place of a name that name nobody."""

TRADE_WORDS = frozenset({
    "original", "primary", "secondary", "derived", "axial", "localizer", "mosaic", "standard", "projection",
    "diffusion", "perfusion", "magnitude", "helical", "reformatted", "philips", "siemens", "healthineers", "medical",
    "systems", "electric", "general", "toshiba", "canon", "hitachi", "fujifilm", "hologic", "carestream", "corporation",
    "healthcare",
})  # fmt: skip
"""Words of headers in which a name may stand by chance: not every Philip is a Philips."""

NAME_COLUMNS = re.compile(r"name|surname|physician|doctor", re.IGNORECASE)
NUMBER_COLUMNS = re.compile(r"mrn|accession|phone|(patient|subject|record|case).?(id|no|number)", re.IGNORECASE)
BIRTH_COLUMNS = re.compile(r"birth|(^|_)dob($|_)", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_YEAR, _MONTH, _DAY = r"(?:18|19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_DATE = re.compile(
    rf"(?<!\d)(?:{_YEAR}{_MONTH}{_DAY}|{_DAY}{_MONTH}{_YEAR}|{_MONTH}{_DAY}{_YEAR})(?!\d)"
    rf"|(?<!\d){_YEAR}(?P<one>[-./ ])\d{{1,2}}(?P=one)\d{{1,2}}(?!\d)"
    rf"|(?<!\d)\d{{1,2}}(?P<two>[-./ ])\d{{1,2}}(?P=two){_YEAR}(?!\d)"
    r"|(?<!\d)\d{1,2}(?P<three>[-/])\d{1,2}(?P=three)\d\d(?!\d)"
)
_NUMBERS = frozenset(map(tag_for_keyword, NUMBERS))
_PHRASES = frozenset(map(tag_for_keyword, PHRASES))


@dataclass(slots=True, repr=False)
class Identifiers:
    """Words, numbers and phrases that belong to one study; folded to lower case."""

    names: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    phrases: set[str] = field(default_factory=set)
    dates: set[str] = field(default_factory=set)  # the birth date, as people write it
    guesses: set[str] = field(default_factory=set)  # words of paths: names if they are written like one

    def add_name(self, text: str) -> None:
        """Add the words of a person's name, in whatever order and with whatever between them."""
        for word in _WORD.findall(text.casefold()):
            if len(word) > 1 and word not in NO_NAMES:
                self.names.add(word)

    def add_number(self, text: str) -> None:
        """Add an identifying number; one that is made of letters alone counts as a name."""
        folded = text.strip(" \0").casefold()
        if not any(character.isdigit() for character in folded):
            self.add_name(folded)
        elif len(folded) >= SHORTEST_NUMBER:
            self.numbers.add(folded)
            for word in _WORD.findall(folded):  # MEIER_1960 holds a name too
                if len(word) >= SHORTEST_NUMBER:
                    self.add_name(word)

    def add_phrase(self, text: str) -> None:
        """Add several words that tell something together only, such as a hospital's name or an address."""
        folded = " ".join(text.casefold().split())
        if len(folded) >= SHORTEST_NUMBER and folded not in NO_NAMES:
            self.phrases.add(folded)

    def add_date(self, text: str) -> None:
        """Add a birth date in its usual spellings, both where day and month may be either; other text adds nothing.

        >>> known = Identifiers(); known.add_date("19530417"); known.add_date("spring of 1953")
        >>> {"19530417", "17.04.1953", "04/17/1953"} <= known.dates, len(known.dates) == len(DATE_SPELLINGS)
        (True, True)
        """
        folded = text.strip(" \0")
        for spelling in DATE_SPELLINGS[:7] if len(folded) >= 8 else ():
            with suppress(ValueError):
                day = datetime.strptime(folded, spelling)
                self.dates |= {day.strftime(other).casefold() for other in DATE_SPELLINGS}

    def update(self, other: "Identifiers") -> None:
        """Add all that another set holds."""
        self.names |= other.names
        self.numbers |= other.numbers
        self.phrases |= other.phrases
        self.dates |= other.dates
        self.guesses |= other.guesses

    def in_text(self, text: str) -> bool:
        """Return whether a text holds one of them; names as whole words, numbers and phrases anywhere.

        >>> known = Identifiers(); known.add_name("Meier^Hans"); known.add_number("4711-08")
        >>> [known.in_text(text) for text in ("T1 meier", "MEIERHOFF", "id4711-08", "ax T2")]
        [True, False, True, False]
        """
        folded = " ".join(text.casefold().split())
        words = {word for word in _WORD.findall(folded) if len(word) >= SHORTEST_NAME}
        return not words.isdisjoint(self.names | self.guesses) or any(
            part in folded for many in (self.numbers, self.phrases, self.dates) for part in many
        )

    def in_value(self, text: str) -> bool:
        """Return whether a value that would be kept holds one of them; longer names within other words too.

        >>> known = Identifiers(); known.add_name("Meier^Ott^Philip")
        >>> [known.in_value(text) for text in ("MEIERHOFF", "H_Meier", "PLOTTED", "Philips")]
        [True, True, False, False]
        """
        names = [name for name in self.names if len(name) >= SHORTEST_GLUED]
        words = (word for word in _WORD.findall(text.casefold()) if word not in TRADE_WORDS)
        return self.in_text(text) or any(name in word for word in words for name in names)

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
        words = (word for word in (*self.names, *self.guesses, *self.numbers, *self.dates) if len(word) >= shortest)
        return any(word.encode(code, "replace") in lowered for word in words for code in _codes(word))


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
                for text in texts_of(element.value):
                    found.add_name(text)
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


def _codes(word: str) -> tuple[str, ...]:
    return ("utf-8",) if word.isascii() else ("utf-8", "latin-1")


def texts_of(value: object) -> list[str]:
    """Return a DICOM value as texts, one for each of several, empty ones among them too; none for an empty value."""
    many: Iterable[object] = value if isinstance(value, MultiValue | list) else [value]
    texts = [str("" if part is None else part).strip(" \0") for part in many]
    return texts if any(texts) else []
