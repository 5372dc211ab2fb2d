"""Figures 7 to 16, 18, 19 and 23: what policies score, how deep they go, what they cost, over exit_min_layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator

from analysis.drawing import (
    INTERVALS,
    QUESTIONS,
    Drawing,
    Runs,
    errors,
    finish,
    is_trained,
    panels,
    series,
    shared_legend,
)
from analysis.quantities import Measure, confidence_flops, layers_in_turn, mean_exit, score, seconds, seconds_note
from analysis.runs import RunFiles, scaled, where
from analysis.style import bars, look

IN_TURN = "layers in turn (per token)"
DEPTH, CLOCK, FLOPS = "mean exit (layers per token)", "seconds per token / full model", "confidence-FLOPs per example"


def of_task(runs: Runs, questions: bool) -> list[tuple[str, str]]:
    """The groups that answer questions, or those that do not."""
    return [group for group in runs.groups if (group[0] in QUESTIONS) == questions]


def _row(run: RunFiles, columns: dict[str, Measure], runs: Runs) -> dict:
    """What a figure shows of a run: which it is, and its quantities by the names of their axes."""
    found = {label: measure(run, runs) for label, measure in columns.items()}
    quantities = {label: quantity._asdict() for label, quantity in found.items() if quantity is not None}
    layer = run.first_exit or run.policy.get("static_exit") or run.num_layers
    about = {"task": run.task, "model": run.model, "method": run.method, "first_exit": layer}
    return {**about, "quantities": quantities}


def _by_group(rows: Sequence[dict]) -> dict[tuple[str, str], list[dict]]:
    found: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        found.setdefault((row["task"], row["model"]), []).append(row)
    return found


def _labels(rows: Sequence[dict]) -> list[str]:
    """The names of the quantities that some row has, in their order."""
    return list(dict.fromkeys(label for row in rows for label in row["quantities"]))


# ----------------------------------------------------------------------------------------------------------------- bars
BARS_NOTE = (
    "Good is a score no lower than the others' with fewer FLOPs, fewer layers and fewer seconds, which are saved "
    "below 1. The oracle leaves at the first layer that says what the last will: no measure can be right earlier"
)


def _bars(
    runs: Runs, title: str, methods: Sequence[str], questions: bool, first_exits: Callable[[str, int], int]
) -> Drawing | None:
    """Score, confidence-FLOPs, mean exit and seconds of methods, a group of bars per model."""
    found, used = [], []
    for task, model in of_task(runs, questions):
        some = where(runs.runs, task=task, model=model)
        first = first_exits(model, some[0].num_layers)
        chosen = [where(some, method=name, first_exit=first) for name in methods]
        if all(chosen):
            found.append((task, model))
            used += [each[-1] for each in chosen] + where(some, method="oracle", first_exit=first)
    if not found:
        return None
    columns = {f"{used[0].score_name} (%)": score, FLOPS: confidence_flops, DEPTH: mean_exit, CLOCK: seconds}
    rows = [_row(run, columns, runs) for run in used]
    note = f"{BARS_NOTE}. {INTERVALS}. {seconds_note(runs, found)}"
    return Drawing.of_runs(title, paint_bars, {"rows": rows}, note, used)


def paint_bars(values: dict) -> Figure:
    """Figures 7, 8 and 11: a panel per quantity, a group of bars per model; the oracle as a line over each."""
    groups = _by_group(values["rows"])
    labels = _labels(values["rows"])
    figure, axes = panels(len(labels), height=3.1)
    for panel, label in zip(axes, labels, strict=True):
        methods = list(dict.fromkeys(row["method"] for row in values["rows"] if row["method"] != "oracle"))
        width = 0.84 / len(methods)
        for place, name in enumerate(methods):
            quantities = [
                next(row["quantities"].get(label) for row in rows if row["method"] == name) for rows in groups.values()
            ]
            xs = np.arange(len(groups)) + (place - (len(methods) - 1) / 2) * width
            _group_of_bars(panel, xs, quantities, width, name, logarithmic=label == FLOPS)
        if label != FLOPS:  # it asks every layer, to know the last one's word
            _oracle_lines(panel, groups, label)
        names = [f"{model}\nexits from {rows[0]['first_exit']}" for (_, model), rows in groups.items()]
        panel.set_xticks(range(len(groups)), names)
        finish(panel, "", f"{label} (log)" if label == FLOPS else label, next(iter(groups))[0])
        panel.margins(y=0.12)
    shared_legend(figure)
    return figure


def _group_of_bars(
    panel: Axes, xs: np.ndarray, quantities: list[dict | None], width: float, name: str, logarithmic: bool
) -> None:
    there = [(x, quantity) for x, quantity in zip(xs, quantities, strict=True) if quantity is not None]
    if not there:
        return
    places, found = zip(*there, strict=True)
    heights = [quantity["value"] for quantity in found]
    caps = {"linewidth": 0.8, "capsize": 2}
    drawn = panel.bar(places, heights, width, yerr=errors(found), label=name, error_kw=caps, **bars(look(name)))
    short = EngFormatter(places=1, sep="")
    ground = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.3}  # where the oracle's line passes
    number = short if logarithmic else lambda value: f"{value:.3g}"
    panel.bar_label(drawn, fmt=number, fontsize=6.5, padding=1, bbox=ground)
    if logarithmic:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(short)
        panel.yaxis.set_minor_formatter("")


def _oracle_lines(panel: Axes, groups: dict, label: str) -> None:
    """A dashed line over each group of bars where an oracle comes to."""
    for place, rows in enumerate(groups.values()):
        for row in rows:
            if row["method"] == "oracle" and label in row["quantities"]:
                panel.hlines(
                    row["quantities"][label]["value"],
                    place - 0.47,
                    place + 0.47,
                    color=look("oracle").colour,
                    linestyle="--",
                    linewidth=1.4,
                    label="oracle",
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
SWEEP_NOTE = (
    "Good is far down on the left, high in the middle, below 1 on the right. Points of one layer are set side by "
    "side, hollow, so that none hides another. exit_min_layer ends before the last layer, after which every token "
    "leaves anyway: the star is the full model"
)


def _sweep(runs: Runs, title: str, methods: Sequence[str], questions: bool) -> Drawing | None:
    """Mean exit, score and seconds over exit_min_layer, a row per model; the full model is a mark, the oracle grey."""
    groups = [
        (task, model, {name: found for name in (*methods, "oracle") if (found := _line(runs, task, model, name))})
        for task, model in of_task(runs, questions)
    ]
    groups = [group for group in groups if all(name in group[2] for name in methods)]
    if not groups:
        return None
    used, rows = [], []
    for task, model, lines in groups:
        full = where(runs.runs, task=task, model=model, method="full model")[:1]
        shown = [run for line in lines.values() for run in line] + full
        columns = {DEPTH: mean_exit, f"{shown[0].score_name} (%)": score, CLOCK: seconds}
        rows += [_row(run, columns, runs) for run in shown]
        used += shown
    note = f"{SWEEP_NOTE}. {_short_lines(groups)}{INTERVALS}. {seconds_note(runs, groups)}"
    return Drawing.of_runs(title, paint_sweep, {"rows": rows}, note, used)


def _line(runs: Runs, task: str, model: str, method: str) -> list[RunFiles]:
    """A method's runs over exit_min_layer, one each."""
    by_layer = {run.first_exit: run for run in where(runs.runs, task=task, model=model, method=method)}
    return [by_layer[layer] for layer in sorted(by_layer)]


