"""A lens as text and figures: the likeliest tokens of every layer, how far it is from the last, the rank of a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from analysis.drawing import Drawing, as_label, finish, own_legend, panels
from analysis.lens_reading import WAYS, Passage, Reading
from analysis.style import nth, points

# Characters of a prompt that stand in a title, and of a token in a cell.
SHOWN, IN_CELL = 80, 9
# Panels of the figure of lines.
MOST_PANELS = 12
# Inches of a cell's height, and of its width: least, most, and by character.
ROW, NARROW, WIDE, BY_CHARACTER = 0.165, 0.42, 0.78, 0.078


def shown(prompt: str) -> str:
    """A prompt as part of a title; of a long one its end."""
    return as_label(prompt if len(prompt) <= SHOWN else f"... {prompt[-SHOWN:]}")


# ----------------------------------------------------------------------------------------------------------------- text
def text_of(passages: Sequence[Passage]) -> str:
    """A table per position and way of reading: a row per layer, the last one last."""
    blocks = []
    for passage in passages:
        kind = passage.answer.kind
        blocks.append(f"Prompt: {passage.answer.prompt!r}" + f"; {kind}" * (kind != "continuation"))
        blocks += [f"Left out: looked at are {passage.answer.left_out}."] * bool(passage.answer.left_out)
        for readings in zip(*passage.readings.values(), strict=True):
            for way, reading in zip(passage.readings, readings, strict=True):
                named = f" ({way}: {WAYS[way].words})" if len(readings) > 1 else ""
                blocks.append(f"Next: {reading.text!r}{named}\n{_table(reading)}")
    return "\n\n".join(blocks) + "\n"


def _table(reading: Reading) -> str:
    cells = [
        [f"{text!r} {p:.3f}" for text, p in zip(texts, row, strict=True)]
        for texts, row in zip(reading.tokens, reading.probabilities, strict=True)
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = [
        f"{layer:>5}  {reading.divergence[layer]:>9.3f}  {reading.rank[layer]:>7}  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for layer, row in enumerate(cells)
    ]
    return "\n".join(["layer  KL (nats)     rank  likeliest tokens", *rows])


# ---------------------------------------------------------------------------------------------------------------- lines
def lines(passages: Sequence[Passage], way: str) -> Drawing:
    """Probability of the final top tokens at every layer, a panel per position."""
    held = [
        asdict(reading) | {"behind": _name(passage) if len(passages) > 1 else ""}
        for passage in passages
        for reading in passage.readings[way]
    ]
    prompts = list(dict.fromkeys(passage.answer.prompt for passage in passages))
    behind = shown(prompts[0]) if len(prompts) == 1 else f"{len(prompts)} prompts"
    note = (
        "Where a line rises is the layer that settles on its token. Layer 0 is the embedding; every layer is read "
        f"through the model's own head{'' if way == 'normed' else f' ({WAYS[way].words})'}"
    )
    if len(held) > MOST_PANELS:
        note += f". Left out: {len(held) - MOST_PANELS} positions after the first {MOST_PANELS}"
    title = f"Probability of the final top tokens at every layer behind: {behind}"
    return Drawing(title, paint_readings, {"readings": held[:MOST_PANELS]}, note)


def paint_readings(values: dict) -> Figure:
    """A panel per position, a line per token."""
    figure, axes = panels(len(values["readings"]), width=5.0)
    for panel, reading in zip(axes, values["readings"], strict=True):
        lines = zip(reading["final"], zip(*reading["final_probabilities"], strict=True), strict=True)
        for place, (text, probabilities) in enumerate(lines):
            panel.plot(range(len(probabilities)), probabilities, label=as_label(text), **points(nth(place)))
        panel.set_ylim(-0.02, 1.02)
        behind = f"{reading['behind']}\n" if reading.get("behind") else ""
        finish(panel, "layer", "probability", f"{behind}next: {as_label(reading['text'])}")
        own_legend(panel)
    return figure


def _name(passage: Passage) -> str:
    """A passage in few words."""
    prompt = passage.answer.prompt
    prompt = as_label(prompt if len(prompt) <= SHOWN // 2 else f"... {prompt[-SHOWN // 2 :]}")
    return prompt if passage.answer.kind == "continuation" else f"{prompt} {passage.answer.kind}"


# ---------------------------------------------------------------------------------------------------------------- cells
class Quantity(NamedTuple):
    """What a figure of cells shows.

    Attributes:
        title: Of the figure.
        note: What a cell is.
        bar: What the colours are.
        cells: Of the readings of an answer: the text in each cell, [L + 1][columns].
        numbers: What colours it.
        marked: Whether it is bold.
    """

    title: str
    note: str
    bar: str
    cells: Callable[[list[Reading]], list[list[str]]]
    numbers: Callable[[list[Reading]], list[list[float]]]
    marked: Callable[[list[Reading]], list[list[bool]]]


def _by_layer(readings: list[Reading], name: str) -> list[list]:
    """A number of each layer at each position, [L + 1][T]."""
    return [list(row) for row in zip(*(getattr(each, name) for each in readings), strict=True)]


def _likeliest(readings: list[Reading], name: str) -> list[list]:
    """What is likeliest at every layer: at one position its k tokens, at several the first of each."""
    if len(readings) == 1:
        return getattr(readings[0], name)
    return [[held[0] for held in row] for row in _by_layer(readings, name)]


def _said(readings: list[Reading]) -> list[list[bool]]:
    """Which of `_likeliest` are the token that stands there."""
    if len(readings) == 1:
        count = len(readings[0].tokens[0])
        return [[rank == place for place in range(1, count + 1)] for rank in readings[0].rank]
    return _first(readings)


def _first(readings: list[Reading]) -> list[list[bool]]:
    return [[rank == 1 for rank in row] for row in _by_layer(readings, "rank")]


def _nats(value: float) -> str:
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}".lstrip("0") if value >= 0.005 else "0"


def _count(value: int) -> str:
    return str(value) if value < 10_000 else f"{value / 1000:.0f}k"


BOLD = "Bold: the layer's likeliest token is the one that stands there"
QUANTITIES = {
    "tokens": Quantity(
        "The likeliest token of every layer",
        "A cell is what a layer (row; 0 is the embedding) says next, the darker the surer it is. A column is a "
        "position, named by the token that stands there; of a single one, columns are its likeliest tokens, the first "
        "to the left. Bold: the token that stands there. \u2423 is a space",
        "probability",
        lambda readings: _likeliest(readings, "tokens"),
        lambda readings: _likeliest(readings, "probabilities"),
        _said,
    ),
    "divergence": Quantity(
        "How far every layer is from the last",
        "A cell is KL(last layer || this layer) in nats at a position: 0 where both give all tokens the same "
        f"probabilities, and the darker the nearer. Rows are layers, 0 is the embedding. {BOLD}",
        "KL to the last layer (nats)",
        lambda readings: [list(map(_nats, row)) for row in _by_layer(readings, "divergence")],
        lambda readings: _by_layer(readings, "divergence"),
        _first,
    ),
    "rank": Quantity(
        "Where every layer ranks the token that stands there",
        "A cell is how many tokens a layer finds at least as likely as the one that stands there, this one counted: 1 "
        "where the layer would say it, and the darker the nearer; 12k are 12 thousand. Rows are layers, 0 is the "
        f"embedding. {BOLD}",
        "rank of the token",
        lambda readings: [list(map(_count, row)) for row in _by_layer(readings, "rank")],
        lambda readings: _by_layer(readings, "rank"),
        _first,
    ),
}


def cells(name: str, passages: Sequence[Passage], model: str) -> Drawing:
    """A figure of a row of panels per passage and a panel per way of reading; `name` is a key of QUANTITIES."""
    quantity = QUANTITIES[name]
    rows = [{"title": _name(each), "panels": _panels(quantity, name, each)} for each in passages]
    note = quantity.note
    left_out = list(dict.fromkeys(each.answer.left_out for each in passages if each.answer.left_out))
    if left_out:
        note += f". Shown are {'; '.join(left_out)}"
    positions = sum(len(next(iter(each.readings.values()))) for each in passages)
    examples = f"n = {_counted(positions, 'position')} of {_counted(len(passages), 'answer')}"
    values = {"quantity": name, "bar": quantity.bar, "rows": rows}
    return Drawing(f"{quantity.title}: {model}", paint_cells, values, note, [], examples)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _panels(quantity: Quantity, name: str, passage: Passage) -> list[dict]:
    found = []
    for way, readings in passage.readings.items():
        texts = quantity.cells(readings)
        alone = name == "tokens" and len(readings) == 1
        columns = [str(place + 1) for place in range(len(texts[0]))] if alone else [each.text for each in readings]
        found.append(
            {
                "title": f"{way}: {WAYS[way].words}",
                "axis": f"likeliest tokens where {readings[0].text!r} stands" if alone else "token that stands there",
                "columns": columns,
                "cells": texts,
                "numbers": quantity.numbers(readings),
                "marked": quantity.marked(readings),
            }
        )
    return found


def in_cell(text: str) -> str:
    """A token's text, spaces visible and cut to what a cell holds."""
    return as_label(text.replace(" ", "\u2423"), IN_CELL)


