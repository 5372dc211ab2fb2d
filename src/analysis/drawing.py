"""What all figures share: a picture drawn from numbers alone, its panels and legends, and the file of these numbers."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from analysis.runs import RunFiles, Speed
from analysis.style import Look, points
from util.files import jsonable, read_json, replacing, write_json

LEGEND = 1.5  # inches beside the panels
INTERVALS = "Bars at scores, depths and FLOPs are 95% bootstrap intervals over examples"


@dataclass
class Drawing:
    """A figure as the numbers it shows.

    Attributes:
        title: Its number and what it shows.
        paint: Draws the picture from `values` alone, as JSON has them.
        values: The numbers it shows.
        note: Sentences under it: what to see, and why a point or a line is not where one expects it.
        runs: Folders of the runs it was drawn from.
        examples: How many examples the runs have each, in words; "" where that is no matter.
    """

    title: str
    paint: Callable[[dict], Figure]
    values: dict
    note: str = ""
    runs: list[str] = field(default_factory=list)
    examples: str = ""

    @classmethod
    def of_runs(
        cls, title: str, paint: Callable[[dict], Figure], values: dict, note: str, runs: Sequence[RunFiles]
    ) -> Drawing:
        """Of runs, whose folders and sizes it names."""
        return cls(title, paint, values, note, folders(runs), sample_sizes(runs))

    def figure(self) -> Figure:
        """The picture with its title and caption."""
        # Through JSON, so that what is drawn from runs and what is drawn again from the file cannot differ.
        figure = self.paint(json.loads(json.dumps(jsonable(self.values))))
        inches = figure.get_figwidth()
        title = textwrap.fill(self.title, int(9 * (inches - LEGEND)))
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")  # a legend stands to the right of it
        lines = [". ".join(part.rstrip(".") for part in (self.note, self.examples) if part) + "."]
        lines += [_places(self.runs)] if self.runs else []
        wrapped = "\n".join(textwrap.fill(line, int(16 * inches)) for line in lines)
        figure.supxlabel(wrapped, fontsize=8, x=0.01, ha="left", color="0.25")
        return figure

    def save(self, out: Path, name: str) -> Path:
        """<name>.png, and <name>.json with all that it takes to draw it again; the path of the first."""
        path, figure = out / f"{name}.png", self.figure()
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=110)
        plt.close(figure)
        held = {"title": self.title, "note": self.note, "examples": self.examples, "runs": self.runs}
        write_json(out / f"{name}.json", {**held, "painted_by": self.paint.__name__, "values": self.values})
        return path


def drawn_before(path: Path, paints: dict[str, Callable[[dict], Figure]]) -> Drawing | None:
    """A drawing from the JSON it left; None where the file is none of a drawing that one of `paints` can paint."""
    held = read_json(path)
    if not isinstance(held, dict) or held.get("painted_by") not in paints:
        return None
    paint = paints[held["painted_by"]]
    return Drawing(held["title"], paint, held["values"], held["note"], held["runs"], held["examples"])


def folders(runs: Sequence[RunFiles]) -> list[str]:
    """The folders of runs, each once."""
    return list(dict.fromkeys(run.folder.as_posix() for run in runs))


def sample_sizes(runs: Sequence[RunFiles]) -> str:
    """How many examples the runs have each, in words."""
    sizes = sorted({run.samples for run in runs})
    return f"n = {' to '.join(map(str, dict.fromkeys(sizes[:1] + sizes[-1:])))} examples per run"


def _places(runs: Sequence[str]) -> str:
    """Where the runs are: the run itself, or their folders with a word on the file that lists them."""
    if len(runs) <= 2:
        return "Runs: " + ", ".join(runs)
    parents = list(dict.fromkeys(Path(run).parent.as_posix() for run in runs))
    if len(parents) > 4:
        parents = [Path(os.path.commonpath(parents)).as_posix()]
    return f"{len(runs)} runs, listed in the .json beside this figure, of {', '.join(parents)}"


# --------------------------------------------------------------------------------------------------- panels and legends
def panels(count: int, columns: int = 2, width: float = 4.2, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, row by row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns + LEGEND, height * rows + 1.0), squeeze=False, layout="constrained"
    )
    for unused in axes.flat[count:]:
        unused.remove()
    return figure, list(axes.flat[:count])


def series(axes: Axes, xs: Sequence[float], quantities: Sequence[dict], look: Look, label: str, **more) -> None:
    """A line through numbers with their intervals."""
    values = [each["value"] for each in quantities]
    axes.errorbar(
        xs, values, yerr=errors(quantities), elinewidth=0.7, capsize=1.5, label=label or None, **points(look) | more
    )


def errors(quantities: Iterable[dict]) -> list[list[float]]:
    """[below and above][quantity]: how far its interval reaches; 0 where it has none."""
    below, above = [], []
    for each in quantities:
        low, high = (each["value"] if end is None else end for end in each["interval"])
        below.append(max(0.0, each["value"] - low))
        above.append(max(0.0, high - each["value"]))
    return [below, above]


def finish(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Labels and a light grid."""
    axes.set_xlabel(x, fontsize=8.5)
    axes.set_ylabel(y, fontsize=8.5)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def shared_legend(figure: Figure, axes: Sequence[Axes] | None = None, place: str = "upper", title: str = "") -> None:
    """One legend of all series, beside the panels, where it hides nothing."""
    found = {}
    for panel in figure.axes if axes is None else axes:
        handles, labels = panel.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    figure.legend(
        found.values(),
        [textwrap.fill(label, 24) for label in found],
        loc=f"outside right {place}",
        title=title or None,
        fontsize=8,
        title_fontsize=8,
        handlelength=3.2,
    )


def own_legend(axes: Axes, wrap: int = 22) -> None:
    """A panel's own legend, beside it, where panels name their series differently."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles,
        [textwrap.fill(label, wrap) for label in labels],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        fontsize=7.5,
        handlelength=3.0,
    )


def as_label(text: str, most: int | None = None) -> str:
    """A token's text as a label: visible where it is blank or the font has no sign for it, harmless where it has signs
    of its own; one of more than `most` characters is cut."""
    label = repr(text)[1:-1] or "''"
    label = "".join(each if ord(each) in _drawable() else each.encode("unicode_escape").decode() for each in label)
    if most is not None and len(label) > most:
        label = f"{label[: most - 1]}\u2026"
    return label.replace("$", r"\$")


@cache
def _drawable() -> frozenset[int]:
    """The characters that the font of all figures has."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def token_ticks(axes: Axes, texts: Sequence[str]) -> None:
    """Tokens below their places, upright where they would run into each other."""
    labels = [as_label(text) for text in texts]
    crowded = sum(map(len, labels)) + 2 * len(labels) > 44
    axes.set_xticks(range(len(labels)), labels, rotation=90 if crowded else 0)


# ----------------------------------------------------------------------------------------------------------------- runs
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
