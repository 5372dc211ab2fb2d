"""Cross entropies of several layers together."""

from collections.abc import Mapping

from torch import Tensor

from losses.layers import Layers


def weighted(layers: Layers, weights: Mapping[int, float]) -> Tensor:
    """The mean of layers' cross entropies under weights by layer; a layer of weight 0 is left out."""
    terms = [weight * layers.cross_entropy(layer) for layer, weight in weights.items() if weight]
    return sum(terms[1:], start=terms[0]) / sum(weights.values())


def ce(layers: Layers) -> Tensor:
    """Mean over the layers of their cross entropies."""
    return weighted(layers, dict.fromkeys(range(1, layers.count + 1), 1.0))


def weighted_ce(layers: Layers) -> Tensor:
    """Mean of the layers' cross entropies weighted by depth: sum l * CE_l / sum l (FREE, arXiv:2310.05424)."""
    return weighted(layers, {layer: float(layer) for layer in range(1, layers.count + 1)})


def shallowdeep_ce(layers: Layers) -> Tensor:
    """(s * CE_s + L * CE_L) / (s + L): the shallow exit s and the last layer alone (FREE)."""
    return weighted(layers, {layer: float(layer) for layer in (layers.config.shallow_exit_layer, layers.count)})