def paint_cells(values: dict) -> Figure:
    """A row of panels per passage, a panel per way of reading, a row of cells per layer."""
    rows, tokens = values["rows"], values["quantity"] == "tokens"
    every = [panel for row in rows for panel in row["panels"]]
    label = in_cell if tokens else str
    longest = max(len(label(text)) for panel in every for line in panel["cells"] for text in line)
    longest = max(longest, *(len(in_cell(text)) - 2 for panel in every for text in panel["columns"]))
    width = min(WIDE, max(NARROW, BY_CHARACTER * longest))
    most = max(len(panel["columns"]) for panel in every)
    layers = len(every[0]["cells"])
    across = len(rows[0]["panels"])
    room = max(width * most, 3.8 / across, 1.9)  # titles stand above
    size = across * (room + 0.45) + 1.3, len(rows) * (ROW * layers + 1.25) + 1.0
    figure = plt.figure(figsize=size, layout="constrained")
    look = {"norm": _norm(values["quantity"], every), "cmap": "Blues" if tokens else "Blues_r"}
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        part.suptitle(row["title"], fontsize=9, x=0.01, ha="left")
        axes = part.subplots(1, across, squeeze=False)[0]
        for place, (panel, held) in enumerate(zip(axes, row["panels"], strict=True)):
            image = _paint_panel(panel, held, label, room / width, look)
            panel.set_ylabel("layer" if place == 0 else "", fontsize=8)
        bar = part.colorbar(image, ax=list(axes), shrink=0.7, aspect=30, pad=0.01, format=lambda value, _: f"{value:g}")
        bar.set_label(values["bar"], fontsize=8)
        bar.ax.tick_params(labelsize=7.5)
    return figure


