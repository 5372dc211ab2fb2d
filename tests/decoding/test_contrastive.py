"""The contrastive measures: hand-worked tables, the definition computed in full, and what makes them cheap."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from decoding.adapter import HeadRows
from decoding.confidence import CONFIDENCES
from decoding.contrastive import CONTRASTS, jensen_shannon
from decoding.exits import ExitState
from decoding.logits import FEW
from decoding.pruning import likeliest, penalty_below
from decoding.survivors import Survivors
from naive import contrast, gap
from support import in_float64, scripted_exit

# Four tokens at three layers. At the last V_head is {0, 1, 2} for alpha 0.1, and 0.03 stays outside.
LAST = [0.5, 0.3, 0.17, 0.03]
HALF = [0.1, 0.6, 0.2, 0.1]
# p_l / p_a on V_head is 5, 0.5, 0.85; the mass of p_l there is 0.97.
SHARE = np.array([5, 0.5, 0.85]) / 6.35
TABLE = {
    "contrastive_decoding": SHARE[0] - SHARE[2],
    "reweight_contrastive_decoding": 0.97 * (SHARE[0] - SHARE[2]),
    "reweight_contrastive_text": 0.97 * (SHARE[0] - SHARE[2]),
    "JSD_contrastive_confidence": SHARE[0] - SHARE[2],
    "JSD_contrastive_text": 0.97 * (SHARE[0] - SHARE[2]),
}


def logits_of(*distributions):
    """[l + 1, 1, V] whose softmaxes are the given ones, each shifted by a constant of its own."""
    logs = [torch.tensor([each]).log() + shift for shift, each in enumerate(distributions)]
    return [logs[0], *logs]  # layer 0 is never asked


@pytest.mark.parametrize("name", TABLE)
def test_hand_worked_table(name):
    """With layers 1 to 4: the amateur is layer 2 = floor(4/2), and layer 2 is the farther of layers 2 and 3 too."""
    exit = scripted_exit(logits_of([0.25] * 4, HALF, LAST, LAST)[:5])
    assert exit.layer == 4
    assert CONFIDENCES[name].compute(exit).item() == pytest.approx(TABLE[name], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "mass", "second"),
    [
        ("contrastive_decoding", 1.0, 0.04),
        ("reweight_contrastive_decoding", 0.93, 0.93 * 0.02),
        ("reweight_contrastive_text", 0.93, 0.04),
    ],
)
def test_the_second_largest_value_may_stand_outside_of_v_head(name, mass, second):
    """After the contrast V_head = {0, 1} holds 0.98 and 0.02; outside, p_l has 0.04 and the published measure none."""
    last, half = [0.49, 0.44, 0.04, 0.03], [0.01, 0.44, 0.5, 0.05]
    exit = scripted_exit(logits_of([0.25] * 4, half, last, last)[:5])
    assert exit.sizes == [2]
    assert CONFIDENCES[name].compute(exit).item() == pytest.approx(0.98 * mass - second, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("contrastive_decoding", lambda p: 1 - p[1]),
        ("reweight_contrastive_decoding", lambda p: p[0]),
        ("JSD_contrastive_confidence", lambda p: 1 - p[1]),
        ("reweight_contrastive_text", lambda p: p[0] - p[1]),
        ("JSD_contrastive_text", lambda p: p[0] - p[1]),
    ],
)
def test_with_one_plausible_token_no_amateur_is_asked(name, closed):
    """The finding: then the text's measures are the softmax gap, and the published ones are not."""
    p = [0.93, 0.04, 0.02, 0.01]
    exit = scripted_exit(logits_of([0.25] * 4, HALF, [0.1, 0.2, 0.3, 0.4], p)[:5], first_exit=4)
    assert CONFIDENCES[name].compute(exit).item() == pytest.approx(closed(p), abs=1e-5)
    assert exit.sizes == [1] and exit.amateur_rows == [0] and exit.earlier.logits_by_layer is None


WITHOUT_AMATEUR = [(name, layer) for name, row in CONTRASTS.items() for layer in range(1, row.first_layer)]


@pytest.mark.parametrize(("name", "layer"), WITHOUT_AMATEUR)
def test_where_there_is_no_amateur_the_measure_is_softmax(name, layer):
    layers = torch.randn(layer + 1, 5, 9, generator=torch.Generator().manual_seed(1)) * 2
    exit = scripted_exit(layers)
    torch.testing.assert_close(CONFIDENCES[name].compute(exit), CONFIDENCES["softmax"].compute(exit))
    torch.testing.assert_close(CONFIDENCES[name].scores(exit).exp(), exit.probabilities, atol=2e-5, rtol=0)


