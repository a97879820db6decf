"""Text inside compressed frames: it goes, wherever it stands, and the voxels stay."""

import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from medmllm.errors import DicomError
from medmllm.ingest.deidentify_codestream import blanked
from medmllm.ingest.deidentify_identifiers import Identifiers

Pixels = npt.NDArray[np.uint8]
NOBODY = Identifiers()
RNG = np.random.default_rng(3)
PIXELS: Pixels = RNG.integers(0, 9, (24, 40)).cumsum(axis=1).astype(np.uint8)


def jpeg(pixels: Pixels) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(pixels))


def jpeg_ls(pixels: Pixels) -> bytes:
    return bytes(imagecodecs.jpegls_encode(pixels))


def jpeg2000(pixels: Pixels) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k"))


DECODE: dict[Callable[[Pixels], bytes], Callable[[bytes], Pixels]] = {
    jpeg: imagecodecs.jpeg8_decode, jpeg_ls: imagecodecs.jpegls_decode, jpeg2000: imagecodecs.jpeg2k_decode,
}  # fmt: skip
every_codec = pytest.mark.parametrize("encode", list(DECODE))


def segment(marker: int, held: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(held) + 2) + held


def with_comment(encode: Callable[[Pixels], bytes], text: bytes) -> bytes:
    frame = encode(PIXELS)
    if encode is jpeg2000:  # SIZ has to be the first
        place = 4 + struct.unpack(">H", frame[4:6])[0]
        return frame[:place] + segment(0x64, b"\0\1" + text) + frame[place:]
    return frame[:2] + segment(0xFE, text) + frame[2:]


def reads_as_before(frame: bytes, made: bytes, encode: Callable[[Pixels], bytes]) -> None:
    assert len(made) == len(frame)
    np.testing.assert_array_equal(DECODE[encode](made), DECODE[encode](encode(PIXELS)))


def refused(frame: bytes, known: Identifiers = NOBODY, runs: tuple[int, int] | None = None) -> str:
    with pytest.raises(DicomError) as caught:
        blanked(frame, known, runs=runs)
    return caught.value.code


@every_codec
@pytest.mark.parametrize("text", [b"Kim Ott 19530417", b"seen by Dr Ungenannt", b"x" * 5000 + b"Kim"])
def test_a_comment_goes_whether_the_header_knows_its_words_or_not(
    encode: Callable[[Pixels], bytes], text: bytes
) -> None:
    frame = with_comment(encode, text)
    made = blanked(frame, NOBODY)
    assert text[-3:] in frame
    assert text not in made
    assert text[-12:] not in made
    reads_as_before(frame, made, encode)


@every_codec
def test_a_frame_without_text_stays_byte_for_byte_but_for_the_encoders_own_comment(
    encode: Callable[[Pixels], bytes],
) -> None:
    frame = encode(PIXELS)
    made = blanked(frame, NOBODY)
    changed = bytes(old for old, new in zip(frame, made, strict=True) if old != new)
    assert changed == b"" or b"OpenJPEG" in changed
    assert made.count(b"\xff") == frame.count(b"\xff")


@every_codec
def test_what_lies_behind_the_end_of_the_image_goes(encode: Callable[[Pixels], bytes]) -> None:
    frame = encode(PIXELS) + b"\0\0Kim Ott" + b"\xff\xd9 and more"
    made = blanked(frame, NOBODY)
    assert made[len(encode(PIXELS)) :] == bytes(20)
    reads_as_before(frame, made, encode)


def test_photograph_data_and_the_thumbnail_go_and_what_decoders_go_by_stays() -> None:
    plain = jpeg(PIXELS)
    jfif = plain[6:20]
    assert jfif[:5] == b"JFIF\0"
    start = plain[:2] + segment(0xE0, jfif[:12] + b"\2\1" + b"Thumbs") + segment(0xE1, b"Exif\0\0Meier, 1953")
    frame = start + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0" + b"Hans") + segment(0xE2, b"ICC_PROFILE") + plain[20:]
    made = blanked(frame, NOBODY)
    assert [word for word in (b"Thumbs", b"Exif", b"Meier", b"Hans", b"ICC") if word in made] == []
    assert made[6:18] == jfif[:12]
    assert b"Adobe\0\x64" in made
    reads_as_before(frame, made, jpeg)


