"""Figures 17, 20 and 21: seconds at the size of a real model, score against speed, drafts of the lossless decoder."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from analysis.drawing import Drawing, Runs, finish, panels, style
from analysis.policy_figures import score, seconds, seconds_note
from analysis.runs import RunFiles, where

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
    if runs.benchmark is None:
        return None
    batches = runs.benchmark["batches"]
    figure, axes = panels(1, 1, width=9.0, height=3.6)
    axis = axes[0][0]
    shown = [name for name in BENCHMARKED if all(name in found for found in batches.values())]
    for place, (batch, found) in enumerate(batches.items()):
        xs = np.arange(len(shown)) + (place - (len(batches) - 1) / 2) * 0.35
        medians = [found[name]["median"] for name in shown]
        errors = [
            [found[name]["median"] - found[name]["min"], found[name]["max"] - found[name]["median"]] for name in shown
        ]
        bars = axis.bar(xs, medians, 0.33, yerr=np.array(errors).T, label=f"batch {batch}", error_kw={"linewidth": 0.8})
        axis.bar_label(bars, fmt="%.2f", fontsize=6)
    axis.axhline(1, color="0.5", linewidth=0.8)
    axis.set_xticks(range(len(shown)), [textwrap.fill(name, 18) for name in shown])
    finish(axis, "", "times as fast", legend=True)
    held = runs.benchmark
    note = (
        f"Never exiting, {held['generated_tokens']} tokens, {held['dtype']} on {held['device']}, median and range of "
        f"{held['repetitions']} repetitions in turn; from benchmark.json"
    )
    title = f"Figure 17. Seconds at the size of a {held['size']}: one policy against another"
    return Drawing(title, figure, [], {"benchmark": batches}, note)


# -------------------------------------------------------------------------------------------------- score against speed
TRADED = ("static", "softmax", "FREE", "FREE + adaptive threshold", "FREE + rollback", "lossless")


class Tradeoff(NamedTuple):
    """How a method trades its score for speed on one task with one model.

    Attributes:
        axis: What is called speed: "times as fast", or "times fewer layers in turn".
        points: (speed, run), by speed, that of the full model first.
        area: Mean over the speeds from the full model's to the fastest one of any method of the best score at that
            speed or above; 0 where the method is never that fast. None where no method is faster than the full model.
    """

    task: str
    model: str
    method: str
    axis: str
    points: list[tuple[float, RunFiles]]
    area: float | None


def _times_as_fast(run: RunFiles, runs: Runs) -> float | None:
    ratio = seconds(run, runs)
    return None if ratio is None else 1 / ratio.value


def _times_fewer_layers(run: RunFiles, runs: Runs) -> float:
    return run.num_layers / run.layers_in_turn


AXES = {"times as fast": _times_as_fast, "times fewer layers in turn": _times_fewer_layers}


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
                    key=lambda point: point[0],
                )
                for name, line in lines.items()
            }
            placed = {name: points for name, points in placed.items() if len(points) > 1}
            end = max((x for points in placed.values() for x, _ in points), default=0)
            found += [
                Tradeoff(task, model, name, axis, points, area_under([(x, run.score) for x, run in points], end))
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


def score_against_speed(runs: Runs) -> Drawing | None:
    """Figure 20: what the methods score at which speed, and the area under each."""
    found = tradeoffs(runs)
    if not found:
        return None
    groups = list(dict.fromkeys((each.task, each.model) for each in found))
    axes = list(dict.fromkeys(each.axis for each in found))
    figure, rows = panels(len(groups), len(axes), width=5.4, height=3.6)
    used, values = [], []
    for row, (task, model) in zip(rows, groups, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            for each in (each for each in found if (each.task, each.model, each.axis) == (task, model, axis)):
                _line(panel, each, runs)
                used += [run for _, run in each.points]
                points = [{"speed": x, "score": run.score, "first_exit": run.first_exit} for x, run in each.points]
                values.append(each._asdict() | {"points": points})
            name = used[-1].score_name
            finish(panel, f"{axis} per token", f"{name} (%)", f"{task}, {model}", legend=True)
    note = (
        "Points are layers of the first exit; the star is the full model. The line is the best score at a speed or "
        "above; in brackets the area under it, from the full model's speed to the fastest here, over that range, 0 "
        "where the method is never that fast. Layers in turn: "
        f"what waiting tokens pass together counts once. {seconds_note(runs, groups)}"
    )
    title = "Figure 20. Score against speed, and the area under it"
    return Drawing(title, figure, used, {"tradeoffs": values, "intervals": True}, note)


def _line(panel: Axes, each: Tradeoff, runs: Runs) -> None:
    """The points of a method, and the best score at a speed or above as a line of steps."""
    quantities = [score(run, runs) for _, run in each.points]
    look = style(each.method) | {"linewidth": 1.2}
    panel.errorbar(
        [speed for speed, _ in each.points],
        [quantity.value for quantity in quantities],
        yerr=np.array([quantity.errors for quantity in quantities]).T,
        elinewidth=0.4,
        alpha=0.8,
        **look | {"linestyle": "", "label": each.method if each.area is None else f"{each.method} ({each.area:.1f})"},
    )
    speeds = [1.0, *sorted(speed for speed, _ in each.points if speed > 1)]
    best = [max(run.score for other, run in each.points if other >= speed) for speed in speeds]
    panel.plot(speeds, best, drawstyle="steps-pre", **look | {"marker": "", "label": None})
    speed, full = next(point for point in each.points if point[1].method == "full model")
    panel.plot(speed, full.score, linestyle="", **style("full model") | {"markersize": 10, "label": None})


# --------------------------------------------------------------------------------------------------------------- drafts
class Point(NamedTuple):
    """A run of the lossless decoder with one exit.

    Attributes:
        layer, drafts: Of its exit; how many tokens are drafted at most.
        acceptance: Of the drafted tokens, how many stood.
        speed: Times as fast as the full model, or None where it was not timed.
    """

    layer: int
    drafts: int
    acceptance: float | None
    speed: float | None
    run: RunFiles


def drafts(runs: Runs) -> dict[tuple[str, str], list[Point]]:
    """(task, model) -> the lossless runs, where there are some of several draft lengths."""
    found = {}
    for task, model in runs.groups:
        points = [
            Point(run.first_exit, run.policy["num_speculations"], run.acceptance_rate, _times_as_fast(run, runs), run)
            for run in where(runs.runs, task=task, model=model, method="lossless")
        ]
        if len({point.drafts for point in points}) > 1:
            found[task, model] = sorted(points, key=lambda point: (point.layer, point.drafts))
    return found


def draft_sweep(runs: Runs) -> Drawing | None:
    """Figure 21: speed and acceptance of the lossless decoder over its exit's layer and over the length of drafts."""
    groups = drafts(runs)
    if not groups:
        return None
    everything = [point for points in groups.values() for point in points]
    quantities = [("speed", "times as fast as the full model"), ("acceptance", "drafted tokens that stood")]
    quantities = [each for each in quantities if any(getattr(point, each[0]) is not None for point in everything)]
    over = [("layer", "layer of the exit", "drafts"), ("drafts", "tokens drafted at most", "layer")]
    figure, rows = panels(len(groups), len(quantities) * len(over), width=3.4)
    for row, ((task, model), points) in zip(rows, groups.items(), strict=True):
        places = [(quantity, along) for quantity in quantities for along in over]
        for panel, ((quantity, label), (x, words, other)) in zip(row, places, strict=True):
            for value in sorted({getattr(point, other) for point in points}):
                line = [p for p in points if getattr(p, other) == value and getattr(p, quantity) is not None]
                line.sort(key=lambda point: getattr(point, x))
                name = f"{other} {value}" if other == "layer" else f"{value} drafted"
                xs, ys = [getattr(p, x) for p in line], [getattr(p, quantity) for p in line]
                panel.plot(xs, ys, marker="o", markersize=4, linewidth=1.2, label=name)
            if quantity == "speed":
                panel.axhline(1, color="0.5", linewidth=0.8)
            if x == "drafts":
                panel.set_xscale("log", base=2)
                panel.set_xticks(sorted({point.drafts for point in points}), minor=False)
                panel.xaxis.set_major_formatter("{x:g}")
            finish(panel, words, label, f"{task}, {model}", legend=True)
    values = [
        {"task": task, "model": model, **point._asdict(), "run": point.run.folder.as_posix()}
        for (task, model), points in groups.items()
        for point in points
    ]
    title = "Figure 21. The lossless decoder over its exit and the length of its drafts"
    note = seconds_note(runs, list(groups))
    return Drawing(title, figure, [point.run for point in everything], {"points": values}, note)
