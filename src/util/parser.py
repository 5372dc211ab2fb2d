"""One command line for several dataclasses: help in groups, the values actually given, errors of one sentence."""

import argparse
import dataclasses
import difflib
import json
import os
from collections.abc import Iterable
from copy import copy
from textwrap import fill
from typing import Any, get_origin, get_type_hints

from transformers import HfArgumentParser

from util.commands import CommandParser, HelpFormatter
from util.files import read_json
from util.groups import TRAINER

METAVARS = {int: "N", float: "X", str: "TEXT"}
UNSET = object()
# Flags that hold words of a language.
TEXTS = ("prompt", "question", "gold", "source_prefix", "forced_bos_token", "stop")


class ArgumentParser(HfArgumentParser):
    """HfArgumentParser with help in groups, and nothing but a sentence on an error.

    Its flags, prefixes and dashed spellings are HfArgumentParser's. Any boolean flag may stand bare. A flag's group is
    that of its metadata, else of the class that declares it, unless `regrouped` of the class has another. A class may
    say of flags, its own or another's, that help does not list them: `hidden_flags()` are names, each with the feature
    that is missing, or None where it does nothing in this script; `hidden_groups` are titles. They parse all the same.

    Args:
        description: The docstring of the script, see `CommandParser`.
    """

    def __init__(self, dataclass_types: tuple[type, ...], description: str | None = None) -> None:
        self._titles: dict[str, Any] = {}
        self._words: set[str] = set()
        self._hidden = _merged(getattr(each, "hidden_flags", dict)() for each in dataclass_types)
        self._hidden_groups = {title for each in dataclass_types for title in getattr(each, "hidden_groups", ())}
        options = {"formatter_class": HelpFormatter, "description": description}
        usage = "%(prog)s --flag value ...   or   %(prog)s arguments.json [--flag value ...]"
        super().__init__(dataclass_types, usage=usage, **options)
        self.epilog = self._not_available()

    def given(self, argv: list[str]) -> dict[str, Any]:
        """Name -> value of the flags that `argv` gives; `argv[0]` may be a .json file that holds flags too."""
        if argv and argv[0].endswith(".json") and not argv[0].startswith("-"):
            argv = [*json_to_argv(argv[0]), *argv[1:]]
        # A name that is already there keeps argparse from writing its default.
        unset = argparse.Namespace(**{action.dest: UNSET for action in self._actions})
        namespace, leftover = self.parse_known_args(argv, unset)
        if leftover:
            self.error(self._unknown(leftover))
        given = {name: value for name, value in vars(namespace).items() if value is not UNSET}
        return {name: self._one_or_more(name, self._text(name, value)) for name, value in given.items()}

    error, refuse, format_help = CommandParser.error, CommandParser.refuse, CommandParser.format_help

    def _add_dataclass_arguments(self, dtype: type) -> None:
        hints = get_type_hints(dtype)
        for declared in dataclasses.fields(dtype):
            if not declared.init or not declared.metadata.get("flag", True):
                continue
            # HfArgumentParser writes to the field it is handed, which belongs to the class.
            field = copy(declared)
            field.type = hints[field.name]
            title = _title(dtype, field)
            field.metadata = {name: value for name, value in declared.metadata.items() if name != "group"}
            before = len(self._actions)
            self._parse_dataclass_field(self._group(title), field)
            for action in self._actions[before:]:
                self._tidy(action, hints[field.name])
                if field.name in self._hidden or title in self._hidden_groups:
                    action.help = argparse.SUPPRESS
        self._add_own_settings(dtype)

    def _add_own_settings(self, dtype: type) -> None:
        """The flags that rows of tables bring along; see `decoding.settings`."""
        for title, settings in getattr(dtype, "grouped_settings", dict)().items():
            for name, setting in settings.items():
                spelt = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
                told = argparse.SUPPRESS if title in self._hidden_groups else setting.help.replace("%", "%%")
                self._group(title).add_argument(
                    *spelt, type=setting.read, default=setting.default, help=told, metavar="VALUE"
                )

    def _not_available(self) -> str | None:
        """What may be looked for in vain, by the feature that is missing."""
        features = {feature: None for feature in self._hidden.values() if feature}
        flags = {each: [f"--{name}" for name, feature in self._hidden.items() if feature == each] for each in features}
        told = [f"{feature} ({', '.join(names)})" for feature, names in flags.items()]
        return fill(f"Not available yet: {'; '.join(told)}.", 110) if told else None

    def _group(self, title: str) -> Any:
        if title not in self._titles:
            self._titles[title] = self.add_argument_group(title)
        return self._titles[title]

    def _tidy(self, action: argparse.Action, hint: Any) -> None:
        """Gives a flag what its type hint asks for beyond HfArgumentParser's reading of it."""
        members = getattr(hint, "__args__", (hint,))
        if action.option_strings[0].startswith("--no_") and action.const is False:
            action.help = argparse.SUPPRESS
        elif bool in members:
            _tidy_boolean(action, members)
        elif str in members and any(get_origin(member) is list for member in members):
            action.type, action.nargs = str, "+"
            self._words.add(action.dest)
        elif any(dict in (member, get_origin(member)) for member in members):
            action.type = _json_or_path if str in members else _json
        if action.metavar is None and action.choices is None:
            action.metavar = METAVARS.get(action.type, "TEXT")

    def _text(self, name: str, value: Any) -> Any:
        """A value, read as UTF-8 where it goes to a tokenizer or is compared with data, whatever the locale is."""
        if name not in TEXTS and not name.endswith("_column"):
            return value  # paths are the operating system's affair
        try:
            return [_utf8(each) for each in value] if isinstance(value, list) else _utf8(value)
        except UnicodeDecodeError:
            self.error(f"--{name} is not UTF-8 text.")

    def _one_or_more(self, name: str, value: Any) -> Any:
        return value[0] if name in self._words and len(value) == 1 else value

    def _unknown(self, leftover: list[str]) -> str:
        names = [each.split("=")[0] for each in leftover if each.startswith("-")]
        if not names:
            return f"{' '.join(leftover)} stands without a flag before it; values with spaces need quotes."
        known = list(self._option_string_actions)
        return " ".join(_guess(name, known) for name in names)


