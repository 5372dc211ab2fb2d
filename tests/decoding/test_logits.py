"""What is read from logits: ties, plausible tokens, log-probabilities."""

import pytest
import torch

from decoding.logits import FEW, argmax_token, log_probabilities, partition_of, plausible_columns


def test_ties_go_to_the_lowest_token_wherever_it_stands():
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    assert argmax_token(logits, None).tolist() == [1, 0]
    assert argmax_token(logits, torch.tensor([[4, 9, 7], [30, 20, 10]])).tolist() == [7, 10]


@pytest.mark.parametrize("count", [1, 5, FEW - 1, FEW, FEW + 1, 3 * FEW])
def test_plausible_columns_are_those_that_reach_the_floor(count):
    logits = torch.randn(3, 4 * FEW, generator=torch.Generator().manual_seed(count)).clamp(max=0.9)
    chosen = torch.randperm(4 * FEW, generator=torch.Generator().manual_seed(1))[:count]
    logits[1, chosen] = 2.0 + torch.arange(count) / 100
    logits[0, 3], logits[2, 5] = 1.5, 1.0
    columns, valid = plausible_columns(logits, torch.ones(3, 1))
    found = [sorted(row[kept].tolist()) for row, kept in zip(columns, valid, strict=True)]
    assert found == [[3], sorted(chosen.tolist()), [5]]


def test_log_probabilities_are_log_softmax_and_keep_digits_near_one():
    logits = torch.tensor([[20.0, 3.0, -5.0], [0.0, 0.0, 0.0]])
    found = log_probabilities(logits, partition_of(logits))
    torch.testing.assert_close(found, logits.log_softmax(-1), atol=2e-5, rtol=1e-5)
    stacked = torch.stack([logits, logits + 7], 1)  # [2, 2, 3], as of several layers
    torch.testing.assert_close(log_probabilities(stacked, partition_of(stacked))[:, 1], found, atol=1e-5, rtol=1e-5)
