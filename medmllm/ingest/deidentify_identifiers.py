"""What is known of a person before anything is written: the words and numbers that must not come through.

    PatientName, physicians, PatientID, accession number, folder names, label table -> Identifiers -> is it in here?

Known identifiers are the second line: what is not known to be technical is left out anyway. They catch a name or
number in a place where text is allowed, in a note, or in the first bytes of a compressed frame.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medmllm.ingest.dicom_stream import DICOM_FAILURES
from medmllm.ingest.opening import PARSER_FAILURES

ELEMENT_FAILURES = (*PARSER_FAILURES, *DICOM_FAILURES)
SHORTEST_NAME = 3  # letters; shorter ones are held against a note's exact spelling alone
SHORTEST_NUMBER = 4  # characters
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
NO_NAMES = frozenset({
    "anonymous", "anonymized", "anonymised", "anon", "unknown", "patient", "test", "phantom", "synthetic", "volunteer",
    "dr", "prof", "med", "mr", "mrs", "ms", "md", "phd", "jr", "sr", "von", "van", "der", "den", "de", "del", "della",
    "di", "da", "la", "le", "el", "al", "bin", "ibn", "the", "and", "none", "removed", "deidentified", "subject",
    "case", "study", "brain", "chest", "head", "neck", "axial", "ct", "mri",
})  # fmt: skip
"""Words in the place of a name that name nobody."""

NAME_COLUMNS = re.compile(r"name|surname|physician|doctor", re.IGNORECASE)
NUMBER_COLUMNS = re.compile(r"mrn|accession|phone|(patient|subject|record|case).?(id|no|number)", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
_NUMBERS = frozenset(map(tag_for_keyword, NUMBERS))
_PHRASES = frozenset(map(tag_for_keyword, PHRASES))


@dataclass(slots=True, repr=False)
class Identifiers:
    """Words, numbers and phrases that belong to one study; folded to lower case."""

    names: set[str] = field(default_factory=set)
    numbers: set[str] = field(default_factory=set)
    phrases: set[str] = field(default_factory=set)
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

    def update(self, other: "Identifiers") -> None:
        """Add all that another set holds."""
        self.names |= other.names
        self.numbers |= other.numbers
        self.phrases |= other.phrases
        self.guesses |= other.guesses

    def in_text(self, text: str) -> bool:
        """Return whether a text holds one of them; names as whole words, numbers and phrases anywhere.

        >>> known = Identifiers(); known.add_name("Meier^Hans"); known.add_number("4711-08")
        >>> [known.in_text(text) for text in ("T1 meier", "MEIERHOFF", "id4711-08", "ax T2")]
        [True, False, True, False]
        """
        folded = " ".join(text.casefold().split())
        words = {word for word in _WORD.findall(folded) if len(word) >= SHORTEST_NAME}
        return (
            not words.isdisjoint(self.names | self.guesses)
            or any(number in folded for number in self.numbers)
            or any(phrase in folded for phrase in self.phrases)
        )

    def in_bytes(self, data: bytes) -> bool:
        """Return whether bytes that are no text hold a name or number of five characters or more, as ASCII."""
        lowered = data.lower()
        return any(
            word.encode("utf-8") in lowered
            for word in (*self.names, *self.guesses, *self.numbers)
            if len(word) > SHORTEST_NUMBER
        )


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
            elif int(tag) in _NUMBERS:
                for text in texts_of(element.value):
                    found.add_number(text)
            elif int(tag) in _PHRASES:
                for text in texts_of(element.value):
                    found.add_phrase(text)
        except ELEMENT_FAILURES:
            continue
    return found


def texts_of(value: object) -> list[str]:
    """Return a DICOM value as texts, one for each of several, empty ones among them too; none for an empty value."""
    many: Iterable[object] = value if isinstance(value, MultiValue | list) else [value]
    texts = [str("" if part is None else part).strip(" \0") for part in many]
    return texts if any(texts) else []
