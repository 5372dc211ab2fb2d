r"""Show the same policies of several sets of runs beside each other, such as a model's before and after.

    python src/analysis/compare_runs.py --runs save/before save/after --names "as it is" translated --out save/both
    python src/analysis/compare_runs.py --runs save/grid/facts_trained save/grid_lora/facts_trained \
        --names whole adapters --out save/both

A set is all runs under a folder: one task, one model and its exits, as run scripts and local_grid.py leave them. A row
of the table is a policy of a set: its score, the difference from the first set's run of that policy, paired by example,
and what it cost relative to the set's own full depth.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis.beside import make_parser, names_of, write
from analysis.drawing import Drawing, finish, panels, sample_sizes, series, shared_legend
from analysis.loss_figures import layer_of
from analysis.quantities import change, mean_exit, score, signed
from analysis.runs import RunFiles, Speed, read_runs, read_speeds, refuse_mixtures
from analysis.style import nth
from analysis.tables import Table
from decoding import naming
from util.terminal import terminal

HEAD = ["policy", "set", "score", "difference", "95% interval", "exit layer", "decoder FLOPs", "drafted", "stood"]
HEAD += ["x full depth"]

# Of policies: label -> run.
Runs = dict[str, RunFiles]


def read_sets(folders: Sequence[str], names: Sequence[str]) -> dict[str, Runs]:
    """Name of a set -> label of a policy -> its run.

    Raises:
        ValueError: A folder holds no runs, those of several models, or none at full depth, or sets are not on the same
            examples.
    """
    found = {}
    for folder, name in zip(folders, names, strict=True):
        runs = read_runs(Path(folder))
        _refuse_several(folder, runs)
        found[name] = {naming.label(run.policy): run for run in sorted(runs, key=_place)}
        if not any(run.policy["method"] == "full" for run in runs):
            raise ValueError(f"--runs {folder}: none of them is at full depth, which costs are relative to.")
    data = {run.data for some in found.values() for run in some.values()}
    sizes = {len(run.examples) for some in found.values() for run in some.values()}
    if len(data) > 1 or len(sizes) > 1:
        told = f"{', '.join(sorted(data))}; {', '.join(map(str, sorted(sizes)))} examples"
        raise ValueError(f"--runs are not of one task and the same examples ({told}): give folders with one of them.")
    return found


def _refuse_several(folder: str, runs: Sequence[RunFiles]) -> None:
    """Refuse a set of more than one model, data or way: a run would stand for another of its policy."""
    several = sorted({f"{run.model} on {run.data}" for run in runs})
    if len(several) > 1:
        raise ValueError(f"--runs {folder} holds runs of {'; '.join(several)}: give a folder with one of them.")
    refuse_mixtures(runs)


def _place(run: RunFiles) -> tuple:
    method = ("full", "static", "early_exit").index(run.policy["method"])
    return method, naming.method(run.policy), run.policy.get("static_exit") or run.first_exit or 0


def table(title: str, sets: Mapping[str, Runs], speeds: Mapping[str, Speed]) -> Table:
    """A row per policy and set."""
    first = next(iter(sets.values()))
    rows = []
    for label in dict.fromkeys(label for some in sets.values() for label in some):
        for name, some in sets.items():
            if label in some:
                rows.append([label, name, *_cells(some[label], some, first.get(label), speeds.get(name))])
    used = [run for some in sets.values() for run in some.values()]
    note = (
        "difference: of the score from the first set's run of the policy, paired by example. exit layer: mean over "
        "tokens. decoder FLOPs: relative to full depth. drafted, stood: tokens that were verified, and those that "
        "stood. x full depth: times as fast, timed in turn, from the slowest to the fastest repetition.\n"
    )
    return Table(f"{title}; {sample_sizes(used)}", HEAD, rows, [], note)


def _cells(run: RunFiles, some: Runs, other: RunFiles | None, speed: Speed | None) -> list[str]:
    full = next(each for each in some.values() if each.policy["method"] == "full")
    difference = change(run, other) if other is not None and other is not run else None
    told = signed(difference) if difference else ("-", "-")
    drafts = ["-", "-"]
    if run.acceptance_rate is not None:
        counts = run.results["eval_exit_counts"]
        drafts = [str(counts["drafted"]), str(counts["accepted"])]
    flops = f"{run.flops('decoder') / full.flops('decoder'):.2f}"
    return [f"{run.score:.2f}", *told, f"{run.mean_exit:.2f}", flops, *drafts, _fast(run, speed)]


def _fast(run: RunFiles, speed: Speed | None) -> str:
    ratios = speed and speed.relative(run)
    if not ratios:
        return "-"
    found = sorted(1 / ratio for ratio in ratios)
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def draw(title: str, sets: Mapping[str, Runs]) -> Drawing:
    """The score of every static exit, and the score of the other policies over the layers that they ran."""
    rows = [
        {"set": name, "policy": label, "static": run.policy["method"] != "early_exit", "layer": layer_of(run)}
        | {"score": score(run)._asdict(), "exit": mean_exit(run)._asdict(), "score_name": run.score_name}
        for name, some in sets.items()
        for label, run in some.items()
        if run.acceptance_rate is None  # what is verified scores what the full model does
    ]
    used = [run for some in sets.values() for run in some.values()]
    note = (
        "Good is high on the left: the score of full depth with fewer layers. Bars are 95% bootstrap intervals over "
        "examples"
    )
    return Drawing.of_runs(title, paint_sets, {"rows": rows}, note, used)


def paint_sets(values: dict) -> Figure:
    """A panel of static exits and one of the policies in which tokens choose, a line per set."""
    figure, axes = panels(2, width=5.2, height=3.6)
    names = list(dict.fromkeys(row["set"] for row in values["rows"]))
    labels = ("layer that every token leaves after", "mean exit layer where tokens choose")
    for panel, static, label in zip(axes, (True, False), labels, strict=True):
        for place, name in enumerate(names):
            line = [row for row in values["rows"] if (row["set"], row["static"]) == (name, static)]
            line.sort(key=lambda row: row["exit"]["value"])
            if line:
                where = [row["layer"] if static else row["exit"]["value"] for row in line]
                series(panel, where, [row["score"] for row in line], nth(place), name)
        finish(panel, label, f"{values['rows'][0]['score_name']} (%)")
    shared_legend(figure)
    return figure


def main(argv: list[str] | None = None) -> Table:
    folders = "folders of runs; differences are from the first"
    parser = make_parser(__doc__, folders, "The same policies before and after", "save/both")
    arguments = parser.parse_args(argv)
    try:
        names = names_of(arguments)
        sets = read_sets(arguments.runs, names)
        timed = {
            name: [*read_speeds(Path(folder)).values()] for folder, name in zip(arguments.runs, names, strict=True)
        }
        found = table(arguments.title, sets, {name: each[0] for name, each in timed.items() if each})
        path = write(arguments.out, found, draw(arguments.title, sets), "compare_runs")
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{found.text()}\nFigure: {path}")
    return found


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
