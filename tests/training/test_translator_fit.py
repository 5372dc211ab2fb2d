"""The closed form is ridge regression, whatever the order of the positions and however they came together."""

import numpy as np
import pytest
import torch

from training.translator_fit import RIDGE, TranslatorFit

WIDTH = 12


def states(count: int, layers: int = 2) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Correlated states far from the origin, the last an affine map of each plus noise."""
    mixed = torch.randn(count, WIDTH) @ torch.randn(WIDTH, WIDTH) + 5 * torch.randn(WIDTH)
    hidden = [mixed @ torch.randn(WIDTH, WIDTH) + torch.randn(count, WIDTH) for _ in range(layers)]
    return hidden, mixed + 0.1 * torch.randn(count, WIDTH)


def fitted(hidden, last, sizes=(1000,), **more) -> TranslatorFit:
    fit = TranslatorFit(range(1, len(hidden) + 1), WIDTH, **more)
    for pieces in zip(*(each.split(sizes) for each in (*hidden, last)), strict=True):
        fit.add(pieces[:-1], pieces[-1])
    return fit


def by_lstsq(hidden: torch.Tensor, last: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A and b by numpy: the ridge is rows beneath the centred states, whose targets are zero."""
    x, y = hidden.double().numpy(), last.double().numpy()
    centred, target = x - x.mean(0), y - y.mean(0)
    added = RIDGE * (centred**2).sum(0).mean()
    slope, *_ = np.linalg.lstsq(
        np.vstack([centred, np.sqrt(added) * np.eye(WIDTH)]), np.vstack([target, np.zeros((WIDTH, WIDTH))]), rcond=None
    )
    return slope.T - np.eye(WIDTH), y.mean(0) - x.mean(0) @ slope


def assert_same(found, expected, within=1e-6):
    for layer, (weight, bias) in expected.items():
        np.testing.assert_allclose(found[layer][0], weight, rtol=within, atol=within)
        np.testing.assert_allclose(found[layer][1], bias, rtol=within, atol=within)


@pytest.mark.parametrize("count", [3, 200], ids=["fewer positions than the width", "more"])
def test_it_is_numpys_lstsq_with_the_same_ridge(count):
    hidden, last = states(count)
    found = fitted(hidden, last, [count]).solve()
    assert_same(found, {layer: by_lstsq(each, last) for layer, each in enumerate(hidden, 1)})


def test_neither_batches_nor_their_order_nor_parts_matter():
    hidden, last = states(100)
    expected = fitted(hidden, last, [100]).solve()
    shuffled = torch.randperm(100)
    mixed = [each[shuffled] for each in hidden], last[shuffled]
    assert_same(fitted(*mixed, [1] * 100).solve(), expected)
    parts = fitted([each[:30] for each in hidden], last[:30], [7, 23])
    parts.merge(TranslatorFit([1, 2], WIDTH))
    parts.merge(fitted([each[30:] for each in hidden], last[30:], [70]))
    assert parts.counts.tolist() == [100, 100]
    assert_same(parts.solve(), expected)


def test_it_goes_on_where_it_was_saved():
    hidden, last = states(50)
    half = fitted([each[:20] for each in hidden], last[:20], [20])
    more = TranslatorFit([1, 2], WIDTH)
    more.load_state_dict({name: value.clone() for name, value in half.state_dict().items()})
    more.add([each[20:] for each in hidden], last[20:])
    assert_same(more.solve(), fitted(hidden, last, [50]).solve())


def test_what_is_too_long_is_left_out_of_its_own_layer_only():
    hidden, last = states(60)
    expected = [by_lstsq(hidden[0][1:], last[1:]), by_lstsq(hidden[1], last)]
    hidden[0][0] *= 1e4
    limits = [1e3, 1e3, 1e3]
    fit = fitted(hidden, last, [60], limits=limits)
    assert fit.counts.tolist() == [59, 60] and fit.left_out.tolist() == [1, 0]
    assert_same(fit.solve(), dict(enumerate(expected, 1)))
    last[3] *= 1e4
    assert fitted(hidden, last, [60], limits=limits).left_out.tolist() == [2, 1], "of the last layer, out of all"


def test_it_is_finite_without_anything_to_fit():
    assert all(not each.any() for each in fitted(*states(0), [0]).solve()[1])
    hidden, last = states(1)
    weight, bias = fitted(hidden, last, [1]).solve()[1]
    torch.testing.assert_close(hidden[0][0].double() @ (weight + torch.eye(WIDTH)).T + bias, last[0].double())
    assert weight.isfinite().all()