def json_to_argv(path: str | os.PathLike) -> list[str]:
    """The flags of a JSON object as a command line, so that a file and a command are read by the same rules.

    null leaves a flag at its default.
    """
    held = read_json(path)
    if not isinstance(held, dict):
        raise ValueError(f"{path} must hold one JSON object of flags, and holds {type(held).__name__}.")
    argv = []
    for name, value in held.items():
        if isinstance(value, list):
            argv += [f"--{name}", *map(str, value)] if value else []
        elif isinstance(value, dict):
            argv.append(f"--{name}={json.dumps(value)}")
        elif value is not None:
            argv.append(f"--{name}={value}")
    return argv


def _guess(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    spelt = list(dict.fromkeys(each.replace("-", "_").replace("__", "--", 1) for each in close))
    return f"{name} is no flag of this script" + (f"; did you mean {' or '.join(spelt)}?" if spelt else "; see --help.")


def _owner(dtype: type, name: str) -> type:
    """The class that declares a field, which a subclass may have redeclared."""
    return next(base for base in reversed(dtype.__mro__) if name in base.__dict__.get("__dataclass_fields__", {}))


def _title(dtype: type, field: dataclasses.Field) -> str:
    """The group of a flag: its own, that its class gives it, or that of the class that declares it."""
    regrouped = getattr(dtype, "regrouped", {}).get(field.name) or field.metadata.get("group")
    return regrouped or getattr(_owner(dtype, field.name), "_argument_group_name", TRAINER)


def _merged(each: Iterable[dict]) -> dict:
    return {name: value for names in each for name, value in names.items()}


def _tidy_boolean(action: argparse.Action, members: tuple) -> None:
    action.nargs, action.const = "?", True
    action.metavar = "BOOL"
    if str in members:  # a word is as good as True or False
        action.type = _bool_or_word


def _utf8(text: str) -> str:
    """The text of a command line, whose bytes Python kept as surrogates where it could not read them."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8")


def _bool_or_word(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text.lower(), text)


def _json_or_path(text: str) -> str:
    if text.startswith("{"):
        _json(text)
    return text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON ({error.msg})") from None
