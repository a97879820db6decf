"""A few hundred damaged files through index and reader: a value or an error of ours, nothing planted in what is said.

The long run, in watched processes with limits, is reports/robustness; here the same inputs run in this process.
"""

import logging
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from medmllm.ingest.judged import load
from reports.robustness import damage, dicom_damage, nifti_damage
from reports.robustness.inputs import KINDS, make_input
from reports.robustness.mutate import START_SECONDS, Tally, Worker, keep, read_all
from reports.robustness.seeds import NAME, NUMBER, Seed, make_seeds
from reports.robustness.worker import Remarks, leaks, read_folder, write_input

# What takes seconds or hundreds of megabytes is left to the long run.
HEAVY = {"deflate_bomb", "gzip_bomb", "many_items", "many_volumes", "nest"}
INPUTS = 150


@pytest.fixture(scope="module")
def seeds() -> dict[str, list[Seed]]:
    """The made-up seeds alone."""
    return make_seeds()


@pytest.fixture
def remarks() -> Iterator[Remarks]:
    """All that is logged while a test runs, at every level."""
    handler, root = Remarks(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def test_every_seed_is_what_it_says_before_it_is_damaged(
    tmp_path: Path, seeds: dict[str, list[Seed]], remarks: Remarks
) -> None:
    refused = {}
    for kind in KINDS:
        for seed in seeds[kind]:
            write_input(tmp_path / "in", seed.files)
            answer = read_folder(tmp_path / "in", remarks)
            if answer["outcome"] != "value":
                refused[seed.name] = answer["code"]
    # A later reader may well take some of these; none may be damaged.
    assert refused.items() <= {
        "made colour": "colour", "made modality lut": "modality_lut", "made film": "multi_frame",
        "made float64 2D": "not_3d",
    }.items() | {("made colour", "not_scalar")}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_damaged_file_gives_a_value_or_an_error_of_ours_that_names_nobody(
    tmp_path: Path, seeds: dict[str, list[Seed]], remarks: Remarks, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outcomes: dict[str, int] = {}
    for number in range(INPUTS):
        made = make_input(seeds, kind, 7, number)
        if not HEAVY.isdisjoint(made.damages):
            continue
        write_input(tmp_path / "in", made.files)
        answer = read_folder(tmp_path / "in", remarks)
        assert answer["outcome"] in ("value", "refused"), (number, made.damages, answer)
        outcomes[answer["outcome"]] = outcomes.get(answer["outcome"], 0) + 1
    assert min(outcomes["value"], outcomes["refused"]) > 10  # neither harmless nor hopeless
    assert not leaks("".join(capfd.readouterr()))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_number_run_and_seeds_decide_every_byte(seeds: dict[str, list[Seed]], kind: str) -> None:
    again = make_seeds()
    assert [make_input(seeds, kind, 3, number) for number in range(60)] == [
        make_input(again, kind, 3, number) for number in range(60)
    ]
    assert make_input(seeds, kind, 3, 0) != make_input(seeds, kind, 4, 0)


@pytest.mark.parametrize("change", [*damage.ANY, *dicom_damage.DICOM, *nifti_damage.NIFTI], ids=lambda f: f.__name__)
@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", bytes(140), b"DICM" * 40])
def test_damage_takes_any_bytes(change: damage.Damage, data: bytes) -> None:
    assert isinstance(change(data, random.Random(1)), bytes)


def test_elements_are_found_where_pydicom_finds_them(seeds: dict[str, list[Seed]], tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(seeds["dicom"][0].files[0][1])
    data = pydicom.dcmread(tmp_path / "a.dcm")
    found = dicom_damage.elements(seeds["dicom"][0].files[0][1])
    assert [element.tag for element in found if element.tag[0] > 2] == [
        (tag.group, tag.element) for tag in sorted(data.keys())
    ]


def test_a_changed_value_is_what_pydicom_then_reads(seeds: dict[str, list[Seed]], tmp_path: Path) -> None:
    content = seeds["dicom"][0].files[0][1]
    rows = next(element for element in dicom_damage.elements(content) if element.tag == (0x28, 0x10))
    (tmp_path / "a.dcm").write_bytes(dicom_damage.with_value(content, rows, b"\xff\xff"))
    assert pydicom.dcmread(tmp_path / "a.dcm").Rows == 65535


def test_a_bomb_inflates_to_what_it_says() -> None:
    inflater = zlib.decompressobj(-15)
    bomb = damage.deflated_zeros(b"start", 3)
    assert len(bomb) < 10_000
    assert inflater.decompress(bomb) == b"start" + bytes(3 * 2**20)
    assert inflater.eof


def test_planted_identifiers_and_foreign_errors_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remarks: Remarks
) -> None:
    def talk(folder: str) -> None:
        logging.getLogger("some.other").debug("patient %s", NAME)
        raise KeyError(NUMBER)

    monkeypatch.setattr("reports.robustness.worker.load", talk)
    assert read_folder(tmp_path, remarks)["outcome"] == "leak"
    monkeypatch.setattr("reports.robustness.worker.load", lambda folder: {}["x"])
    assert read_folder(tmp_path, remarks) == {"outcome": "foreign", "code": "KeyError", "where": "?", "asked": False}


def test_what_takes_the_processor_too_long_is_a_hang_whatever_came_of_it() -> None:
    tally = Tally()
    tally.add({"outcome": "value", "code": "1 volume", "number": 3, "cpu_s": 0.1, "bytes": 5})
    tally.add({"outcome": "value", "code": "1 volume", "number": 4, "cpu_s": 5.1, "bytes": 7})
    assert tally.outcomes == {"value": 1, "hang": 1}
    assert [finding["number"] for finding in tally.findings] == [4]
    assert (tally.peak_bytes, tally.slowest_s) == (7, 5.1)


def test_an_input_can_be_written_again_to_look_at(tmp_path: Path, seeds: dict[str, list[Seed]]) -> None:
    place = keep(tmp_path, "nifti", 1, 5, [])
    made = make_input(seeds, "nifti", 1, 5)
    assert {(path.name, path.read_bytes()) for path in (place / "files").iterdir()} == set(made.files)


@pytest.mark.parametrize(("used_s", "hangs"), [(1.0, False), (11.0, True)])
def test_a_busy_machine_is_no_hang_but_a_busy_reader_is(
    monkeypatch: pytest.MonkeyPatch, used_s: float, hangs: bool
) -> None:
    said = iter([TimeoutError, {"number": 1}])
    clock = iter([0.0, used_s])

    def line(self: Worker, seconds: float) -> object:
        word = next(said)
        if word is TimeoutError:
            raise TimeoutError
        return word

    monkeypatch.setattr(Worker, "line", line)
    monkeypatch.setattr(Worker, "cpu_seconds", lambda self: next(clock))
    worker = Worker.__new__(Worker)
    if hangs:
        with pytest.raises(TimeoutError):
            worker.answer()
    else:
        assert worker.answer() == {"number": 1}


@pytest.mark.slow
def test_inputs_are_read_in_a_watched_process_and_counted() -> None:
    tally = Tally()
    read_all("nifti", 2, range(0, 12, 3), [], tally)
    assert sum(tally.outcomes.values()) == 4
    assert tally.findings == []


@pytest.mark.slow
def test_a_process_that_says_nothing_is_noticed() -> None:
    worker = Worker("nifti", 2, range(0), [])
    with pytest.raises(TimeoutError):
        worker.line(0.0)
    assert worker.line(START_SECONDS) == {"ready": True}
    assert worker.line(START_SECONDS) is None
    assert worker.end() == 0


def test_the_reader_itself_is_quick_enough_for_many_inputs(tmp_path: Path, seeds: dict[str, list[Seed]]) -> None:
    write_input(tmp_path / "in", seeds["dicom"][0].files)
    began = time.process_time()
    assert len(load(str(tmp_path / "in"))) == 1
    assert time.process_time() - began < 2.0