# ------------------------------------------------------------------------------------------------------- the definition
def spread_layers(seed, depth, batch, size, scale):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(depth + 1, batch, size, generator=generator) * scale
    return steps.cumsum(0)  # neighbouring layers resemble each other


@settings(max_examples=80)
@given(
    name=st.sampled_from(sorted(CONTRASTS)),
    seed=st.integers(0, 100_000),
    depth=st.integers(1, 9),
    first_exit=st.integers(1, 9),
    size=st.sampled_from([4, 40, 400]),
    scale=st.sampled_from([0.05, 0.5, 1.5]),
    alpha=st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
)
def test_the_economy_equals_the_definition_computed_in_full(name, seed, depth, first_exit, size, scale, alpha):
    """Also where V_head is empty but for one, has a few members, or so many that the whole head is multiplied."""
    layers = spread_layers(seed, depth, 3, size, scale).double()
    with in_float64():
        exit = scripted_exit(layers, first_exit=min(first_exit, depth), alpha=alpha)
        found, scores = CONFIDENCES[name].compute(exit), CONFIDENCES[name].scores(exit).exp()
    everything = torch.ones(size, dtype=torch.bool)
    for row in range(3):
        expected = contrast(name, layers[:, row], alpha, everything, {})
        assert found[row].item() == pytest.approx(gap(expected), abs=1e-9)
        torch.testing.assert_close(scores[row], expected, atol=1e-9, rtol=1e-9)


def survivors_of(layers, ks, ids=None, copied=True):
    """Survivors of every row of `layers` [n, V] with the k of each, copied or masked."""
    rows, size = list(range(len(ks))), layers.shape[1]
    if not copied:
        return Survivors(rows, dict(enumerate(ks)), dict.fromkeys(rows, size), penalty=penalty_below(layers, ks))
    ids = likeliest(layers, max(ks))
    behind = torch.arange(max(ks)) >= torch.tensor(ks)[:, None]
    penalty = torch.zeros(ids.shape).masked_fill(behind, -torch.inf)
    head = HeadRows(torch.eye(size, dtype=layers.dtype)[ids], None)
    return Survivors(rows, dict(enumerate(ks)), dict(enumerate(ks)), ids, head, penalty)


def surviving_tokens(survivors, row, size):
    kept = torch.zeros(size, dtype=torch.bool)
    if survivors.ids is None:
        return survivors.penalty[row] == 0
    kept[survivors.ids[row][survivors.penalty[row] == 0]] = True
    return kept


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(CONTRASTS)),
    seed=st.integers(0, 100_000),
    first_exit=st.integers(1, 6),
    alpha=st.sampled_from([0.0, 0.1, 0.5]),
    copied=st.booleans(),
    scale=st.sampled_from([0.3, 1.0]),
)
def test_under_pruning_too(name, seed, first_exit, alpha, copied, scale):
    """p_l, V_head over the survivors, renormalised; p_j as it was at j, or for the text's form over the same rows.

    The rows keep different numbers of tokens, as under adaptive pruning.
    """
    depth, size = 7, 30
    layers = spread_layers(seed, depth, 2, size, scale).double()
    held = {first_exit + 1: survivors_of(layers[first_exit], [20, 14], copied=copied)}
    held |= dict.fromkeys(range(first_exit + 2, depth + 1), held[first_exit + 1])
    with in_float64():
        exit = scripted_exit(layers, first_exit, alpha, held)
        found, scores = CONFIDENCES[name].compute(exit), CONFIDENCES[name].scores(exit)
    for row in range(2):
        kept = surviving_tokens(held[depth], row, size)
        masks = {layer: kept for layer in held if layer < depth}
        expected = contrast(name, layers[:, row], alpha, kept, masks)
        assert found[row].item() == pytest.approx(gap(expected), abs=1e-9)
        columns = torch.arange(size) if exit.ids is None else exit.ids[row]
        whole = torch.zeros(size, dtype=torch.float64).index_add(0, columns, scores[row].exp())
        torch.testing.assert_close(whole, expected, atol=1e-9, rtol=1e-9)
        assert exit.kept[row] == int(kept.sum())


# ---------------------------------------------------------------------------------------------------------- economies
def test_only_the_plausible_rows_of_the_head_are_multiplied_below_the_first_exit():
    layers = spread_layers(3, 6, 4, 400, 0.6)
    exit = scripted_exit(layers, first_exit=6, alpha=0.5)
    CONFIDENCES["reweight_contrastive_decoding"].compute(exit)
    assert exit.amateur_rows == [size if size > 1 else 0 for size in exit.sizes]
    assert max(exit.sizes) > 1 and exit.earlier.logits_by_layer is None


