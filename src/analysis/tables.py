"""Tables of the experiments: Table 1 of the post, what pruning changes, and what happens at the exits."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from analysis.drawing import Runs, sample_sizes
from analysis.loss_figures import PLAIN, exits_by_loss, layer_of
from analysis.quantities import Quantity, change, mean_exit, score, seconds, signed, times_as_fast
from analysis.runs import RunFiles, scaled, where
from analysis.speed_figures import tradeoffs

# Key -> head of a column: how many times as fast a policy on prompts is as each of these.
HELD_AGAINST = {"generate": "x generate", "full_depth": "x full depth", "bound": "x bound"}
JSD_PRUNED = ("JSD", "JSD + fixed", "JSD + decaying", "JSD + adaptive")


class Table(NamedTuple):
    """A title, names of columns, rows of cells, the runs they came from, and what the columns mean."""

    title: str
    head: list[str]
    rows: list[list[str]]
    runs: list[RunFiles]
    note: str = ""

    def data(self) -> dict:
        """The same as JSON."""
        folders = dict.fromkeys(run.folder.as_posix() for run in self.runs)
        return {"title": self.title, "head": self.head, "rows": self.rows, "note": self.note, "runs": list(folders)}

    def text(self) -> str:
        """The table, its note and the runs; texts to the left, numbers to the right."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = ["  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)) for row in self.rows]
        head = "  ".join(cell.ljust(width) for cell, width in zip(self.head, widths, strict=True))
        folders = "\n".join(dict.fromkeys(f"  {run.folder.as_posix()}" for run in self.runs))
        title = f"{self.title}; {sample_sizes(self.runs)}" if self.runs else self.title
        source = [f"Runs\n{folders}\n"] if self.runs else []
        return "\n".join([title, "", head.rstrip(), *map(str.rstrip, lines), "", self.note, *source])


def _padded(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1] in "+-0123456789" else cell.ljust(width)


def late_means(runs: Runs) -> Table:
    """Table 1: mean exit and score over late exit_min_layers, with their standard deviations."""
    rows, used = [], []
    for task, model in runs.groups:
        layers = {run.first_exit for run in where(runs.runs, task=task, model=model, method="JSD + fixed")}
        for method in JSD_PRUNED:
            some = where(runs.runs, task=task, model=model, method=method)
            found = [run for run in some if run.first_exit in layers and run.first_exit >= scaled(15, run.num_layers)]
            if found:
                exits, scores = _spread([run.mean_exit for run in found]), _spread([run.score for run in found])
                those = " ".join(str(run.first_exit) for run in found)
                rows.append([task, model, method, exits, found[0].score_name, scores, those])
                used += found
    return Table(
        "Table 1. JSD under each pruning: mean and standard deviation over late exit_min_layers",
        ["task", "model", "method", "mean exit", "metric", "score", "exit_min_layers"],
        rows,
        used,
        "Late layers are those from 15 of 24 on, where pruning has more than one exit.",
    )


