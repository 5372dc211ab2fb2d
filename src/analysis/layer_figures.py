"""Figures 1 to 6: what the layers say of a token, drawn from views and traces of runs."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import (
    INTERVALS,
    Drawing,
    Runs,
    as_label,
    finish,
    is_trained,
    panels,
    series,
    shared_legend,
    token_ticks,
)
from analysis.quantities import score
from analysis.runs import RunFiles, where
from analysis.style import BLACK, DOTTED, LONG, Look, bars, look, nth, points

PRUNED = ("softmax + fixed", "softmax + decaying", "softmax + adaptive")


def viewed_full(runs: Runs, task: str, model: str) -> RunFiles | None:
    """The full model's run with views of a task and model."""
    found = [run for run in where(runs.runs, task=task, model=model, method="full model") if run.layers is not None]
    return found[0] if found else None


# -------------------------------------------------------------------------------------------------------------- pruning
def how_pruning_shrinks(runs: Runs) -> Drawing | None:
    """Figure 1: of one token, which tokens survive at every exit, and where the token emitted stands."""
    used, tokens = [], []
    for task, model in runs.groups:
        kinds = {kind: where(runs.runs, task=task, model=model, method=kind) for kind in PRUNED}
        if not all(kinds.values()):
            continue
        first = min(run.first_exit for found in kinds.values() for run in found)
        chosen = {kind: next(run for run in found if run.first_exit == first) for kind, found in kinds.items()}
        full = viewed_full(runs, task, model)
        example, traces = _longest_first_token(chosen)
        kept = {
            kind: [[layer, k] for layer, k in enumerate(trace["kept"][0], start=1) if k]
            for kind, trace in traces.items()
        }
        tokens.append({"task": task, "model": model, "example": example, "kept": kept, "rank": None})
        if full is not None:
            tokens[-1]["rank"] = next(line for line in full.details("layers") if line["id"] == example)["rank"][0]
            used.append(full)
        used += chosen.values()
    if not tokens:
        return None
    note = (
        "Of one token: how many survive at each exit it tried, and the rank of the one finally emitted; "
        "where its rank lies above a line, that pruning has thrown it away. Shown is the first token of the example "
        "whose first token tried the most exits under all three. Exits end before the last layer, which emits what is "
        "left to it"
    )
    title = "Figure 1. How pruning shrinks the vocabulary at the exits of one token"
    return Drawing.of_runs(title, paint_pruning, {"tokens": tokens}, note, used)


def _longest_first_token(chosen: dict[str, RunFiles]) -> tuple[str, dict[str, dict]]:
    """The example whose first token tried the most exits in every run, and its traces."""
    traces = {kind: {line["id"]: line for line in run.details("traces")} for kind, run in chosen.items()}
    shared = [name for name in next(iter(traces.values())) if all(name in each for each in traces.values())]
    deepest = max(shared, key=lambda name: min(each[name]["exit_layers"][0] for each in traces.values()))
    return deepest, {kind: each[deepest] for kind, each in traces.items()}


def paint_pruning(values: dict) -> Figure:
    """Figure 1."""
    figure, axes = panels(len(values["tokens"]))
    for panel, token in zip(axes, values["tokens"], strict=True):
        for kind, kept in token["kept"].items():
            panel.plot(*zip(*kept, strict=True), label=f"kept: {kind.split(' + ')[1]}", **points(look(kind)))
        if token["rank"]:
            rank = Look(BLACK, "", LONG, "")
            panel.plot(range(len(token["rank"])), token["rank"], label="rank of the final token", **points(rank))
        panel.set_yscale("log")
        if all(len(kept) == 1 for kept in token["kept"].values()):
            (layer, size), *_ = next(iter(token["kept"].values()))
            why = f"every first token leaves at layer {layer},\nits first exit, before anything is pruned"
            panel.annotate(why, (layer, size), xytext=(12, 5), textcoords="offset points", va="top", fontsize=8)
        title = f"{token['task']}, {token['model']}\nfirst token of {token['example']}"
        finish(panel, "layer (0 = embedding)", "tokens (log scale)", title)
    shared_legend(figure)
    return figure


# ---------------------------------------------------------------------------------------------------------------- ranks
# What a box shows of the ranks of a layer, in the words of matplotlib.
BOX = {"whislo": 5, "q1": 25, "med": 50, "q3": 75, "whishi": 95}


def ranks(runs: Runs) -> Drawing | None:
    """Figure 2: the rank of the final token at every layer, from the embedding to the last."""
    shown = [(*group, run) for group in runs.groups if (run := viewed_full(runs, *group)) is not None]
    if not shown:
        return None
    values = []
    for task, model, run in shown:
        tokens = [ranks for line in run.details("layers") for ranks in line["rank"]]
        by_layer = list(zip(*tokens, strict=True))
        found = {f"percentile_{at}": [float(np.percentile(each, at)) for each in by_layer] for at in BOX.values()}
        values.append({"task": task, "model": model, "tokens": len(tokens), **found})
    note = (
        "How early could the vocabulary be cut: the lower a box, the fewer tokens a layer must keep. Boxes are "
        "quartiles over tokens with the median in them, whiskers end at 5 and 95%. A box that is a line is at rank 1 "
        "as a whole. The reference never draws the last layer; here l = 0 to L"
    )
    title = "Figure 2. Rank of the final token at every layer"
    return Drawing.of_runs(title, paint_ranks, {"ranks": values}, note, [run for *_, run in shown])


