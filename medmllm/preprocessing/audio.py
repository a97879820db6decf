"""Turn a recording into a log-mel spectrogram on the model's grid of bands and frames.

    Recording -> one channel -> resampled, cut -> power in mel bands, in dB -> mean 0, deviation 1 -> (mels, frames)

Channels are averaged; how loud a recording is does not count. One with a lower sample rate than the model's is refused:
no resampling brings back what was never recorded. Mel bands as in HTK, by transformers' audio functions; resampling by
scipy's polyphase filter.
"""

import logging
import math
import warnings
from fractions import Fraction

import numpy as np
import torch
from scipy.signal import resample_poly
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from medmllm.documents import RecordingSettings
from medmllm.errors import ConfigError, ContractError
from medmllm.records import FloatArray, Recording

logger = logging.getLogger(__name__)

FLOOR = 1e-10  # power below this counts as silence, -100 dB of full scale
FINER = 2  # the spectrum is sampled this much finer than the window asks for, so that low bands are not empty
MARGIN_S = 1.0  # resampled beyond the cut, so that the filter's edge is not at it


def mel_bank(settings: RecordingSettings) -> FloatArray:
    """Return the weights of the mel bands, shape (frequencies, mels).

    Raises:
        ConfigError: A band is so narrow that it holds no frequency.
    """
    frequencies = 1 + _fft_length(settings) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about empty bands: they are refused below
        bank: FloatArray = mel_filter_bank(
            frequencies, settings.mels, 0.0, settings.sample_rate_hz / 2, settings.sample_rate_hz, mel_scale="htk"
        )
    if not bank.any(axis=0).all():
        raise ConfigError(
            f"[recording] mels = {settings.mels}: at {settings.sample_rate_hz} Hz and window_s = {settings.window_s:g} "
            "some bands are narrower than the spectrum is fine. Ask for fewer mels, or a longer window."
        )
    return bank


def log_mel(recording: Recording, settings: RecordingSettings) -> torch.Tensor:
    """Return a recording's standardised log-mel spectrogram, shape (mels, frames), float32.

    What lies beyond `duration_s` is cut, and the log says so.

    Raises:
        ContractError: `sample_rate_too_low`, or `recording_too_short`: less than one window.
    """
    rate, target = recording.sample_rate_hz, settings.sample_rate_hz
    if rate < target:
        raise ContractError(
            f"a recording has {rate:.0f} samples a second, the model hears {target} (sample_rate_hz): what lies "
            "between was never recorded. Take the recording out of the folder.",
            code="sample_rate_too_low",
        )
    seconds = recording.waveform.shape[1] / rate
    if seconds < settings.window_s:
        raise ContractError(
            f"a recording lasts {seconds:.3f} s, less than one window of {settings.window_s:g} s.",
            code="recording_too_short",
        )
    if seconds > settings.duration_s:
        logger.info("a recording was cut from %.1f to %g s (duration_s)", seconds, settings.duration_s)
    heard = recording.waveform[:, : math.ceil((settings.duration_s + MARGIN_S) * rate)].mean(axis=0, dtype=np.float64)
    ratio = Fraction(target, round(rate))
    samples = resample_poly(heard, ratio.numerator, ratio.denominator)[: round(settings.duration_s * target)]
    window = round(settings.window_s * target)
    found = spectrogram(
        samples,
        window_function(window, "hann"),
        frame_length=window,
        hop_length=round(settings.hop_s * target),
        fft_length=_fft_length(settings),
        power=2.0,
        mel_filters=mel_bank(settings),
        mel_floor=FLOOR,
        log_mel="dB",
    )
    deviation = float(found.std())
    standardised = (found - found.mean()) / (deviation if deviation > 0 else 1.0)
    return torch.from_numpy(np.ascontiguousarray(standardised, dtype=np.float32))


def _fft_length(settings: RecordingSettings) -> int:
    window = round(settings.window_s * settings.sample_rate_hz)
    return FINER * 2 ** math.ceil(math.log2(window))
