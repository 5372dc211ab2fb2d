"""Bootstrap intervals over examples: 95%, percentiles of 1,000 resamples, the same at every call."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import bootstrap

Interval = tuple[float, float]
RESAMPLES = 1000


def of_mean(values: Sequence[float]) -> Interval:
    """Of the mean of a number per example."""
    return _interval((np.asarray(values, float),), lambda sample, axis: sample.mean(axis))


def of_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Of the ratio of two sums over examples, such as layers per token."""
    samples = (np.asarray(numerators, float), np.asarray(denominators, float))
    return _interval(samples, lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis))


def of_pooled(
    pooled: Callable[[np.ndarray], np.ndarray], scores: np.ndarray, others: np.ndarray | None = None
) -> Interval:
    """Of a number of several examples together, or of what it is above that of others of the same examples.

    Args:
        pooled: What the examples have, [..., N, K], to the number, [...].
        scores, others: [N, K].
    """

    def of_places(places: np.ndarray, axis: int) -> np.ndarray:
        found = pooled(scores[places])
        return found if others is None else found - pooled(others[places])

    return _interval((np.arange(len(scores)),), of_places)


def of_difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Of the mean difference of two numbers of the same example."""
    return of_mean(np.asarray(values, float) - np.asarray(others, float))


def _interval(samples: tuple[np.ndarray, ...], statistic) -> Interval:
    if len(samples[0]) < 2:
        return (float("nan"), float("nan"))
    found = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        paired=len(samples) > 1,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def resamples(groups: Sequence[int]) -> np.ndarray:
    """How often each of N values counts in each of 1,000 resamples of the groups they belong to, [1000, N]: what stands
    in one text depends on the rest of it. Of a single group there are none, [0, N]."""
    names, belongs = np.unique(np.asarray(groups), return_inverse=True)
    count = len(names) if len(names) > 1 else 0
    drawn = np.random.default_rng(0).multinomial(count, np.full(len(names), 1 / len(names)), RESAMPLES if count else 0)
    return drawn[:, belongs].astype(float)


def of_statistic(statistic: Callable[[np.ndarray], np.ndarray], weights: np.ndarray) -> Interval:
    """Of a number that follows from how often each value counts.

    Args:
        statistic: Weights [R, N] to the number of each of R samples, [R]; nan where it is not defined.
        weights: Of `resamples`.
    """
    found = statistic(weights) if len(weights) else np.empty(0)
    found = found[np.isfinite(found)]
    if not len(found):
        return (float("nan"), float("nan"))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
