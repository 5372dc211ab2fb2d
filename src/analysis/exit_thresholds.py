"""What thresholds promise, of what layers say under teacher forcing: tokens that stay the last layer's, against the
layers that are run (CALM, arXiv:2207.07061)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis import calibration, intervals
from analysis.exit_values import ExitValues

# A token leaves where its confidence is strictly above.
THRESHOLDS = (*(step / 20 for step in range(20)), 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
# Share of tokens that are to stay what the last layer says.
PROMISED = 0.95


def points(values: ExitValues, measure: str, exit_layers: Sequence[int], weights: np.ndarray) -> list[dict]:
    """Of each threshold the share of tokens that are the last layer's where each leaves at the first of some layers
    whose confidence is above, and the mean layer they leave after, with intervals over texts.

    Args:
        weights: Of `intervals.resamples`.
    """
    places = [layer - 1 for layer in exit_layers]
    confidence, equal = values.confidences[measure][:, places], values.equal[:, places]
    found = []
    for threshold in THRESHOLDS:
        leaves = confidence > threshold
        first, left = leaves.argmax(1), leaves.any(1)
        right = np.where(left, equal[np.arange(len(equal)), first], True)
        layer = np.where(left, np.array(exit_layers)[first], values.layers)
        held = {"equal": calibration.mean(right), "layers": calibration.mean(layer)}
        found.append({"threshold": threshold} | {name: _quantity(each, weights) for name, each in held.items()})
    return found


def _quantity(statistic: calibration.Statistic, weights: np.ndarray) -> dict:
    value = statistic(np.ones((1, weights.shape[1])))[0]
    return {"value": float(value), "interval": intervals.of_statistic(statistic, weights)}


def cheapest(found: Sequence[dict], promised: float = PROMISED) -> dict:
    """The point of fewest layers that keeps its promise; at threshold 1.0 all do."""
    kept = [point for point in found if point["equal"]["value"] >= promised]
    return min(kept, key=lambda point: point["layers"]["value"])


def told(found: dict[str, list[dict]], exit_layers: Sequence[int], depth: int) -> str:
    """A sentence: what the measure that saves most would save.

    Args:
        found: Measure -> `points`.
    """
    measure, point = min(
        ((name, cheapest(each)) for name, each in found.items()), key=lambda each: each[1]["layers"]["value"]
    )
    where = f"With exits after {_named(exit_layers, depth)}"
    if point["layers"]["value"] >= depth:
        return f"{where} no threshold leaves {PROMISED:.0%} of the tokens the last layer's and saves a layer."
    saved = 1 - point["layers"]["value"] / depth
    return (
        f"{where}, {measure} above {point['threshold']:g} leaves {point['equal']['value']:.1%} of the tokens the last "
        f"layer's at {point['layers']['value']:.1f} of {depth} layers: {saved:.0%} of the depth saved."
    )


def _named(layers: Sequence[int], depth: int) -> str:
    if list(layers) == list(range(1, depth)):
        return "every layer"
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(map(str, layers))}"
