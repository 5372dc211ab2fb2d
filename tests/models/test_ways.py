"""Every way multiplies: against float64, to what rounding allows, whatever the sizes and however the weight lies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import ways
from models.ways import WAYS

SIZES = st.integers(1, 40) | st.integers(60, 140)


def stored(kind: str, inputs: int, outputs: int, dtype: torch.dtype) -> torch.Tensor:
    """A matrix [K, M] as a view of a weight that lies in one of the ways weights do."""
    if kind == "by output":
        return torch.randn(outputs, inputs).to(dtype).t()
    if kind == "by input":
        return torch.randn(inputs, outputs).to(dtype)
    if kind == "columns of a fused one":
        return torch.randn(inputs, 2 * outputs + 3).to(dtype)[:, 1 : 1 + outputs]
    return torch.randn(3 * outputs, inputs).to(dtype)[outputs : 2 * outputs].t()  # rows of a fused one


KINDS = ("by output", "by input", "columns of a fused one", "rows of a fused one")
ADDED = ("nothing", "bias", "residual")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", WAYS)
@given(SIZES, SIZES, st.integers(1, 16), st.sampled_from(KINDS), st.sampled_from(ADDED), st.booleans())
def test_every_way_gives_the_product(name, dtype, inputs, outputs, rows, kind, added, strided):
    matrix, way = stored(kind, inputs, outputs, dtype), WAYS[name]
    if not way.fits(matrix, rows):
        return
    states = torch.randn(inputs, rows).to(dtype).t() if strided else torch.randn(rows, inputs).to(dtype)
    sizes = {"nothing": None, "bias": (outputs,), "residual": (rows, outputs)}[added]
    more = None if sizes is None else torch.randn(sizes).to(dtype)
    found = way.bind(matrix)(states, more)
    assert found.shape == (rows, outputs) and found.dtype == dtype
    wide = (states.double(), matrix.double())
    expected = wide[0].mm(wide[1]) + (0 if more is None else more.double())
    # Each of the K + 1 roundings is at most half the type's step, of a sum of absolute values at most; a product that
    # is rounded before something is added is rounded once more.
    size = wide[0].abs().mm(wide[1].abs()) + (0 if more is None else more.double().abs())
    held_in = dtype if dtype == torch.float64 else torch.float32
    bound = size * ((inputs + 2) * torch.finfo(held_in).eps + 2 * torch.finfo(dtype).eps)
    if dtype in (torch.float16, torch.bfloat16):  # some kernels sum in pieces that they round
        bound = bound + size * torch.finfo(dtype).eps * inputs**0.5
    assert bool(((found.double() - expected).abs() <= bound).all())


@pytest.mark.parametrize("name", WAYS)
def test_what_is_given_stays_as_it_is_and_rows_lie_side_by_side(name):
    matrix, states, added = torch.randn(96, 128).t(), torch.randn(3, 128), torch.randn(3, 96)
    if not WAYS[name].fits(matrix, 3):
        pytest.skip("it takes no such matrix")
    kept = [each.clone() for each in (matrix, states, added)]
    multiply = WAYS[name].bind(matrix)
    assert multiply(states, added).is_contiguous() and multiply(states, None).is_contiguous()
    assert all(torch.equal(each, old) for each, old in zip((matrix, states, added), kept, strict=True))


@pytest.mark.parametrize("name", WAYS)
def test_a_weight_changed_in_place_shows(name):
    weight = torch.randn(96, 128)
    if not WAYS[name].fits(weight.t(), 1):
        pytest.skip("it takes no such matrix")
    multiply, states = WAYS[name].bind(weight.t()), torch.randn(1, 128)
    before = multiply(states, None).clone()
    weight.mul_(2)
    torch.testing.assert_close(multiply(states, None), 2 * before)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("name", WAYS)
def test_any_number_of_threads(name, threads, monkeypatch):
    monkeypatch.setattr(ways.torch, "get_num_threads", lambda: threads)
    for matrix in (torch.randn(97, 126).double().t(), torch.randn(126, 97).double()):
        states = torch.randn(2, 126).double()
        if WAYS[name].fits(matrix, 2):
            torch.testing.assert_close(WAYS[name].bind(matrix)(states, None), states.mm(matrix))


@pytest.mark.skipif(not WAYS["onednn"].fits(torch.randn(64, 64).t(), 1), reason="no oneDNN")
def test_states_of_another_type_meet_the_weight_in_its_own():
    weight, states = torch.randn(64, 64), torch.randn(2, 64).bfloat16()  # as autocast makes them
    torch.testing.assert_close(WAYS["onednn"].bind(weight.t())(states, None), states.float().mm(weight.t()))


def test_partial_sums_are_not_taken_in_float16():
    weight = torch.cat([torch.full((64, 128), 20.0), torch.full((64, 128), -20.0)])
    assert WAYS["summed_parts"].fits(weight, 1) and not WAYS["summed_parts"].fits(weight.half(), 1)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("outputs", [1, 33, 200])
def test_a_large_weight_in_pieces_gives_the_product(name, outputs, monkeypatch):
    monkeypatch.setattr(ways, "LARGEST", 70 * 128 * 8)
    matrix, states, added = (torch.randn(*size, dtype=torch.float64) for size in ((outputs, 128), (3, 128), (outputs,)))
    if not WAYS[name].fits(matrix.t(), 3):
        pytest.skip("it takes no such matrix")
    multiply = ways.bound(name, matrix.t())
    torch.testing.assert_close(multiply(states, added), states.mm(matrix.t()) + added)
    assert multiply(states, None).is_contiguous()
