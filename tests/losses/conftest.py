"""A head, states of a decoder of four layers, and labels of which some do not count."""

import pytest
import torch
from torch import nn

from losses.exits import IGNORED_LABEL

B, T, D, V, L = 2, 5, 8, 11, 4


@pytest.fixture
def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(D, V, bias=False)


@pytest.fixture
def states() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(B, T, D, requires_grad=True) for _ in range(L)]


@pytest.fixture
def labels() -> torch.Tensor:
    torch.manual_seed(2)
    labels = torch.randint(0, V, (B, T))
    labels[1, 3:] = IGNORED_LABEL
    return labels
