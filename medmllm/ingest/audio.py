"""Read a recording: dictation, heart or lung sounds.

    WAV or FLAC -> header -> samples as float32, full scale is +-1 -> Recording

No resampling and no mixing of channels: what the file holds is what comes back.
"""

import io
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from medmllm.errors import RecordingError
from medmllm.ingest.opening import one_error, open_regular
from medmllm.records import Recording

LONGEST_S = 3600.0
STREAMED = 0xFFFFFFFF  # length of a sound that was written to a pipe
MOST_SAMPLES = 2**28  # over all channels: 1 GiB as float32


def check_recording(path: Path) -> None:
    """Look at the header alone.

    Raises:
        RecordingError: Not a sound file, empty, or too long.
    """
    with open_regular(path) as stream, one_error(RecordingError, "the recording's header cannot be parsed"):
        _refuse_cut_wav(stream)
        _check(soundfile.info(stream))


def read_recording(path: Path) -> Recording:
    """Return the samples of a recording.

    Raises:
        RecordingError: Not a sound file, empty, too long, cut short, or holding values that are not finite.
    """
    with open_regular(path) as stream, one_error(RecordingError, "the recording cannot be decoded"):
        _refuse_cut_wav(stream)
        sound = soundfile.SoundFile(stream)
        _check(sound)
        samples = sound.read(dtype="float32", always_2d=True)
        rate_hz, expected = float(sound.samplerate), sound.frames
    if len(samples) != expected:
        raise RecordingError(f"{len(samples)} samples where the header says {expected}", code="recording_cut_short")
    if not np.isfinite(samples).all():
        raise RecordingError("the recording holds values that are not finite")
    return Recording(waveform=np.ascontiguousarray(samples.T), sample_rate_hz=rate_hz)


def _refuse_cut_wav(stream: BinaryIO) -> None:
    """Raise when a WAV declares more sound than the file holds; libsndfile silently reads what is there."""
    if stream.read(12)[8:] == b"WAVE":
        size = stream.seek(0, io.SEEK_END)
        place = 12
        while place + 8 <= size:
            stream.seek(place)
            chunk, length = struct.unpack("<4sI", stream.read(8))
            if chunk == b"data" and length != STREAMED and place + 8 + length > size:
                raise RecordingError(
                    f"{size - place - 8:,} of {length:,} bytes of sound are there", code="recording_cut_short"
                )
            place += 8 + length + length % 2
    stream.seek(0)


def _check(sound: object) -> None:
    """Hold what the header says against the bounds; `sound` has frames, channels and samplerate."""
    frames, channels, rate_hz = (int(getattr(sound, name)) for name in ("frames", "channels", "samplerate"))
    if frames <= 0 or rate_hz <= 0:
        raise RecordingError("the recording is empty", code="recording_empty")
    if frames / rate_hz > LONGEST_S or frames * channels > MOST_SAMPLES:
        raise RecordingError(
            f"the recording lasts {frames / rate_hz:.0f} s in {channels} channels; the longest read is "
            f"{LONGEST_S:.0f} s and {MOST_SAMPLES:,} samples",
            code="recording_too_long",
        )
