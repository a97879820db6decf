"""The table's cells: each moves the features, what stands in for a missing one is never read."""

import torch

from medmllm.models.table_encoder import CELL_WIDTH, TableEncoder
from medmllm.table_documents import ColumnCode, TableCodes
from tests.models.small import PARTS

CODES = TableCodes(
    columns=(
        ColumnCode(name="age", mean=60.0, deviation=10.0, categories=()),
        ColumnCode(name="sex", mean=None, deviation=None, categories=("F", "M")),
        ColumnCode(name="site", mean=None, deviation=None, categories=()),  # all of its categories had one patient
    )
)
TABLE = torch.tensor([[0.5, 1.0, 0.0], [-2.0, 0.0, 0.0]])
HERE = torch.tensor([[True, True, False], [False, True, False]])


def an_encoder(**changes: object) -> TableEncoder:
    torch.manual_seed(2)
    return TableEncoder(PARTS.model_copy(update=changes), CODES).eval()


def test_a_number_lies_on_a_line_and_a_category_has_a_vector_of_its_own() -> None:
    encoder = an_encoder()
    embedded = encoder.embed(TABLE, torch.tensor([[True, True, False]] * 2))
    assert embedded.shape == (2, 3, CELL_WIDTH)
    assert torch.allclose(embedded[0, 0] - embedded[1, 0], 2.5 * encoder.scale[0])
    assert torch.equal(embedded[0, 1], encoder.categories["1"][1])
    assert torch.equal(embedded[1, 1], encoder.categories["1"][0])
    assert encoder(embedded).shape == (2, PARTS.table_width)


def test_what_is_stored_for_a_missing_cell_is_never_read() -> None:
    encoder = an_encoder()
    other = torch.where(HERE, TABLE, torch.tensor(float("nan")))
    plain = encoder.embed(TABLE, HERE)
    assert torch.equal(plain, encoder.embed(other, HERE))
    assert torch.equal(plain[1, 0], encoder.missing[0])


def test_cells_are_hidden_while_training_alone_as_often_as_the_settings_say() -> None:
    encoder = an_encoder(modality_dropout=0.25)
    table, here = torch.zeros(4000, 3), torch.tensor([[True, True, False]]).expand(4000, 3)
    hidden = (encoder.train().embed(table, here)[:, :2] == encoder.missing[:2]).all(dim=2).float().mean()
    assert abs(float(hidden) - 0.25) < 0.02  # 8000 draws: six standard deviations are 0.03
    assert not (encoder.eval().embed(table, here)[:, :2] == encoder.missing[:2]).all(dim=2).any()


def test_the_missing_value_of_every_column_is_learnt() -> None:
    encoder = an_encoder()
    encoder(encoder.embed(TABLE, torch.zeros_like(HERE))).sum().backward()
    assert encoder.missing.grad is not None
    assert (encoder.missing.grad.abs().sum(dim=1) > 0).all()
