"""Each check of a recording finds what it is for and lets a near miss pass."""

import numpy as np
import pytest

from medmllm.ingest.audio import read_recording
from medmllm.quality.audio import check_recording, level_dbfs
from medmllm.records import FloatArray, Recording
from tests.quality.phantoms import BOUNDS

KEY = "st-" + "c" * 16
RATE = 8000.0


def a_tone(amplitude: float = 0.5, *, seconds: float = 1.5, phase: float = 0.0) -> FloatArray:
    time_s = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * 440 * time_s + phase)).astype(np.float32)


def codes(*channels: FloatArray, rate: float = RATE) -> set[str]:
    return {f.code for f in check_recording(Recording(np.stack(channels), rate), KEY, BOUNDS)}


def test_a_tone_is_plausible_and_its_level_is_that_of_a_sine() -> None:
    assert codes(a_tone()) == set()
    assert level_dbfs(Recording(a_tone(0.5)[None], RATE)) == pytest.approx(20 * np.log10(0.5 / 2**0.5), abs=0.01)


def test_silence_is_found_also_on_an_offset() -> None:
    assert codes(np.zeros(12000, dtype=np.float32)) == {"recording_silent"}
    assert codes(np.full(12000, 0.04, dtype=np.float32)) == {"recording_silent"}
    assert codes(a_tone(0.0013)) == {"recording_silent"}  # -60.7 dB
    assert codes(a_tone(0.0015)) == set()  # -59.5 dB
    assert codes(np.zeros(12000, dtype=np.float32), a_tone()) == set()  # one channel has sound


def test_clipping_is_found() -> None:
    assert codes(np.clip(a_tone(1.2), -1, 1)) == {"recording_clipped"}
    assert codes(a_tone(0.99)) == set()


@pytest.mark.parametrize(("rate", "found"), [(3999.0, {"recording_sample_rate"}), (4000.0, set())])
def test_too_low_a_rate_is_found(rate: float, found: set[str]) -> None:
    assert codes(a_tone(), rate=rate) == found


@pytest.mark.parametrize(("seconds", "found"), [(0.99, {"recording_too_short"}), (1.01, set())])
def test_too_short_a_recording_is_found(seconds: float, found: set[str]) -> None:
    assert codes(a_tone(seconds=seconds)) == found


def test_no_samples_at_all_are_too_short() -> None:
    assert codes(np.zeros(0, dtype=np.float32)) == {"recording_too_short"}


@pytest.mark.parametrize(("offset", "found"), [(-0.06, {"recording_dc_offset"}), (0.04, set())])
def test_an_offset_is_found(offset: float, found: set[str]) -> None:
    assert codes(a_tone() + np.float32(offset)) == found


def test_channels_that_are_the_same_are_found() -> None:
    assert codes(a_tone(), a_tone()) == {"recording_channels_identical"}
    assert codes(a_tone(), a_tone(phase=0.1)) == set()
    assert codes(a_tone()) == set()


def test_real_heart_sounds_are_plausible(shared) -> None:  # type: ignore[no-untyped-def]
    files = sorted((shared / "data" / "heart_sounds").rglob("*.wav"))[::12]
    assert len(files) == 20
    assert [f.code for file in files for f in check_recording(read_recording(file), KEY, BOUNDS)] == []
