"""Types of settings: dataclasses made from Python, or from a checkpoint's config, are not typed by a command line."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import Any, cast, get_type_hints

# Type of a field -> what is valid, in words.
WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a tuple",
    dict: "a dict",
}


def wrong_types(settings: object) -> list[str]:
    """A sentence per field of a dataclass whose value is of another type than its own, such as the text "False" where
    True or False is meant."""
    problems = []
    for name, kinds in _kinds(cast(Hashable, type(settings))).items():
        value = getattr(settings, name)
        if not any(_is(value, kind) for kind in kinds):
            valid = " or ".join(WORDS.get(kind, "None" if kind is type(None) else kind.__name__) for kind in kinds)
            problems.append(f"{name} is {value!r}: valid is {valid}.")
    return problems


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind)


@cache
def _kinds(settings: type) -> dict[str, tuple[type, ...]]:
    """Field -> the types it may have: list of list[str], str and None of str | None."""
    hints = get_type_hints(settings)
    members: dict[str, tuple] = {
        each.name: getattr(hints[each.name], "__args__", None) or (hints[each.name],) for each in fields(settings)
    }
    plain: dict[str, Any] = {name: getattr(hints[name], "__origin__", None) for name in members}
    return {
        name: (plain[name],)
        if plain[name] in (list, tuple, dict)
        else tuple(getattr(kind, "__origin__", kind) for kind in kinds)
        for name, kinds in members.items()
    }
