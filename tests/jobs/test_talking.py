"""A conversation: through a pseudo-terminal, and what is kept of it behind a chat template."""

import fcntl
import io
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import generate
from jobs import talking

SRC = Path(__file__).resolve().parents[2] / "src"
SECONDS = 500.0  # for whatever is waited for
TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}\n{% endfor %}<assistant>"
# generate.py whose second answer stays where it is behind four tokens, until it is interrupted.
WAITS = """
import time

import generate
from jobs.streaming import AnswerStreamer

put, answers = AnswerStreamer.put, []

def wait(self, value):
    put(self, value)
    if self not in answers:
        answers.append(self)
    if len(answers) == 2 and len(self.tokens) == 4:
        print("[waits]", flush=True)
        while True:  # in pieces: a Ctrl-C just before a sleep is seen behind it
            time.sleep(0.1)

AnswerStreamer.put = wait
generate.command()
"""


class Terminal:
    """A script in a pseudo-terminal of its own."""

    def __init__(self, *command: object, **environment: str):
        self.master, slave = pty.openpty()
        environment = os.environ | {"PYTHONPATH": str(SRC), "TERM": "xterm", "HF_HUB_OFFLINE": "1"} | environment
        self.process = subprocess.Popen(
            list(map(str, command)),
            **{"stdin": slave, "stdout": slave, "stderr": slave, "env": environment},
            start_new_session=True,
            preexec_fn=self._take,
        )
        os.close(slave)
        self.shown = ""

    @staticmethod
    def _take() -> None:
        """In the script's process: have Ctrl-C reach it, and heeded, as it is not behind nohup."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, wanted: str, seconds: float = SECONDS) -> str:
        """What is shown up to a text, which is not shown again."""
        end = time.monotonic() + seconds
        while wanted not in self.shown:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{wanted!r} was not shown behind {self.shown!r}")
            try:
                self.shown += os.read(self.master, 4096).decode(errors="replace")
            except OSError:  # its other end is closed
                raise AssertionError(f"ended without {wanted!r}: {self.shown!r}") from None
        before, _, self.shown = self.shown.partition(wanted)
        return before

    def interrupt(self, wanted: str) -> str:
        """What is shown up to a text behind Ctrl-C, which is pressed again where readline, about to wait, missed it."""
        end = time.monotonic() + SECONDS
        while True:
            self.type("\x03")
            try:
                return self.until(wanted, 5.0)
            except TimeoutError:
                if time.monotonic() > end:
                    raise

    def end(self) -> int:
        return self.process.wait(SECONDS)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def test_a_conversation_in_a_terminal(tmp_path):
    script = tmp_path / "early-exit-generate"
    script.write_text(WAITS)
    with Terminal(sys.executable, script, "-l", 12, "--device", "cpu") as terminal:
        assert "gpt2_stories, the full model, 8 layers for every token. Each prompt is" in terminal.until("> ")
        terminal.type("Once upon a time\n")
        assert "Once upon a time" in terminal.until("12 tokens in")
        terminal.until("8.00 of 8 layers on average")
        terminal.until("> ")
        terminal.type("In spring\\\n")
        terminal.until(". ")
        terminal.type("the river\n")
        terminal.until("[waits]")
        terminal.type("\x03")
        terminal.until("Interrupted; the prompt is forgotten.")
        terminal.until("> ")
        terminal.type("nothing of this")
        terminal.until("nothing of this")
        terminal.interrupt("> ")
        terminal.type("In spring\n")
        terminal.until("12 tokens in")
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.end() == 0


@pytest.fixture
def chat_dir(tiny_gpt2_dir, tmp_path) -> Path:
    """The tiny GPT-2 with a chat template."""
    folder = shutil.copytree(tiny_gpt2_dir, tmp_path / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def talk(chat_dir, monkeypatch, capsys):
    """What is found and shown where these lines are typed."""

    def call(*typed: str, flags=("-l", "4")):
        text = "".join(f"{line}\n" for line in typed)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        monkeypatch.setattr("util.generate_args.asks", lambda: True)
        found = generate.main(["--model_name_or_path", str(chat_dir), "--device", "cpu", *flags])
        return found, capsys.readouterr()

    return call


def turns(*contents: str) -> list[dict]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)]


def test_earlier_turns_are_kept_until_they_are_to_be_forgotten(talk, chat_dir):
    (first, second, third), shown = talk("The tower", "Where", "/new", "", "Ann")
    tokenizer = AutoTokenizer.from_pretrained(chat_dir)

    def ids(*contents):
        return tokenizer.apply_chat_template(turns(*contents), add_generation_prompt=True, return_dict=False)

    assert first.prompt_tokens == ids("The tower") and third.prompt_tokens == ids("Ann")
    assert second.prompt_tokens == ids("The tower", first.text.strip(), "Where")
    assert "Earlier turns are kept, /new forgets them" in shown.err.splitlines()[0]
    assert shown.out.startswith(f"> {first.text}\n> {second.text}\n> > > {third.text}\n> ")
    assert "\033" not in shown.out + shown.err


def test_a_template_may_be_left_out_and_be_asked_for(talk, chat_dir, capsys):
    (found,), shown = talk("The tower", flags=("-l", "4", "--apply_chat_template", "False"))
    assert f"> The tower{found.text}\n" in shown.out and "continued by itself" in shown.err
    flags = ["--model_name_or_path", str(chat_dir), "-p", "The tower", "-l", "4", "--device", "cpu"]
    (plain,) = generate.main(flags)
    assert plain.tokens == found.tokens
    (asked,) = generate.main([*flags, "--apply_chat_template"])
    assert asked.prompt_tokens != plain.prompt_tokens and f"The tower\n{asked.text}" in capsys.readouterr().out


def test_turns_without_room_are_forgotten_and_a_long_prompt_is_refused(talk):
    long = "The tower of Dover is in Elm. " * 3
    found, shown = talk(long, long, long, "The tower " * 200, "Ann", flags=("-l", "9"))
    assert len(found) == 4 and all(len(each.prompt_tokens) <= 128 - 9 for each in found)
    assert "There is no room for" in shown.err and "the model has 128 positions" in shown.err


def test_an_interrupted_answer_was_never_said(talk, monkeypatch):
    real, calls = talking.continued, []

    def interrupted(*given, **named):
        calls.append(named["earlier"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(talking, "continued", interrupted)
    found, shown = talk("The tower", "Where", "Ann")
    assert len(found) == 2 and len(calls[2]) == 2 and "Interrupted; the prompt is forgotten." in shown.err


def test_a_line_that_ends_in_a_backslash_goes_on(talk):
    found, _ = talk("The tower \\", "of Dover", "Where\\")
    assert [each.prompt for each in found] == ["The tower \nof Dover", "Where"]
