"""Notes: decoding, sections, joining."""

from pathlib import Path

import pytest

from medmllm.errors import NoteError
from medmllm.ingest.notes import find_sections, join_notes, name_heading, read_note
from medmllm.records import Note

REPORT = """Seen on the ward.
CLINICAL HISTORY: Cough for 3 days.
Time: the evening.
TECHNIQUE:
CT of the chest
Findings: Nodule, 8 mm. IMPRESSION: not here.
LUNGS: clear
IMPRESSION:  Benign.
"""


def note_of(tmp_path: Path, data: bytes) -> Note | None:
    (tmp_path / "note.txt").write_bytes(data)
    return read_note(tmp_path / "note.txt")


def test_sections_are_named_and_span_the_whole_text() -> None:
    sections = find_sections(REPORT)
    texts = [(part.name, REPORT[part.start : part.end]) for part in sections]
    assert [name for name, _ in texts] == ["", "history", "technique", "findings", "other", "impression"]
    assert "".join(text for _, text in texts) == REPORT
    assert dict(texts)["history"] == "CLINICAL HISTORY: Cough for 3 days.\nTime: the evening.\n"
    assert dict(texts)["findings"] == "Findings: Nodule, 8 mm. IMPRESSION: not here.\n"


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("HISTORY", "history"),
        ("Past Medical History", "history"),
        ("HPI", "history"),
        ("Clinical Information", "history"),
        ("REASON FOR EXAM", "indication"),
        ("Clinical Indication", "indication"),
        ("COMPARISON", "comparison"),
        ("EXAM", "exam"),
        ("PHYSICAL EXAMINATION", "exam"),
        ("Conclusion", "impression"),
        ("FINDINGS", "findings"),
        ("DIFFERENTIAL DIAGNOSIS", "differential diagnosis"),
        ("Case Diagnosis", "case diagnosis"),
        ("LUNGS", "other"),
    ],
)
def test_a_heading_gets_its_canonical_name(heading: str, name: str) -> None:
    assert name_heading(heading) == name


@pytest.mark.parametrize("words", ["Time", "Note that the findings", "Seen in the morning", "BP"])
def test_what_is_no_heading_opens_no_section(words: str) -> None:
    assert name_heading(words) is None


def test_a_persons_name_in_a_heading_is_never_the_name_of_a_section() -> None:
    text = "HISTORY: x\nMEIER HANS: y\nDr Meier Impression: z\nMeier's Findings: f\n"
    assert [part.name for part in find_sections(text)] == ["history", "other", "impression", "findings"]


def test_text_under_an_unknown_heading_does_not_count_to_the_section_before() -> None:
    text = "HISTORY: cough\nRADIOLOGIST SAYS: cancer\n"
    history = find_sections(text)[0]
    assert "cancer" not in text[history.start : history.end]


def test_a_note_without_headings_is_one_section_without_a_name() -> None:
    assert [(part.name, part.start, part.end) for part in find_sections("Cough.")] == [("", 0, 6)]


