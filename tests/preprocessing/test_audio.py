"""Sines land in the band of their pitch; loudness, channels and the file's sample rate do not matter."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medmllm.documents import RecordingSettings
from medmllm.errors import ConfigError, ContractError
from medmllm.ingest.audio import read_recording
from medmllm.preprocessing.audio import log_mel, mel_bank
from medmllm.records import Recording

SETTINGS = RecordingSettings(
    enabled=True, sample_rate_hz=4000, duration_s=2.0, mels=32, window_s=0.05, hop_s=0.025, required=False
)


def a_sine(hz: float, *, rate: int = 4000, seconds: float = 1.0, level: float = 0.5, channels: int = 1) -> Recording:
    wave = level * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    return Recording(np.tile(wave, (channels, 1)).astype(np.float32), float(rate))


def band_of(hz: float) -> int:
    """The band whose centre is nearest: HTK's mel scale, 2595 log10(1 + f / 700), cut into 33 equal steps."""
    top = 2595 * math.log10(1 + 2000 / 700)
    return round(2595 * math.log10(1 + hz / 700) / (top / 33)) - 1


@pytest.mark.parametrize("hz", [120.0, 400.0, 900.0, 1700.0])
@pytest.mark.parametrize("rate", [4000, 8000, 11025, 44100])
def test_a_sine_is_loudest_in_the_band_of_its_pitch_whatever_the_sample_rate(hz: float, rate: int) -> None:
    found = log_mel(a_sine(hz, rate=rate), SETTINGS)
    assert found.shape == (32, 41)  # one frame at the start, and one every 25 ms of the second
    assert found.dtype == torch.float32
    assert int(found[:, 3:-3].mean(dim=1).argmax()) == band_of(hz)


def test_the_spectrogram_has_mean_0_and_deviation_1() -> None:
    found = log_mel(a_sine(300.0), SETTINGS).double()
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_neither_loudness_nor_the_number_of_channels_matters() -> None:
    noise = np.random.default_rng(5).normal(0, 0.1, 4000).astype(np.float32)
    plain = log_mel(Recording(noise[None], 4000.0), SETTINGS)
    for other in (noise[None] / 10, np.stack([noise, noise])):
        torch.testing.assert_close(log_mel(Recording(other, 4000.0), SETTINGS), plain, rtol=1e-3, atol=1e-3)


def test_what_lies_beyond_the_duration_is_cut_and_told(caplog: pytest.LogCaptureFixture) -> None:
    long = a_sine(300.0, seconds=2.0).waveform[0]
    tail = np.concatenate([long, np.random.default_rng(3).normal(0, 0.3, 8000).astype(np.float32)])
    with caplog.at_level(logging.INFO, logger="medmllm"):
        cut = log_mel(Recording(tail[None], 4000.0), SETTINGS)
    assert "cut from 4.0 to 2 s" in caplog.text
    assert torch.equal(cut, log_mel(Recording(long[None], 4000.0), SETTINGS))


def test_silence_is_zero_everywhere() -> None:
    found = log_mel(Recording(np.zeros((1, 4000), np.float32), 4000.0), SETTINGS)
    assert torch.equal(found, torch.zeros(32, 41))


@pytest.mark.parametrize(
    ("recording", "code"),
    [(a_sine(100.0, rate=3999), "sample_rate_too_low"), (a_sine(100.0, seconds=0.049), "recording_too_short")],
)
def test_a_recording_that_lacks_what_the_model_hears_is_refused(recording: Recording, code: str) -> None:
    with pytest.raises(ContractError) as caught:
        log_mel(recording, SETTINGS)
    assert caught.value.code == code


def test_more_bands_than_the_spectrum_tells_apart_are_refused() -> None:
    assert mel_bank(SETTINGS).shape == (257, 32)
    with pytest.raises(ConfigError, match=r"mels = 300: at 4000 Hz and window_s = 0\.05"):
        mel_bank(SETTINGS.model_copy(update={"mels": 300}))


def test_heart_sounds_keep_what_tells_a_narrow_valve_from_none(shared: Path) -> None:
    files = sorted((shared / "data" / "heart_sounds" / "recordings").glob("*.wav"))
    files = [file for file in files if file.stem.partition("_")[0] in ("N", "MS")][::3]
    assert len(files) == 40
    spectra = [log_mel(read_recording(file), SETTINGS) for file in files]
    assert all(found.isfinite().all() for found in spectra)
    means = np.stack([np.concatenate([found.mean(1), found.std(1)]) for found in spectra])
    disease = [file.stem.partition("_")[0] for file in files]
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    assert cross_val_score(linear, means, disease, cv=4).mean() > 0.8
