"""What tests of models share: a small BERT."""

import pytest
import torch
from transformers import BertConfig, BertModel

from tests.models.small import BERT


@pytest.fixture
def bert() -> BertModel:
    torch.manual_seed(4)
    return BertModel(BertConfig(**BERT)).eval()
