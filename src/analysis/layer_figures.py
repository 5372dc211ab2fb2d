"""Figures 1 to 6: what the layers say of a token, drawn from views and traces of runs."""

from __future__ import annotations

import numpy as np

from analysis.drawing import Drawing, Runs, as_label, finish, is_trained, panels
from analysis.runs import RunFiles, where

PRUNED = ("softmax + fixed", "softmax + decaying", "softmax + adaptive")


def viewed_full(runs: Runs, task: str, model: str) -> RunFiles | None:
    """The full model's run with views of a task and model."""
    found = [run for run in where(runs.runs, task=task, model=model, method="full model") if run.layers is not None]
    return found[0] if found else None


# -------------------------------------------------------------------------------------------------------------- pruning
def how_pruning_shrinks(runs: Runs) -> Drawing | None:
    """Figure 1: of one token, what is in the running at every exit, and where the token emitted stands."""
    shown = []
    for task, model in runs.groups:
        kinds = {kind: where(runs.runs, task=task, model=model, method=kind) for kind in PRUNED}
        if all(kinds.values()):
            first = min(run.first_exit for found in kinds.values() for run in found)
            chosen = {kind: next(run for run in found if run.first_exit == first) for kind, found in kinds.items()}
            shown.append((task, model, chosen, viewed_full(runs, task, model)))
    if not shown:
        return None
    figure, axes = panels(1, len(shown))
    used, values = [], []
    for panel, (task, model, chosen, full) in zip(axes[0], shown, strict=True):
        example, traces = _longest_first_token(chosen)
        for kind, trace in traces.items():
            kept = [(layer, k) for layer, k in enumerate(trace["kept"][0], start=1) if k]
            panel.plot(*zip(*kept, strict=True), marker="o", markersize=4, label=f"{kind.split(' + ')[1]}: kept")
            values.append({"task": task, "model": model, "example": example, "method": kind, "kept": kept})
        if full is not None:
            line = next(line for line in full.details("layers") if line["id"] == example)
            panel.plot(range(len(line["rank"][0])), line["rank"][0], "k--", label="rank of the final token")
            used.append(full)
        panel.set_yscale("log")
        finish(panel, "layer", "tokens (log scale)", f"{task}, {model}\nfirst token of {example}", legend=True)
        used += chosen.values()
    note = "The first token of the example whose first token tried the most exits under all three."
    title = "Figure 1. How pruning shrinks the vocabulary at the exits of one token"
    return Drawing(title, figure, used, {"tokens": values}, note)


def _longest_first_token(chosen: dict[str, RunFiles]) -> tuple[str, dict[str, dict]]:
    """The example whose first token tried the most exits in every run, and its traces."""
    traces = {kind: {line["id"]: line for line in run.details("traces")} for kind, run in chosen.items()}
    shared = [name for name in next(iter(traces.values())) if all(name in each for each in traces.values())]
    deepest = max(shared, key=lambda name: min(each[name]["exit_layers"][0] for each in traces.values()))
    return deepest, {kind: each[deepest] for kind, each in traces.items()}


# ---------------------------------------------------------------------------------------------------------------- ranks
def ranks(runs: Runs) -> Drawing | None:
    """Figure 2: the rank of the final token at every layer, from the embedding to the last."""
    shown = [(*group, run) for group in runs.groups if (run := viewed_full(runs, *group)) is not None]
    if not shown:
        return None
    figure, axes = panels(1, len(shown))
    values = []
    for panel, (task, model, run) in zip(axes[0], shown, strict=True):
        tokens = [ranks for line in run.details("layers") for ranks in line["rank"]]
        by_layer = list(zip(*tokens, strict=True))
        panel.boxplot(by_layer, positions=range(len(by_layer)), widths=0.6, flierprops={"markersize": 1.5})
        panel.set_yscale("log")
        finish(panel, "layer (0 = embedding)", "rank of the final token (log scale)", f"{task}, {model}")
        percentiles = {f"percentile_{at}": [float(np.percentile(each, at)) for each in by_layer] for at in (50, 75, 95)}
        values.append({"task": task, "model": model, "tokens": len(tokens), **percentiles})
    note = "Boxes are quartiles over tokens. The reference never draws the last layer; here l = 0 to L."
    title = "Figure 2. Rank of the final token at every layer"
    return Drawing(title, figure, [run for *_, run in shown], {"ranks": values}, note)


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
    figure, axes = panels(1, len(shown), width=5.0)
    used, values = [], []
    for panel, (task, model, full) in zip(axes[0], shown, strict=True):
        layers = full.layers
        numbers = [row["layer"] for row in layers]
        statics = where(runs.runs, task=task, model=model, method="static")
        scores = {run.policy["static_exit"]: run.score for run in statics} | {full.num_layers: full.score}
        panel.plot(numbers, [100 * row["probability"] for row in layers], "o-", label="top-1 probability")
        panel.plot(numbers, [100 * row["gap"] for row in layers], "^-", label="gap of the first two")
        panel.plot(numbers, [100 * row["accuracy"] for row in layers], ":", color="0.5", label="says the final token")
        panel.plot(
            sorted(scores), [scores[layer] for layer in sorted(scores)], "ks--", label=f"static exit: {full.score_name}"
        )
        finish(panel, "layer", "percent", f"{task}, {model}", legend=True)
        used += [full, *statics]
        values.append({"task": task, "model": model, "layers": layers, "static_scores": scores})
    kind = "trained" if trained else "not trained"
    title = f"Figure {number}. Confidence of every layer and the score of leaving there always: exits {kind}"
    note = (
        "Confidences are means over the tokens of the full model. The last layer is drawn; the reference leaves it out."
    )
    return Drawing(title, figure, used, {"panels": values}, note)


