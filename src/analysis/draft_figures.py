"""Figure 21 and table 8: speed and acceptance of the lossless decoder over its exit and the length of its drafts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import Drawing, finish, panels, series, shared_legend
from analysis.style import nth
from analysis.tables import Table

NOTE = (
    "Good is above 1, where drafting saves seconds. The same points twice: on the left over the layer of the exit, a "
    "line per length of a draft; on the right the other way round. A deeper exit is believed more often and saves "
    "less. Batch 1, each prompt in turn with full depth; bars are 95% bootstrap intervals over prompts"
)
HEAD = ["task", "model", "layer", "drafts", "stood %", "layers in turn", "passes", "FLOPs", "speed", "95% interval"]


def draft_sweep(points: Sequence[dict]) -> Drawing | None:
    """Figure 21, of points with several lengths of drafts or several layers; None where there is nothing to compare.

    Args:
        points: Of each its task and model, layer and drafts, how many prompts, and the numbers of
            `task_benchmark.Costs`.
    """
    if len(points) < 2:
        return None
    rows = [
        {name: point[name] for name in ("task", "model", "layer", "drafts", "acceptance", "speed")}
        | {"speeds": [point["speed_low"], point["speed_high"]]}
        for point in points
    ]
    title = "Figure 21. The lossless decoder over its exit and the length of its drafts"
    return Drawing(title, paint_drafts, {"points": rows}, NOTE, [], f"n = {points[0]['prompts']} prompts per point")


def draft_lengths(points: Sequence[dict]) -> Table:
    """Table 8: the lossless decoder, exit by exit and draft by draft."""
    rows = []
    for point in points:
        stood = "-" if point["acceptance"] is None else f"{100 * point['acceptance']:.1f}"
        cells = [point["task"], point["model"], str(point["layer"]), str(point["drafts"]), stood]
        cells += [f"{point[name]:.2f}" for name in ("layers_in_turn", "layers_run", "flops", "speed")]
        reach = [point["speed_low"], point["speed_high"]]
        cells += ["-" if math.isnan(reach[0]) else "{:.2f} to {:.2f}".format(*reach), str(point["other"])]
        rows.append(cells)
    return Table(
        "Table 8. The lossless decoder over its exit and the length of its drafts",
        [*HEAD, "other answers"],
        rows,
        [],
        "layers in turn: per token, one after the other, where pending tokens pass a layer together; passes: those\n"
        "of every token, in vain too. FLOPs of the decoder, speed: against full depth. other answers: prompts whose\n"
        "tokens are not all those of full depth.\n",
    )


QUANTITIES = {"speed": "times as fast as the full model", "acceptance": "drafted tokens that stood"}
OVER = {"layer": ("layer of the exit", "drafts"), "drafts": ("tokens drafted at most", "layer")}


def paint_drafts(values: dict) -> Figure:
    """Figure 21: rows of a quantity of a model, over layers and over lengths."""
    found = values["points"]
    shown = [name for name in QUANTITIES if any(point[name] is not None for point in found)]
    groups = list(dict.fromkeys((point["task"], point["model"]) for point in found))
    figure, axes = panels(2 * len(shown) * len(groups), height=2.7)
    places = [(group, quantity, x) for group in groups for quantity in shown for x in OVER]
    for panel, ((task, model), quantity, x) in zip(axes, places, strict=True):
        here = [p for p in found if (p["task"], p["model"]) == (task, model) and p[quantity] is not None]
        words, other = OVER[x]
        for place, value in enumerate(sorted({p[other] for p in found})):
            line = sorted((p for p in here if p[other] == value), key=lambda p: p[x])
            _drafted(panel, line, x, quantity, place, f"layer {value}" if other == "layer" else f"{value} drafted")
        if quantity == "speed":
            panel.axhline(1, color="0.3", linewidth=0.8)
        if x == "drafts":
            panel.set_xscale("log", base=2)
            panel.set_xticks(sorted({point["drafts"] for point in found}), minor=False)
            panel.xaxis.set_major_formatter("{x:g}")
        finish(panel, words, QUANTITIES[quantity], f"{task}, {model}")
    shared_legend(figure, axes[::2], "upper", "panels on the left")
    shared_legend(figure, axes[1::2], "lower", "on the right")
    return figure


def _drafted(panel: Axes, line: Sequence[dict], x: str, quantity: str, place: int, label: str) -> None:
    """A line of points, with the range of their repetitions where there is one."""
    ranges = [point.get("speeds") if quantity == "speed" else None for point in line]
    quantities = [
        {"value": point[quantity], "interval": reach or [point[quantity]] * 2}
        for point, reach in zip(line, ranges, strict=True)
    ]
    series(panel, [point[x] for point in line], quantities, nth(place), label)
