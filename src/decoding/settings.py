"""Settings that a row of a table brings along, beside those that all its neighbours share.

Each is a flag of the scripts, an attribute of a model's config and an argument of the row's function, all of one name.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from decoding.ranges import Range


@dataclass(frozen=True)
class Setting:
    """A setting of a pruning, a threshold or a loss of its own.

    Attributes:
        name: Of the flag, without its dashes, of the config's attribute and of the function's argument.
        help: What --help says.
        valid: The numbers it may have, or the words; (False, True) for a switch, () for any text.
        default: What counts where it is not given.
        told: What results and names say of a value; the value itself where it is None.
    """

    name: str
    help: str
    valid: Range | tuple[str, ...] | tuple[bool, ...]
    default: float | str | None = None
    told: Callable[[Any], Any] | None = None

    def read(self, text: str) -> float | str | bool:
        """The value that a word of the command line stands for; `type` of an argparse flag."""
        if isinstance(self.valid, Range):
            return self.valid(text)
        if not self.valid:
            return text
        value = next((each for each in self.valid if str(each).lower() == text.lower()), None)
        if value is None:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: {self.advice(text)}")
        return value

    def allows(self, value: object) -> bool:
        """Whether the setting may have this value."""
        if isinstance(self.valid, Range):
            return value in self.valid
        if not self.valid:
            return isinstance(value, str)
        return any(value is each or (isinstance(each, str) and value == each) for each in self.valid)

    def advice(self, value: object) -> str:
        """What to give instead of a value it may not have, the end of a sentence."""
        if isinstance(self.valid, Range):
            return self.valid.advice(value)
        return f"valid are {', '.join(map(str, self.valid)) or 'texts'}."


def values(settings: tuple[Setting, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of each, its default where none was given."""
    return {each.name: each.default if given.get(each.name) is None else given[each.name] for each in settings}


def written(value: object) -> str:
    """A value as names and tables show it: 0.5, 3, rotational."""
    return f"{value:g}" if isinstance(value, float) else str(value)
