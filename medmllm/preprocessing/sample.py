"""Bring what a study gives together as a Sample, and Samples together as a Batch.

volumes, note, recordings, cells -> contract checks -> Sample -> Batch with presence masks
"""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from medmllm.documents import PreprocessingContract
from medmllm.errors import ContractError
from medmllm.preprocessing.audio import log_mel
from medmllm.preprocessing.contract import check_present, check_volume
from medmllm.preprocessing.image import prepare_image
from medmllm.preprocessing.stored_image import load_image
from medmllm.preprocessing.table import code_values
from medmllm.preprocessing.text import has_words, tokenize_note
from medmllm.records import MODALITIES, Batch, Note, Recording, Sample, StoredImage, Study, Target, Values, Volume
from medmllm.table_documents import TableCodes


def prepare_sample(
    study: Study,
    volumes: Mapping[str, Volume],
    note: Note | None,
    contract: PreprocessingContract,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    recordings: Sequence[Recording] = (),
    values: Values | None = None,
    codes: TableCodes | None = None,
    target: Target | None = None,
    prepared: tuple[StoredImage, tuple[bool, ...]] | None = None,
) -> Sample:
    """Return what one study gives the model.

    Args:
        study: Gives the keys.
        volumes: By channel name, as chosen by `selection.choose_series`; empty when there is no image.
        note: None when the study has none.
        contract: What the model was, or will be, trained on; volumes outside it are refused.
        tokenizer: None leaves the note out for now (cross-validation learns one per fold).
        recordings: All that the study has.
        values: Of the columns that the contract reads; None when the study has none.
        codes: None leaves the table out for now, as the tokenizer does the note.
        target: Class index or labels, when known.
        prepared: The image and its real channels, when `prepare_image` made them before; no volumes are looked at then.

    Raises:
        ContractError: The study does not match the contract.
    """
    read = note is not None and contract.text is not None and has_words(note, contract.text)
    channels = volumes if prepared is None else prepared[1]
    others = {"has_recording": bool(recordings), "has_values": values is not None}
    check_present(contract, channels, has_note=read, **others)
    image: torch.Tensor | StoredImage | None = None
    present: tuple[bool, ...] = ()
    if contract.image is not None:
        _check_volumes(volumes, contract)
        present = tuple(False for _ in contract.image.channels)
        if prepared is not None:
            image, present = prepared
        elif volumes:
            image, present = prepare_image(volumes, contract.image)
    tokens, cells = None, None
    if values is not None and contract.table is not None and codes is not None:
        cells = code_values(values, codes)
    if note is not None and contract.text is not None and tokenizer is not None:
        tokens = tokenize_note(note, contract.text, tokenizer)
        check_present(contract, channels, has_note=tokens is not None, **others)
    sound = None
    if recordings and contract.recording is not None:
        sound = tuple(log_mel(recording, contract.recording) for recording in recordings)
    return Sample(
        study_key=study.study_key,
        patient_key=study.patient_key,
        image=image,
        channel_present=present,
        token_ids=None if tokens is None else tokens[0],
        words=() if tokens is None else tokens[1],
        target=target,
        recording=sound,
        table=None if cells is None else cells[0],
        cell_present=() if cells is None else cells[1],
    )


def _check_volumes(volumes: Mapping[str, Volume], contract: PreprocessingContract) -> None:
    """Refuse volumes far from the training cohort; before that is known, `accepted` is empty and all are taken."""
    for name, volume in volumes.items():
        if name in contract.accepted:
            check_volume(volume, name, contract.accepted[name])
        elif contract.accepted:
            raise ContractError(
                f"channel '{name}': no study of the training cohort had it, so the model knows nothing of it. "
                "Take the series out of the folder.",
                code="channel_not_in_training",
            )


