"""Whether a confidence knows when it is right, over weighted values, so that one formula serves numbers and intervals.

Everything here takes weights [R, N], how often each of N values counts in each of R samples, and gives [R].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

# Of a reliability figure: bins of equal width from 0 to 1.
BINS = 10

Statistic = Callable[[np.ndarray], np.ndarray]


def mean(values: np.ndarray) -> Statistic:
    """The mean of values [N]."""
    return lambda weights: _ratio(weights @ values.astype(float), weights.sum(1))


def exponential(values: np.ndarray) -> Statistic:
    """exp of the mean of values [N], such as a perplexity."""
    return lambda weights: np.exp(np.minimum(mean(values)(weights), 700.0))


def quantile(values: np.ndarray, share: float) -> Statistic:
    """The least of values [N] that at least this share of them does not exceed."""
    order = np.argsort(values, kind="stable")

    def least(weights: np.ndarray) -> np.ndarray:
        reached = weights[:, order].cumsum(1)
        # weights are whole numbers, and a share of them hardly ever is
        place = (reached >= share * reached[:, -1:] - 1e-9).argmax(1)
        return values[order][place].astype(float)

    return least


def auroc(confidence: np.ndarray, right: np.ndarray) -> Statistic:
    """The probability that something right is surer than something wrong, ties counting half, in [0, 1]: the area under
    the ROC curve, 0.5 for a confidence that knows nothing. nan where all are right or all are wrong."""
    order = np.argsort(confidence, kind="stable")
    starts = np.flatnonzero(np.diff(confidence[order], prepend=np.nan) != 0)
    hits = right[order].astype(float)

    def area(weights: np.ndarray) -> np.ndarray:
        counted = weights[:, order]
        good = np.add.reduceat(counted * hits, starts, axis=1)  # [R, different confidences]
        bad = np.add.reduceat(counted * (1 - hits), starts, axis=1)
        below = bad.cumsum(1) - bad / 2
        return _ratio((good * below).sum(1), good.sum(1) * bad.sum(1))

    return area


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence [N], 0 to BINS - 1; what lies outside of [0, 1] is in the first or the last."""
    return np.clip((confidence * BINS).astype(int), 0, BINS - 1)


def ece(confidence: np.ndarray, right: np.ndarray) -> Statistic:
    """Expected calibration error (arXiv:1706.04599): how far confidence and share right are apart in a bin, in [0, 1],
    over the bins in proportion to what is in them. Confidences below 0 count as 0."""
    gap = np.clip(confidence, 0, 1) - right
    inside = (bin_of(confidence)[:, None] == np.arange(BINS)) * gap[:, None]
    return lambda weights: _ratio(np.abs(weights @ inside).sum(1), weights.sum(1))


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, int, Statistic]]:
    """Of every bin that holds something: its mean confidence, how many values it holds, the share of them that is
    right."""
    bins = bin_of(confidence)
    inside = [bins == each for each in np.unique(bins)]
    return [(float(confidence[held].mean()), int(held.sum()), partial(_share, held, right)) for held in inside]


def _share(held: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _ratio(weights @ (held & right).astype(float), weights @ held.astype(float))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
