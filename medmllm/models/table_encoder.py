"""Encode the cells of a study's row as one feature vector.

    table, cell_present (batch, columns) -> embeddings of cells (batch, columns, CELL_WIDTH) -> features (batch, width)

A number moves along a learned direction of its column, a category has a vector of its own, and so has a cell that is
missing: what is stored in its place is never read (Gorishniy et al., NeurIPS 2021, embed cells likewise).
"""

import torch
from torch import Tensor, nn

from medmllm.model_documents import ModelSettings
from medmllm.table_documents import TableCodes

CELL_WIDTH = 8


class TableEncoder(nn.Module):
    """Embeddings of cells, side by side, and two layers over them.

    Args:
        settings: `table_width`, `dropout`, and `modality_dropout`: how often a cell is hidden while training.
        codes: Which columns there are, and the categories of each.
    """

    def __init__(self, settings: ModelSettings, codes: TableCodes) -> None:
        super().__init__()
        columns, self.width = len(codes.columns), settings.table_width
        self.hidden_share = settings.modality_dropout
        self.is_number = tuple(column.mean is not None for column in codes.columns)
        self.shift = nn.Parameter(torch.randn(columns, CELL_WIDTH))
        self.scale = nn.Parameter(torch.randn(columns, CELL_WIDTH))
        self.categories = nn.ParameterDict(
            {
                str(place): nn.Parameter(torch.randn(max(1, len(column.categories)), CELL_WIDTH))
                for place, column in enumerate(codes.columns)
                if column.mean is None
            }
        )
        self.missing = nn.Parameter(torch.zeros(columns, CELL_WIDTH))
        self.mix = nn.Sequential(
            nn.Linear(columns * CELL_WIDTH, self.width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(self.width, self.width),
            nn.GELU(),
        )

    def embed(self, table: Tensor, cell_present: Tensor) -> Tensor:
        """Return the embeddings of cells, shape (batch, columns, CELL_WIDTH).

        Args:
            table: Shape (batch, columns).
            cell_present: Shape (batch, columns); while training, some that are there are hidden.
        """
        if self.training and self.hidden_share:
            cell_present = cell_present & (torch.rand(cell_present.shape, device=table.device) >= self.hidden_share)
        stored = torch.where(cell_present, table, 0.0)  # what is not there may be anything, NaN too
        cells = []
        for place, number in enumerate(self.is_number):
            value = stored[:, place]
            if number:
                cells.append(value[:, None] * self.scale[place] + self.shift[place])
            else:
                cells.append(self.categories[str(place)][value.long()])
        return torch.where(cell_present[:, :, None], torch.stack(cells, dim=1), self.missing)

    def forward(self, embedded: Tensor) -> Tensor:
        """Return features, shape (batch, width), for embeddings (batch, columns, CELL_WIDTH)."""
        features: Tensor = self.mix(embedded.flatten(1))
        return features
