"""Every script imports this before anything that takes time: Ctrl-C ends it with a sentence and exit code 130, a
scheduler that takes the node back ends it with `REQUEUE`, and a script is told at once where this Python imports
another checkout than its own.

While modules are imported nothing was begun, and libraries may turn an interrupt into an error of their own: there the
process ends at once. Later Ctrl-C is a KeyboardInterrupt and SIGTERM or SIGUSR1 a `Leave`, which close what is open on
their way out; what is `held`, such as a training, comes to a point first at which it can continue.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SENTENCE = "Interrupted. What was written stands, and the same command goes on behind it.\n"
CODE = 130
# What a script ends with that was told to leave and has more to do: the same command continues. EX_TEMPFAIL of
# sysexits.h, 75, on which src/scripts/experiments/job.sh has the scheduler start the job again.
REQUEUE = os.EX_TEMPFAIL
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SOURCES = Path(__file__).resolve().parent
# How the console commands of pyproject.toml begin.
COMMAND = "early-exit-"


def handle(number, frame) -> None:
    """What SIGINT does."""
    if imports(frame):
        os.write(sys.__stderr__.fileno(), SENTENCE.encode())
        os._exit(CODE)
    signal.default_int_handler(number, frame)


class Leave(SystemExit):
    """What SIGTERM and SIGUSR1 become."""

    def __init__(self):
        super().__init__(REQUEUE)


class Told:
    """Whether the process was told to leave, and whether it leaves when it can; `process` is who installed this."""

    asked = held = False
    process = 0


def leave(number, frame) -> None:
    """What SIGTERM and SIGUSR1 do."""
    if os.getpid() != Told.process:
        _of_a_child(number)
        return
    if Told.asked:
        return
    Told.asked = True
    how = "it ends when it can be continued" if Told.held else "it ends"
    said = f"{signal.Signals(number).name}: {how}, with exit code {REQUEUE}; the same command goes on behind it.\n"
    os.write(sys.__stderr__.fileno(), said.encode())
    if imports(frame):
        os._exit(REQUEUE)
    if not Told.held:
        raise Leave


def _of_a_child(number) -> None:
    """A process that was forked from the script, such as one that loads its data, ends as any other at SIGTERM, and is
    there for as long as the script is at SIGUSR1, which schedulers send to all."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def asked() -> bool:
    """Whether the process was told to leave, and is held."""
    return Told.asked


@contextmanager
def held() -> Iterator[None]:
    """In the block a signal is noted, for `asked`, and at its end it is a `Leave`; so is an error that follows it, such
    as that a process is gone which the scheduler ended first."""
    Told.held = True
    try:
        yield
    except Exception as error:
        if not Told.asked:
            raise
        sys.stderr.write(f"After that: {type(error).__name__}: {error}\n")
    finally:
        Told.held = False
    if Told.asked:
        raise Leave


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


def install() -> None:
    """Have SIGTERM and SIGUSR1 end this process by `Leave`. A launcher that is to outlive SIGUSR1 is told to ignore it,
    which is inherited."""
    Told.process = os.getpid()
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL or number == signal.SIGUSR1:
            signal.signal(number, leave)


refuse_other_checkout()
# Where SIGINT is ignored, as behind nohup, it stays so.
if runs_a_script():
    install()
if runs_a_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, handle)
    sys.excepthook = end
