"""Figures 17 and 20: seconds at the size of a real model, and score against speed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import INTERVALS, Drawing, Runs, errors, finish, own_legend, panels, series, shared_legend
from analysis.quantities import Quantity, score, seconds_note, times_as_fast
from analysis.runs import RunFiles, where
from analysis.style import bars, look, nth, points

BENCHMARKED = (
    "softmax from layer 2, never exiting / no confidence",
    "fixed pruning k=512 / no confidence",
    "fixed pruning k=512 / softmax",
    "decaying pruning / softmax",
    "weighted / softmax",
    "JSD / softmax",
    "JSD + adaptive / softmax",
)


def benchmark(runs: Runs) -> Drawing | None:
    """Figure 17: what the policies cost in seconds where matrices are as large as a T5-base's."""
    held = runs.benchmark
    if held is None or "prompts" in held:
        return None
    note = (
        f"Above 1, the first of a pair is the faster one. Never exiting, {held['generated_tokens']} tokens, "
        f"{held['dtype']} on {held['device']}; median and range of {held['repetitions']} repetitions in turn; from "
        "benchmark.json"
    )
    title = f"Figure 17. Seconds at the size of a {held['size']}: one policy against another"
    return Drawing(title, paint_benchmark, {"benchmark": held["batches"]}, note)


def paint_benchmark(values: dict) -> Figure:
    """Figure 17: a group of bars per pair of policies, a bar per batch size."""
    batches = values["benchmark"]
    shown = [name for name in BENCHMARKED if all(name in found for found in batches.values())]
    figure, (axis,) = panels(1, width=8.6, height=3.6)
    width = 0.7 / len(batches)
    for place, (batch, found) in enumerate(batches.items()):
        xs = np.arange(len(shown)) + (place - (len(batches) - 1) / 2) * width
        ranges = [
            {"value": found[name]["median"], "interval": (found[name]["min"], found[name]["max"])} for name in shown
        ]
        caps = {"linewidth": 0.8, "capsize": 2}
        heights = [each["value"] for each in ranges]
        drawn = axis.bar(
            xs, heights, width, yerr=errors(ranges), label=f"batch {batch}", error_kw=caps, **bars(nth(place))
        )
        axis.bar_label(drawn, fmt="%.2f", fontsize=7, padding=1)
    axis.axhline(1, color="0.3", linewidth=0.8)
    axis.set_xticks(range(len(shown)), [textwrap.fill(name, 16) for name in shown])
    finish(axis, "", "times as fast")
    axis.margins(y=0.1)
    shared_legend(figure)
    return figure


# -------------------------------------------------------------------------------------------------- score against speed
TRADED = ("static", "softmax", "FREE", "FREE + adaptive threshold", "FREE + rollback", "lossless")


class Tradeoff(NamedTuple):
    """How a method trades its score for speed on one task with one model.

    Attributes:
        axis: What is called speed: "times as fast", or "times fewer layers in turn".
        points: (speed, run), by speed, that of the full model among them.
        area: Mean over the speeds from the full model's to the fastest one of any method of the best score at that
            speed or above; 0 where the method is never that fast. None where no method is faster than the full model.
    """

    task: str
    model: str
    method: str
    axis: str
    points: list[tuple[Quantity, RunFiles]]
    area: float | None


def _times_fewer_layers(run: RunFiles, runs: Runs) -> Quantity:
    found = run.num_layers / run.layers_in_turn
    return Quantity(found, (found, found))


AXES = {"times as fast": times_as_fast, "times fewer layers in turn": _times_fewer_layers}


def tradeoffs(runs: Runs) -> list[Tradeoff]:
    """Of every group whose full model and FREE were run, every method on every axis that was measured."""
    found = []
    for task, model in runs.groups:
        some = where(runs.runs, task=task, model=model)
        full = where(some, method="full model")
        lines = {name: line for name in TRADED if (line := where(some, method=name))}
        if not full or "FREE" not in lines:
            continue
        for axis, speed in AXES.items():
            placed = {
                name: sorted(
                    [(x, run) for run in (full[0], *line) if (x := speed(run, runs)) is not None],
                    key=lambda point: point[0].value,
                )
                for name, line in lines.items()
            }
            placed = {name: points for name, points in placed.items() if len(points) > 1}
            end = max((x.value for points in placed.values() for x, _ in points), default=0)
            found += [
                Tradeoff(task, model, name, axis, points, area_under([(x.value, run.score) for x, run in points], end))
                for name, points in placed.items()
            ]
    return found


