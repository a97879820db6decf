from dataclasses import fields

import numpy as np
import pytest
import torch

from medmllm.documents import Channel, PreprocessingContract
from medmllm.errors import ContractError
from medmllm.preprocessing.contract import accept, measure
from medmllm.preprocessing.sample import collate, prepare_sample, to_device
from medmllm.preprocessing.text import learn_tiny_tokenizer
from medmllm.records import MODALITIES, Note, Sample, Section, Study
from tests.factories import a_volume
from tests.models.small import CODES, TABLE
from tests.preprocessing.small import TEXT, reading

IMAGE = reading(ct=Channel(), pet=Channel()).model_copy(update={"window": (-1000.0, 1000.0)})
CONTRACT = PreprocessingContract(version=1, orientation="RAS", image=IMAGE, accepted={}, text=TEXT)
NOTE = Note("History: dry cough.", (Section("history", 0, 19),))
FINDINGS = Note("Findings: a mass.", (Section("findings", 0, 17),))
TINY = learn_tiny_tokenizer(["history: dry cough. dry cough."], TEXT)
STUDY = Study("st-1", "pt-1", "folder")
NOTE_COLUMN, IMAGE_COLUMN, TABLE_COLUMN = (MODALITIES.index(name) for name in ("text", "image", "table"))


def contract(**changes: object) -> PreprocessingContract:
    return CONTRACT.model_copy(update=changes)


def test_a_sample_holds_what_the_study_has() -> None:
    sample = prepare_sample(STUDY, {"pet": a_volume()}, NOTE, CONTRACT, TINY, target=1)
    assert (sample.study_key, sample.patient_key, sample.target) == ("st-1", "pt-1", 1)
    assert sample.image is not None
    assert sample.image.shape == (2, 6, 5, 4)
    assert sample.channel_present == (False, True)
    assert sample.token_ids is not None
    assert TINY.decode(sample.token_ids) == "[CLS] history : dry cough. [SEP]"
    assert [NOTE.text[word.start : word.end] for word in sample.words] == ["History:", "dry", "cough."]


def test_a_missing_modality_is_none_never_zeros() -> None:
    noted = prepare_sample(STUDY, {}, NOTE, CONTRACT, TINY)
    assert (noted.image, noted.channel_present, noted.target) == (None, (False, False), None)
    imaged = prepare_sample(STUDY, {"ct": a_volume()}, None, CONTRACT, TINY)
    assert (imaged.token_ids, imaged.words) == (None, ())


def test_tokens_wait_for_a_tokenizer() -> None:
    sample = prepare_sample(STUDY, {}, NOTE, CONTRACT, None)
    assert (sample.token_ids, sample.words) == (None, ())


@pytest.mark.parametrize("tokenizer", [None, TINY])
@pytest.mark.parametrize(
    ("note", "changes", "code"),
    [
        (FINDINGS, {}, "nothing_to_read"),  # a note, but none of the sections that the model reads
        (None, {}, "nothing_to_read"),
        (NOTE, {"text": None}, "nothing_to_read"),
        (FINDINGS, {"text": TEXT.model_copy(update={"required": True})}, "no_note"),
    ],
)
def test_a_study_that_gives_the_model_nothing_is_refused(
    note: Note | None, changes: dict[str, object], code: str, tokenizer: object
) -> None:
    with pytest.raises(ContractError) as caught:
        prepare_sample(STUDY, {}, note, contract(**changes), tokenizer)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_text_that_becomes_no_token_is_nothing_to_read() -> None:
    invisible = Note("\u200b", (Section("history", 0, 1),))
    with pytest.raises(ContractError, match="no series and no note"):
        prepare_sample(STUDY, {}, invisible, CONTRACT, TINY)


def test_a_note_without_the_sections_read_costs_the_note_not_the_image() -> None:
    sample = prepare_sample(STUDY, {"ct": a_volume()}, FINDINGS, CONTRACT, TINY)
    assert sample.image is not None
    assert sample.token_ids is None


def test_a_volume_unlike_the_training_cohort_is_refused() -> None:
    strict = contract(accepted={"ct": accept([measure(a_volume())], margin=0.1)})
    assert prepare_sample(STUDY, {"ct": a_volume()}, None, strict, TINY).image is not None
    with pytest.raises(ContractError, match=r"'ct': .* modality MR"):
        prepare_sample(STUDY, {"ct": a_volume(modality="MR")}, None, strict, TINY)


def test_a_channel_that_no_training_study_had_is_refused() -> None:
    strict = contract(accepted={"ct": accept([measure(a_volume())], margin=0.1)})
    with pytest.raises(ContractError, match="'pet': no study of the training cohort had it") as caught:
        prepare_sample(STUDY, {"ct": a_volume(), "pet": a_volume()}, None, strict, TINY)
    assert caught.value.code == "channel_not_in_training"


