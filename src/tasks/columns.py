"""Which column holds what: by flag, else the data set's, else by its name, else by what its values look like."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tasks.task import Kind, Sample, Task, is_null
from tasks.words import UNSPACED

# What columns of texts and of summaries are called, the surest first.
TEXTS = ("dialogue", "dialog", "conversation", "document", "documents", "article", "text", "content", "body", "story")
TEXTS += ("transcript", "report", "passage", "chapter", "description")
SUMMARIES = ("summary", "summaries", "highlights", "abstract", "tldr", "headline")

_FILE_TYPES = "txt|md|json|jsonl|csv|tsv|xml|html?|pdf|docx?|rtf|story|zip|gz|png|jpe?g|gif|wav|mp3|mp4"
_URL_OR_FILE = re.compile(rf"(?:[a-z][a-z0-9+.-]*://|www\.)\S+|[^\n]*\.(?:{_FILE_TYPES})", re.IGNORECASE)
# One piece without spaces that has a digit, a mark of ids and paths inside, or an ending: dev_0, a/b, x@y.org, a.b
_CODE = re.compile(r"\S*(?:[\d_/\\@#=]|\w[.:-]\w)\S*")


def resolve(task: Task, data_args: Any, sample: Sample, origin: str, labelled: bool) -> dict[str, str]:
    """Role -> dotted path of a column that is there, in the order of the kind's roles.

    Args:
        origin: where the columns were read from, for messages.
        labelled: the answers need a column too.

    Raises:
        ValueError: a column is missing, cannot be told, or is that of two roles; says which columns there are and which
            flag chooses one.
    """
    kind = task.kind
    paths = kind.columns(task, data_args, sample)
    there = {role: path for role, path in paths.items() if path and (path in sample or path.split(".")[0] in sample)}
    needed = [role for role in kind.flags if role in paths and (labelled or role != kind.answer_role)]
    missing = [role for role in needed if role not in there]
    if missing:
        lacks = " and ".join(f"no column {_sought(paths[role])} the {role}" for role in missing)
        flags = " and ".join(f"--{kind.flags[role]}" for role in missing)
        names = ", ".join(_names(sample)) or "none"
        raise ValueError(f"{origin} has {lacks}; it has {names}: choose one with {flags}")
    refuse_one_for_two(kind, there)
    return {role: there[role] for role in kind.flags if role in there}


def _sought(path: str | None) -> str:
    return f"{path.split('.')[0]!r} for" if path else "that is surely"


def _names(sample: Sample) -> list[str]:
    """The columns, each key on its own where a column holds objects."""
    names = []
    for name, values in sample.items():
        keys = dict.fromkeys(key for value in values if isinstance(value, Mapping) for key in value)
        names += [f"{name}.{key}" for key in keys] or [repr(name) if name != name.strip() or not name else name]
    return names


def refuse_one_for_two(kind: Kind, columns: Mapping[str, str]) -> None:
    """Refuses role -> column where two roles have the same."""
    seen: dict[str, str] = {}
    for role, column in columns.items():
        if column in seen:
            flags = f"--{kind.flags[seen[column]]} and --{kind.flags[role]}"
            raise ValueError(f"{seen[column]} and {role} are both {column!r}: give {flags} two different ones")
        seen[column] = role


def flagged(kind: Kind, data_args: Any) -> dict[str, str]:
    """Role -> column, of the roles that a flag gives one."""
    columns = {role: getattr(data_args, flag) for role, flag in kind.flags.items()}
    return {role: column for role, column in columns.items() if column}


def given(task: Task, data_args: Any) -> dict[str, str]:
    """Role -> column, of the roles that a flag or the data set gives one."""
    return {**task.columns, **flagged(task.kind, data_args)}


def find(known: Mapping[str, Collection[str]], held: Mapping[str, str], sample: Sample) -> dict[str, str | None]:
    """`held` with a column for each role of `known` that it lacks.

    A column with a known name goes first. Roles that are left get the columns of texts that are left, in order, where
    there are exactly as many; otherwise None, since it cannot be told which. A later column that is more than three
    times as long as an earlier one goes before it, since what is read is longer than what is answered.

    Args:
        known: role -> names its column may have, the surest first.
        held: role -> column, of roles that need no search.
    """
    named = {role: _named(names, sample, set(held.values())) for role, names in known.items() if role not in held}
    found = {**held, **{role: column for role, column in named.items() if column is not None}}
    missing = [role for role in known if role not in found]
    texts = _texts(sample, set(found.values()), len(missing))
    told = texts if len(texts) == len(missing) else [None] * len(missing)
    return {**found, **dict(zip(missing, told, strict=True))}


def _named(names: Collection[str], sample: Sample, taken: Collection[str]) -> str | None:
    """The column with the surest of these names; one that holds texts goes before one that does not."""
    spelt = {name.strip().casefold(): name for name in sample if name not in taken}
    there = [spelt[name] for name in names if name in spelt]
    return next((name for name in there if _holds_texts(sample[name])), there[0] if there else None)


def _texts(sample: Sample, taken: Collection[str], wanted: int) -> list[str]:
    """The columns of texts; where these are more than wanted, those of texts of several words."""
    texts = [name for name in sample if name not in {"id", "", *taken} and _holds_texts(sample[name])]
    if len(texts) > wanted:
        texts = [name for name in texts if any(_has_words(value) for value in sample[name])]
    longer_first = len(texts) == 2 and _length(sample[texts[1]]) > 3 * _length(sample[texts[0]])
    return texts[::-1] if longer_first else texts


def _length(values: Sequence[Any]) -> float:
    """Mean length of the texts among some values."""
    lengths = [len(value) for value in values if isinstance(value, str)]
    return sum(lengths) / len(lengths)


def _holds_texts(values: Sequence[Any]) -> bool:
    """Whether most of what a column holds reads as text, and none of it is anything but text."""
    held = [value for value in values if not is_null(value) and value != ""]
    if not held or not all(isinstance(value, str) for value in held):
        return False
    return 2 * sum(reads_as_text(value) for value in held) > len(held)


def reads_as_text(value: str) -> bool:
    """Whether a value is a text, rather than a number, a date, an id, an address or the name of a file."""
    value = value.strip()
    if not any(character.isalpha() for character in value) or _URL_OR_FILE.fullmatch(value):
        return False
    return not _CODE.fullmatch(value) or bool(UNSPACED.search(value))


def _has_words(value: Any) -> bool:
    """Whether a value has several words, or is of a script that writes them without spaces."""
    return isinstance(value, str) and (len(value.split()) > 1 or bool(UNSPACED.search(value)))