def test_the_header_of_spiff_and_a_colour_transform_stay_and_the_entries_of_its_directory_go() -> None:
    plain = jpeg_ls(PIXELS)
    header = b"SPIFF\0" + struct.pack(">BBBBIIBBBBII", 2, 0, 0, 1, 24, 40, 8, 8, 6, 0, 1, 1)
    assert len(header) == 30
    entries = segment(0xE8, b"\0\0\0\4Meier") + segment(0xE8, b"\0\0\0\1\xff\xd8")
    frame = plain[:2] + segment(0xE8, header) + entries + segment(0xE8, b"mrfx\0") + plain[2:]
    made = blanked(frame, NOBODY)
    assert b"Meier" not in made
    assert header in made
    assert b"mrfx" in made
    assert b"\0\0\0\1\xff\xd8" in made


def test_a_comment_between_two_scans_and_behind_fill_bytes_goes() -> None:
    plain = jpeg_ls(PIXELS)
    scan = plain.index(b"\xff\xda")
    other = plain[scan:-2]  # the scan once more: this is about finding where it ends
    frame = plain[:-2] + b"\xff\xff" + segment(0xFE, b"Kim Ott") + other + b"\xff\xd9"
    made = blanked(frame, NOBODY)
    assert b"Kim Ott" not in made
    assert made.replace(bytes(7), b"Kim Ott") == frame


def test_values_of_jpeg_ls_that_look_like_markers_of_jpeg_are_values() -> None:
    noise = np.random.default_rng(4).integers(0, 256, (64, 64)).astype(np.uint8)
    plain = jpeg_ls(noise)
    scan = plain[plain.index(b"\xff\xda") + 10 : -2]
    assert any(b"\xff" + bytes([second]) in scan for second in range(1, 0x80))
    assert blanked(plain + b"Kim", NOBODY) == plain + bytes(3)


def test_a_comment_in_a_tile_parts_header_goes() -> None:
    plain = jpeg2000(PIXELS)
    part, data = plain.index(b"\xff\x90\0\x0a"), plain.index(b"\xff\x93")
    comment = segment(0x64, b"\0\1Kim Ott")
    length = struct.unpack(">I", plain[part + 6 : part + 10])[0]
    for said in (length + len(comment), 0):  # 0: to the end of the codestream
        head = plain[:part] + plain[part : part + 6] + struct.pack(">I", said) + plain[part + 10 : data]
        frame = head + comment + plain[data:]
        made = blanked(frame, NOBODY)
        assert b"Kim" not in made
        reads_as_before(frame, made, jpeg2000)


def test_frames_that_cannot_be_looked_into_are_refused() -> None:
    plain, plain2000 = jpeg(PIXELS), jpeg2000(PIXELS)
    siz = 4 + struct.unpack(">H", plain2000[4:6])[0]
    wrapped = bytes(imagecodecs.jpeg2k_encode(PIXELS, level=0, codecformat="jp2"))
    for frame in (b"", b"\0\0\1\xb3 a video", wrapped):
        assert refused(frame) == "pixels_unreadable"
    assert refused(plain[:2] + segment(0xF0, b"Kim") + plain[2:]) == "pixels_unreadable"
    assert refused(plain[:2] + b"Kim" + plain[2:]) == "pixels_unreadable"
    assert refused(plain[:2] + b"\xff\xfe\0\1" + plain[2:]) == "pixels_unreadable"
    assert refused(plain2000[:siz] + segment(0x20, b"Kim") + plain2000[siz:]) == "pixels_unreadable"
    scan = plain.index(b"\xff\xda")
    longer = segment(0xDA, plain[scan + 4 : scan + 2 + plain[scan + 3]] + b"Kim")
    assert refused(plain[:scan] + longer + plain[scan + 2 + plain[scan + 3] :]) == "pixels_unreadable"