def test_a_model_of_text_takes_no_notice_of_images() -> None:
    strict = contract(image=None, accepted={"ct": accept([measure(a_volume(modality="MR"))], margin=0.1)})
    sample = prepare_sample(STUDY, {"ct": a_volume()}, NOTE, strict, TINY)
    assert (sample.image, sample.channel_present) == (None, ())


def sample(key: str, image: float | None, tokens: list[int] | None, target: int | None = 0) -> Sample:
    return Sample(
        study_key=key,
        patient_key="pt-1",
        image=None if image is None else torch.full((2, 6, 5, 4), image),
        channel_present=(image is not None, False),
        token_ids=None if tokens is None else torch.tensor(tokens),
        words=(),
        target=target,
    )


def test_samples_lie_side_by_side_with_masks_for_what_is_missing() -> None:
    batch = collate(
        [sample("a", 2.0, [5, 6, 7]), sample("b", None, [8], 1), sample("c", 3.0, None, 2)], CONTRACT, pad_token_id=9
    )
    assert batch.study_keys == ("a", "b", "c")
    assert batch.image.shape == (3, 2, 6, 5, 4)
    assert batch.image.dtype == torch.float32
    assert batch.image[:, 0, 0, 0, 0].tolist() == [2.0, 0.0, 3.0]
    assert batch.channel_present.tolist() == [[True, False], [False, False], [True, False]]
    assert batch.token_ids.tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]]
    assert batch.token_mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert batch.present[:, [IMAGE_COLUMN, NOTE_COLUMN]].tolist() == [[True, True], [False, True], [True, False]]
    assert batch.target is not None
    assert batch.target.tolist() == [0, 1, 2]


def test_one_unknown_target_leaves_the_batch_without_targets() -> None:
    assert collate([sample("a", 2.0, None), sample("b", 2.0, None, None)], CONTRACT).target is None


def test_a_batch_without_any_image_or_note_still_has_their_shapes() -> None:
    batch = collate([sample("a", None, [5]), sample("b", None, [5, 6])], CONTRACT)
    assert batch.image.shape == (2, 2, 6, 5, 4)
    batch = collate([sample("a", 1.0, None)], CONTRACT)
    assert batch.token_ids.shape == (1, 1)
    assert not batch.token_mask.any()


def test_what_the_contract_does_not_read_is_left_out_of_the_batch() -> None:
    samples = [sample("a", 2.0, [5, 6]), sample("b", None, [5])]
    text_only = collate(samples, contract(image=None))
    assert text_only.image.numel() == 0
    assert text_only.channel_present.shape == (2, 0)
    assert text_only.present[:, [IMAGE_COLUMN, NOTE_COLUMN]].tolist() == [[False, True], [False, True]]
    image_only = collate(samples, contract(text=None))
    assert not image_only.token_mask.any()
    assert image_only.present[:, [IMAGE_COLUMN, NOTE_COLUMN]].tolist() == [[True, False], [False, False]]


def test_prepared_samples_collate_to_plain_tensors() -> None:
    made = [prepare_sample(STUDY, {"ct": a_volume(seed=s)}, NOTE, CONTRACT, TINY) for s in (1, 2)]
    batch = to_device(collate(made, CONTRACT), "cpu")
    assert type(batch.image) is torch.Tensor  # a MetaTensor would carry one study's affine through the network
    np.testing.assert_array_equal(batch.image[1], made[1].image)


def test_a_study_with_nothing_but_a_row_is_read_and_its_cells_lie_in_the_batch() -> None:
    whole = contract(table=TABLE)
    values = {"age": 80.0, "sex": None}
    alone = prepare_sample(STUDY, {}, None, whole, TINY, values=values, codes=CODES)
    other = prepare_sample(STUDY, {}, NOTE, whole, TINY)
    batch = collate([alone, other], whole)
    assert batch.table is not None
    assert batch.cell_present is not None
    assert batch.table[0].tolist() == [2.0, 0.0]  # (80 - 60) / 10
    assert batch.cell_present.tolist() == [[True, False], [False, False]]
    assert batch.present[:, TABLE_COLUMN].tolist() == [True, False]
    left_out = collate([alone, other], CONTRACT)
    assert (left_out.table, left_out.cell_present) == (None, None)
    assert left_out.present[:, TABLE_COLUMN].tolist() == [False, False]


def test_a_study_without_the_row_that_is_required_is_refused() -> None:
    strict = contract(table=TABLE.model_copy(update={"required": True}))
    with pytest.raises(ContractError, match="age, sex") as caught:
        prepare_sample(STUDY, {"ct": a_volume()}, NOTE, strict, TINY)
    assert caught.value.code == "no_table_row"


def test_to_device_moves_everything() -> None:
    batch = to_device(collate([sample("a", 1.0, [5])], contract(table=TABLE)), "meta")
    tensors = [value for field in fields(batch) if isinstance(value := getattr(batch, field.name), torch.Tensor)]
    assert len(tensors) >= 7
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.study_keys == ("a",)