def collate(
    samples: Sequence[Sample], contract: PreprocessingContract, *, pad_token_id: int = 0, pin_memory: bool = False
) -> Batch:
    """Return samples side by side; what is missing is marked in `present`, its stored value is never read.

    Args:
        samples: At least one; all prepared under `contract`, or one that reads more: the rest is left out.
        contract: Says what is read, and the image's shape where no sample has one.
        pad_token_id: Fills notes up to the longest one.
        pin_memory: Put the images where a CUDA device fetches them by itself; needs one.
    """
    settings = contract.image
    shape = (0, 1, 1, 1) if settings is None else (len(settings.channels), *settings.size)
    blank = torch.zeros(shape)
    images = [blank if s.image is None or settings is None else load_image(s.image) for s in samples]
    channels = [() if settings is None else s.channel_present for s in samples]
    notes = [None if contract.text is None else s.token_ids for s in samples]
    longest = max([1, *(len(note) for note in notes if note is not None)])
    ids = torch.full((len(samples), longest), pad_token_id, dtype=torch.int64)
    mask = torch.zeros((len(samples), longest), dtype=torch.bool)
    for row, note in enumerate(notes):
        if note is not None:
            ids[row, : len(note)] = note
            mask[row, : len(note)] = True
    table, cell_present = _lay_cells(samples, contract)
    recording, recording_mask = _lay_recordings(samples, contract)
    here = {
        "image": [s.image is not None and settings is not None for s in samples],
        "text": [note is not None for note in notes],
        "recording": [s.recording is not None and contract.recording is not None for s in samples],
        "table": [s.table is not None and contract.table is not None for s in samples],
    }
    present = [[here[name][row] for name in MODALITIES] for row in range(len(samples))]
    targets = [s.target for s in samples]
    known = [target for target in targets if target is not None]
    image = torch.empty((len(samples), *images[0].shape), pin_memory=pin_memory)
    torch.stack(images, out=image)
    return Batch(
        study_keys=tuple(s.study_key for s in samples),
        image=image,
        channel_present=torch.tensor(channels, dtype=torch.bool),
        token_ids=ids,
        token_mask=mask,
        present=torch.tensor(present, dtype=torch.bool),
        target=torch.tensor(known, dtype=torch.int64) if len(known) == len(targets) else None,
        note_features=_note_features(samples) if mask.any() else None,
        recording=recording,
        recording_mask=recording_mask,
        table=table,
        cell_present=cell_present,
    )


def _note_features(samples: Sequence[Sample]) -> torch.Tensor | None:
    """Return the features of notes that were read before; None unless that holds for every note of the batch."""
    found = [s.note_features for s in samples if s.token_ids is not None and s.note_features is not None]
    if not found or len(found) < sum(s.token_ids is not None for s in samples):
        return None
    blank = torch.zeros_like(found[0])
    return torch.stack([blank if s.note_features is None else s.note_features for s in samples])


def _lay_recordings(
    samples: Sequence[Sample], contract: PreprocessingContract
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the spectrograms of all samples and which frames are real; None where no sound is read.

    Shapes are (batch, recordings, mels, frames) and (batch, recordings, frames).
    """
    if contract.recording is None:
        return None, None
    sounds = [s.recording or () for s in samples]
    most = max(1, *(len(own) for own in sounds))
    longest = max([1, *(spectrum.shape[1] for own in sounds for spectrum in own)])
    laid = torch.zeros(len(samples), most, contract.recording.mels, longest)
    mask = torch.zeros(len(samples), most, longest, dtype=torch.bool)
    for row, own in enumerate(sounds):
        for place, spectrum in enumerate(own):
            laid[row, place, :, : spectrum.shape[1]] = spectrum
            mask[row, place, : spectrum.shape[1]] = True
    return laid, mask


def _lay_cells(
    samples: Sequence[Sample], contract: PreprocessingContract
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the cells of all samples and which are there, both (batch, columns); None where no table is read."""
    if contract.table is None:
        return None, None
    columns = len(contract.table.columns)
    nothing = torch.zeros(columns)
    rows = [nothing if s.table is None else s.table for s in samples]
    here = [(False,) * columns if s.table is None else s.cell_present for s in samples]
    return torch.stack(rows), torch.tensor(here, dtype=torch.bool)


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Return the batch on a device."""

    def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device, non_blocking=True)

    return Batch(
        study_keys=batch.study_keys,
        image=batch.image.to(device, non_blocking=True),
        channel_present=batch.channel_present.to(device, non_blocking=True),
        token_ids=batch.token_ids.to(device, non_blocking=True),
        token_mask=batch.token_mask.to(device, non_blocking=True),
        present=batch.present.to(device, non_blocking=True),
        target=moved(batch.target),
        recording=moved(batch.recording),
        recording_mask=moved(batch.recording_mask),
        table=moved(batch.table),
        cell_present=moved(batch.cell_present),
        note_features=moved(batch.note_features),
    )