def paint_ranks(values: dict) -> Figure:
    """Figure 2."""
    figure, axes = panels(len(values["ranks"]))
    for panel, found in zip(axes, values["ranks"], strict=True):
        layers = range(len(found["percentile_50"]))
        boxes = [{name: found[f"percentile_{at}"][layer] for name, at in BOX.items()} for layer in layers]
        panel.bxp(boxes, positions=layers, widths=0.6, showfliers=False, medianprops={"color": nth(4).colour})
        panel.set_yscale("log")
        finish(panel, "layer (0 = embedding)", "rank of the final token (log)", f"{found['task']}, {found['model']}")
    return figure


# ----------------------------------------------------------------------------------------------------------- confidence
def confidence_without_trained_exits(runs: Runs) -> Drawing | None:
    """Figure 3."""
    return _confidence_and_score(runs, trained=False, number=3)


def confidence_with_trained_exits(runs: Runs) -> Drawing | None:
    """Figure 4."""
    return _confidence_and_score(runs, trained=True, number=4)


def _confidence_and_score(runs: Runs, trained: bool, number: int) -> Drawing | None:
    """Top-1 probability and gap of every layer beside the score of the model that leaves there always."""
    groups = [group for group in runs.groups if is_trained(group[1]) == trained]
    shown = [(*group, run) for group in groups if (run := viewed_full(runs, *group)) is not None]
    if not shown:
        return None
    used, values = [], []
    for task, model, full in shown:
        statics = where(runs.runs, task=task, model=model, method="static")
        places = {run.policy["static_exit"]: run for run in statics} | {full.num_layers: full}
        scores = [{"layer": layer, **score(run, runs)._asdict()} for layer, run in sorted(places.items())]
        about = {"task": task, "model": model, "score_name": full.score_name}
        values.append({**about, "layers": full.layers, "static_scores": scores})
        used += [full, *statics]
    kind = "trained" if trained else "not trained"
    title = f"Figure {number}. Confidence of every layer and the score of leaving there always: exits {kind}"
    note = (
        "Where confidence lies above the score of a static exit, a layer believes more than it is worth. Confidences "
        "are means over the tokens of the full model. A static exit runs a layer at least, so layer 0 has no score. "
        f"The last layer is drawn; the reference leaves it out. {INTERVALS}"
    )
    return Drawing.of_runs(title, paint_confidence, {"panels": values}, note, used)


CLAIMS = {"probability": "top-1 probability", "gap": "gap of the first two", "accuracy": "says the final token"}


def paint_confidence(values: dict) -> Figure:
    """Figures 3 and 4."""
    figure, axes = panels(len(values["panels"]))
    for panel, found in zip(axes, values["panels"], strict=True):
        numbers = [row["layer"] for row in found["layers"]]
        for place, (name, label) in enumerate(CLAIMS.items()):
            panel.plot(numbers, [100 * row[name] for row in found["layers"]], label=label, **points(nth(place)))
        scores = found["static_scores"]
        static = Look(BLACK, "X", DOTTED, "")
        series(panel, [row["layer"] for row in scores], scores, static, "score of a static exit")
        title = f"{found['task']}, {found['model']}\nscore: {found['score_name']}"
        finish(panel, "layer (0 = embedding)", "percent", title)
    shared_legend(figure)
    return figure


# ------------------------------------------------------------------------------------------------------------- contrast
def what_is_contrasted(runs: Runs) -> Drawing | None:
    """Figure 5: at the exit of one token, p of the layer, p of its amateur and the contrastive s on V_head."""
    used, values = [], []
    for task, model in runs.groups:
        for run in where(runs.runs, task=task, model=model):
            if run.policy["method"] != "static" and (found := _contrasted_token(run)) is not None:
                line, index = found
                about = {"task": task, "model": model, "example": line["id"], "token": index + 1}
                about |= {"text": line["texts"][index], "layer": line["exit_layers"][index]}
                values.append({**about, **line["contrast"][index]})
                used.append(run)
                break
    if not values:
        return None
    note = (
        "Contrast favours what has grown since the amateur layer: s is high where p is well above the amateur's, not "
        "where p is highest. Shown is the first token of a run whose plausible set has three members or more"
    )
    title = "Figure 5. What a contrastive measure compares at an exit"
    return Drawing.of_runs(title, paint_contrast, {"tokens": values}, note, used)


def _contrasted_token(run: RunFiles) -> tuple[dict, int] | None:
    """The first token of a run whose V_head has some members and an amateur."""
    for line in run.details("jsds"):
        for index, contrast in enumerate(line["contrast"]):
            if contrast["amateur"] is not None and 3 <= contrast["size"] <= 8:
                return line, index
    return None