def test_an_amateurs_logits_that_are_there_are_not_computed_again():
    exit = scripted_exit(spread_layers(3, 6, 4, 400, 0.6), first_exit=3, alpha=0.5)
    CONFIDENCES["reweight_contrastive_decoding"].compute(exit)
    assert max(exit.sizes) > 1 and exit.amateur_rows == [0] * 4


def test_earlier_layers_meet_the_head_once_per_token():
    """JSD needs layers 2 to 4 below the first exit, 5; the exit after that asks again and nothing is multiplied."""
    layers = spread_layers(5, 6, 3, 100, 0.2)
    first = scripted_exit(layers[:6], first_exit=5)
    CONFIDENCES["JSD_contrastive_confidence"].compute(first)
    assert min(first.sizes) > 1 and first.amateur_rows == [300] * 3
    earlier = first.earlier
    first.remember()
    rows = list(range(3))
    earlier.ran(rows, layers[6])
    second = ExitState(first.unembed, 6, layers[6], layers[5], rows=rows, earlier=earlier)
    CONFIDENCES["JSD_contrastive_confidence"].compute(second)
    assert min(second.sizes) > 1 and second.amateur_rows == [0] * 3


def test_many_plausible_tokens_are_found_as_few_are():
    """V_head is looked for among the likeliest tokens first; here it has more members than that in one row."""
    layers = torch.zeros(3, 2, 5 * FEW)
    layers[-1, 0, : 3 * FEW] = 4.0
    layers[-1, 1, :2] = 9.0
    exit = scripted_exit(layers, alpha=0.5)
    assert exit.sizes == [3 * FEW, 2]
    assert sorted(exit.members.tokens[0].tolist()) == list(range(3 * FEW))
    assert sorted(exit.members.tokens[1][exit.members.valid[1]].tolist()) == [0, 1]


@pytest.mark.parametrize("others", [1, FEW + 2])
def test_tokens_at_exactly_alpha_times_the_highest_are_plausible(others):
    """And those a thousandth below are not; with few members, and with more than are looked for first."""
    floor = math.log(0.5)
    layers = torch.full((3, 1, 5 * FEW), floor - 1e-3)
    layers[-1, 0, 0], layers[-1, 0, 1 : 1 + others] = 0.0, floor
    exit = scripted_exit(layers, alpha=0.5)
    assert exit.sizes == [1 + others]
    assert sorted(exit.members.tokens[0][exit.members.valid[0]].tolist()) == list(range(1 + others))


@pytest.mark.parametrize("name", ["contrastive_decoding", "reweight_contrastive_text"])
def test_a_token_at_exactly_alpha_times_the_highest_is_not_outside_as_well(name):
    """p is 2/3, 1/3 and next to nothing, the amateur's 0.1, 0.9: on V_head = {0, 1}, s is as 18 to 1."""
    last = torch.tensor([0.0, math.log(0.5), -40.0], dtype=torch.float64)
    half = torch.tensor([0.1, 0.9, 1e-18], dtype=torch.float64).log()
    exit = scripted_exit([layer[None] for layer in (half, half, half, half, last)], alpha=0.5)
    assert exit.sizes == [2]
    assert CONFIDENCES[name].compute(exit).item() == pytest.approx(17 / 19, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- divergence
def test_divergence_against_scipy():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.rand(2, 6, 50, generator=generator, dtype=torch.float64)
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    expected = jensenshannon(p.numpy(), q.numpy(), axis=-1) ** 2
    np.testing.assert_allclose(jensen_shannon(p.log(), q.log()), expected, atol=1e-12)


def test_divergence_is_symmetric_zero_on_itself_and_at_most_log_2():
    p, q = torch.randn(2, 8, 30).log_softmax(-1)
    torch.testing.assert_close(jensen_shannon(p, q), jensen_shannon(q, p))
    torch.testing.assert_close(jensen_shannon(p, p), torch.zeros(8), atol=1e-6, rtol=0)
    apart = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert jensen_shannon(apart[0], apart[1]).item() == pytest.approx(math.log(2))
    assert (jensen_shannon(p, q) <= math.log(2)).all() and (jensen_shannon(p, q) >= 0).all()


def test_the_root_of_the_divergence_obeys_the_triangle_inequality():
    p, q, r = torch.randn(3, 40, 12).mul(3).log_softmax(-1)
    distance = [jensen_shannon(a, b).clamp_min(0).sqrt() for a, b in ((p, q), (q, r), (p, r))]
    assert (distance[2] <= distance[0] + distance[1] + 1e-5).all()
