"""What to do about the exits of a checkpoint, in sentences, from the numbers of its layers (`exit_quality.summary`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.calibration import BINS
from analysis.exit_figures import label_of
from decoding.drafting import GAIN, Prices, tokens_per_layer

# Quantiles of ranks: pruning has to keep so many rows for so many positions.
RANKS = (0.5, 0.9, 0.99)
# An exit is usable where it says the last layer's token at so many positions, at it and at every layer above.
USABLE = 0.9
# A confidence is sure in the last bin of a reliability figure.
SURE = 1 - 1 / BINS
# Drafted tokens at a time, as many as --num_speculations has.
DRAFTS = 8


def rank_label(share: float) -> str:
    """What the rank that so many positions do not exceed is called."""
    return f"{share:.0%} of positions"


def advice(layers: Sequence[dict], vocabulary: int, prices: Prices) -> str:
    """What to do about exits like these, in sentences."""
    told = [_usable(layers), _believed(layers), _drafts(layers, prices), _pruned(layers, vocabulary)]
    return " ".join(each for each in told if each)


def first_usable(layers: Sequence[dict]) -> int | None:
    """The lowest layer below the last from which on every layer says the last layer's token often enough."""
    usable = None
    for each in reversed(layers[:-1]):
        if each["equal"]["value"] < USABLE:
            break
        usable = each["layer"]
    return usable


def _usable(layers: Sequence[dict]) -> str:
    usable, depth = first_usable(layers), layers[-1]["layer"]
    if usable == 1:
        return f"Every exit says the last layer's token at {USABLE:.0%} of the positions or more."
    last = (usable or depth) - 1
    share = f"layer {last} says the last layer's token at {layers[last - 1]['equal']['value']:.0%} of the positions"
    first = f"Exits below layer {usable}" if usable else f"The exits below layer {depth}, the last,"
    return f"{first} are not usable as they are ({share}): train them (--intermediate_loss_fn)."


def _believed(layers: Sequence[dict]) -> str:
    """Which measure tells right from wrong best in the upper half, and from where on being sure means being right."""
    upper = layers[len(layers) // 2 : -1] or layers[:-1]
    found: dict[str, list[float]] = {}
    for each in upper:
        for name, area in each["auroc"].items():
            if np.isfinite(area["value"]):
                found.setdefault(name, []).append(area["value"])
    if not found:
        return ""
    best = max(found, key=lambda name: np.mean(found[name]))
    span = f"AUROC {min(found[best]):.2f} to {max(found[best]):.2f} from layer {upper[0]['layer']} on"
    return f"The measure that knows best when a layer is right is {label_of(best)} ({span}). {_sure(layers)}".strip()


def _sure(layers: Sequence[dict]) -> str:
    right = {each["layer"]: right_where_sure(each["reliability"].get("softmax", ())) for each in layers[:-1]}
    right = {layer: share for layer, share in right.items() if share is not None}
    if not right:
        return ""
    wrong = [layer for layer, share in right.items() if share < USABLE]
    believed = [layer for layer in right if layer > max(wrong, default=0)]
    from_there = f"from layer {believed[0]} on" if believed else "at no layer"
    lowest = min(right, key=lambda layer: right[layer])
    told = f"A softmax above {SURE:.1f} is right at {USABLE:.0%} of its positions or more {from_there}"
    return f"{told}; at layer {lowest} it is at {right[lowest]:.0%}." if wrong else f"{told}."


def right_where_sure(bins: Sequence[dict]) -> float | None:
    """The share that is right of what is in the last bin; None where nothing is."""
    sure = [each["right"]["value"] for each in bins if each["confidence"] >= SURE]
    return sure[0] if sure else None


def promised(layers: Sequence[dict], prices: Prices) -> dict[int, float]:
    """Layer -> tokens per layer that verified drafts from there promise, times those of full depth, where all are
    drafted and as many stand as say the last layer's token."""
    found = {}
    for each in layers[:-1]:
        acceptance, draft = each["equal"]["value"], prices.draft(each["layer"], prices.exit(each["layer"]))
        stands = [acceptance**together for together in range(1, DRAFTS + 1)]
        promises = tokens_per_layer(stands, leaving=1.0, draft=draft, staying=0.0, full=prices.full)
        found[each["layer"]] = max(promises[1:]) * prices.full
    return found


def _drafts(layers: Sequence[dict], prices: Prices) -> str:
    found = promised(layers, prices)
    pays = [layer for layer, times in found.items() if times > GAIN]
    best = max(found, key=lambda layer: found[layer])
    if not pays:
        return f"Lossless drafts pay from no layer (at best {found[best]:.2f} times full depth, from layer {best})."
    return (
        f"Lossless drafts promise to pay from layer {pays[0]} on, most from {best}: {found[best]:.2f} times full depth."
    )


def _pruned(layers: Sequence[dict], vocabulary: int) -> str:
    layer = first_usable(layers) or layers[-1]["layer"] - 1
    rank = layers[layer - 1]["rank"][rank_label(RANKS[-1])]["value"]
    kept = f"{rank:,.0f} of {vocabulary:,} rows"
    return (
        f"Pruning at layer {layer} has to keep {kept} for the last layer's token to survive at {RANKS[-1]:.0%} of the "
        "positions."
    )


def prices_of(model) -> Prices:
    """What a token costs this model, in layers."""
    weights = sum(weight.numel() for weight in model.decoder_layers.parameters() if weight.dim() > 1)
    depth = model.num_exit_layers
    return Prices.of_weights(depth, weights / depth, model.unembed(), first_exit=1, device=model.device.type)