# ------------------------------------------------------------------------------------------------------------- contrast
def what_is_contrasted(runs: Runs) -> Drawing | None:
    """Figure 5: at the exit of one token, p of the layer, p of its amateur and the contrastive s on V_head."""
    shown = []
    for task, model in runs.groups:
        for run in where(runs.runs, task=task, model=model):
            if run.policy["method"] != "static" and (found := _contrasted_token(run)) is not None:
                shown.append((task, model, run, *found))
                break
    if not shown:
        return None
    figure, axes = panels(1, len(shown))
    values = []
    for panel, (task, model, _, line, index) in zip(axes[0], shown, strict=True):
        contrast = line["contrast"][index]
        places = np.arange(len(contrast["tokens"]))
        layer, amateur = line["exit_layers"][index], contrast["amateur"]
        for offset, (name, label) in enumerate(
            (("p", f"p, layer {layer}"), ("p_amateur", f"p, amateur layer {amateur}"), ("s", "contrastive s"))
        ):
            panel.bar(places + 0.27 * (offset - 1), contrast[name], width=0.27, label=label)
        panel.set_xticks(places, [as_label(text) for text in contrast["texts"]], rotation=30)
        title = f"{task}, {model}\n{line['id']}, token {index + 1} ({as_label(line['texts'][index])})"
        finish(panel, "plausible tokens (V_head)", "probability", title, legend=True)
        values.append(
            {"task": task, "model": model, "example": line["id"], "token": index + 1, "layer": layer, **contrast}
        )
    note = "The first token of a run whose plausible set has three members or more."
    title = "Figure 5. What a contrastive measure compares at an exit"
    return Drawing(title, figure, [run for _, _, run, *_ in shown], {"tokens": values}, note)


def _contrasted_token(run: RunFiles) -> tuple[dict, int] | None:
    """The first token of a run whose V_head has some members and an amateur."""
    for line in run.details("jsds"):
        for index, contrast in enumerate(line["contrast"]):
            if contrast["amateur"] is not None and 3 <= contrast["size"] <= 8:
                return line, index
    return None


# ----------------------------------------------------------------------------------------------------------- divergence
def divergence(runs: Runs) -> Drawing | None:
    """Figure 6: divergence of the exit layer and each earlier one over their distance, and the mean of all pairs."""
    shown = []
    for task, model in runs.groups:
        viewed = [run for run in where(runs.runs, task=task, model=model) if next(run.details("jsds"), None)]
        viewed = [run for run in viewed if run.policy["method"] == "full"] + viewed
        if viewed:
            shown.append((task, model, viewed[0]))
    if not shown:
        return None
    figure, axes = panels(2, len(shown), height=3.6)
    values = []
    for column, (task, model, run) in enumerate(shown):
        line = next((each for each in run.details("jsds") if 4 <= len(each["tokens"]) <= 14), next(run.details("jsds")))
        discounted = _discounted(line)
        _heat(axes[0][column], discounted, [as_label(text) for text in line["texts"]])
        finish(
            axes[0][column], "token", "earlier layer j", f"{task}, {model}\nJSD(exit layer, j) / distance, {line['id']}"
        )
        pairs = _mean_pairs(run)
        _heat(axes[1][column], pairs, list(range(pairs.shape[1])))
        finish(axes[1][column], "layer i", "layer j", "mean JSD(i, j) over all tokens (nats)")
        values.append(
            {"task": task, "model": model, "example": line["id"], "discounted": discounted, "mean_pairs": pairs}
        )
    note = "Divergence in nats, at most 0.693; a cross marks the layer of the largest discounted one from layer 2 on."
    title = "Figure 6. Jensen-Shannon divergence between layers"
    return Drawing(title, figure, [run for *_, run in shown], {"panels": values}, note)


def _discounted(line: dict) -> np.ndarray:
    """[earlier layer, token]: divergence of a token's exit layer over the distance; nan where there is none."""
    depth = max(line["exit_layers"])
    table = np.full((depth, len(line["tokens"])), np.nan)
    for token, (layer, rows) in enumerate(zip(line["exit_layers"], line["divergence"], strict=True)):
        for j, value in enumerate(rows[layer]):
            table[j, token] = value / (layer - j)
    return table


def _mean_pairs(run: RunFiles) -> np.ndarray:
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


def _heat(panel, table: np.ndarray, labels: list) -> None:
    image = panel.imshow(table, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest")
    panel.figure.colorbar(image, ax=panel, shrink=0.85).ax.tick_params(labelsize=6)
    panel.set_xticks(range(len(labels)), labels, rotation=45 if any(isinstance(each, str) for each in labels) else 0)
    if table.shape[0] > 2 and isinstance(labels[0], str):
        candidates = np.where(np.isnan(table), -np.inf, table)[2:]
        for token in range(table.shape[1]):
            if np.isfinite(candidates[:, token]).any():
                panel.plot(token, 2 + candidates[:, token].argmax(), "wx", markersize=5)