def paint_contrast(values: dict) -> Figure:
    """Figure 5."""
    figure, axes = panels(len(values["tokens"]), height=3.1)
    names = {"p": "p of the exit's layer", "p_amateur": "p of the amateur layer", "s": "contrastive s"}
    for panel, token in zip(axes, values["tokens"], strict=True):
        places = np.arange(len(token["tokens"]))
        for offset, (name, label) in enumerate(names.items()):
            panel.bar(places + 0.27 * (offset - 1), token[name], width=0.27, label=label, **bars(nth(offset)))
        token_ticks(panel, token["texts"])
        where_it_is = f"{token['example']}, token {token['token']} ({as_label(token['text'])})"
        layers = f"layer {token['layer']}, amateur layer {token['amateur']}"
        finish(
            panel,
            "plausible tokens (V_head)",
            "probability",
            f"{token['task']}, {token['model']}\n{where_it_is}\n{layers}",
        )
    shared_legend(figure)
    return figure


# ----------------------------------------------------------------------------------------------------------- divergence
def divergence(runs: Runs) -> Drawing | None:
    """Figure 6: divergence of the exit layer and each earlier one over their distance, and the mean of all pairs."""
    used, values = [], []
    for task, model in runs.groups:
        viewed = [run for run in where(runs.runs, task=task, model=model) if next(run.details("jsds"), None)]
        viewed = [run for run in viewed if run.policy["method"] == "full"] + viewed
        if not viewed:
            continue
        run = viewed[0]
        line = next((each for each in run.details("jsds") if 4 <= len(each["tokens"]) <= 14), next(run.details("jsds")))
        about = {"task": task, "model": model, "example": line["id"], "texts": line["texts"]}
        values.append({**about, "discounted": _discounted(line), "mean_pairs": mean_pairs(run)})
        used.append(run)
    if not values:
        return None
    note = (
        "Light is far apart. Left: which earlier layer differs most per layer of distance from that a token left at; "
        "a cross marks the one from layer 2 on that the JSD measures contrast with. Right: how much layers i and j "
        "differ. Divergence in nats, at most 0.693"
    )
    title = "Figure 6. Jensen-Shannon divergence between layers"
    return Drawing.of_runs(title, paint_divergence, {"panels": values}, note, used)


def _discounted(line: dict) -> np.ndarray:
    """[earlier layer, token]: divergence of a token's exit layer over the distance; nan where there is none."""
    depth = max(line["exit_layers"])
    table = np.full((depth, len(line["tokens"])), np.nan)
    for token, (layer, rows) in enumerate(zip(line["exit_layers"], line["divergence"], strict=True)):
        for j, value in enumerate(rows[layer]):
            table[j, token] = value / (layer - j)
    return table


def mean_pairs(run: RunFiles) -> np.ndarray:
    """[j, i], i > j: mean divergence over the tokens that ran layer i."""
    size = run.num_layers + 1
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for line in run.details("jsds"):
        for rows in line["divergence"]:
            for i, row in enumerate(rows):
                total[: len(row), i] += row
                count[: len(row), i] += 1
    with np.errstate(invalid="ignore"):
        return total / count


def paint_divergence(values: dict) -> Figure:
    """Figure 6."""
    figure, axes = panels(2 * len(values["panels"]), width=4.6)
    for row, (left, right) in zip(values["panels"], zip(axes[::2], axes[1::2], strict=True), strict=True):
        discounted, pairs = (np.array(row[name], float) for name in ("discounted", "mean_pairs"))  # None becomes nan
        _heat(left, discounted)
        token_ticks(left, row["texts"])
        _cross(left, discounted)
        title = f"{row['task']}, {row['model']}\nJSD(exit layer, j) / distance, {row['example']}"
        finish(left, "token", "earlier layer j", title)
        _heat(right, pairs)
        right.set_xticks(range(pairs.shape[1]))
        finish(right, "layer i", "layer j", f"{row['task']}, {row['model']}\nmean JSD(i, j) over all tokens (nats)")
        for panel in (left, right):
            panel.grid(False)
    return figure


def _heat(panel: Axes, table: np.ndarray) -> None:
    image = panel.imshow(table, aspect="auto", origin="lower", cmap="cividis", interpolation="nearest")
    panel.figure.colorbar(image, ax=panel, shrink=0.9).ax.tick_params(labelsize=7.5)


def _cross(panel: Axes, table: np.ndarray) -> None:
    """Mark the largest number of each column from the third row on."""
    candidates = np.where(np.isnan(table), -np.inf, table)[2:]
    for token in range(table.shape[1]):
        if len(candidates) and np.isfinite(candidates[:, token]).any():
            place = (token, 2 + candidates[:, token].argmax())
            panel.plot(*place, "x", color="black", markersize=6, markeredgewidth=3)  # a rim, on dark and on light
            panel.plot(*place, "x", color="white", markersize=5, markeredgewidth=1.3)
