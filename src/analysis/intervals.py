"""Bootstrap intervals over examples: 95%, percentiles of 1,000 resamples, the same at every call."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

Interval = tuple[float, float]


def of_mean(values: Sequence[float]) -> Interval:
    """Of the mean of a number per example."""
    return _interval((np.asarray(values, float),), lambda sample, axis: sample.mean(axis))


def of_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Of the ratio of two sums over examples, such as layers per token."""
    samples = (np.asarray(numerators, float), np.asarray(denominators, float))
    return _interval(samples, lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis))


def of_difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Of the mean difference of two numbers of the same example."""
    return of_mean(np.asarray(values, float) - np.asarray(others, float))


def _interval(samples: tuple[np.ndarray, ...], statistic) -> Interval:
    if len(samples[0]) < 2:
        return (float("nan"), float("nan"))
    found = bootstrap(
        samples,
        statistic,
        n_resamples=1000,
        paired=len(samples) > 1,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)
