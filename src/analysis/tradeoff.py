"""Score against depth, from the files of finished runs: one table, one figure.

    python src/analysis/tradeoff.py --runs save/quickstart --out save/quickstart

Every folder under --runs that holds an all_results.json of an evaluation with exits is one row. Relative numbers are
relative to the full-depth run on the same data, which must be among them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.runs import RunFiles, method_of, read_runs
from util.files import replacing, write_text
from util.parser import PlainParser
from util.terminal import terminal

MARKERS = {"full model": "*", "static": "s"}


@dataclass(frozen=True)
class Point:
    """One run: what it scored and what it cost.

    Attributes:
        data: The task and split, with which runs are comparable.
        score_name, score: In percent.
        exit_layer: Mean layers run per token.
        decoder_flops: Per example.
        tokens_per_second: From the run's own clock.
        folder: The run.
    """

    data: str
    policy: dict
    score_name: str
    score: float
    exit_layer: float
    decoder_flops: float
    tokens_per_second: float
    examples: int
    folder: Path

    @property
    def label(self) -> str:
        return label(self.policy)

    @property
    def series(self) -> str:
        """Points of one series are joined in the figure."""
        return method_of(self.policy)


def label(policy: dict) -> str:
    """A policy, as `Policy.describe` has it, in a few words."""
    if policy["method"] == "full":
        return "full depth"
    if policy["method"] == "static":
        return f"static, layer {policy['static_exit']}"
    decay = "" if policy["temperature"] is None else f", decay {policy['temperature']:g}"
    first = "" if policy["first_exit"] == 1 else f", from layer {policy['first_exit']}"
    return f"{method_of(policy)} > {policy['threshold']:g}{decay}{first}"


def read_points(folder: Path) -> list[Point]:
    """The runs under a folder, by data and policy.

    Raises:
        ValueError: There is none.
    """
    return sorted(map(_point, read_runs(folder)), key=_place)


def _place(point: Point) -> tuple:
    """Order in the table: by data, full depth first, strict thresholds before lenient ones."""
    method = ("full", "static", "early_exit").index(point.policy["method"])
    return (point.data, method, point.series, -point.policy.get("threshold", 0))


def _point(run: RunFiles) -> Point:
    return Point(
        data=run.data,
        policy=run.policy,
        score_name=run.score_name,
        score=run.score,
        exit_layer=run.mean_exit,
        decoder_flops=run.flops("decoder"),
        tokens_per_second=run.results["eval_tokens_per_second"],
        examples=run.samples,
        folder=run.folder,
    )


def full_depth(points: list[Point], data: str) -> Point:
    """The full-depth run that others on the same data are relative to.

    Raises:
        ValueError: It was not run.
    """
    for point in points:
        if point.data == data and point.policy["method"] == "full":
            return point
    raise ValueError(f"No run at full depth on {data}: relative numbers need one; run it without exit flags.")


def table(points: list[Point], speed: dict[str, dict[str, float]] | None = None) -> str:
    """A plain-text table, one block per data set.

    Args:
        speed: Task -> label of the policy -> tokens per second relative to full depth, measured in alternation;
            None takes the ratio of the runs' own clocks.
    """
    blocks = []
    for data in dict.fromkeys(point.data for point in points):
        full = full_depth(points, data)
        some = [point for point in points if point.data == data]
        wide = max(24, *(len(point.label) + 1 for point in some))
        head = f"{'policy':<{wide}}{full.score_name:>9}{'exit layer':>12}{'decoder FLOPs':>15}{'tokens/s':>10}"
        lines = [f"{data}, {full.examples} examples (FLOPs and tokens/s relative to full depth)", head]
        for point in some:
            fast = point.tokens_per_second / full.tokens_per_second
            if speed is not None:
                fast = speed[point.policy["task"]][point.label]
            flops = point.decoder_flops / full.decoder_flops
            lines.append(
                f"{point.label:<{wide}}{point.score:>9.2f}{point.exit_layer:>12.2f}{flops:>15.2f}{fast:>10.2f}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def draw(points: list[Point], path: Path) -> None:
    """Score against mean exit layer, one panel per data set, one line per method."""
    names = list(dict.fromkeys(point.data for point in points))
    figure, panels = plt.subplots(1, len(names), figsize=(5.5 * len(names), 4.2), squeeze=False, layout="constrained")
    for panel, data in zip(panels[0], names, strict=True):
        some = [point for point in points if point.data == data]
        for series in dict.fromkeys(point.series for point in some):
            line = sorted((point for point in some if point.series == series), key=lambda point: point.exit_layer)
            panel.plot(
                [point.exit_layer for point in line],
                [point.score for point in line],
                marker=MARKERS.get(series, "o"),
                markersize=12 if series == "full model" else 7,
                linestyle="-",
                label=series,
            )
            for point in line:
                if point.policy["method"] == "early_exit":
                    text = f"{point.policy['threshold']:g}"
                    panel.annotate(text, (point.exit_layer, point.score), textcoords="offset points", xytext=(5, -11))
        panel.set_title(f"{data} (n = {some[0].examples})")
        panel.set_xlabel("mean exit layer (layers per token)")
        panel.set_ylabel(f"{some[0].score_name} (%)")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.text(0, -0.02, "Numbers beside points are thresholds.", fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
    plt.close(figure)


def report(runs: Path, out: Path, speed: dict | None = None) -> str:
    """Write table.txt, figure.png and the list of runs they come from; the table's text."""
    points = read_points(runs)
    text = table(points, speed)
    sources = "".join(f"  {point.data}: {point.label}: {point.folder}\n" for point in points)
    write_text(out / "table.txt", f"{text}\nRuns\n{sources}")
    draw(points, out / "figure.png")
    return text


def main(argv: list[str] | None = None) -> None:
    parser = PlainParser(__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder below which runs are looked for")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the figure")
    arguments = parser.parse_args(argv)
    try:
        print(report(arguments.runs, arguments.out))
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"Table and figure: {arguments.out / 'table.txt'}, {arguments.out / 'figure.png'}")


if __name__ == "__main__":
    with terminal():
        main()
