"""Command lines of a few flags: help that opens with what a script does, one sentence on an error, and outputs that are
looked at before any work."""

import argparse
import re
from pathlib import Path
from typing import Any, NoReturn

from util.files import file_problem, folder_problem
from util.groups import place
from util.terminal import reason


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description and those of a help text; shows a flag once, and its default where there is one.

    What a flag is called with dashes is not shown where it is called with underscores too.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=110)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [line for part in text.splitlines() for line in super(HelpFormatter, self)._split_lines(part, width)]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        shown = [option for option in action.option_strings if "-" not in option[2:]] or action.option_strings
        return f"{', '.join(shown)} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_help_string(self, action: argparse.Action) -> str:
        default = action.default
        if default is None or default in ([], "") or action.nargs == 0 or Path(str(default)).is_absolute():
            return action.help or ""
        if isinstance(default, list):
            return f"{action.help} (default: {' '.join(map(str, default))})"
        return super()._get_help_string(action)


class CommandParser(argparse.ArgumentParser):
    """argparse's, whose help opens with the docstring of a script, and nothing but a sentence on an error.

    The docstring says in its first sentence what the script does, and then shows commands.
    """

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=HelpFormatter)

    def format_help(self: Any) -> str:
        """What the script does, commands that do it, and the flags, grouped, in the order of `util.groups`."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        for group in sorted(self._action_groups, key=lambda group: place(group.title)):
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Prints the message, without the usage that argparse puts before it, and exits with 2."""
        # Of the spellings of a flag the first will do.
        message = re.sub(r"^(argument --?\w+)(/[^ :]+)+:", r"\1:", message)
        self.exit(2, f"{self.prog}: error: {message}\n")

    def refuse(self, error: Exception) -> NoReturn:
        """Ends as `error` does with what the error says; that nobody reads the output any more is none."""
        if isinstance(error, BrokenPipeError):
            raise error
        self.error(reason(error))


def output_folder(text: str) -> Path:
    """A folder that can be written, which need not exist yet and is not created."""
    return _unless(folder_problem(text), text)


def output_file(text: str) -> Path:
    """A file that can be written; its folder need not exist yet and is not created."""
    return _unless(file_problem(text), text)


def _unless(problem: str | None, text: str) -> Path:
    if problem is not None:
        raise argparse.ArgumentTypeError(problem)
    return Path(text)
