"""Threshold: when a confidence is enough. Constant, or decaying with the position of the token."""

import math


def constant(level: float, position: int, length: int, temperature: float | None = None) -> float:
    """The same threshold at every position."""
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


THRESHOLDS = {"constant": constant, "decaying": decaying}