def test_utf8_with_and_without_byte_order_mark_read_alike(tmp_path: Path) -> None:
    for data in ("HISTORY: Müller 日本\r\nIMPRESSION: x\r".encode(), "﻿HISTORY: Müller 日本\nIMPRESSION: x\n".encode()):
        note = note_of(tmp_path, data)
        assert note is not None
        assert note.text == "HISTORY: Müller 日本\nIMPRESSION: x\n"
        assert [part.name for part in note.sections] == ["history", "impression"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_with_its_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    note = note_of(tmp_path, ("\ufeff" + "HISTORY: Müller 日本\r\n").encode(encoding))
    assert note is not None
    assert (note.text, note.guessed_encoding) == ("HISTORY: Müller 日本\n", None)
    assert [part.name for part in note.sections] == ["history"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_utf16_without_a_mark_and_utf32_are_refused_with_the_way_out(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(NoteError, match="Save it as UTF-8") as refusal:
        note_of(tmp_path, "HISTORY: cough".encode(encoding))
    assert refusal.value.code == "note_not_text"


@pytest.mark.parametrize(
    ("data", "mark", "byte"),
    [
        # No byte of 日本語 is below 32: without its mark it would pass for letters of Windows-1252.
        (b"\xff\xfe" + "日本語".encode("utf-16-le")[:-1], "UTF-16", 7),
        (b"\xfe\xff" + "日本語".encode("utf-16-be")[:-1], "UTF-16", 7),
        (b"\xef\xbb\xbfFINDINGS: caf\xe9\n", "UTF-8", 17),
    ],
)
def test_a_note_that_is_not_what_its_mark_says_is_refused_and_not_guessed_at(
    tmp_path: Path, data: bytes, mark: str, byte: int
) -> None:
    with pytest.raises(NoteError, match=f"says {mark}, and from byte {byte} of {len(data)} on.*Save it") as refusal:
        note_of(tmp_path, data)
    assert refusal.value.code == "note_not_text"


def test_marks_within_the_text_hide_no_heading(tmp_path: Path) -> None:
    note = note_of(tmp_path, "\ufeffHISTORY: cough\n\ufeffFINDINGS: nodule\n".encode())  # two files put together
    assert note is not None
    assert note.text == "HISTORY: cough\nFINDINGS: nodule\n"
    assert [part.name for part in note.sections] == ["history", "findings"]


@pytest.mark.parametrize("space", ["\u00a0", "\f", "\u2009"])
def test_no_break_spaces_and_form_feeds_hide_no_heading(space: str) -> None:
    text = f"HISTORY: cough\n{space}CASE{space}DIAGNOSIS{space}: cancer\n"
    assert [part.name for part in find_sections(text)] == ["history", "case diagnosis"]


def test_windows_1252_is_read_and_told_as_a_guess(tmp_path: Path) -> None:
    note = note_of(tmp_path, "Müller – 5 µm".encode("cp1252"))
    assert note is not None
    assert (note.text, note.guessed_encoding) == ("Müller – 5 µm", "Windows-1252")
    plain = note_of(tmp_path, "Müller – 5 µm".encode())
    assert plain is not None
    assert (plain.text, plain.guessed_encoding) == (note.text, None)
    joined = join_notes([plain, note])
    assert joined is not None
    assert joined.guessed_encoding == "Windows-1252"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Müller".encode() + b" f\xfcr Jos\xe9", "Müller für José"),  # put together of two
        ("Jörg Müllü".encode()[:-1], "Jörg MüllÃ"),  # cut within a letter
        ("Müller für José".encode("cp1252"), "Müller für José"),
    ],
)
def test_a_wrong_byte_does_not_spoil_the_letters_that_are_right(tmp_path: Path, data: bytes, text: str) -> None:
    note = note_of(tmp_path, data)
    assert note is not None
    assert (note.text, note.guessed_encoding) == (text, "Windows-1252")


@pytest.mark.parametrize("data", [b"", b" \r\n\t", b"\xef\xbb\xbf\n"])
def test_an_empty_note_is_none(tmp_path: Path, data: bytes) -> None:
    assert note_of(tmp_path, data) is None


@pytest.mark.parametrize("data", [b"\x00\x01\x02binary", b"\x89PNG\r\n\x1a\n\x81\x8d", b"caf\xe9\x00"])
def test_a_binary_file_is_no_note(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NoteError) as refusal:
        note_of(tmp_path, data)
    assert refusal.value.code == "note_not_text"


def test_a_note_above_a_megabyte_is_refused(tmp_path: Path) -> None:
    assert note_of(tmp_path, b"x" * 1_000_000) is not None
    with pytest.raises(NoteError, match="1,000,000 bytes") as refusal:
        note_of(tmp_path, b"x" * 1_000_001)
    assert refusal.value.code == "note_too_large"


def test_joined_notes_keep_their_sections_in_place() -> None:
    texts = ["HISTORY: a\n", "Plain.", "IMPRESSION: b"]
    notes = [Note(text=text, sections=tuple(find_sections(text))) for text in texts]
    joined = join_notes(notes)
    assert joined is not None
    assert joined.text == "HISTORY: a\n\n\nPlain.\n\nIMPRESSION: b"
    spans = [(part.name, joined.text[part.start : part.end]) for part in joined.sections]
    assert spans == [("history", "HISTORY: a\n"), ("", "Plain."), ("impression", "IMPRESSION: b")]


def test_joining_none_and_one() -> None:
    note = Note(text="x", sections=())
    assert join_notes([]) is None
    assert join_notes([note]) is note


def test_the_text_shows_in_no_repr(tmp_path: Path) -> None:
    assert "cough" not in repr(note_of(tmp_path, b"HISTORY: cough"))


def test_every_heading_of_the_medpix_notes_is_found(shared: Path) -> None:
    files = sorted((shared / "data" / "ct_mr_medpix" / "studies").glob("*/note.txt"))
    assert len(files) == 671
    for heading, name in (("\nHISTORY:", "history"), ("\nEXAM:", "exam"), ("\nFINDINGS:", "findings")):
        with_heading = {file for file in files if heading in "\n" + file.read_text("utf-8")}
        with_section = {
            file for file in files if name in {part.name for part in (read_note(file) or Note("", ())).sections}
        }
        assert len(with_heading) > 400
        assert with_heading <= with_section
