"""Show exits before and after: several measurements of exit_quality.py in one figure and one table.

    python src/analysis/compare_exits.py --runs save/before save/after --names "as it is" translated --out save/both
    python src/analysis/compare_exits.py --runs save/before save/after --measure softmax --title "Exits of SmolLM2"

Each folder is what exit_quality.py left of the same model on the same text, one run of it without and one with
--exit_translators. By layer: the share of tokens that are the last layer's, perplexity, divergence from the last layer,
and of one measure of confidence whether it knows what is right (AUROC) and is as sure as it is right (expected
calibration error); and what thresholds on that measure promise, tokens that stay what the last layer says against
layers that are run.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from analysis import exit_thresholds
from analysis.beside import make_parser, names_of, write
from analysis.drawing import Drawing, finish, panels, series, shared_legend
from analysis.exit_figures import LOGARITHMIC, MULTIPLE, SINGLE, label_of, readable_logarithm
from analysis.style import nth
from analysis.tables import Table
from util import groups
from util.files import read_json
from util.terminal import terminal

# What is shown of one measure of confidence.
OF_MEASURE = ("auroc", "ece")
FORMS = {"equal": "{:.3f}", "perplexity": "{:.5g}", "divergence": "{:.4f}", "auroc": "{:.3f}", "ece": "{:.3f}"}
HEADS = {"equal": "equal", "perplexity": "perplexity", "divergence": "KL", "auroc": "AUROC", "ece": "ECE"}


def read(folders: Sequence[str], names: Sequence[str]) -> dict[str, list[dict]]:
    """Name -> the layers of a measurement, as exit_quality.py wrote them.

    Raises:
        ValueError: A folder holds none, or they are not of decoders of one depth.
    """
    found = {}
    for folder, name in zip(folders, names, strict=True):
        file = Path(folder) / "layers.json"
        if not file.is_file():
            raise ValueError(f"--runs {folder}: there is no layers.json; valid are folders of exit_quality.py.")
        found[name] = read_json(file)
    if len({len(layers) for layers in found.values()}) > 1:
        depths = ", ".join(f"{name} {len(layers)}" for name, layers in found.items())
        raise ValueError(f"--runs are of decoders of different depths ({depths}): give those of one model.")
    return found


def by_layer(runs: Mapping[str, Sequence[dict]], measure: str) -> dict[str, dict[str, list[dict]]]:
    """Number -> name of a measurement -> (layer, value, interval) of every layer that has it."""
    numbers = {}
    for number in HEADS:
        numbers[number] = {
            name: [
                {"layer": each["layer"], **held}
                for each in layers
                if (held := each[number].get(measure) if number in OF_MEASURE else each[number])
                and held["value"] is not None
            ]
            for name, layers in runs.items()
        }
    return numbers


def thresholds_of(folders: Sequence[str], names: Sequence[str], measure: str) -> dict:
    """What thresholds on a measure promise: exit layers and depth of the first measurement, and by name its points."""
    held = [read_json(Path(folder) / "thresholds.json") for folder in folders]
    if len({str(each["exit_layers"]) for each in held}) > 1:
        raise ValueError("--runs have thresholds for different --exit_layers: measure them for the same.")
    points = {name: each["measures"][measure] for name, each in zip(names, held, strict=True)}
    return {"exit_layers": held[0]["exit_layers"], "depth": held[0]["depth"], "points": points}


def promises(thresholds: dict, measure: str) -> str:
    """A sentence per measurement: what a threshold saves that keeps its promise."""
    lines = []
    for name, points in thresholds["points"].items():
        found = exit_thresholds.told({measure: points}, thresholds["exit_layers"], thresholds["depth"])
        lines.append(f"{name}: {found}\n")
    return "".join(lines)


def table(title: str, numbers: Mapping[str, Mapping[str, Sequence[dict]]], measure: str, promised: str) -> Table:
    """A row per layer, a column per number and measurement."""
    cells = {
        f"{HEADS[number]} {name}": {each["layer"]: FORMS[number].format(each["value"]) for each in found}
        for number, runs in numbers.items()
        for name, found in runs.items()
    }
    depth = max(layer for column in cells.values() for layer in column)
    rows = [[str(layer), *(column.get(layer, "-") for column in cells.values())] for layer in range(1, depth + 1)]
    note = (
        "equal: tokens that are the last layer's; KL: from the last layer, in nats; AUROC and ECE: of "
        f"{label_of(measure)}, whether it is higher where the layer is right, and how far it is from the share right.\n"
    )
    note += promised
    return Table(title, ["layer", *cells], rows, [], note)


def paint_comparison(values: dict) -> Figure:
    """A panel per number, a line per measurement."""
    labels = SINGLE | {number: f"{MULTIPLE[number]} of {label_of(values['measure'])}" for number in OF_MEASURE}
    figure, (*axes, last) = panels(len(labels) + 1, columns=2, width=5.6)
    for panel, (number, label) in zip(axes, labels.items(), strict=True):
        for place, (name, found) in enumerate(values["numbers"][number].items()):
            if found:
                series(panel, [each["layer"] for each in found], found, nth(place), name, markersize=3.5)
        if number in LOGARITHMIC:
            readable_logarithm(panel)
        finish(panel, "layer", label)
    for place, (name, points) in enumerate(values["thresholds"]["points"].items()):
        depths = [point["layers"]["value"] for point in points]
        series(last, depths, [point["equal"] for point in points], nth(place), name, markersize=3.5)
    last.axhline(exit_thresholds.PROMISED, color="0.6", linewidth=0.8)
    finish(last, "layers per token, over thresholds", "share equal to the last layer")
    shared_legend(figure)
    return figure


def main(argv: list[str] | None = None) -> Table:
    folders = "folders of exit_quality.py, on the same text"
    parser = make_parser(__doc__, folders, "Exits before and after", "save/exits")
    measurement = parser.add_argument_group(groups.MEASUREMENT)
    measurement.add_argument(
        "--measure", default="max_prob", help="the confidence whose AUROC and calibration are shown"
    )
    arguments = parser.parse_args(argv)
    try:
        names = names_of(arguments)
        runs = read(arguments.runs, names)
        measured = [{name for each in layers for name in each["ece"]} for layers in runs.values()]
        known = sorted(set.intersection(*measured))
        if arguments.measure not in known:
            raise ValueError(
                f"--measure {arguments.measure}: valid are {', '.join(known) or 'none'}, which were measured."
            )
        numbers = by_layer(runs, arguments.measure)
        thresholds = thresholds_of(arguments.runs, names, arguments.measure)
        found = table(arguments.title, numbers, arguments.measure, promises(thresholds, arguments.measure))
        note = (
            f"Last panel: tokens leave at the first exit whose {label_of(arguments.measure)} is above a threshold, "
            f"a point each; the line is {exit_thresholds.PROMISED:.0%}. Bars are 95% bootstrap intervals over texts"
        )
        values = {"numbers": numbers, "measure": arguments.measure, "thresholds": thresholds}
        path = write(arguments.out, found, Drawing(arguments.title, paint_comparison, values, note), "compare_exits")
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
