"""Command lines of a few flags: one sentence on an error, and outputs that are looked at before any work."""

import argparse
import re
from pathlib import Path
from typing import NoReturn

from util.files import file_problem, folder_problem
from util.terminal import reason


class CommandParser(argparse.ArgumentParser):
    """argparse's, whose help is the docstring of a script, and nothing but a sentence on an error."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

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
