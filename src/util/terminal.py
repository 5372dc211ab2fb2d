"""What a script owes whoever started it: text that any terminal takes, a quiet end where nobody reads on, and one
sentence where something cannot be done."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def terminal() -> Iterator[None]:
    """Around a script's main. Characters that the terminal has not are written as escapes. Where its output was closed,
    as `head` does, it ends without a word and with the exit code of SIGPIPE."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not closed:  # another pipe, such as that to a process that died
            raise
        for stream in closed:  # what is still to be flushed goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.exit(128 + signal.SIGPIPE)


def shows_colours() -> bool:
    """Whether what is printed may be coloured: by a terminal, whose user does not set NO_COLOR (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def asks() -> bool:
    """Whether somebody can be asked: what is read comes from a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def _is_closed(stream: TextIO) -> bool:
    watch = select.poll()
    watch.register(stream, 0)  # errors and hang-ups are always told
    return bool(watch.poll(0))


def reason(error: Exception) -> str:
    """What went wrong, on one line; of the operating system's errors, such as a full disk, with the path."""
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename
        return f"{path} cannot be read or written: {error.strerror}." if path else f"{error.strerror}."
    return " ".join(str(error).split())
