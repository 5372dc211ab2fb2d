"""Show score against depth, from the files of finished runs: one table, one figure.

    python src/analysis/tradeoff.py --runs save/quickstart --out save/quickstart
    python src/analysis/tradeoff.py --runs save/grid --out save/grid

save/quickstart is what src/scripts/quickstart.py leaves, save/grid what src/scripts/local_grid.py does.
Every folder under --runs that holds an all_results.json of an evaluation with exits is one row. Runs that differ in
more than their policy (model, examples, generation, ...) stand in tables of their own. Relative numbers are relative to
the full-depth run of the same table, which must be among them; tokens per second are those of speed.json where policies
were timed in turn.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from analysis.drawing import Drawing, Runs, finish, folders, own_legend, panels, series
from analysis.quantities import Quantity, score, times_as_fast
from analysis.runs import RunFiles, Speed, differing, read_runs, read_speeds
from analysis.style import look
from decoding import naming
from util import groups
from util.commands import CommandParser, output_folder
from util.files import write_text
from util.terminal import terminal


@dataclass(frozen=True)
class Point:
    """One run: what it scored and what it cost.

    Attributes:
        group: Of the runs it is comparable with: task and split, and what tells it from other groups of these.
        speed: Tokens per second relative to full depth: of the median repetition, and from the slowest to the fastest
            where there were several; None where they cannot be compared.
    """

    run: RunFiles
    group: str
    speed: Quantity | None = None

    @property
    def policy(self) -> dict:
        return self.run.policy

    @property
    def label(self) -> str:
        return naming.label(self.policy)

    @property
    def series(self) -> str:
        """Points of one series are joined in the figure."""
        return naming.method(self.policy)


def read_points(folder: Path) -> list[Point]:
    """The runs under a folder, by group and policy.

    Raises:
        ValueError: There is none, or there are some that no run at full depth is comparable with.
    """
    runs, speeds = read_runs(folder), read_speeds(folder)
    names = group_names(runs)
    points = [Point(run, names[_conditions(run)]) for run in runs]
    full = {point.group: point.run for point in reversed(points) if point.policy["method"] == "full"}
    alone = [name for name in dict.fromkeys(point.group for point in points) if name not in full]
    if alone:
        raise ValueError(
            f"No run at full depth on {'; '.join(alone)}: relative numbers need one; run it without exit flags, or "
            "give a folder without these."
        )
    points = [replace(point, speed=speed_of(point.run, full[point.group], speeds)) for point in points]
    return sorted(points, key=_place)


def _conditions(run: RunFiles) -> str:
    return json.dumps([run.data, run.conditions], sort_keys=True)


def group_names(runs: Sequence[RunFiles]) -> dict[str, str]:
    """Name of every group of comparable runs: task and split, and in what it differs from others of these."""
    names = {}
    for data in dict.fromkeys(run.data for run in runs):
        groups = {_conditions(run): run for run in runs if run.data == data}
        told = differing(list(groups.values()))
        for key, run in groups.items():
            names[key] = ", ".join([data, *(f"{name} {run.conditions.get(name, '-')}" for name in told)])
    return names


def speed_of(run: RunFiles, full: RunFiles, speeds: Mapping[tuple[str, str], Speed]) -> Quantity | None:
    """Tokens per second relative to full depth: measured in alternation where that was done, else by the runs' own
    clocks where these ran alike."""
    if (run.task, run.model) in speeds:
        return times_as_fast(run, Runs([run], dict(speeds)))
    if run.clock != full.clock:
        return None
    ratio = run.results["eval_tokens_per_second"] / full.results["eval_tokens_per_second"]
    return Quantity(ratio, (ratio, ratio))


def _place(point: Point) -> tuple:
    """Order in the table: by group, full depth first, strict thresholds before lenient ones."""
    method = ("full", "static", "early_exit").index(point.policy["method"])
    return (point.group, method, point.series, -point.policy.get("threshold", 0))


def table(points: Sequence[Point], speeds: Mapping[tuple[str, str], Speed] | None = None) -> str:
    """A plain-text table, one block per group.

    Args:
        speeds: (task, model) -> what was timed in alternation, as the points have it.
    """
    blocks = []
    for group in dict.fromkeys(point.group for point in points):
        some = [point for point in points if point.group == group]
        timed = (speeds or {}).get((some[0].run.task, some[0].run.model))
        blocks.append(_block(group, some, clock_note(timed)))
    return "\n\n".join(blocks) + "\n"


def _block(group: str, points: Sequence[Point], note: str) -> str:
    full = next(point.run for point in points if point.policy["method"] == "full")
    wide = max(24, *(len(point.label) + 1 for point in points))
    head = f"{'policy':<{wide}}{full.score_name:>9}{'exit layer':>12}{'layers run':>12}{'accepted':>10}"
    lines = [
        f"{group}, {full.samples} examples (FLOPs and tokens/s relative to full depth)",
        f"{head}{'decoder FLOPs':>15}{'tokens/s':>21}",
    ]
    for point in points:
        run = point.run
        accepted = "-" if run.acceptance_rate is None else f"{run.acceptance_rate:.0%}"
        flops = run.flops("decoder") / full.flops("decoder")
        lines.append(
            f"{point.label:<{wide}}{run.score:>9.2f}{run.mean_exit:>12.2f}{run.layers_run:>12.2f}{accepted:>10}"
            f"{flops:>15.2f}{_fast(point.speed):>21}"
        )
    return "\n".join([*lines, note])


def _fast(speed: Quantity | None) -> str:
    """Times as fast, with the range of the repetitions where there is one."""
    if speed is None:
        return "-"
    low, high = speed.interval
    return f"{speed.value:.2f}" + (f" ({low:.2f} to {high:.2f})" if low < high else "")


def clock_note(timed: Speed | None) -> str:
    """What stands behind a table's tokens per second."""
    if timed is None:
        return (
            "tokens/s: by each run's own clock; - where it did not run as full depth did (device, threads, batch size)."
        )
    sizes = (
        "batch {batch}, decoder only, all policies in turn on {examples} examples, median of {repetitions} repetitions "
        "(slowest to fastest)"
    )
    return f"tokens/s: {sizes.format(**timed.settings)}."