@every_codec
def test_a_frame_that_ends_early_is_refused(encode: Callable[[Pixels], bytes]) -> None:
    whole = encode(PIXELS)
    for length in (4, 9, 60, len(whole) - 2):
        assert refused(whole[:length]) == "truncated_pixels"


def test_a_known_name_among_tables_or_values_is_refused() -> None:
    known = Identifiers()
    known.add_name("Meier^Ambrosius")
    known.add_date("19530417")
    plain = jpeg(PIXELS)
    scan = plain.index(b"\xff\xda")
    tables = segment(0xDB, b"\x0f" + b"Meier".ljust(64, b"\1"))  # a quantisation table that nothing uses
    assert refused(plain[:scan] + tables + plain[scan:], known) == "text_in_pixels"
    for text in (b"aMBrosius", b"17.04.1953"):  # behind the last value, before the end
        assert refused(plain[:-2] + text + plain[-2:], known) == "text_in_pixels"


def test_damaged_frames_raise_nothing_but_our_errors() -> None:
    rng = np.random.default_rng(5)
    runs_frame = run_lengths([PIXELS.tobytes()])
    written = 0
    for encode in (*DECODE, None):
        whole = encode(PIXELS) if encode else runs_frame
        for _ in range(200):
            damaged = bytearray(whole)
            for place in rng.integers(0, min(200, len(whole)), 3):
                damaged[place] = rng.integers(0, 256)
            try:
                made = blanked(bytes(damaged), NOBODY, runs=None if encode else (PIXELS.size, 1))
            except DicomError:
                continue
            assert len(made) == len(whole)
            written += 1
    assert 100 < written < 800


# --- run lengths ---------------------------------------------------------------------------


def run_lengths(segments: list[bytes], *, unused: bytes = b"", behind: bytes = b"") -> bytes:
    """Return a run-length encoded frame, with more bytes in the header's unused part and behind each segment."""
    packed = [bytes(imagecodecs.packbits_encode(held)) + behind for held in segments]
    packed = [held + bytes(len(held) % 2) for held in packed]
    starts = [64 + sum(map(len, packed[:number])) for number in range(len(packed))]
    return (struct.pack(f"<{1 + len(starts)}I", len(starts), *starts) + unused).ljust(64, b"\0") + b"".join(packed)


def test_run_lengths_lose_what_stands_beside_their_values() -> None:
    high, low = bytes(600), bytes(range(200)) * 3
    plain = run_lengths([high, low], behind=bytes(9))
    frame = run_lengths([high, low], unused=b"Kim Ott", behind=b"\x80Kim Ott\0")
    assert blanked(plain, NOBODY, runs=(600, 2)) == plain
    made = blanked(frame, NOBODY, runs=(600, 2))
    assert b"Kim" not in made
    start = struct.unpack("<I", made[8:12])[0]
    assert imagecodecs.packbits_decode(made[64:start])[:600] == high
    assert imagecodecs.packbits_decode(made[start:])[:600] == low


def test_values_beyond_the_image_in_a_last_run_of_literals_go() -> None:
    frame = struct.pack("<2I", 1, 64).ljust(64, b"\0") + b"\x09" + b"1234Kim Ot"
    assert blanked(frame, NOBODY, runs=(4, 1))[64:] == b"\x091234" + bytes(6)


def test_run_lengths_that_do_not_fit_the_image_are_refused() -> None:
    frame = run_lengths([bytes(600), bytes(600)])
    assert refused(frame, runs=(600, 1)) == "pixels_unreadable"
    assert refused(frame, runs=(601, 2)) == "truncated_pixels"
    assert refused(frame[:60], runs=(600, 2)) == "truncated_pixels"
    assert refused(frame[:4] + struct.pack("<I", 63) + frame[8:], runs=(600, 2)) == "pixels_unreadable"
    assert refused(frame[:8] + struct.pack("<I", 2**31) + frame[12:], runs=(600, 2)) == "pixels_unreadable"
