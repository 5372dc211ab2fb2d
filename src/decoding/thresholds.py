"""Threshold: when a confidence is enough. One function and one row of `THRESHOLDS` per kind.

Every kind maps the level lam, the position of an answer token and the length of the longest answer to the number that a
confidence has to exceed there. A kind is in force where the first thing that it reads or brings along was given; else
the threshold is constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from decoding.settings import Setting, refuse_misfits


def constant(level: float, position: int, length: int) -> float:
    """The same threshold at every position."""
    return level


def fitted(level: float, position: int, length: int, adapts: bool) -> float:
    """The level until the first fit; from then on what the `AdaptiveThreshold` says, which the loop asks instead."""
    return level


def decaying(level: float, position: int, length: int, temperature: float) -> float:
    """lam * (0.9 + 0.1 * exp(-tau * t / N)): strict early, lenient late (after CALM Eq. 5; the reference's form).

    Args:
        level: lam, in [0, 1].
        position: t, counts answer tokens from 1.
        length: N, the longest answer in tokens.
        temperature: tau; 0 is the constant threshold.
    """
    return level * (0.9 + 0.1 * math.exp(-temperature * position / length))


@dataclass(frozen=True)
class Threshold:
    """One row of the table.

    Attributes:
        at: (level, position, length) -> threshold of the answer token at `position`, counted from 1; what the kind
            reads, and its own settings, come as further arguments, by their names.
        reads: Fields of a policy.
        settings: Its own, beside those.
        name: How it stands in the name of a run's folder, with fields of the policy and own settings in braces; where
            nothing is given the level, the kind and its own settings.
        words: The same in a sentence, behind "is above".
    """

    at: Callable[..., float]
    reads: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    name: str = ""
    words: str = ""

    def __post_init__(self):
        refuse_misfits(self.at, 3, self.settings, self.reads, chooses=not self.reads)

    @property
    def chosen_by(self) -> str | None:
        """The field or the setting that puts the kind in force; None for the one that needs none."""
        return next(iter((*self.reads, *(setting.name for setting in self.settings))), None)


THRESHOLDS: dict[str, Threshold] = {
    "constant": Threshold(constant, name="{threshold:g}", words="{threshold:g}"),
    "fitted": Threshold(fitted, reads=("adapts",), name="adaptive", words="a threshold fitted on the way"),
    "decaying": Threshold(
        decaying,
        reads=("temperature",),
        name="{threshold:g}-decay{temperature:g}",
        words="{threshold:g}, decaying with the position at temperature {temperature:g}",
    ),
}


class AdaptiveThreshold:
    """FREE's estimator (arXiv:2310.05424, section 4.3): a threshold fitted to which confidences were right.

    Two Beta distributions are fitted to the confidences of shallow tokens, one to those that the deep model agreed
    with, one to the others; the threshold is the lowest of ten above which agreement is likely enough. One lives on
    the model (`model.threshold`) and is refitted at the start of every sequence on all observations so far.

    Args:
        level: The threshold until the first fit.
    """

    GRID = np.linspace(0.3, 0.9, 10)
    LIKELY = 0.4
    MOST_FITS = 300
    LEARNING_RATE = 0.2  # what a label counts; with the floor it leaves each component a trace of the other's data
    FLOOR = 1e-4

    def __init__(self, level: float):
        self.start = level
        self.reset()

    def reset(self) -> None:
        """Forget everything seen."""
        self.value = self.start
        self.fits = 0
        self.confidences: list[float] = []
        self.agreed: list[bool] = []

    def observe(self, confidences: Sequence[float], agreed: Sequence[bool]) -> None:
        """Shallow confidences in [0, 1], and whether the deep model's likeliest token was the shallow one's."""
        self.confidences += map(float, confidences)
        self.agreed += map(bool, agreed)

    def refit(self) -> None:
        """Move the threshold to what was seen so far; MOST_FITS times at most."""
        if not self.confidences or self.fits >= self.MOST_FITS:
            return
        self.fits += 1
        self.value = float(self.GRID[min(max(0, len(self.GRID) - self._likely_points()), len(self.GRID) - 1)])

    def _likely_points(self) -> int:
        """Points of the grid at which agreement is likely enough."""
        x = np.clip(np.array(self.confidences), self.FLOOR, 1 - self.FLOOR)
        label = np.array(self.agreed, int)
        weights = np.maximum(self.LEARNING_RATE * np.eye(2)[label], self.FLOOR)  # [n, 2]
        weights /= weights.sum(1, keepdims=True)
        fitted = [_moments(x, weights[:, component]) for component in (0, 1)]
        shapes = [shape for shape in fitted if shape is not None]
        if len(shapes) < len(fitted):
            return 0
        means = [a / (a + b) for a, b in shapes]
        positive = int(np.argmax(means))
        with np.errstate(all="ignore"):
            densities = [beta.pdf(self.GRID, a, b) for a, b in shapes]
            ratio = densities[positive] / (densities[0] + densities[1])
        return int((np.isfinite(ratio) & (ratio > self.LIKELY)).sum())

    @property
    def seen(self) -> int:
        """Number of observations so far."""
        return len(self.confidences)

    def state_dict(self, since: int = 0) -> dict:
        """What was seen from observation `since` on, and where all of it led, as JSON."""
        seen = {"confidences": self.confidences[since:], "agreed": self.agreed[since:]}
        return {"value": self.value, "fits": self.fits, **seen}

    def load_state_dict(self, *states: dict) -> None:
        """Go on where another one was, whose states these are, one behind the other."""
        self.reset()
        for state in states:
            self.value, self.fits = state["value"], state["fits"]
            self.observe(state["confidences"], state["agreed"])


def _moments(x: np.ndarray, weights: np.ndarray) -> tuple[float, float] | None:
    """Shape of the Beta distribution of x's weighted mean and population variance, or None without variance."""
    mean = float(np.average(x, weights=weights))
    variance = float(np.average((x - mean) ** 2, weights=weights))
    if variance == 0:
        return None
    a = mean * (mean * (1 - mean) / variance - 1)
    return a, a * (1 - mean) / mean