def _norm(quantity: str, every: Sequence[dict]) -> Normalize:
    """From numbers to shades; the darkest is 1 of a probability, 0 of a divergence, 1 of a rank."""
    if quantity == "tokens":
        return Normalize(0, 1)
    highest = max(number for panel in every for line in panel["numbers"] for number in line)
    # Layers that are read as they are can be hundreds of nats away, and what tells the others apart are tenths.
    return LogNorm(1, max(2, highest)) if quantity == "rank" else SymLogNorm(0.1, vmin=0, vmax=max(1.0, highest))


def _paint_panel(panel: Axes, held: dict, label: Callable[[str], str], columns: float, look: dict) -> AxesImage:
    """Cells with their texts; `columns` is how many the widest panel has, so that all cells are as wide."""
    numbers = np.array(held["numbers"], float)
    inside = {"ha": "center", "va": "center", "fontsize": 7, "in_layout": False}
    image = panel.imshow(numbers, aspect="auto", origin="lower", **look)
    for layer, line in enumerate(held["cells"]):
        for place, text in enumerate(line):
            red, green, blue, _ = image.to_rgba(numbers[layer, place])
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            weight = "bold" if held["marked"][layer][place] else "normal"
            panel.text(place, layer, label(text), color="white" if dark else "black", weight=weight, **inside)
    panel.set_xlim(-0.5, columns - 0.5)
    names = list(map(in_cell, held["columns"]))
    panel.set_xticks(range(len(names)), names, fontsize=7, rotation=30 if max(map(len, names)) > 4 else 0)
    panel.set_yticks(range(len(numbers)), range(len(numbers)), fontsize=6.5)
    panel.set_xlabel(as_label(held["axis"]), fontsize=8, loc="left")
    panel.set_title(held["title"], fontsize=8.5, loc="left")
    panel.tick_params(length=2)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_bounds(-0.5, len(names) - 0.5)
    return image
