"""Tell what is implausible about one recording: silence, clipping, too low a rate, too short, an offset.

Recording -> QualityFindings
"""

from collections.abc import Iterator

import numpy as np

from medmllm.config import QualityBounds
from medmllm.records import QualityFinding, Recording

FULL_SCALE = 0.999  # of +-1: the largest sample of 8 bits is 127 of 128, of 16 bits 32767 of 32768
NOTHING_DBFS = -200.0  # what digital silence is called


def check_recording(recording: Recording, where: str, bounds: QualityBounds) -> Iterator[QualityFinding]:
    """Yield what is implausible about a recording.

    Args:
        recording: As read.
        where: study_key.
        bounds: Of the policy.
    """
    waveform = recording.waveform
    rate, duration = recording.sample_rate_hz, waveform.shape[1] / recording.sample_rate_hz
    if rate < bounds.sample_rate_hz:
        reason = f"the sample rate is {rate:.0f} Hz (bound {bounds.sample_rate_hz:.0f} Hz)"
        yield QualityFinding("recording_sample_rate", where, rate, bounds.sample_rate_hz, reason)
    if duration < bounds.duration_s:
        reason = f"the recording lasts {duration:.2f} s (bound {bounds.duration_s:g} s)"
        yield QualityFinding("recording_too_short", where, duration, bounds.duration_s, reason)
    if not waveform.size:
        return
    offset = float(abs(waveform.mean(axis=1, dtype=np.float64)).max())
    if offset > bounds.dc_offset:
        reason = f"the mean of a channel is {offset:.3f} of full scale (bound {bounds.dc_offset:g})"
        yield QualityFinding("recording_dc_offset", where, offset, bounds.dc_offset, reason)
    level = level_dbfs(recording)
    if level <= bounds.silence_dbfs:
        reason = f"the level is {level:.0f} dB of full scale (bound {bounds.silence_dbfs:g} dB): silence"
        yield QualityFinding("recording_silent", where, level, bounds.silence_dbfs, reason)
    clipped = float(np.count_nonzero(abs(waveform) >= FULL_SCALE) / waveform.size)
    if clipped > bounds.clipped_samples_share:
        reason = f"{clipped:.1%} of the samples are at full scale (bound {bounds.clipped_samples_share:.1%}): clipped"
        yield QualityFinding("recording_clipped", where, clipped, bounds.clipped_samples_share, reason)
    if len(waveform) > 1 and (waveform == waveform[0]).all():
        reason = f"all {len(waveform)} channels hold the same sound"
        yield QualityFinding("recording_channels_identical", where, float(len(waveform)), 1.0, reason)


def level_dbfs(recording: Recording) -> float:
    """Return the root mean square of the loudest channel about its mean, in dB; a full square wave has 0."""
    spread = float(recording.waveform.std(axis=1, dtype=np.float64).max())
    return 20 * float(np.log10(spread)) if spread > 0 else NOTHING_DBFS