def _spread(values: Sequence[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.2f} +- {deviation:.2f}"


def paired_pruning(runs: Runs) -> Table:
    """Table 2: what pruning changes in the score, example by example, at the same exit_min_layer."""
    rows, used = [], []
    for task, model in runs.groups:
        for base in ("softmax", "JSD"):
            for whole in where(runs.runs, task=task, model=model, method=base):
                for kind in ("fixed", "decaying", "adaptive"):
                    method = f"{base} + {kind}"
                    found = where(runs.runs, task=task, model=model, method=method, first_exit=whole.first_exit)
                    difference = change(found[0], whole) if found else None
                    if difference is not None and found[0].samples == whole.samples:
                        rows.append([task, model, method, *_pair(found[0], whole, difference)])
                        used += [whole, found[0]]
    return Table(
        "Table 2. What pruning changes",
        ["task", "model", "method", "min", "n", "score", "change", "95% interval", "rows/V", "k/V", "cut", "ceiling"],
        rows,
        used,
        "min: exit_min_layer. change: points against no pruning there, paired by example. rows/V: rows of the\n"
        "head multiplied at an exit after a token's first, over the vocabulary; k/V: surviving tokens there.\n"
        "cut: how many times fewer confidence-FLOPs than without pruning; ceiling: nV / (V + sum of later k) for\n"
        "the n exits tried.\n",
    )


def _pair(run: RunFiles, whole: RunFiles, difference: Quantity) -> list[str]:
    counts = run.results["eval_exit_counts"]
    size, later = counts["rows_first"] / counts["first"], max(1, counts["later"])
    ceiling = (counts["first"] + counts["later"]) * size / (counts["first"] * size + counts["kept_later"])
    cut = whole.flops("confidence") / run.flops("confidence")
    numbers = [f"{counts['rows_later'] / later / size:.3f}", f"{counts['kept_later'] / later / size:.3f}"]
    scores = [f"{run.score:.2f}", *signed(difference)]
    return [str(run.first_exit), str(run.samples), *scores, *numbers, f"{cut:.2f}", f"{ceiling:.2f}"]


def against_full_depth(runs: Runs) -> Table:
    """Table 12: what each policy changes in the score of the full model, example by example, and what it saves."""
    rows, used = [], []
    for task, model in runs.groups:
        some = where(runs.runs, task=task, model=model)
        full = next((run for run in some if run.method == "full model"), None)
        for run in some if full else ():
            difference = change(run, full)
            if run is full or difference is None or run.samples != full.samples:
                continue
            ratio = times_as_fast(run, runs)
            first = run.first_exit or run.policy["static_exit"]
            cells = [str(first), str(run.samples), f"{run.score:.2f}", *signed(difference), f"{run.mean_exit:.2f}"]
            cells += [f"{run.layers_in_turn:.2f}", f"{run.layers_in_turn / run.num_layers:.0%}"]
            cells += [f"{run.flops('decoder') / full.flops('decoder'):.2f}"]
            cells += ["-" if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(ratio.value, *ratio.interval)]
            rows.append([task, model, run.method, *cells])
            used += [run, full]
    head = ["task", "model", "method", "min", "n", "score", "change", "95% interval", "mean exit", "in turn", "share"]
    return Table(
        "Table 12. Every policy against full depth",
        [*head, "FLOPs", "x full depth"],
        rows,
        used,
        "min: exit_min_layer, or the layer of a static exit. change: points against full depth, paired by example.\n"
        "in turn: layers per token one after the other, of those of the decoder (share). FLOPs: the decoder's,\n"
        "relative to full depth; x full depth: times as fast, timed in turn, with the range of the repetitions.\n",
    )


def plausible_sets(runs: Runs) -> Table:
    """Table 3: how often the plausible set has one member, at exits tried and at exits taken."""
    rows, used = [], []
    for task, model in runs.groups:
        for run in where(runs.runs, task=task, model=model, method="JSD"):
            counts = run.results["eval_exit_counts"]
            cells = [str(run.first_exit)]
            for tried, single in (("compared", "single"), ("taken", "taken_single")):
                share = f"{100 * counts[single] / counts[tried]:.1f}" if counts[tried] else "-"
                cells += [str(counts[tried]), share]
            rows.append([task, model, *cells])
            used.append(run)
    return Table(
        "Table 3. Exits at which one token alone is plausible (JSD, threshold 0.9)",
        ["task", "model", "min", "tried", "single %", "taken", "taken single %"],
        rows,
        used,
    )


def equal_depth(runs: Runs) -> Table:
    """Table 4: the contrastive measures against the softmax gap, at the same exit_min_layer and at the same depth."""
    rows, used = [], []
    for task, model in runs.groups:
        base = {run.first_exit: run for run in where(runs.runs, task=task, model=model, method="softmax")}
        for method in ("weighted", "weighted (text)", "JSD", "JSD (text)"):
            for run in where(runs.runs, task=task, model=model, method=method):
                softmax = base.get(run.first_exit)
                difference = None if softmax is None else change(run, softmax)
                if difference is None or run.samples != softmax.samples:
                    continue
                cells = [str(run.first_exit), f"{run.mean_exit - softmax.mean_exit:+.2f}", *signed(difference)]
                rows.append([task, model, method, *cells, _at_depth(run, base)])
                used += [run, softmax]
    return Table(
        "Table 4. The contrastive measures against the softmax gap",
        ["task", "model", "method", "min", "exit", "score", "95% interval", "equal depth"],
        rows,
        used,
        "exit, score: change against softmax at the same exit_min_layer (layers per token, points). equal depth:\n"
        "change of the score against the line through softmax's own points at this run's mean exit; - where it lies\n"
        "outside of them.\n",
    )


def _at_depth(run: RunFiles, base: dict[int, RunFiles]) -> str:
    points = sorted((each.mean_exit, each.score) for each in base.values())
    for (low, first), (high, second) in pairwise(points):
        if low <= run.mean_exit <= high and high > low:
            share = (run.mean_exit - low) / (high - low)
            return f"{run.score - (first + share * (second - first)):+.2f}"
    return "-"


def every_run(runs: Runs) -> Table:
    """Table 5: what each run scored and cost."""
    rows = []
    for task, model in runs.groups:
        for run in where(runs.runs, task=task, model=model):
            first = run.first_exit or run.policy.get("static_exit") or run.num_layers
            low, high = score(run, runs).interval
            depth = mean_exit(run, runs)
            ratio = seconds(run, runs)
            cells = [run.method, str(first), str(run.samples), f"{run.score:.2f}", f"{low:.2f} to {high:.2f}"]
            cells += [f"{depth.value:.2f}", f"{depth.interval[0]:.2f} to {depth.interval[1]:.2f}"]
            cells += [f"{run.flops('confidence'):.3g}", f"{run.flops('decoder'):.3g}"]
            cells += (
                ["-"] if ratio is None else [f"{ratio.value:.2f} ({ratio.interval[0]:.2f} to {ratio.interval[1]:.2f})"]
            )
            rows.append([task, model, *cells])
    head = ["task", "model", "method", "min", "n", "score", "95% interval", "mean exit", "95% interval of it"]
    return Table(
        "Table 5. Every run",
        [*head, "confidence-FLOPs", "decoder-FLOPs", "seconds / full model"],
        rows,
        list(runs.runs),
        "min: exit_min_layer, or the layer of a static exit. FLOPs are per example. seconds: per token, at batch 1,\n"
        "all policies in turn; median and range of the repetitions.\n",
    )


def benchmark(runs: Runs) -> Table:
    """Table 6: the speed ratios of the benchmark."""
    if runs.benchmark is None or "prompts" in runs.benchmark:
        return Table("", [], [], [])
    batches = runs.benchmark["batches"]
    rows = []
    for name in next(iter(batches.values())):
        found = [batches[batch].get(name) for batch in batches]
        rows.append([name, *(f"{each['median']:.2f} ({each['min']:.2f} to {each['max']:.2f})" for each in found)])
    held = runs.benchmark
    title = (
        f"Table 6. Times as fast at the size of a {held['size']}, never exiting; {held['generated_tokens']} tokens, "
        f"{held['dtype']}, {held['threads']} threads, {held['repetitions']} repetitions"
    )
    note = "Median and range of ratios within a repetition, from benchmark.json. Weights are random.\n"
    return Table(title, ["figure", *(f"batch {batch}" for batch in batches)], rows, [], note)


def on_prompts(runs: Runs) -> Table:
    """Table 11: policies of a checkpoint on prompts."""
    held = runs.benchmark
    if held is None or "prompts" not in held:
        return Table("", [], [], [])
    rows = []
    for batch, found in held["batches"].items():
        for name, row in found.items():
            ratios = [
                f"{row[key]['median']:.2f} ({row[key]['min']:.2f} to {row[key]['max']:.2f})" for key in HELD_AGAINST
            ]
            accepted = "-" if row["accepted"] is None else f"{row['accepted']:.2f}"
            rows.append([name, batch, *ratios, f"{100 * row['equal']:.1f}", f"{row['layers']:.2f}", accepted])
    title = (
        f"Table 11. Policies of {held['model']} on {held['prompts']} prompts, {held['new_tokens']} new tokens each; "
        f"{held['dtype']}, {held['threads']} threads, {held['repetitions']} repetitions"
    )
    note = (
        "x: times as fast by token as the library's generate, as full depth, as the products of the weights that the\n"
        "policy reads; median and range of repetitions in turn. equal %: of generate's tokens, said in their places.\n"
        "stood: share of drafted tokens that the full model kept.\n"
    )
    head = ["policy", "batch", *HELD_AGAINST.values(), "equal %", "layers", "stood"]
    return Table(title, head, rows, [], note)


def areas(runs: Runs) -> Table:
    """Table 7: the area under each curve of figure 20."""
    found = [each for each in tradeoffs(runs) if each.area is not None]
    rows = []
    for each in found:
        full = next(run for _, run in each.points if run.method == "full model")
        fastest = f"{max(speed.value for speed, _ in each.points):.2f}"
        equal = max(speed.value for speed, run in each.points if run.score >= full.score)
        cells = [each.task, each.model, each.method, each.axis, f"{each.area:.2f}", f"{full.score:.2f}"]
        rows.append([*cells, f"{equal:.2f}", fastest])
    return Table(
        "Table 7. Area under score against speed",
        ["task", "model", "method", "speed", "area", "full model", "fastest as good", "fastest"],
        rows,
        [run for each in found for _, run in each.points],
        "area: mean of the best score at a speed or above, over speeds from the full model's to the fastest of any\n"
        "method, 0 where the method is never that fast. full model: its score. fastest as good: the highest speed at\n"
        "which a method scores no less than it.\n",
    )


# Each loss is compared with the plain one; distillation adds something to the second.
COMPARED = (PLAIN, "shallowdeep_ce")


def what_losses_buy(runs: Runs) -> Table:
    """Table 9: what each loss of the same training changes in the score of every exit, and of FREE's."""
    rows, used = [], []
    for task, by_loss in exits_by_loss(runs).items():
        free = {name: where(runs.runs, task=task, model=name, method="FREE") for name in by_loss}
        exits = {name: _by_exit([*found, *free[name]]) for name, found in by_loss.items()}
        for name, found in exits.items():
            for exit_name, run in found.items():
                changes = [_change(run, exits.get(other, {}).get(exit_name)) for other in COMPARED]
                told = "{:.2f} to {:.2f}".format(*score(run).interval)
                numbers = [str(run.samples), f"{run.mean_exit:.2f}", f"{run.score:.2f}", told]
                rows.append([task, name, exit_name, *numbers, *(cell for cells in changes for cell in cells)])
                used.append(run)
    columns = [cell for other in COMPARED for cell in (f"against {other}", f"interval against {other}")]
    return Table(
        "Table 9. What each loss buys",
        ["task", "loss", "exit", "n", "mean exit", "score", "95% interval", *columns],
        rows,
        used,
        "exit: the layer that every token leaves after, or FREE with its only exit. Changes are points, paired by\n"
        "example, with 95% intervals. Trainings differ in the loss alone.\n",
    )


def _by_exit(found: Sequence[RunFiles]) -> dict[str, RunFiles]:
    """Name of an exit -> the run."""
    return {str(layer_of(run)) if run.first_exit is None else f"FREE at {run.first_exit}": run for run in found}


def _change(run: RunFiles, other: RunFiles | None) -> tuple[str, str]:
    """Points of a run against another on the same examples, with the interval; dashes where there is none."""
    difference = None if other is None or other is run else change(run, other)
    return ("-", "-") if difference is None else signed(difference)


TABLES = {"table_1": late_means, "table_2": paired_pruning, "table_3": plausible_sets, "table_4": equal_depth}
TABLES |= {
    "table_5": every_run,
    "table_6": benchmark,
    "table_7": areas,
    "table_9": what_losses_buy,
    "table_11": on_prompts,
    "table_12": against_full_depth,
}
