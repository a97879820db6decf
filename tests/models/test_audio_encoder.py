"""Recordings as features: padding has no say, several recordings of a study count alike."""

import pytest
import torch

from medmllm.models.audio_encoder import AudioEncoder
from tests.models.small import PARTS, RECORDING


def an_encoder() -> AudioEncoder:
    torch.manual_seed(4)
    return AudioEncoder(PARTS, RECORDING.mels).eval()


def laid(*studies: tuple[torch.Tensor, ...], frames: int, recordings: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Studies side by side, padded with a large number."""
    spectra = torch.full((len(studies), recordings, RECORDING.mels, frames), 1e6)
    mask = torch.zeros(len(studies), recordings, frames, dtype=torch.bool)
    for row, own in enumerate(studies):
        for place, spectrum in enumerate(own):
            spectra[row, place, :, : spectrum.shape[1]] = spectrum
            mask[row, place, : spectrum.shape[1]] = True
    return spectra, mask


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 16])
def test_a_recording_gives_the_same_however_long_the_padding_is(frames: int) -> None:
    encoder, spectrum = an_encoder(), torch.randn(RECORDING.mels, frames)
    alone = encoder(*laid((spectrum,), frames=frames, recordings=1))
    for padded in (frames + 1, frames + 5, 40):
        beside = encoder(*laid((spectrum,), (torch.randn(5, padded),), frames=padded, recordings=1))
        torch.testing.assert_close(beside[:1], alone, rtol=1e-5, atol=1e-6)
    assert alone.shape == (1, 4 * PARTS.audio_width)


def test_what_is_stored_in_padding_changes_no_bit() -> None:
    encoder = an_encoder()
    spectra, mask = laid((torch.randn(5, 7), torch.randn(5, 3)), (torch.randn(5, 4),), frames=11, recordings=3)
    other = torch.where(mask[:, :, None], spectra, torch.nan)
    assert not torch.equal(spectra, other)
    assert torch.equal(encoder(spectra, mask), encoder(other, mask))


def test_a_study_has_the_mean_of_its_recordings_in_any_order() -> None:
    encoder, first, second = an_encoder(), torch.randn(5, 9), torch.randn(5, 6)
    each = [encoder(*laid((one,), frames=9, recordings=1))[0] for one in (first, second)]
    both = encoder(*laid((first, second), (second, first), frames=9, recordings=2))
    torch.testing.assert_close(both[0], (each[0] + each[1]) / 2)
    torch.testing.assert_close(both[1], both[0])
    twice = encoder(*laid((first, first), frames=9, recordings=2))
    torch.testing.assert_close(twice[0], each[0])


def test_a_batch_without_any_sound_gives_zeros_and_learns_nothing() -> None:
    encoder = an_encoder().train()
    found = encoder(*laid((), (), frames=4, recordings=1))
    assert torch.equal(found, torch.zeros(2, encoder.width))


def test_the_pitch_of_a_sound_matters() -> None:
    encoder, low, high = an_encoder(), torch.zeros(5, 8), torch.zeros(5, 8)
    low[0], high[4] = 3.0, 3.0
    found = encoder(*laid((low,), (high,), frames=8, recordings=1))
    assert not torch.allclose(found[0], found[1], atol=1e-3)
