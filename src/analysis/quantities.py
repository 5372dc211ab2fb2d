"""The numbers of a run that figures and tables show, each with its interval."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from analysis import intervals
from analysis.drawing import Runs
from analysis.runs import RunFiles


class Quantity(NamedTuple):
    """A number of a run with its interval."""

    value: float
    interval: tuple[float, float]


Measure = Callable[[RunFiles, Runs], Quantity | None]


def score(run: RunFiles, runs: Runs | None = None) -> Quantity:
    """In percent; without an interval where a run kept no example's score."""
    found = [*run.example_scores.values()]
    if not found or len(found) < len(run.examples):
        return Quantity(run.score, (run.score, run.score))
    return Quantity(run.score, intervals.of_pooled(run.shown.pooled, np.stack(found)))


def change(run: RunFiles, other: RunFiles) -> Quantity | None:
    """Of the score from another run's, in points, paired by the examples that both have; None where there are none."""
    shared = [name for name in run.example_scores if name in other.example_scores]
    if not shared or run.score_key != other.score_key:
        return None
    pooled, pair = run.shown.pooled, [np.stack([each.example_scores[name] for name in shared]) for each in (run, other)]
    return Quantity(float(pooled(pair[0]) - pooled(pair[1])), intervals.of_pooled(pooled, *pair))


def signed(quantity: Quantity) -> tuple[str, str]:
    """A change and its interval, as cells of a table."""
    low, high = quantity.interval
    return f"{quantity.value:+.2f}", f"{low:+.2f} to {high:+.2f}"


def mean_exit(run: RunFiles, runs: Runs | None = None) -> Quantity:
    """Layers per token."""
    rows = run.examples
    found = intervals.of_ratio([row["layers"] for row in rows], [row["tokens"] for row in rows])
    return Quantity(run.mean_exit, found)


def layers_in_turn(run: RunFiles, runs: Runs | None = None) -> Quantity:
    """Per token, one after the other: those that several tokens pass together count once; no interval is known."""
    return Quantity(run.layers_in_turn, (run.layers_in_turn, run.layers_in_turn))


def confidence_flops(run: RunFiles, runs: Runs | None = None) -> Quantity:
    """Per example."""
    return Quantity(run.flops("confidence"), intervals.of_mean([row["flops_confidence"] for row in run.examples]))


def seconds(run: RunFiles, runs: Runs) -> Quantity | None:
    """Per token relative to the full model, measured in turn; the interval is that of the repetitions."""
    ratios = runs.speed(run)
    if ratios is None or run.policy.get("confidence") == "oracle":  # which runs every layer to know the last one's word
        return None
    return Quantity(statistics.median(ratios), (min(ratios), max(ratios)))


def times_as_fast(run: RunFiles, runs: Runs) -> Quantity | None:
    """Than the full model, measured in turn; the interval is that of the repetitions."""
    ratio = seconds(run, runs)
    return None if ratio is None else Quantity(1 / ratio.value, (1 / ratio.interval[1], 1 / ratio.interval[0]))


def seconds_note(runs: Runs, found: Sequence) -> str:
    """How the seconds of groups (task, model, ...) were measured, in words."""
    timed = [runs.speeds[group[:2]].settings for group in found if group[:2] in runs.speeds]
    if not timed:
        return "No seconds were measured in turn"
    return (
        f"Seconds: batch 1, decoder only, all policies in turn on {timed[0]['examples']} examples, median of "
        f"{timed[0]['repetitions']} repetitions, their range as bars"
    )
