"""Ctrl-C ends a script with a sentence and exit code 130; every script imports this before anything that takes time.

While modules are imported nothing was begun, and libraries may turn an interrupt into an error of their own: there the
process ends at once. Later it is a KeyboardInterrupt, which closes what is open on its way out.
"""

import os
import signal
import sys
from pathlib import Path

SENTENCE = "Interrupted. What was written stands, and the same command goes on behind it.\n"
CODE = 130


def handle(number, frame) -> None:
    """What SIGINT does."""
    if imports(frame):
        os.write(sys.__stderr__.fileno(), SENTENCE.encode())
        os._exit(CODE)
    signal.default_int_handler(number, frame)


def imports(frame) -> bool:
    """Whether a module is being imported at a place in the program."""
    while frame is not None and "importlib" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def end(kind, error, trace) -> None:
    """What becomes of an exception that nobody caught."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(SENTENCE)
    sys.exit(CODE)


def runs_a_script() -> bool:
    """Whether the program is one of ours, and not one that imports from it."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    return path is not None and Path(path).resolve().is_relative_to(Path(__file__).resolve().parent)


# Where SIGINT is ignored, as behind nohup, it stays so.
if runs_a_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, handle)
    sys.excepthook = end
