"""What all figures share: panels, styles of methods, and a file beside each that names its runs and its numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.runs import RunFiles, Speed
from util.files import replacing, write_json

# Method -> colour and marker; the same in every figure. What is not listed takes the next of matplotlib's own.
STYLES = {
    "full model": ("black", "*"),
    "oracle": ("0.55", "d"),
    "softmax": ("tab:blue", "o"),
    "weighted": ("tab:orange", "s"),
    "weighted (text)": ("tab:olive", "s"),
    "contrastive": ("tab:cyan", "p"),
    "JSD": ("tab:green", "^"),
    "JSD (text)": ("tab:pink", "^"),
    "softmax + fixed": ("tab:purple", "v"),
    "softmax + decaying": ("tab:brown", "<"),
    "softmax + adaptive": ("tab:cyan", ">"),
    "JSD + fixed": ("tab:purple", "v"),
    "JSD + decaying": ("tab:brown", "<"),
    "JSD + adaptive": ("tab:red", ">"),
    "static": ("0.4", "x"),
    "FREE": ("tab:orange", "s"),
    "FREE + adaptive threshold": ("tab:red", "p"),
    "FREE + rollback": ("tab:pink", "v"),
    "lossless": ("tab:green", "^"),
}


@dataclass
class Drawing:
    """A figure with what it was drawn from.

    Attributes:
        title: Its number and what it shows.
        figure: matplotlib's.
        runs: The runs it was drawn from.
        values: The numbers it shows, as JSON.
        note: A sentence under it.
    """

    title: str
    figure: Figure
    runs: list[RunFiles] = field(default_factory=list)
    values: dict = field(default_factory=dict)
    note: str = ""

    def save(self, out: Path, name: str) -> Path:
        """<name>.png, and <name>.json with title, runs and values; the path of the first."""
        path = out / f"{name}.png"
        examples = sample_sizes(self.runs)
        intervals = "bars and bands are 95% bootstrap intervals" if self.values.get("intervals") else ""
        parts = [examples, intervals, self.note.rstrip(".")] if self.runs else [self.note.rstrip(".")]
        lines = [". ".join(filter(None, parts)) + "."] + ([_places(self.runs, name)] if self.runs else [])
        inches = self.figure.get_figwidth()
        self.figure.suptitle(textwrap.fill(self.title, int(10 * inches)), fontsize=11)
        wrapped = "\n".join(textwrap.fill(line, int(19 * inches)) for line in lines)
        self.figure.supxlabel(wrapped, fontsize=7, x=0.01, ha="left", color="0.3")
        with replacing(path) as temporary:
            self.figure.savefig(temporary, dpi=110)
        plt.close(self.figure)
        folders = list(dict.fromkeys(run.folder.as_posix() for run in self.runs))
        write_json(out / f"{name}.json", {"title": self.title, "note": self.note, "runs": folders, **self.values})
        return path


def sample_sizes(runs: Sequence[RunFiles]) -> str:
    """How many examples the runs have each, in words."""
    sizes = sorted({run.samples for run in runs})
    return f"n = {' to '.join(map(str, dict.fromkeys(sizes[:1] + sizes[-1:])))} examples per run"


def _places(runs: Sequence[RunFiles], name: str) -> str:
    """Where the runs are: the run itself, or their folders with a word on the file that lists them."""
    folders = list(dict.fromkeys(run.folder.as_posix() for run in runs))
    if len(folders) <= 2:
        return "Runs: " + ", ".join(folders)
    parents = list(dict.fromkeys(run.folder.parent.as_posix() for run in runs))
    return f"{len(folders)} runs, listed in {name}.json, of {', '.join(parents)}"


def panels(rows: int, columns: int, width: float = 4.2, height: float = 3.2) -> tuple[Figure, list[list[Axes]]]:
    """A figure and its axes by row and column."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows + 0.6), squeeze=False, layout="constrained"
    )
    return figure, [list(row) for row in axes]


def style(method: str) -> dict:
    """Keyword arguments of a line of this method."""
    colour, marker = STYLES.get(method, (None, "o"))
    return {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.4, "label": method}


def band(axes: Axes, xs: Sequence[float], values: Sequence[float], intervals: Iterable, method: str) -> None:
    """A line with a band of its intervals."""
    drawn = axes.plot(xs, values, **style(method))
    low, high = zip(*intervals, strict=True)
    axes.fill_between(xs, low, high, color=drawn[0].get_color(), alpha=0.12, linewidth=0)


def finish(axes: Axes, x: str, y: str, title: str = "", legend: bool = False) -> None:
    """Labels, a light grid, a legend."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7, which="both")
    axes.grid(alpha=0.25)
    if legend:
        axes.legend(fontsize=6.5, framealpha=0.85)


def as_label(text: str) -> str:
    """A token's text as a label: visible where it is blank, harmless where it has signs of its own."""
    return repr(text)[1:-1].replace("$", r"\$") or "''"


@dataclass(frozen=True)
class Runs:
    """All runs and timings that figures may draw from.

    Attributes:
        runs: Finished evaluations.
        speeds: (task, model) -> what was timed of it.
        benchmark: The report of scripts/benchmark_decoding.py, or None where there is none.
    """

    runs: list[RunFiles]
    speeds: dict[tuple[str, str], Speed]
    benchmark: dict | None = None

    @property
    def groups(self) -> list[tuple[str, str]]:
        """(task, model) of every group of comparable runs: models whose exits were not trained first."""
        found = {(run.task, run.model) for run in self.runs}
        return sorted(found, key=lambda group: (group[0] not in QUESTIONS, group[0], is_trained(group[1]), group[1]))

    def speed(self, run: RunFiles) -> list[float] | None:
        """Seconds per token relative to the full model's, by repetition; None where it was not timed."""
        timed = self.speeds.get((run.task, run.model))
        return None if timed is None else timed.relative(run)


# Tasks of question answering come first, as in the post.
QUESTIONS = ("squad", "squad_v2", "invented_facts", "narrativeqa")


def is_trained(model: str) -> bool:
    """Whether a model's exits were trained, or it was fine-tuned, as its name says."""
    return not ("untrained" in model or model.startswith("google"))
