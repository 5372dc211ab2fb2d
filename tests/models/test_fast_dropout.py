"""Dropout from bytes: the law of dropout, torch's generator, and nothing outside of training."""

import pytest
import torch
from torch import nn

from models.fast_dropout import FastDropout, use_fast_dropout


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.9])
def test_it_drops_a_share_and_keeps_the_mean(rate):
    states, share = torch.ones(37, 1001), round(rate * 256) / 256
    found = FastDropout(rate)(states)
    spread = 5 * (share * (1 - share) / states.numel()) ** 0.5
    assert found.eq(0).double().mean().item() == pytest.approx(share, abs=spread)
    torch.testing.assert_close(found[found != 0], torch.full_like(found[found != 0], 1 / (1 - share)))


@pytest.mark.parametrize("shape", [(3,), (2, 5, 7), (8, 8), (0, 4)])
def test_shape_and_dtype_stay(shape):
    states = torch.ones(shape, dtype=torch.bfloat16)
    found = FastDropout(0.5)(states)
    assert found.shape == states.shape and found.dtype == states.dtype


def test_gradients_pass_where_states_did():
    states = torch.ones(50, 50, requires_grad=True)
    found = FastDropout(0.5)(states)
    found.sum().backward()
    assert torch.equal(states.grad, found.detach())


def test_the_same_seed_draws_the_same_mask():
    drop, states = FastDropout(0.5), torch.ones(30, 30)
    masks = [torch.manual_seed(seed) and drop(states) for seed in (1, 1, 2)]
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("drop", [FastDropout(0.5).eval(), FastDropout(0.0)])
def test_nothing_is_dropped_outside_of_training_or_at_rate_0(drop):
    states = torch.randn(9, 9)
    assert drop(states) is states


def test_rate_1_drops_everything():
    assert not FastDropout(1.0)(torch.ones(9)).any()


def test_every_dropout_of_a_model_is_replaced():
    model = nn.Sequential(nn.Dropout(0.1), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))).eval()
    use_fast_dropout(model)
    assert [type(each) for each in (model[0], model[1][1])] == [FastDropout] * 2
    assert (model[0].p, model[1][1].p, model[0].training) == (0.1, 0.3, False)