def draw(points: Sequence[Point]) -> Drawing:
    """Score against mean exit layer, one panel per group, one line per method."""
    values = [
        {"group": point.group, "series": point.series, "threshold": point.policy.get("threshold")}
        | {"adapts": bool(point.policy.get("adapts")), "score_name": point.run.score_name}
        | {"samples": point.run.samples, "mean_exit": point.run.mean_exit, "score": score(point.run)._asdict()}
        for point in points
    ]
    note = (
        "Good is high and to the left: the full model's score with fewer layers. In brackets the thresholds of a "
        "line's points, from left to right: a stricter one leaves later. Bars are 95% bootstrap intervals over "
        "examples"
    )
    title = "Score against depth, by what decides when a token leaves"
    return Drawing(title, paint_tradeoff, {"points": values}, note, folders([point.run for point in points]))


def paint_tradeoff(values: dict) -> Figure:
    """One panel per group, one line per method."""
    found = values["points"]
    groups = list(dict.fromkeys(point["group"] for point in found))
    figure, axes = panels(len(groups), width=5.6, height=3.4)
    for panel, group in zip(axes, groups, strict=True):
        some = [point for point in found if point["group"] == group]
        for name in dict.fromkeys(point["series"] for point in some):
            line = sorted((point for point in some if point["series"] == name), key=lambda point: point["mean_exit"])
            series(
                panel,
                [point["mean_exit"] for point in line],
                [point["score"] for point in line],
                look(name),
                _named(line),
            )
        title = textwrap.fill(f"{group} (n = {some[0]['samples']})", 60)
        finish(panel, "mean exit layer (layers per token)", f"{some[0]['score_name']} (%)", title)
        own_legend(panel)
    return figure


def _named(line: Sequence[dict]) -> str:
    """A line's method and, in brackets, the thresholds of its points."""
    thresholds = ["fitted" if point["adapts"] else f"{point['threshold']:g}" for point in line if point["threshold"]]
    return line[0]["series"] + (f" ({', '.join(thresholds)})" if thresholds else "")


def report(runs: Path, out: Path) -> str:
    """Write table.txt, figure.png with its numbers, and the list of runs they come from; the table's text."""
    points = read_points(runs)
    text = table(points, read_speeds(runs))
    sources = "".join(f"  {point.group}: {point.label}: {point.run.folder}\n" for point in points)
    write_text(out / "table.txt", f"{text}\nRuns\n{sources}")
    draw(points).save(out, "figure")
    return text


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    runs = parser.add_argument_group(groups.RUN)
    runs.add_argument("--runs", type=Path, required=True, help="folder below which runs are looked for")
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_folder, required=True, help="folder of the table and the figure")
    arguments = parser.parse_args(argv)
    try:
        print(report(arguments.runs, arguments.out))
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"Table and figure: {arguments.out / 'table.txt'}, {arguments.out / 'figure.png'}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
