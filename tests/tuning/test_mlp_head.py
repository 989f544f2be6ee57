import torch
from torch import nn

from tailor.tuning.methods.mlp import MlpHead


def test_a_classifier_of_tokens_sees_a_row_for_each():
    torch.manual_seed(0)
    head = MlpHead(nn.Linear(6, 3), hidden=2, dropout=0.0).train()
    tokens = torch.randn(4, 5, 6)
    together = head(tokens)
    assert together.shape == (4, 5, 3)
    assert torch.equal(together, head(tokens.flatten(0, 1)).view(4, 5, 3))
    assert torch.isfinite(head(torch.randn(1, 6))).all()  # one row has no statistics of its own
