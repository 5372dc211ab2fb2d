"""The numbers a setting may have: told in a refusal, and checked alike for flags, configs and policies."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real


@dataclass(frozen=True)
class Range:
    """Some of the finite numbers of a type; as `type` of an argparse flag it reads one of them.

    Attributes:
        words: Which, behind "valid are".
        holds: Whether a finite number is one of them.
        type: int for whole numbers alone.
    """

    words: str
    holds: Callable[[float], bool]
    type: type = float

    def __contains__(self, value: object) -> bool:
        kind = Integral if self.type is int else Real
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and self.holds(value)

    def __call__(self, text: str) -> float:
        try:
            value = self.type(text)
        except ValueError:
            value = None
        if value not in self:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: valid are {self.words}.")
        return value


SHARE = Range("0 to 1", lambda value: 0 <= value <= 1)
INNER_SHARE = Range("numbers above 0 and below 1", lambda value: 0 < value < 1)
FINITE = Range("finite numbers", lambda value: True)
POSITIVE = Range("finite numbers above 0", lambda value: value > 0)
FROM_ZERO = Range("finite numbers from 0", lambda value: value >= 0)
NATURAL = Range("0 and above", lambda value: value >= 0, int)
COUNT = Range("1 and above", lambda value: value >= 1, int)
FROM_TWO = Range("2 and above", lambda value: value >= 2, int)
