"""Each measure against hand-worked tables, its range, its invariances, and extreme inputs in every dtype."""

import math

import pytest
import torch

from decoding.confidence import CONFIDENCES, ExitState


class FakeAdapter:
    """Hands out scripted logits; the confidence head maps a state to two of its entries."""

    def __init__(self, logits):
        self.logits = logits

    def normalise(self, hidden):
        return hidden

    def head(self, normed, ids=None):
        return self.logits

    @staticmethod
    def confidence_head(normed):
        return normed[:, :2]


def exit_with(logits=None, hidden=None, previous=None):
    hidden = torch.zeros(1, 2) if hidden is None else hidden
    return ExitState(FakeAdapter(logits), 2, hidden, hidden if previous is None else previous)


def measure(name, **exit):
    return CONFIDENCES[name].compute(exit_with(**exit))


PROBABILITIES = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])
TABLE = {
    "softmax": [0.25, 0.1, 0.0],
    "max_prob": [0.5, 0.4, 0.25],
    "entropy": [
        1 - (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(4),
        1 + (0.1 * math.log(0.1) + 0.2 * math.log(0.2) + 0.3 * math.log(0.3) + 0.4 * math.log(0.4)) / math.log(4),
        0.0,
    ],
}


@pytest.mark.parametrize("name", TABLE)
def test_hand_worked_probabilities(name):
    found = measure(name, logits=PROBABILITIES.clamp_min(1e-30).log())
    torch.testing.assert_close(found, torch.tensor(TABLE[name]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TABLE)
def test_adding_a_constant_to_all_logits_changes_nothing(name):
    logits = torch.randn(5, 17, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(measure(name, logits=logits), measure(name, logits=logits + 3.5), atol=1e-5, rtol=0)


def test_state_is_the_cosine():
    hidden = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [0.0, 0.0]])
    previous = torch.tensor([[0.0, 2.0], [1.0, 0.0], [-2.0, -4.0], [1.0, 0.0]])
    found = measure("state", hidden=hidden, previous=previous)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5**0.5, -1.0, 0.0]), atol=1e-6, rtol=0)


def test_state_does_not_see_scale():
    hidden, previous = torch.randn(4, 8), torch.randn(4, 8)
    torch.testing.assert_close(
        measure("state", hidden=hidden, previous=previous), measure("state", hidden=7 * hidden, previous=0.1 * previous)
    )


def test_meta_is_the_second_class():
    found = measure("meta", hidden=torch.tensor([[0.0, math.log(3.0)], [math.log(9.0), 0.0]]))
    torch.testing.assert_close(found, torch.tensor([0.75, 0.1]))


EXTREMES = [0.0, 1.0, -1.0, 1e4, -1e4, 6e4, -6e4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CONFIDENCES)
def test_finite_float32_and_in_range_for_extreme_inputs(name, dtype):
    largest = torch.finfo(dtype).max
    values = torch.tensor([*EXTREMES, largest, -largest])
    rows = torch.cartesian_prod(values, values, values).to(dtype)
    found = measure(name, logits=rows, hidden=rows, previous=rows.flip(1)).clamp(max=1)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found >= (-1.0001 if name == "state" else -1e-5)).all()


def test_logits_are_computed_only_when_asked_for():
    exit = exit_with(logits=PROBABILITIES)
    assert not exit.has_logits
    CONFIDENCES["state"].compute(exit)
    assert not exit.has_logits
    CONFIDENCES["softmax"].compute(exit)
    assert exit.has_logits


def test_rows_say_what_the_function_reads():
    """The table's flags are what the loop and the counter rely on."""
    for name, row in CONFIDENCES.items():
        exit = exit_with(logits=PROBABILITIES[:1])
        row.compute(exit)
        assert exit.has_logits == row.reads_logits, name
