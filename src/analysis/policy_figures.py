"""Figures 7 to 16, 18 and 19: what policies score, how deep they go, what they cost, over exit_min_layers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from analysis import intervals
from analysis.drawing import QUESTIONS, Drawing, Runs, band, finish, is_trained, panels, style
from analysis.runs import RunFiles, scaled, where


class Quantity(NamedTuple):
    """A number of a run with its interval."""

    value: float
    interval: tuple[float, float]

    @property
    def errors(self) -> list[float]:
        """Below and above the value."""
        return [max(0.0, self.value - self.interval[0]), max(0.0, self.interval[1] - self.value)]


def score(run: RunFiles, runs: Runs) -> Quantity:
    """In percent."""
    scores = run.example_scores
    return Quantity(run.score, intervals.of_mean(scores) if scores else (run.score, run.score))


def mean_exit(run: RunFiles, runs: Runs) -> Quantity:
    """Layers per token."""
    rows = run.examples
    found = intervals.of_ratio([row["layers"] for row in rows], [row["tokens"] for row in rows])
    return Quantity(run.mean_exit, found)


def confidence_flops(run: RunFiles, runs: Runs) -> Quantity:
    """Per example."""
    return Quantity(run.flops("confidence"), intervals.of_mean([row["flops_confidence"] for row in run.examples]))


def seconds(run: RunFiles, runs: Runs) -> Quantity | None:
    """Per token relative to the full model, measured in turn; the interval is that of the repetitions."""
    ratios = runs.speed(run)
    if ratios is None or run.policy.get("confidence") == "oracle":  # which runs every layer to know the last one's word
        return None
    return Quantity(statistics.median(ratios), (min(ratios), max(ratios)))


Measure = Callable[[RunFiles, Runs], Quantity | None]


def of_task(runs: Runs, questions: bool) -> list[tuple[str, str]]:
    """The groups that answer questions, or those that do not."""
    return [group for group in runs.groups if (group[0] in QUESTIONS) == questions]


# ----------------------------------------------------------------------------------------------------------------- bars
def _bars(
    runs: Runs, title: str, methods: Sequence[str], questions: bool, first_exits: Callable[[str, int], int]
) -> Drawing | None:
    """Score, confidence-FLOPs, mean exit and seconds of methods, a group of bars per model."""
    found = []
    for task, model in of_task(runs, questions):
        some = where(runs.runs, task=task, model=model)
        first = first_exits(model, some[0].num_layers)
        chosen = {name: run for name in methods for run in where(some, method=name, first_exit=first)}
        if len(chosen) == len(methods):
            found.append((task, model, first, chosen, where(some, method="oracle", first_exit=first)))
    if not found:
        return None
    columns: list[tuple[str, Measure, bool]] = [
        (f"{found[0][3][methods[0]].score_name} (%)", score, False),
        ("confidence-FLOPs per example (log scale)", confidence_flops, True),
        ("mean exit (layers per token)", mean_exit, False),
        ("seconds per token / full model", seconds, False),
    ]
    if not any(group[:2] in runs.speeds for group in found):
        columns.pop()
    figure, axes = panels(1, len(columns), width=3.6)
    values = []
    width = 0.8 / len(methods)
    for axis, (label, measure, logarithmic) in zip(axes[0], columns, strict=True):
        for place, name in enumerate(methods):
            quantities = [measure(chosen[name], runs) for *_, chosen, _ in found]
            if any(quantity is None for quantity in quantities):
                continue
            xs = np.arange(len(found)) + (place - (len(methods) - 1) / 2) * width
            bars = axis.bar(
                xs,
                [quantity.value for quantity in quantities],
                width,
                yerr=np.array([quantity.errors for quantity in quantities]).T,
                color=style(name)["color"],
                label=name,
                error_kw={"linewidth": 0.8},
            )
            axis.bar_label(bars, fmt=lambda value: f"{value:.3g}", fontsize=5.5, padding=1)
            values += [
                {"task": task, "model": model, "first_exit": first, "method": name, label: quantity._asdict()}
                for (task, model, first, *_), quantity in zip(found, quantities, strict=True)
            ]
        if measure in (score, mean_exit):
            _oracle_lines(axis, [(oracle, place) for place, (*_, oracle) in enumerate(found)], measure, runs)
        if logarithmic:
            axis.set_yscale("log")
        names = [f"{model}\nexits from {first}" for _, model, first, *_ in found]
        axis.set_xticks(range(len(found)), names)
        finish(axis, "", label, legend=axis is axes[0][0])
    used = [run for *_, chosen, oracle in found for run in (*chosen.values(), *oracle)]
    return Drawing(title, figure, used, {"bars": values, "intervals": True}, seconds_note(runs, found, ranges=True))


def _oracle_lines(axis: Axes, places: Sequence[tuple[list[RunFiles], int]], measure: Measure, runs: Runs) -> None:
    """A dashed line over each group of bars where an oracle comes to: no measure can be right earlier."""
    for oracle, place in places:
        for run in oracle:
            value, colour = measure(run, runs).value, style("oracle")["color"]
            label = "oracle" if place == 0 else None
            axis.hlines(value, place - 0.45, place + 0.45, color=colour, linestyle="--", linewidth=1.2, label=label)


def seconds_note(runs: Runs, found: Sequence, ranges: bool = False) -> str:
    """How the seconds of groups (task, model, ...) were measured, in words; `ranges` are drawn beside medians."""
    timed = [runs.speeds[group[:2]].settings for group in found if group[:2] in runs.speeds]
    if not timed:
        return "No seconds were measured in turn"
    return (
        f"Seconds: batch 1, decoder only, all policies in turn on {timed[0]['examples']} examples, median of "
        f"{timed[0]['repetitions']} repetitions" + (", their range as bars" if ranges else "")
    )


def published_early(model: str, num_layers: int) -> int:
    """exit_min_layer of the published softmax bars: 7 of 24 without trained exits, 2 of 24 with them."""
    return scaled(2 if is_trained(model) else 7, num_layers)


def published_late(model: str, num_layers: int) -> int:
    """exit_min_layer of the published contrastive bars: 19 of 24."""
    return scaled(19, num_layers)


PRUNING = ("softmax", "softmax + fixed", "softmax + decaying", "softmax + adaptive")


def pruning_of_questions(runs: Runs) -> Drawing | None:
    """Figure 7."""
    title = "Figure 7. Softmax confidence under each pruning: question answering"
    return _bars(runs, title, PRUNING, True, published_early)


def pruning_of_summaries(runs: Runs) -> Drawing | None:
    """Figure 8."""
    return _bars(runs, "Figure 8. Softmax confidence under each pruning: summaries", PRUNING, False, published_early)


COMBINED = ("softmax", "JSD", "JSD + adaptive")


def combined_questions(runs: Runs) -> Drawing | None:
    """Figure 11, first half (the post's second Figure 10)."""
    title = "Figure 11a. Softmax, JSD, and JSD with adaptive pruning: question answering"
    return _bars(runs, title, COMBINED, True, published_late)


def combined_summaries(runs: Runs) -> Drawing | None:
    """Figure 11, second half."""
    title = "Figure 11b. Softmax, JSD, and JSD with adaptive pruning: summaries"
    return _bars(runs, title, COMBINED, False, published_late)


# --------------------------------------------------------------------------------------------------------------- sweeps
def _sweep(runs: Runs, title: str, methods: Sequence[str], questions: bool) -> Drawing | None:
    """Mean exit, score and seconds over exit_min_layer, a row per model; the full model is a mark, the oracle grey."""
    groups = [
        (task, model, {name: found for name in (*methods, "oracle") if (found := _line(runs, task, model, name))})
        for task, model in of_task(runs, questions)
    ]
    groups = [group for group in groups if all(name in group[2] for name in methods)]
    if not groups:
        return None
    timed = any(group[:2] in runs.speeds for group in groups)
    figure, axes = panels(len(groups), 3 if timed else 2)
    used, values = [], []
    for row, (task, model, lines) in zip(axes, groups, strict=True):
        full = where(runs.runs, task=task, model=model, method="full model")
        score_name = next(iter(lines.values()))[0].score_name
        columns = [("mean exit (layers per token)", mean_exit), (f"{score_name} (%)", score)]
        columns += [("seconds per token / full model", seconds)] if timed else []
        for axis, (label, measure) in zip(row, columns, strict=True):
            for name, line in lines.items():
                points = [(run.first_exit, quantity) for run in line if (quantity := measure(run, runs)) is not None]
                if points:
                    xs = [layer for layer, _ in points]
                    band(axis, xs, [each.value for _, each in points], [each.interval for _, each in points], name)
                values += [
                    {"task": task, "model": model, "method": name, "first_exit": layer, label: each._asdict()}
                    for layer, each in points
                ]
            if full:
                mark = measure(full[0], runs)
                if mark is not None:
                    axis.plot(full[0].num_layers, mark.value, linestyle="", **style("full model") | {"markersize": 11})
            finish(axis, "exit_min_layer", label, f"{task}, {model}", legend=axis is row[0])
        used += full[:1] + [run for line in lines.values() for run in line]
    return Drawing(title, figure, used, {"points": values, "intervals": True}, seconds_note(runs, groups, ranges=True))


def _line(runs: Runs, task: str, model: str, method: str) -> list[RunFiles]:
    """A method's runs over exit_min_layer, one each."""
    by_layer = {run.first_exit: run for run in where(runs.runs, task=task, model=model, method=method)}
    return [by_layer[layer] for layer in sorted(by_layer)]


MEASURES = ("softmax", "weighted", "JSD")
JSD_PRUNING = ("JSD", "JSD + fixed", "JSD + decaying", "JSD + adaptive")
FORMS = ("softmax", "weighted", "weighted (text)", "JSD", "JSD (text)")
FUTURE = ("JSD", "JSD, token from s", "JSD + fixed", "JSD + fixed, alpha 0")


def _sweeps(number: int, words: str, methods: Sequence[str], questions: bool) -> Callable[[Runs], Drawing | None]:
    kind = "question answering" if questions else "summaries"
    return lambda runs: _sweep(runs, f"Figure {number}. {words}: {kind}", methods, questions)


SWEEPS = {
    "figure_09": _sweeps(9, "Softmax, weighted and JSD confidence", MEASURES, True),
    "figure_10": _sweeps(10, "Softmax, weighted and JSD confidence", MEASURES, False),
    "figure_12": _sweeps(12, "JSD confidence under each pruning", JSD_PRUNING, True),
    "figure_13": _sweeps(13, "JSD confidence under each pruning", JSD_PRUNING, False),
    "figure_14": _sweeps(14, "Softmax, JSD, and JSD with adaptive pruning", COMBINED, True),
    "figure_15": _sweeps(15, "Softmax, JSD, and JSD with adaptive pruning", COMBINED, False),
    "figure_18": _sweeps(18, "Tokens from s, and no plausible set under pruning", FUTURE, True),
    "figure_19": _sweeps(19, "Tokens from s, and no plausible set under pruning", FUTURE, False),
}


# ---------------------------------------------------------------------------------------- the two forms, at equal depth
def two_forms(runs: Runs) -> Drawing | None:
    """Figure 16: score against mean exit for the published forms and the text's, so that depth and measure part."""
    groups = [(*group, {name: _line(runs, *group, name) for name in (*FORMS, "oracle")}) for group in runs.groups]
    groups = [group for group in groups if all(group[2][name] for name in FORMS)]
    if not groups:
        return None
    figure, axes = panels(1, len(groups))
    used, values = [], []
    for axis, (task, model, lines) in zip(axes[0], groups, strict=True):
        for name, line in lines.items():
            if not line:
                continue
            line = sorted(line, key=lambda run: run.mean_exit)
            quantities = [score(run, runs) for run in line]
            axis.errorbar(
                [run.mean_exit for run in line],
                [quantity.value for quantity in quantities],
                yerr=np.array([quantity.errors for quantity in quantities]).T,
                elinewidth=0.5,
                **style(name) | {"linewidth": 1.0},
            )
            values += [
                {"task": task, "model": model, "method": name, "first_exit": run.first_exit, "mean_exit": run.mean_exit}
                | {"score": quantity._asdict()}
                for run, quantity in zip(line, quantities, strict=True)
            ]
        statics = where(runs.runs, task=task, model=model, method="static")
        full = where(runs.runs, task=task, model=model, method="full model")[:1]
        points = [(run.mean_exit, run.score) for run in [*statics, *full]]
        if points:
            axis.plot(*zip(*points, strict=True), "k:", linewidth=1, label="static exits")
        name = next(iter(lines.values()))[0].score_name
        finish(axis, "mean exit (layers per token)", f"{name} (%)", f"{task}, {model}", legend=axis is axes[0][0])
        used += [*statics, *full, *(run for line in lines.values() for run in line)]
    title = "Figure 16. The two forms of the contrastive measures, at equal depth"
    note = "Points of a line are exit_min_layers. A measure is better where it is higher at the same depth"
    return Drawing(title, figure, used, {"points": values, "intervals": True}, note)
