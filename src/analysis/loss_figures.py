"""Figure 22: what each loss of the same training buys, exit by exit."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.drawing import Drawing, Runs, finish, panels, series, shared_legend
from analysis.quantities import score
from analysis.runs import RunFiles, where
from analysis.style import nth
from losses.exits import LOSSES

# Training whose loss is the library's, of the last layer alone.
PLAIN = "plain"


def exits_by_loss(runs: Runs) -> dict[str, dict[str, list[RunFiles]]]:
    """Task -> name of a loss, which is that of the model -> its runs at every exit, the full model's last; the plain
    training first. A task without a plain training is left out."""
    found: dict[str, dict[str, list[RunFiles]]] = {}
    for task, model in runs.groups:
        some = where(runs.runs, task=task, model=model)
        exits = [*where(some, method="static"), *where(some, method="full model")]
        if model in (PLAIN, *LOSSES) and exits:
            found.setdefault(task, {})[model] = exits
    order = (PLAIN, *LOSSES)
    return {
        task: {name: by_loss[name] for name in order if name in by_loss}
        for task, by_loss in found.items()
        if PLAIN in by_loss
    }


def layer_of(run: RunFiles) -> int:
    """After which layer every token leaves."""
    return run.policy.get("static_exit") or run.num_layers


NOTE = (
    "The same weights at the start, the same batches in the same order: a line per loss. Good is high on the left: an "
    "exit that scores what the full depth does. Points of one layer are set side by side. Bars are 95% bootstrap "
    "intervals over examples"
)


def what_training_buys(runs: Runs) -> Drawing | None:
    """Figure 22: the score of every exit, by the loss that the model was trained with."""
    rows, used = [], []
    for task, by_loss in exits_by_loss(runs).items():
        for loss, exits in by_loss.items():
            shared = {"task": task, "loss": loss, "score_name": exits[0].score_name}
            rows += [{**shared, "layer": layer_of(run), "score": score(run)._asdict()} for run in exits]
            used += exits
    if not rows:
        return None
    return Drawing.of_runs(
        "Figure 22. What training buys: the score of every exit", paint_losses, {"rows": rows}, NOTE, used
    )


def paint_losses(values: dict) -> Figure:
    """Figure 22: a panel per task, a line per loss."""
    found = values["rows"]
    tasks, losses = (list(dict.fromkeys(row[name] for row in found)) for name in ("task", "loss"))
    figure, axes = panels(len(tasks), width=5.2, height=3.6)
    for panel, task in zip(axes, tasks, strict=True):
        for place, loss in enumerate(losses):
            line = [row for row in found if (row["task"], row["loss"]) == (task, loss)]
            aside = 0.06 * (place - (len(losses) - 1) / 2)
            series(panel, _layers(line, aside), [row["score"] for row in line], nth(place), loss)
        panel.set_xticks(sorted({row["layer"] for row in found}))
        (name,) = {row["score_name"] for row in found if row["task"] == task}
        finish(panel, "layer that every token leaves after", f"{name} (%)", task)
    shared_legend(figure)
    return figure


def _layers(line: Sequence[dict], aside: float) -> list[float]:
    return [row["layer"] + aside for row in line]
