"""What a script does where its terminal knows few characters, or nobody reads on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from util.terminal import reason, shows_colours

SRC = Path(__file__).resolve().parents[2] / "src"
TERMINAL = f"import sys, runpy\nterminal = runpy.run_path({str(SRC / 'util' / 'terminal.py')!r})['terminal']\n"


def run(body, closed=False, **environment):
    """A script with one line in it, a pipe behind it that may be closed: exit code, output and errors."""
    read, write = os.pipe()
    if closed:
        os.close(read)
    command = [sys.executable, "-c", f"{TERMINAL}with terminal():\n    {body}\n"]
    done = subprocess.run(command, env=os.environ | environment, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    shown = "" if closed else os.fdopen(read, encoding="ascii").read()
    return done.returncode, shown, done.stderr.decode("ascii")


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "utf-8"])
def test_characters_the_terminal_lacks_become_escapes(encoding):
    # A lone surrogate is a character that no encoding has.
    text = "\\ud800" if encoding == "utf-8" else "\\u65e5"
    code, shown, told = run(f"print('a {text}'); print('b {text}', file=sys.stderr)", PYTHONIOENCODING=encoding)
    assert (code, shown, told) == (0, f"a {text}\n", f"b {text}\n")


@pytest.mark.parametrize(
    "body",
    [
        "print('kept until the end')",
        "print('at once', flush=True)",
        "print('a refusal'); sys.exit(2)",
        "print(100000 * 'x')",
    ],
)
def test_a_closed_pipe_ends_a_script_without_a_word(body):
    assert run(body, closed=True) == (128 + signal.SIGPIPE, "", "")


def test_nothing_else_is_touched():
    assert run("print('all')") == (0, "all\n", "")
    assert run("sys.exit(3)") == (3, "", "")
    assert run("print('unread', file=sys.stderr)", closed=True) == (0, "", "unread\n")
    code, _, told = run("raise BrokenPipeError(32, 'a process that died')")
    assert code == 1 and "a process that died" in told


def test_a_reason_is_one_line_with_the_path():
    assert reason(ValueError("two\n lines")) == "two lines"
    assert reason(OSError(28, "No space left", "/disk/x")) == "/disk/x cannot be read or written: No space left."
    assert reason(OSError("in words")) == "in words"


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
@pytest.mark.parametrize("script", ["generate.py", "analysis/prompt_lens.py"])
def test_prompts_in_any_script_and_any_locale(script, environment, tmp_path):
    command = [sys.executable, str(SRC / script), "-p", "Grüße, 日本", "--out", str(tmp_path / "out")]
    command += ["-l", "2"] if script == "generate.py" else []
    done = subprocess.run(command, env=os.environ | environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Gr\\xfc\\xdfe, \\u65e5\\u672c" in done.stdout


@pytest.mark.parametrize(
    ("tty", "environment", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colours_are_for_terminals_that_want_them(monkeypatch, tty, environment, coloured):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert shows_colours() == coloured
