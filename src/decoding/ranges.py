"""The numbers a setting may have: told in a refusal, and checked alike for flags, configs and policies."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

# Whole numbers from here on overflow in one library or another.
TOO_LARGE = 2**32


@dataclass(frozen=True)
class Range:
    """Some of the finite numbers of a type; as `type` of an argparse flag it reads one of them.

    Attributes:
        words: Which.
        holds: Whether a finite number is one of them.
        type: int for whole numbers alone.
    """

    words: str
    holds: Callable[[float], bool]
    type: type = float

    def __contains__(self, value: Any) -> bool:
        kind = Integral if self.type is int else Real
        number = isinstance(value, kind) and not isinstance(value, bool)
        finite = number and (isinstance(value, Integral) or math.isfinite(value))
        return finite and self.holds(value) and not self._overflows(value)

    def __call__(self, text: str) -> float:
        try:
            value = self.type(text)
        except ValueError:
            value = None
        if value not in self:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: {self.advice(value)}")
        return value

    def advice(self, value: Any) -> str:
        """What to give instead of a number that is none of these, the end of a sentence."""
        overflows = isinstance(value, Integral) and self.holds(int(value)) and self._overflows(int(value))
        return f"valid are numbers below {TOO_LARGE}." if overflows else f"valid are {self.words}."

    def _overflows(self, value: int) -> bool:
        return self.type is int and value >= TOO_LARGE


SHARE = Range("0 to 1", lambda value: 0 <= value <= 1)
INNER_SHARE = Range("numbers above 0 and below 1", lambda value: 0 < value < 1)
FINITE = Range("finite numbers", lambda value: True)
POSITIVE = Range("finite numbers above 0", lambda value: value > 0)
FROM_ZERO = Range("finite numbers from 0", lambda value: value >= 0)
WHOLE = Range("whole numbers", lambda value: True, int)
NATURAL = Range("0 and above", lambda value: value >= 0, int)
COUNT = Range("1 and above", lambda value: value >= 1, int)
FROM_TWO = Range("2 and above", lambda value: value >= 2, int)


def layers_named(text: str, flag: str, num_layers: int | None = None) -> tuple[int, ...]:
    """The layers that a flag's text names, "all" or such as "1,8", in a decoder of so many; lowest first.

    Args:
        num_layers: None where it is not known yet; "all" then names none.

    Raises:
        ValueError: One of them is not there, or the text is no list of layers.
    """
    if text == "all":
        return tuple(range(1, (num_layers or 0) + 1))
    words = [word.strip() for word in str(text).split(",")]
    layers = [int(word) for word in words if word.isdecimal() and 1 <= int(word) <= (num_layers or TOO_LARGE)]
    if len(layers) < len(words):
        valid = "layers such as 1,8" if num_layers is None else f"layers from 1 to {num_layers} such as 1,{num_layers}"
        raise ValueError(f"{flag} {text}: valid are all, or {valid}.")
    return tuple(sorted(set(layers)))
