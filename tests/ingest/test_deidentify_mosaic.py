"""Of a mosaic's private header only the number of tiles and their direction come through."""

import pydicom
import pytest

from medmllm.ingest.deidentify_mosaic import csa_header, csareader, keep_tiling

TOLD = {
    "NumberOfImagesInMosaic": ("US", ["6"]),
    "SliceNormalVector": ("FD", ["0.00000000", "-0.60000000", "0.80000000"]),
    "PatientName": ("PN", ["MEIER^ANNA"]),
    "MrPhoenixProtocol": ("UN", ["tFrameOfReference of MEIER"]),
}


def mosaic(csa: bytes, kind: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "MOSAIC")) -> pydicom.Dataset:
    data = pydicom.Dataset()
    data.ImageType = list(kind)
    data.add_new(0x00290010, "LO", "SIEMENS CSA HEADER")
    data.add_new(0x00291010, "OB", csa)
    return data


def test_number_and_direction_come_through_and_no_name() -> None:
    creator, kept = keep_tiling(mosaic(csa_header(TOLD)))
    assert (creator.tag, creator.value) == (0x00290010, "SIEMENS CSA HEADER")
    assert b"MEIER" in csa_header(TOLD)
    assert b"MEIER" not in kept.value
    read = csareader.read(kept.value)
    assert set(read["tags"]) == {"NumberOfImagesInMosaic", "SliceNormalVector"}
    assert csareader.get_n_mosaic(read) == 6
    assert list(csareader.get_slice_normal(read)) == [0.0, -0.6, 0.8]


@pytest.mark.parametrize("end", [0, 60, 200])
def test_a_damaged_header_gives_nothing(end: int) -> None:
    assert list(keep_tiling(mosaic(csa_header(TOLD)[:end]))) == []


@pytest.mark.parametrize("missing", ["NumberOfImagesInMosaic", "SliceNormalVector"])
def test_a_header_that_does_not_tell_the_tiling_gives_nothing(missing: str) -> None:
    told = {name: value for name, value in TOLD.items() if name != missing}
    assert list(keep_tiling(mosaic(csa_header(told)))) == []


@pytest.mark.parametrize("tiles", ["0", "5000"])
def test_a_number_of_tiles_that_no_scanner_makes_gives_nothing(tiles: str) -> None:
    assert list(keep_tiling(mosaic(csa_header(TOLD | {"NumberOfImagesInMosaic": ("US", [tiles])})))) == []


def test_an_image_that_is_no_mosaic_loses_its_private_header() -> None:
    assert list(keep_tiling(mosaic(csa_header(TOLD), ("ORIGINAL", "PRIMARY", "M")))) == []
