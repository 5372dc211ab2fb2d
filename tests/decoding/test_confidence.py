"""Each measure against hand-worked tables, its range, its invariances, and extreme inputs in every dtype."""

import math

import pytest
import torch

from decoding.confidence import CONFIDENCES
from decoding.exits import ExitState
from support import scripted_confidence, scripted_exit, scripted_unembed


def exit_with(logits=None, hidden=None, previous=None, final=None):
    """An exit of scripted logits, or of scripted states, which are its logits too."""
    hidden = logits if hidden is None else hidden
    previous = hidden if previous is None else previous
    unembed = scripted_unembed(hidden.shape[-1], hidden.dtype)
    return ExitState(unembed, 2, hidden, previous, final=final, confidence_head=scripted_confidence)


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
    torch.testing.assert_close(found, torch.tensor(TABLE[name]), atol=1e-5, rtol=0)


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


def test_the_oracle_knows_the_last_layers_token():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    found = measure("oracle", logits=logits, final=torch.tensor([1, 2, 2]))
    assert found.tolist() == [1.0, 0.0, 1.0], "the tie of the second row goes to the lowest id"


EXTREMES = [0.0, 1.0, -1.0, 1e4, -1e4, 6e4, -6e4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CONFIDENCES)
def test_finite_float32_and_in_range_for_extreme_inputs(name, dtype):
    """Every three tokens of extreme logits, over earlier layers that are as extreme."""
    largest = torch.finfo(dtype).max
    values = torch.tensor([*EXTREMES, largest, -largest])
    rows = torch.cartesian_prod(values, values, values).to(dtype)
    layers = [rows.roll(shift, 0).roll(shift, 1) for shift in (0, 111, 57, 3, 0)]
    exit = scripted_exit(layers, first_exit=3, final=torch.zeros(len(rows), dtype=torch.long))
    found = CONFIDENCES[name].compute(exit).clamp(max=1)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found >= (-1.0001 if name == "state" else -1e-4)).all()
    if CONFIDENCES[name].scores is not None:
        assert not CONFIDENCES[name].scores(exit).isnan().any()


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
        exit = scripted_exit([PROBABILITIES] * 5, final=torch.zeros(3, dtype=torch.long))
        row.compute(exit)
        assert exit.has_logits == row.reads_logits, name
        assert ("members" in exit.__dict__) == row.contrasts, name
