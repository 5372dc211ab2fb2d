"""Figures of what the exits of a checkpoint are worth."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from analysis.drawing import finish, own_legend, panels, series, shared_legend
from analysis.style import Look, look, nth
from decoding.confidence import CONFIDENCES

# Of one line: what it is called in the numbers of a layer, and above its panel.
SINGLE = {
    "equal": "share equal to the last layer",
    "perplexity": "perplexity",
    "divergence": "KL to the last layer, nats",
}
MULTIPLE = {
    "rank": "rank of the last layer's token",
    "plausible": "share of positions, of rows",
    "auroc": "AUROC",
    "ece": "expected calibration error",
}
LOGARITHMIC = ("perplexity", "divergence", "rank", "plausible")


def paint_exits(values: dict) -> Figure:
    """A panel per number, over the layers."""
    figure, axes = panels(len(SINGLE) + len(MULTIPLE), columns=2, width=5.6)
    for panel, (name, label) in zip(axes, (SINGLE | MULTIPLE).items(), strict=True):
        for place, (line, found) in enumerate(_lines(values["layers"], name).items()):
            _line(panel, found, look_of(line, place), label_of(line))
        if name in LOGARITHMIC:
            readable_logarithm(panel)
        if name == "auroc":
            panel.axhline(0.5, color="0.6", linewidth=0.8)
        finish(panel, "layer", label)
        if name in MULTIPLE:
            own_legend(panel)
    return figure


def readable_logarithm(panel: Axes) -> None:
    """A logarithmic axis, with plain numbers where they can be told apart."""
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(LogFormatter())


def paint_reliability(values: dict) -> Figure:
    """A panel per layer: the share that is right over what measures claim."""
    figure, axes = panels(len(values["layers"]), columns=3, width=3.4, height=3.0)
    for panel, each in zip(axes, values["layers"], strict=True):
        panel.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        for place, (name, bins) in enumerate(each["reliability"].items()):
            places = [found["confidence"] for found in bins]
            series(panel, places, [found["right"] for found in bins], look_of(name, place), label_of(name))
        panel.set_xlim(-0.03, 1.03)
        panel.set_ylim(-0.03, 1.03)
        finish(panel, "confidence", "share right", f"layer {each['layer']}")
    shared_legend(figure)
    return figure


def _lines(layers: Sequence[dict], name: str) -> dict[str, list[tuple[int, dict]]]:
    """Line -> (layer, quantity) where there is one."""
    found: dict[str, list[tuple[int, dict]]] = {}
    for each in layers:
        held = each[name] if name in MULTIPLE else {"": each[name]}
        for line, quantity in held.items():
            if quantity["value"] is not None:
                found.setdefault(line, []).append((each["layer"], quantity))
    return found


def _line(panel: Axes, found: list[tuple[int, dict]], of: Look, label: str) -> None:
    layers, quantities = zip(*found, strict=True)
    series(panel, layers, quantities, of, label, markersize=3.5)


def look_of(line: str, place: int) -> Look:
    """That of a measure, which is the same in every figure; of other lines by their place."""
    return look(label_of(line)) if line in CONFIDENCES else nth(place)


def label_of(line: str) -> str:
    """What a line is called."""
    return (CONFIDENCES[line].label or line) if line in CONFIDENCES else line
