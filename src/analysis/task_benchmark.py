"""What policies come to that answered the same prompts in turn: score, speed, first token, and answers that are others
than those of full depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from analysis import intervals
from analysis.drawing import Drawing, errors, finish, panels
from analysis.quantities import Quantity, change, score, signed
from analysis.runs import Judged, example_scores
from analysis.style import LOOKS, look, nth, points
from analysis.tables import Table
from jobs.in_turn import Pair
from training.records import exit_metrics

HEAD = ["policy", "score", "change", "95% interval", "tokens", "tokens/s", "times as fast", "later tokens"]
HEAD += ["first token", "times as long", "stood %", "exit layer", "in turn", "FLOPs", "other answers"]
NOTE = (
    "change: of the score, in points, paired by example. tokens: of an answer. times as fast: in tokens/s, of whole\n"
    "answers, in which a prompt's time is spread over its tokens; later tokens: the same behind the first token.\n"
    "times as long: until the first token. All of them are against full depth in the same turns. stood: of drafted\n"
    "tokens. exit layer, in turn: layers run per token, those of drafts that did not stand included, and those one\n"
    "after the other. FLOPs: the decoder's for whole answers, prompts included, relative to full depth. other\n"
    "answers: prompts whose tokens are not all those of full depth. Intervals: 95%, over prompts. Batch 1.\n"
)


@dataclass(frozen=True)
class Scored(Judged):
    """Answers of a policy to a task, as `analysis.quantities` takes them.

    Attributes:
        results: Scores by name, as in those of an evaluation, in percent.
        examples: The lines of predictions.
    """

    results: Mapping[str, float]
    examples: list[dict]

    @cached_property
    def example_scores(self) -> dict[str, np.ndarray]:
        """As of `RunFiles`."""
        return example_scores(self.shown, self.examples)


class Costs(NamedTuple):
    """What answers cost, beside those of full depth in the same turns.

    Attributes:
        tokens: Of an answer, on average.
        tokens_per_second: Of all answers.
        speed: Times as fast as full depth, by token.
        later_speed: The same behind the first token, for which the prompt is read, of the prompts that have such tokens
            under both; nan where none has.
        first_token: Seconds, on average.
        wait: Times as long as under full depth.
        acceptance: Of the drafted tokens, how many stood; None without drafts.
        mean_exit, layers_in_turn, layers_run: By token.
        flops: Of the decoder for whole answers, relative to full depth.
        other: Prompts whose tokens are not all those of full depth.
        prompts: Their number, of which an example may have several.
    """

    tokens: float
    tokens_per_second: float
    speed: Quantity
    later_speed: Quantity
    first_token: float
    wait: Quantity
    acceptance: float | None
    mean_exit: float
    layers_in_turn: float
    layers_run: float
    flops: float
    other: int
    prompts: int

    @classmethod
    def of(cls, pairs: Sequence[Pair], depth: int) -> Costs:
        """Those of a policy in a decoder of so many layers."""
        rows = np.array([[len(each.tokens), each.seconds, each.first_token] for pair in pairs for each in pair])
        own, full = rows[0::2], rows[1::2]
        both = np.hstack([own[:, :2], full[:, :2]])
        ones = np.ones(len(pairs))
        later = both - np.stack([ones, own[:, 2], ones, full[:, 2]], 1)
        counted, whole = (
            exit_metrics([each.decoded for each in some], depth, len(pairs)) for some in zip(*pairs, strict=True)
        )
        return cls(
            tokens=float(own[:, 0].mean()),
            tokens_per_second=float(own[:, 0].sum() / own[:, 1].sum()),
            speed=_over_prompts(both, _times_as_fast),
            later_speed=_over_prompts(later[(later[:, [0, 2]] > 0).all(1)], _times_as_fast),
            first_token=float(own[:, 2].mean()),
            wait=_over_prompts(np.stack([own[:, 2], full[:, 2]], 1), _times_as_long),
            acceptance=counted.get("acceptance_rate"),
            mean_exit=counted["block_avg"],
            layers_in_turn=counted["layers_in_turn"],
            layers_run=counted["layers_run"],
            flops=counted["flops_total_decoder"] / whole["flops_total_decoder"],
            other=sum(pair.own.tokens != pair.full.tokens for pair in pairs),
            prompts=len(pairs),
        )

    def data(self) -> dict:
        """A column per number; of those with an interval three."""
        found: dict = {}
        for name, value in self._asdict().items():
            found |= columns(name, value) if isinstance(value, Quantity) else {name: value}
        return found


def with_interval(quantity: Quantity) -> str:
    """A number as a cell of a table, alone where one prompt is too few for an interval; - where there is none."""
    low, high = quantity.interval
    if math.isnan(quantity.value):
        return "-"
    return f"{quantity.value:.2f}" + ("" if math.isnan(low) else f" ({low:.2f} to {high:.2f})")


def columns(name: str, quantity: Quantity) -> dict[str, float]:
    """A number and its interval, a column each."""
    return {name: quantity.value, f"{name}_low": quantity.interval[0], f"{name}_high": quantity.interval[1]}


def _times_as_fast(rows: np.ndarray) -> np.ndarray:
    tokens, seconds, full_tokens, full_seconds = np.moveaxis(rows.sum(-2), -1, 0)
    return (tokens / seconds) / (full_tokens / full_seconds)


def _times_as_long(rows: np.ndarray) -> np.ndarray:
    own, full = np.moveaxis(rows.sum(-2), -1, 0)
    return own / full


def _over_prompts(rows: np.ndarray, number: Callable[[np.ndarray], np.ndarray]) -> Quantity:
    if not len(rows):
        return Quantity(math.nan, (math.nan, math.nan))
    return Quantity(float(number(rows)), intervals.of_pooled(number, rows))


class Row(NamedTuple):
    """A policy of the benchmark."""

    policy: str
    method: str
    scored: Scored
    costs: Costs

    def cells(self, full: Row) -> list[str]:
        """Those of the table."""
        costs, told = self.costs, ("-", "-")
        if self is not full and (difference := change(self.scored, full.scored)):
            told = signed(difference)
            told = (told[0], "-") if math.isnan(difference.interval[0]) else told
        fast, later = (with_interval(each) for each in (costs.speed, costs.later_speed))
        stood = "-" if costs.acceptance is None else f"{100 * costs.acceptance:.1f}"
        cells = [self.policy, f"{self.scored.score:.2f}", *told]
        cells += [f"{costs.tokens:.1f}", f"{costs.tokens_per_second:.1f}", fast, later]
        cells += [f"{1000 * costs.first_token:.0f} ms", f"{costs.wait.value:.2f}", stood, f"{costs.mean_exit:.2f}"]
        cells += [f"{costs.layers_in_turn:.2f}", f"{costs.flops:.2f}", str(costs.other)]
        return cells

    def data(self, full: Row) -> dict:
        """The same as numbers, by column of the CSV file."""
        found: dict = {"policy": self.policy, "metric": self.scored.shown.label}
        found |= columns("score", score(self.scored))
        difference = None if self is full else change(self.scored, full.scored)
        found |= (
            {f"change{end}": None for end in ("", "_low", "_high")}
            if difference is None
            else columns("change", difference)
        )
        return found | self.costs.data() | {"examples": len(self.scored.examples)}


def table(name: tuple[str, str], rows: Sequence[Row]) -> Table:
    """A line per policy, full depth first."""
    head = [rows[0].scored.shown.label if cell == "score" else cell for cell in HEAD]
    count = len(rows[0].scored.examples)
    title = f"{name[1]} on {name[0]}: policies in turn, {count} examples"
    return Table(title, head, [row.cells(rows[0]) for row in rows], [], NOTE)


def draw(name: tuple[str, str], rows: Sequence[Row]) -> Drawing:
    """How fast each policy is behind the first token, what it scores, and how often it says something else than full
    depth."""
    values = [
        {"policy": row.policy, "method": row.method, "score_name": row.scored.shown.label}
        | {"speed": row.costs.later_speed._asdict(), "score": score(row.scored)._asdict()}
        | {"other": 100 * row.costs.other / row.costs.prompts}
        for row in rows
    ]
    note = (
        "Good is far to the right in the first two and at 0 in the third. Bars are 95% bootstrap intervals over "
        "prompts; batch 1, each prompt under every policy in turn"
    )
    title = f"{name[1]} on {name[0]}: policies in turn"
    return Drawing(title, paint_task_benchmark, {"rows": values}, note, [], f"n = {len(rows[0].scored.examples)}")


def paint_task_benchmark(values: dict) -> Figure:
    """A panel per quantity, a line of each per policy."""
    rows = values["rows"]
    figure, axes = panels(3, 3, width=3.4, height=0.6 + 0.4 * len(rows))
    labels = ("times as fast behind the first token", f"{rows[0]['score_name']} (%)", "prompts answered otherwise (%)")
    places = range(len(rows))[::-1]
    for panel, key, label in zip(axes, ("speed", "score", "other"), labels, strict=True):
        for number, (place, row) in enumerate(zip(places, rows, strict=True)):
            found = row[key] if isinstance(row[key], dict) else {"value": row[key], "interval": [row[key]] * 2}
            if found["value"] is None:
                continue
            own = look(row["method"]) if row["method"] in LOOKS else nth(number)
            panel.errorbar(found["value"], place, xerr=errors([found]), capsize=2, **points(own) | {"linestyle": ""})
        if key == "speed":
            panel.axvline(1, color="0.3", linewidth=0.8)
        panel.set_yticks(places, [row["policy"] for row in rows] if panel is axes[0] else [])
        panel.set_ylim(-0.6, len(rows) - 0.4)
        finish(panel, label, "")
        panel.margins(x=0.08)
    return figure


def first_difference(pairs: Sequence[Pair], name: str) -> str | None:
    """Where a policy first says something else than full depth, in words; None where it never does."""
    for pair in pairs:
        own, full = pair.own.tokens, pair.full.tokens
        if own != full:
            same = next((place for place, (a, b) in enumerate(zip(own, full, strict=False)) if a != b), None)
            place = min(len(own), len(full)) if same is None else same
            return (
                f"{name} says something else than full depth, first in prompt {pair.own.decoded.id!r} at token "
                f"{place + 1}:\n  full depth: {pair.full.decoded.text!r}\n  {name}: {pair.own.decoded.text!r}"
            )
    return None