def _short_lines(groups: Sequence[tuple[str, str, dict[str, list[RunFiles]]]]) -> str:
    """Why pruned lines end earlier, where they do, and why an oracle has no seconds."""
    ends = {name: line[-1].first_exit for *_, lines in groups for name, line in lines.items()}
    pruned = [end for name, end in ends.items() if " + " in name]
    words = ""
    if pruned and max(pruned) < max(ends.values()):
        words = (
            f"Pruned lines end at layer {max(pruned)}: a token that has one exit only asks the whole head there, and "
            "nothing is pruned. "
        )
    oracle = "The oracle has no seconds: it runs every layer to know what the last one says. "
    return words + (oracle if "oracle" in ends else "")


def paint_sweep(values: dict) -> Figure:
    """Figures 9, 10, 12 to 15, 18 and 19: a row of panels per model, one per quantity."""
    groups = _by_group(values["rows"])
    most = max(len(_labels(rows)) for rows in groups.values())
    figure, axes = panels(most * len(groups), columns=most, width=3.6)
    for place, ((task, model), rows) in enumerate(groups.items()):
        labels = _labels(rows)
        for panel, label in zip(axes[most * place :], labels, strict=False):
            there = [row for row in rows if label in row["quantities"]]
            methods = list(dict.fromkeys(row["method"] for row in rows))
            for index, name in enumerate(methods):
                line = [row for row in there if row["method"] == name]
                aside = 0 if name == "full model" else 0.09 * (index - (len(methods) - 2) / 2)
                if line:
                    xs = [row["first_exit"] + aside for row in line]
                    series(panel, xs, [row["quantities"][label] for row in line], look(name), name)
            finish(panel, "exit_min_layer", label, f"{task}, {model}")
        for unused in axes[most * place + len(labels) : most * (place + 1)]:
            unused.remove()
    shared_legend(figure)
    return figure


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


