"""Every script imports this before anything that takes time: Ctrl-C ends it with a sentence and exit code 130, and a
script is told at once where this Python imports another checkout than its own.

While modules are imported nothing was begun, and libraries may turn an interrupt into an error of their own: there the
process ends at once. Later it is a KeyboardInterrupt, which closes what is open on its way out.
"""

import os
import signal
import sys
from pathlib import Path

SENTENCE = "Interrupted. What was written stands, and the same command goes on behind it.\n"
CODE = 130
SOURCES = Path(__file__).resolve().parent
# How the console commands of pyproject.toml begin.
COMMAND = "early-exit-"


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


def program() -> Path | None:
    """The file that the program began with."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    return None if path is None else Path(path).resolve()


def runs_a_script() -> bool:
    """Whether the program is one of ours, and not one that imports from it."""
    path = program()
    return path is not None and (path.is_relative_to(SOURCES) or path.name.startswith(COMMAND))


def refuse_other_checkout() -> None:
    """End a script of another checkout than this one, which its Python found installed: its results would be made by
    other code than lies beside it."""
    path = program()
    own = next((each for each in path.parents[:2] if (each / "interrupts.py").is_file()), SOURCES) if path else SOURCES
    if own != SOURCES:
        sys.stderr.write(
            f"{path.name}: error: this Python has {SOURCES.parent} installed, not {own.parent}: set PYTHONPATH={own}, "
            f"or install that one with `pip install -e {own.parent}`.\n"
        )
        sys.exit(2)


refuse_other_checkout()
# Where SIGINT is ignored, as behind nohup, it stays so.
if runs_a_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, handle)
    sys.excepthook = end