def area_under(points: Sequence[tuple[float, float]], end: float) -> float | None:
    """Mean, over speeds from 1 to `end`, of the best score of the points (speed, score) at that speed or above; 0 where
    no point is that fast. None where `end` is not above 1."""
    if end <= 1:
        return None
    area, reached = 0.0, 1.0
    for speed in sorted(speed for speed, _ in points if speed > 1):
        area += (min(speed, end) - reached) * max(score for other, score in points if other >= speed)
        reached = min(speed, end)
    return area / (end - 1)


TRADEOFF_NOTE = (
    "Good is far to the right and high. Points are layers of the first exit (of static exits, of the one there is); "
    "the star is the full model. The line is the best score at a speed or above; in brackets the area under it, from "
    "the full model's speed to the fastest here, over that range, 0 where the method is never that fast. Layers in "
    "turn: what pending tokens pass together counts once"
)


def score_against_speed(runs: Runs) -> Drawing | None:
    """Figure 20: what the methods score at which speed, and the area under each."""
    found = tradeoffs(runs)
    if not found:
        return None
    groups = list(dict.fromkeys((each.task, each.model) for each in found))
    used = [run for each in found for _, run in each.points]
    note = f"{TRADEOFF_NOTE}. {INTERVALS}. {seconds_note(runs, groups)}"
    title = "Figure 20. Score against speed, and the area under it"
    values = {"tradeoffs": [_traded(each, runs) for each in found]}
    return Drawing.of_runs(title, paint_tradeoffs, values, note, used)


def _traded(each: Tradeoff, runs: Runs) -> dict:
    """A tradeoff as JSON."""
    rows = [
        {"first_exit": run.first_exit or run.policy.get("static_exit"), "full": run.method == "full model"}
        | {"speed": speed._asdict(), "score": score(run, runs)._asdict()}
        for speed, run in each.points
    ]
    return each._asdict() | {"score_name": each.points[0][1].score_name, "points": rows}


def paint_tradeoffs(values: dict) -> Figure:
    """Figure 20: a row per model, a panel per kind of speed."""
    by_panel: dict[tuple[str, str], dict[str, list[dict]]] = {}
    for each in values["tradeoffs"]:
        by_panel.setdefault((each["task"], each["model"]), {}).setdefault(each["axis"], []).append(each)
    columns = max(map(len, by_panel.values()))
    figure, axes = panels(columns * len(by_panel), columns, width=5.4, height=2.8)
    for place, ((task, model), by_axis) in enumerate(by_panel.items()):
        row = axes[columns * place : columns * (place + 1)]
        for panel, (axis, found) in zip(row, by_axis.items(), strict=False):
            for each in found:
                _traded_line(panel, each)
            full = next(point for point in found[0]["points"] if point["full"])
            star = points(look("full model")) | {"label": "full model"}
            panel.plot(full["speed"]["value"], full["score"]["value"], **star)
            finish(panel, f"{axis} per token", f"{found[0]['score_name']} (%)", f"{task}, {model}")
            own_legend(panel)
        for unused in row[len(by_axis) :]:
            unused.remove()
    return figure


def _traded_line(panel: Axes, each: dict) -> None:
    """The points of a method, and the best score at a speed or above as a line of steps."""
    found = [point for point in each["points"] if not point["full"]]
    speeds, scores = ([point[name] for point in found] for name in ("speed", "score"))
    own = look(each["method"])
    label = each["method"] if each["area"] is None else f"{each['method']} ({each['area']:.1f})"
    xs = [speed["value"] for speed in speeds]
    panel.plot([], [], label=label, **points(own))
    series(panel, xs, scores, own, "", xerr=errors(speeds), linestyle="", alpha=0.85)
    pairs = [(point["speed"]["value"], point["score"]["value"]) for point in each["points"]]
    reached = [1.0, *sorted(speed for speed, _ in pairs if speed > 1)]
    best = [max(value for other, value in pairs if other >= speed) for speed in reached]
    panel.plot(reached, best, drawstyle="steps-pre", color=own.colour, linestyle=own.line, linewidth=1.2)