# --------------------------------------------------------------------------------------------------- score over depth
# Kind of method -> those that a panel shows, beside static exits, the oracle and the full model.
KINDS = {
    "measures": ("softmax", "state", "meta"),
    "pruned": PRUNING,
    "contrastive": FORMS,
    "one exit": ("FREE", "FREE + adaptive threshold", "lossless"),
}
DEPTH_NOTE = (
    "A method is better where it is higher at the same depth. Points of a line are exit_min_layers, those of static "
    "exits the layer every token leaves at; the star is the full model"
)


def two_forms(runs: Runs) -> Drawing | None:
    """Figure 16: score against mean exit for the published forms and the text's, so that depth and measure part."""
    title = "Figure 16. The two forms of the contrastive measures, at equal depth"
    return _over_depth(runs, title, {"": FORMS}, {DEPTH: mean_exit})


def every_method(runs: Runs) -> Drawing | None:
    """Figure 23: score against layers that a token waits for, a panel per kind of method."""
    title = "Figure 23. Every method: score against the layers that run one after the other"
    return _over_depth(runs, title, KINDS, {IN_TURN: layers_in_turn})


def _over_depth(
    runs: Runs, title: str, kinds: Mapping[str, Sequence[str]], depth: dict[str, Measure]
) -> Drawing | None:
    """Of the models whose runs have every method of all kinds."""
    wanted = [name for names in kinds.values() for name in names]
    rows, used = [], []
    for group in runs.groups:
        lines = {name: _line(runs, *group, name) for name in (*wanted, "oracle")}
        if not all(lines[name] for name in wanted):
            continue
        task, model = group
        statics = where(runs.runs, task=task, model=model, method="static")
        full = where(runs.runs, task=task, model=model, method="full model")[:1]
        for kind, names in kinds.items():
            shown = [*(run for name in (*names, "oracle") for run in lines[name]), *statics, *full]
            columns = {**depth, f"{shown[0].score_name} (%)": score}
            rows += [_row(run, columns, runs) | {"kind": kind} for run in shown]
            used += shown
    if not rows:
        return None
    return Drawing.of_runs(title, paint_score_over_depth, {"rows": rows}, f"{DEPTH_NOTE}. {INTERVALS}", used)


def paint_score_over_depth(values: dict) -> Figure:
    """Figures 16 and 23: a panel per model and kind, a line per method from its shallowest point to its deepest."""
    found: dict[tuple[str, ...], list[dict]] = {}
    for row in values["rows"]:
        found.setdefault((row["task"], row["model"], row.get("kind", "")), []).append(row)
    kinds = len({kind for *_, kind in found})
    figure, axes = panels(len(found), height=3.2, **({"columns": kinds, "width": 3.6} if kinds > 1 else {}))
    for panel, (about, rows) in zip(axes, found.items(), strict=True):
        depth, label = _labels(rows)
        for name in dict.fromkeys(row["method"] for row in rows):
            line = [row["quantities"] for row in rows if row["method"] == name]
            line.sort(key=lambda each: each[depth]["value"])
            xs = [each[depth]["value"] for each in line]
            series(panel, xs, [each[label] for each in line], look(name), name)
        finish(panel, depth, label, ", ".join(filter(None, about)))
    shared_legend(figure)
    return figure
