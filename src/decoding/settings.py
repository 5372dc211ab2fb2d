"""Settings that a row of a table brings along, beside those that all its neighbours share.

Each is a flag of the scripts, an attribute of a model's config and an argument of the row's function, all of one name.
"""

from __future__ import annotations

import argparse
import inspect
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

    Raises:
        ValueError: The name cannot be an argument's.
    """

    name: str
    help: str
    valid: Range | tuple[str, ...] | tuple[bool, ...]
    default: float | str | None = None
    told: Callable[[Any], Any] | None = None

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"A setting is called {self.name!r}: valid are names of arguments, such as exit_slope.")

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


def refuse_misfits(
    function: Callable, given: int, settings: tuple[Setting, ...], reads: tuple[str, ...] = (), chooses: bool = False
) -> None:
    """Refuse settings that are no arguments of a row's function, and arguments that nothing gives a value.

    Args:
        given: How many arguments every function of the table is given.
        reads: Arguments beside these and the settings.
        chooses: Whether the first setting puts the row in force, so that it needs no default.

    Raises:
        ValueError: The sentence says which, and what would be valid.
    """
    arguments = list(inspect.signature(function).parameters.values())[given:]
    if any(each.kind is each.VAR_KEYWORD for each in arguments):
        return
    name = getattr(function, "__name__", repr(function))
    strange = {each.name for each in settings} - {each.name for each in arguments}
    if strange:
        raise ValueError(
            f"{name} takes no argument {', '.join(sorted(strange))}: a setting is an argument of its name."
        )
    named = {*reads, *(each.name for each in settings)}
    wanting = [each.name for each in arguments if each.default is each.empty and each.name not in named]
    if wanting:
        raise ValueError(f"{name} needs {', '.join(wanting)}, which is no setting of its row: give one of that name.")
    without = [each.name for each in settings[1 if chooses else 0 :] if each.default is None]
    if without:
        raise ValueError(f"The setting {', '.join(without)} of {name} has no default: give it one.")


def values(settings: tuple[Setting, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of each, its default where none was given."""
    return {each.name: each.default if given.get(each.name) is None else given[each.name] for each in settings}


def written(value: object) -> str:
    """A value as names and tables show it: 0.5, 3, rotational."""
    return f"{value:g}" if isinstance(value, float) else str(value)
