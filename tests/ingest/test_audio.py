"""Recordings: samples as they were written, bounds held, damage refused."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from medmllm.errors import RecordingError
from medmllm.ingest import audio
from medmllm.ingest.audio import check_recording, read_recording


def write(path: Path, samples: np.ndarray, rate_hz: int = 800, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return path


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_samples_come_back_as_channels_by_samples_at_full_scale_one(tmp_path: Path, name: str) -> None:
    samples = np.array([[0.5, -0.25], [0.125, 0.0], [-1.0, 0.75]])  # exact in 16 bits
    recording = read_recording(write(tmp_path / name, samples))
    assert recording.waveform.shape == (2, 3)
    assert recording.waveform.dtype == np.float32
    assert recording.waveform == pytest.approx(samples.T)
    assert recording.sample_rate_hz == 800.0
    check_recording(tmp_path / name)


@pytest.mark.parametrize("look", [check_recording, read_recording])
def test_what_is_no_sound_is_refused(tmp_path: Path, look: object) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF but not really")
    with pytest.raises(RecordingError) as refusal:
        look(tmp_path / "a.wav")  # type: ignore[operator]
    assert refusal.value.code == "recording_unreadable"


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as refusal:
        check_recording(write(tmp_path / "a.wav", np.zeros((0, 1))))
    assert refusal.value.code == "recording_empty"


def test_a_recording_beyond_an_hour_is_refused_by_its_header(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", np.zeros(3601), rate_hz=1)
    with pytest.raises(RecordingError, match="lasts 3601 s") as refusal:
        check_recording(file)
    assert refusal.value.code == "recording_too_long"


def test_a_recording_of_too_many_samples_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MOST_SAMPLES", 5)
    with pytest.raises(RecordingError) as refusal:
        read_recording(write(tmp_path / "a.wav", np.zeros((3, 2))))
    assert refusal.value.code == "recording_too_long"


def test_a_recording_cut_short_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).uniform(-1, 1, 4000)
    file = write(tmp_path / "a.flac", noise)
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(RecordingError):
        read_recording(file)


def test_a_wav_cut_short_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", np.random.default_rng(3).uniform(-1, 1, 4000))
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(RecordingError) as refusal:
        read_recording(file)
    assert refusal.value.code == "recording_cut_short"


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="not finite"):
        read_recording(write(tmp_path / "a.wav", np.array([0.5, np.nan, 0.25]), subtype="FLOAT"))


def test_a_real_heart_sound_is_read(shared: Path) -> None:
    file = min((shared / "data" / "heart_sounds" / "recordings").glob("*.wav"))
    recording = read_recording(file)
    assert recording.sample_rate_hz == 8000.0
    assert recording.waveform.shape[0] == 1
    assert 0.01 < np.abs(recording.waveform).max() <= 1.0
