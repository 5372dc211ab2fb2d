"""Strategies compared: every score with its interval, its difference from vanilla paired by example, a table, a figure.

All scores are in percent, and higher is better but for repetition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.sparse import csr_array

from analysis import intervals
from analysis.drawing import finish, panels, series, shared_legend
from analysis.style import nth
from analysis.tables import Table
from jobs.truthful import Results
from tasks.answer_scores import DISTINCT, REPEATED, ngrams
from util.truthful_args import VANILLA

SIMILARITIES = {"bleu": "BLEU", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "bertscore": "BERTScore"}
# Above a panel -> score -> what it is called there.
PANELS = {
    "multiple choice, %": {"mc1": "MC1", "mc2": "MC2", "mc3": "MC3"},
    "multiple choice by token, %": {
        "mc1_token": "MC1 by token",
        "mc2_token": "MC2 by token",
        "mc3_token": "MC3 by token",
    },
    "answer and nearest right one, %": {f"{name}_max": text for name, text in SIMILARITIES.items()},
    "the same minus nearest wrong one, %": {f"{name}_diff": text for name, text in SIMILARITIES.items()},
    "answers nearer to a right one, %": {f"{name}_acc": text for name, text in SIMILARITIES.items()},
    "right, %": {"factor": "FACTOR", "gsm8k": "GSM8K"},
    "different n-grams in all texts, %": {f"distinct{size}": f"distinct-{size}" for size in DISTINCT},
    "repeated n-grams of a text, %": {f"rep{size}": f"rep-{size}" for size in REPEATED},
}
ENDINGS = ("max", "diff", "acc")


@dataclass(frozen=True)
class Row:
    """A score of a strategy.

    Attributes:
        n: Examples.
        value: In percent, with its 95% interval over examples.
        difference: From vanilla's on the same examples, with its interval; None for vanilla, and without it.
    """

    score: str
    strategy: str
    n: int
    value: float
    interval: intervals.Interval
    difference: float | None = None
    difference_interval: intervals.Interval | None = None


def summary(results: Results) -> list[Row]:
    """Every score of every strategy, score by score."""
    rows = []
    for found in results.scores.values():
        for score in next(iter(found.values()))[0]:
            values = {name: [each[score] for each in examples] for name, examples in found.items()}
            rows += [_of_mean(score, name, values) for name in values]
    for size in DISTINCT if results.texts else ():
        rows += _distinct(size, results.texts)
    order = [score for shown in PANELS.values() for score in shown]
    return sorted(rows, key=lambda row: order.index(row.score))


def _of_mean(score: str, name: str, values: dict[str, list[float]]) -> Row:
    own, plain = values[name], values.get(VANILLA)
    row = score, name, len(own), fmean(own), intervals.of_mean(own)
    if plain is None or name == VANILLA:
        return Row(*row)
    return Row(*row, fmean(own) - fmean(plain), intervals.of_difference(own, plain))


def _distinct(size: int, texts: dict[str, list[str]]) -> list[Row]:
    """distinct-n of all texts together. A resample has texts twice, which makes it less diverse, so its interval is
    moved to where the value is."""
    count = len(next(iter(texts.values())))
    whole, weights = np.ones((1, count)), intervals.resamples(range(count))
    values = {name: _share_distinct(size, each, whole)[0] for name, each in texts.items()}
    drawn = {name: _share_distinct(size, each, weights) for name, each in texts.items()}
    rows = []
    for name, value in values.items():
        row = f"distinct{size}", name, count, value, _moved(drawn[name], value)
        if name == VANILLA or VANILLA not in values:
            rows.append(Row(*row))
            continue
        difference = value - values[VANILLA]
        rows.append(Row(*row, difference, _moved(drawn[name] - drawn[VANILLA], difference)))
    return rows


def _share_distinct(size: int, texts: Sequence[str], weights: np.ndarray) -> np.ndarray:
    """Of samples in which each text counts so often, [R, N]: different n-grams by all n-grams, in percent, [R]."""
    runs = [ngrams(text, size) for text in texts]
    columns = {run: place for place, run in enumerate({run for each in runs for run in each})}
    where = [(row, columns[run]) for row, each in enumerate(runs) for run in set(each)]
    if not where:
        return np.zeros(len(weights))
    held = csr_array((np.ones(len(where)), tuple(np.array(where).T)), shape=(len(texts), len(columns)))
    different = np.array([np.count_nonzero((each > 0).astype(float) @ held) for each in weights])
    return 100 * different / np.maximum(weights @ np.array([len(each) for each in runs], float), 1)


def _moved(drawn: np.ndarray, value: float) -> intervals.Interval:
    if not len(drawn):
        return (float("nan"), float("nan"))
    low, high = np.percentile(drawn - drawn.mean() + value, [2.5, 97.5])
    return float(low), float(high)


# --------------------------------------------------------------------------------------------------------------- output
HEAD = ["score (%)", "strategy", "n", "value", "95% interval", f"minus {VANILLA}", "95% interval of that"]
NOTE = (
    "MC1: the best answer is likelier than every wrong one; MC2: probability of right answers; MC3: right answers\n"
    "that are likelier than every wrong one; by token: of mean scores, not sums. max: likeness to the nearest right\n"
    "answer; diff: that minus likeness to the nearest wrong one; acc: answers nearer to a right one. FACTOR: the true\n"
    "completion is likeliest by token. rep-n: n-grams of a text that it had before, fewer is better; distinct-n:\n"
    "different n-grams of all texts. Intervals: bootstrap over examples; differences are paired by example.\n"
)


def label_of(score: str) -> str:
    """What a table calls a score."""
    text = next(shown[score] for shown in PANELS.values() if score in shown)
    ending = score.rpartition("_")[2]
    return f"{text} {ending}" if ending in ENDINGS else text


def table(title: str, rows: Sequence[Row], remarks: Sequence[str]) -> Table:
    """A row per score and strategy."""
    return Table(title, HEAD, [_cells(row) for row in rows], [], "\n".join([*remarks, NOTE]))


def _cells(row: Row) -> list[str]:
    cells = [label_of(row.score), row.strategy, str(row.n), f"{row.value:.2f}", _told(row.interval)]
    if row.difference is None:
        return [*cells, "-", "-"]
    return [*cells, f"{row.difference:+.2f}", _told(row.difference_interval, "+")]


def _told(interval: intervals.Interval, sign: str = "") -> str:
    low, high = interval
    return f"{low:{sign}.2f} to {high:{sign}.2f}" if low <= high else "-"  # which nan is not


def numbers(rows: Sequence[Row]) -> dict[str, Any]:
    """What the figure is painted from: the strategies in their order, and every score of each."""
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    scores: dict[str, dict] = {}
    for row in rows:
        scores.setdefault(row.score, {})[row.strategy] = {"value": row.value, "interval": row.interval, "n": row.n}
    return {"strategies": strategies, "scores": scores}


def caption(rows: Sequence[Row], remarks: Sequence[str]) -> str:
    """What to see in the figure."""
    sizes: dict[int, list[str]] = {}
    for panel, shown in PANELS.items():
        for count in {row.n for row in rows if row.score in shown}:
            sizes.setdefault(count, []).append(panel.split(",")[0])
    told = [f"n = {count} examples" + f" ({', '.join(of)})" * (len(sizes) > 1) for count, of in sizes.items()]
    return (
        "A point per way of choosing tokens: vanilla is the model as it is, the others contrast its last layer with "
        "earlier ones. Bars are 95% bootstrap intervals over examples; where they overlap, the table's paired "
        f"differences say more. {'; '.join(told)}. {' '.join(remarks)}"
    ).strip()


def paint_strategies(values: dict) -> Figure:
    """A panel per kind of score, in it a point per score and strategy."""
    scores, strategies = values["scores"], values["strategies"]
    shown = {panel: {name: text for name, text in names.items() if name in scores} for panel, names in PANELS.items()}
    shown = {panel: names for panel, names in shown.items() if names}
    figure, axes = panels(len(shown), columns=2, width=4.8)
    for panel, (title, names) in zip(axes, shown.items(), strict=True):
        for place, strategy in enumerate(strategies):
            moved = 0.7 * ((place + 0.5) / len(strategies) - 0.5)
            quantities = [scores[name][strategy] for name in names]
            places = [at + moved for at in range(len(names))]
            series(panel, places, quantities, nth(place), strategy, linestyle="")
        panel.set_xticks(range(len(names)), list(names.values()))
        panel.set_xlim(-0.5, len(names) - 0.5)
        finish(panel, "", "percent", title)
        panel.grid(axis="x", visible=False)
    shared_legend(figure)
    return figure
