"""Views of a token: ranks, divergences and what is contrasted, against the same computed plainly."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from decoding.confidence import CONFIDENCES
from decoding.lens import MOST_MEMBERS, contrast_view, layer_view, pairwise_divergence
from support import scripted_exit, scripted_unembed


def test_rank_likeliest_probability_and_gap_of_every_layer():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.25, 0.5, 0.25]])
    view = layer_view(p.log(), token=2)
    assert view.rank == [3, 1, 3], "of two equal tokens the lower id comes first"
    assert view.likeliest == [0, 2, 1]
    assert view.probability == pytest.approx([0.5, 0.5, 0.5], abs=1e-5)
    assert view.gap == pytest.approx([0.2, 0.2, 0.25], abs=1e-5)
    assert layer_view(p.log(), token=0).rank == [1, 3, 2]


def test_divergence_of_every_pair_of_layers_is_scipys():
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0)) * 2
    found = pairwise_divergence(logits)
    p = logits.double().softmax(-1).numpy()
    assert [len(row) for row in found] == [0, 1, 2, 3, 4]
    for i, row in enumerate(found):
        np.testing.assert_allclose(row, [jensenshannon(p[i], p[j]) ** 2 for j in range(i)], atol=1e-5)


def states(scale, depth=6, size=40):
    return torch.randn(depth + 1, size, generator=torch.Generator().manual_seed(1)).mul(scale).cumsum(0)


@pytest.mark.parametrize("name", ["JSD_contrastive_confidence", "reweight_contrastive_decoding", "softmax"])
def test_the_contrast_shown_is_the_measures_own(name):
    layers = states(0.3)
    view = contrast_view(scripted_unembed(40), layers, name, alpha=0.1)
    measure = name if name != "softmax" else "JSD_contrastive_confidence"
    exit = scripted_exit(layers[:, None], first_exit=6)
    scores = CONFIDENCES[measure].scores(exit)[0].exp()
    assert view.measure == measure and view.size == exit.sizes[0] > 1
    assert view.s == pytest.approx(scores[view.tokens].tolist(), abs=1e-6)
    assert view.p == sorted(view.p, reverse=True) and len(view.tokens) == min(view.size, MOST_MEMBERS)
    p_amateur = layers[view.amateur].softmax(-1)[view.tokens]
    assert view.p_amateur == pytest.approx(p_amateur.tolist(), abs=1e-5)
    if measure.startswith("reweight"):
        assert view.amateur == 3


def test_one_plausible_token_is_contrasted_with_nothing():
    layers = states(0.3)
    layers[-1, 7] = 100.0
    view = contrast_view(scripted_unembed(40), layers, None, alpha=0.1)
    assert (view.tokens, view.amateur, view.size, view.p_amateur) == ([7], None, 1, [])
    assert view.s == pytest.approx([1.0])


def test_a_token_that_left_after_the_first_layer_has_no_amateur():
    view = contrast_view(scripted_unembed(40), states(0.1, depth=1), None, alpha=0.1)
    assert view.amateur is None and view.s == pytest.approx(view.p, abs=1e-5)
    assert not any(map(math.isnan, view.s))
