"""Figures of what layers make of what is right and what is wrong: entropy of answers, and probes of statements."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.drawing import errors, finish, panels, series, shared_legend
from analysis.style import nth, points

# Numbers of a layer -> how its axis is called.
AXES = {"entropy": "entropy of the next token, nats", "log_p": "log-probability of the answer's token, nats"}
ANSWERS = {"correct": "right answers", "incorrect": "wrong answers"}
DIFFERENCE = "wrong less right answers"


def paint_entropy(values: dict) -> Figure:
    """For entropy and log-probability a panel of both kinds of answers and one of their difference, over layers."""
    figure, axes = panels(2 * len(AXES), width=4.6)
    places = [each["layer"] for each in values["layers"]]
    for row, (name, label) in enumerate(AXES.items()):
        found = [each[name] for each in values["layers"]]
        left, right = axes[2 * row : 2 * row + 2]
        for place, (kind, called) in enumerate(ANSWERS.items()):
            series(left, places, [each[kind] for each in found], nth(place), called, markersize=3.5)
        _band(right, places, [each["difference"] for each in found], DIFFERENCE)
        finish(left, "layer", label)
        finish(right, "layer", "difference, nats")
    shared_legend(figure)
    return figure


def _band(axes: Axes, places: Sequence[int], quantities: Sequence[dict], label: str) -> None:
    look, middle = nth(2), [each["value"] for each in quantities]
    below, above = errors(quantities)
    low = [value - down for value, down in zip(middle, below, strict=True)]
    high = [value + up for value, up in zip(middle, above, strict=True)]
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.fill_between(places, low, high, color=look.colour, alpha=0.2, linewidth=0)
    axes.plot(places, middle, label=label, **points(look) | {"markersize": 3.5})


def paint_categories(values: dict) -> Figure:
    """A panel per shown layer, a row per category: the difference in entropy."""
    categories, shown = values["categories"][::-1], values["shown"]
    figure, axes = panels(len(shown), width=4.6, height=max(2.5, 0.24 * len(categories) + 1))
    for panel, layer in zip(axes, shown, strict=True):
        found = [
            next(held["entropy"]["difference"] for held in each["layers"] if held["layer"] == layer)
            for each in categories
        ]
        panel.axvline(0, color="0.6", linewidth=0.8)
        kept = points(nth(0)) | {"linestyle": "", "markersize": 4}
        places = range(len(categories))
        middle = [each["value"] for each in found]
        panel.errorbar(middle, places, xerr=errors(found), elinewidth=0.8, capsize=1.5, label=DIFFERENCE, **kept)
        names = [f"{each['category'] or '-'} ({each['n']})" for each in categories] if panel is axes[0] else []
        panel.set_yticks(places if names else [], names)
        panel.set_ylim(-0.7, len(categories) - 0.3)
        finish(panel, "difference in entropy, nats", "category (n)" if names else "", f"layer {layer}")
    return figure


# --------------------------------------------------------------------------------------------------------------- probes
def paint_probes(values: dict) -> Figure:
    """Test accuracy over layers, a panel per split, and what the first split's training came to; baselines and the
    majority of layers lie across."""
    rows, shown = values["rows"], values["splits"]
    trained = [("train_accuracy", "accuracy on the training part"), ("train_loss", "training loss, nats")]
    count = len(shown) + (len(trained) if values["training"] else 0)
    figure, axes = panels(count, columns=values["columns"], width=4.4)
    looks = {name: nth(place) for place, name in enumerate(dict.fromkeys(_line(row) for row in rows))}
    for panel, split in zip(axes, shown, strict=False):
        found = [row for row in rows if row["split"] == split]
        _accuracies(panel, found, looks)
        finish(panel, "layer", "accuracy on the test part", f"{split} (n = {found[0]['n']})")
    for panel, (name, label) in zip(axes[len(shown) :], trained, strict=False):
        found = [row for row in rows if row["split"] == shown[0] and isinstance(row["layer"], int)]
        for line in dict.fromkeys(map(_line, found)):
            held = [row for row in found if _line(row) == line]
            quantities = [_as_quantity(row[name]) for row in held]
            series(panel, [row["layer"] for row in held], quantities, looks[line], line, markersize=3.5)
        finish(panel, "layer", label, shown[0])
    shared_legend(figure)
    return figure


def _line(row: dict) -> str:
    return row["name"] if row["layer"] is None or isinstance(row["layer"], int) else f"{row['name']}, {row['layer']}"


def _as_quantity(value: float | dict) -> dict:
    return value if isinstance(value, dict) else {"value": value, "interval": (value, value)}


def _accuracies(panel: Axes, rows: Sequence[dict], looks: dict) -> None:
    """A line through the layers of each probe; what has no layer lies across, with its interval at one place."""
    layers = sorted({row["layer"] for row in rows if isinstance(row["layer"], int)})
    across = [row for row in rows if not isinstance(row["layer"], int)]
    for line in dict.fromkeys(map(_line, rows)):
        held = [row for row in rows if _line(row) == line]
        if isinstance(held[0]["layer"], int):
            quantities = [row["test_accuracy"] for row in held]
            series(panel, [row["layer"] for row in held], quantities, looks[line], line, markersize=3.5)
            continue
        found, place = held[0]["test_accuracy"], across.index(held[0])
        kept = points(looks[line]) | {"markersize": 5}
        low, high = layers[0], layers[-1]
        middle = low + (high - low) * (place + 1) / (len(across) + 1)
        panel.plot([low, middle, high], [found["value"]] * 3, label=line, markevery=(1, 2), **kept)
        panel.errorbar([middle], [found["value"]], yerr=errors([found]), elinewidth=0.7, capsize=1.5, **kept)
