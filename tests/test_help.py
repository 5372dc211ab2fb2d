"""--help of every script: a sentence, two commands that its parser takes, and flags in groups, none that is refused."""

import argparse
import importlib
import io
import re
import shlex
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from decoding.pruning import VOCABULARIES, Pruning
from decoding.ranges import SHARE
from decoding.settings import Setting
from decoding.thresholds import THRESHOLDS, Threshold
from jobs.experiments import TASK_ARGUMENTS
from losses.exits import LOSSES, Loss
from util import TrainingArguments, groups
from util.additional_args import AdditionalArguments
from util.checks import LATER
from util.generate_args import STRATEGY_CHOICES
from util.legacy_flags import refused
from util.parser import ArgumentParser

SRC = Path(__file__).resolve().parents[1] / "src"
SCRIPTS = sorted(
    path.relative_to(SRC).with_suffix("").as_posix()
    for path in SRC.rglob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
NO_TASKS = ("run_lm_eval", "run_truthfulqa")
RUNS = sorted(path.stem for path in SRC.glob("run_*.py") if path.stem not in NO_TASKS)


class Help(NamedTuple):
    """What a script shows, the parser that shows it, and the exit code."""

    text: str
    parser: argparse.ArgumentParser
    code: int | str | None

    def section(self, title: str) -> str:
        """What stands below a title."""
        found = re.search(rf"^{re.escape(title)}:\n((?:[ ].*\n|\n(?=[ ]))*)", self.text, re.MULTILINE)
        return found[1] if found else ""

    @property
    def examples(self) -> list[list[str]]:
        """The words behind the script's name in each command that it shows."""
        joined = re.sub(r"\\\n\s*", " ", self.text.split("usage: ")[0])
        return [shlex.split(line)[1:] for line in re.findall(r"python (src/.*)", joined)]

    @property
    def listed(self) -> set[str]:
        """The flags that are listed as there."""
        return {f"--{action.dest}" for action in self.parser._actions if action.help != argparse.SUPPRESS}


def shown(script: str) -> Help:
    """The help that a script prints, whatever the tables hold now."""
    module = importlib.import_module(script.replace("/", "."))
    run = next(getattr(module, name) for name in ("command", "parse_arguments", "main") if hasattr(module, name))
    parsers: list[argparse.ArgumentParser] = []
    formatter, said = argparse.ArgumentParser._get_formatter, io.TextIOWrapper(io.BytesIO(), encoding="utf-8")

    def watched(parser: argparse.ArgumentParser) -> argparse.HelpFormatter:
        parsers.append(parser)
        return formatter(parser)

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [f"{script}.py", "--help"])
        patch.setattr(argparse.ArgumentParser, "_get_formatter", watched)
        run()
        sys.exit(0)  # where the script returns
    said.seek(0)
    return Help(said.read(), parsers[-1], ended.value.code)


help_of = cache(shown)


def test_there_are_scripts():
    assert len(SCRIPTS) >= 15 and {"generate", "run_lm_eval", "scripts/quickstart", "analysis/figures"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_opens_with_a_sentence(script):
    assert not help_of(script).code
    first, empty, *_ = help_of(script).text.splitlines()
    assert re.fullmatch(r"[A-Z][a-z]+\b.*\.", first) and not empty, "a verb, and what is done"


def read_by(parser, words: list[str]):
    """What a parser makes of a command; of one with a --task its run script reads what is left over."""
    if hasattr(parser, "given"):
        return parser.given(words)
    read, left = parser.parse_known_args(words)
    if left:
        of_task = TASK_ARGUMENTS[read.task]
        ArgumentParser((of_task.model_class, of_task, AdditionalArguments, TrainingArguments), None).given(left)
    return read


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "run_lm_eval"])
def test_it_shows_two_commands_that_parse(script):
    found = help_of(script)
    assert len(found.examples) == 2
    for words in found.examples:
        assert read_by(found.parser, words), "flags that were given"
        hidden = {f"--{action.dest}" for action in found.parser._actions} - found.listed
        assert not hidden & set(words)


def test_the_commands_of_the_harness_name_flags_of_ours():
    found = help_of("run_lm_eval")
    assert len(found.examples) == 2
    for words in found.examples:
        given = words[words.index("--model_args") + 1]
        assert {f"--{each.split('=')[0]}" for each in given.split(",")} <= found.listed


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_name_the_script(script):
    before_usage = help_of(script).text.split("usage: ")[0]
    assert re.findall(r"python (src/\S+)", before_usage) == [f"src/{script}.py"] * 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_in_a_group_and_says_something(script):
    parser = help_of(script).parser
    for group in parser._action_groups:
        for action in group._group_actions:
            assert group.title in groups.ORDER or action.dest == "help", action.dest
            assert action.help, action.dest


@pytest.mark.parametrize("script", SCRIPTS)
def test_groups_stand_in_their_order(script):
    titles = re.findall(r"^([a-z][\w :]*):$", help_of(script).text.split("usage: ")[1], re.MULTILINE)
    assert titles[-1] == "options" and titles[:-1] == [title for title in groups.ORDER if title in titles]


@pytest.mark.parametrize("script", ["generate", "run_lm_eval", *RUNS])
def test_what_is_refused_is_not_listed(script):
    found = help_of(script)
    assert not found.listed & {f"--{name}" for name in (*LATER, *refused(), "parallel_gen_token")}
    told = " ".join(found.text.split("Not available yet: ")[1].split())
    assert all(f"--{name}" in told for name in LATER)


def test_what_is_refused_still_parses():
    given = help_of("run_summarization").parser.given(
        ["--time_breakdown", "False", "--fp16_backend", "auto", "--lora_rank=8"]
    )
    assert given == {"time_breakdown": False, "fp16_backend": "auto", "lora_rank": 8}


@pytest.mark.parametrize("script", RUNS)
def test_every_task_trains(script):
    training = {"--do_train", "--train_file", "--intermediate_loss_fn", "--train_meta_cm_head", "--use_lora"}
    assert training <= help_of(script).listed


def test_generate_lists_its_strategies_a_line_each():
    lines = [line.strip() for line in help_of("generate").section(groups.STRATEGY).splitlines()]
    for name in STRATEGY_CHOICES:
        assert sum(line.startswith(f"{name}: ") for line in lines) == 1, name
    assert not help_of("generate").listed & {"--intermediate_loss_fn", "--plotting_logits", "--save_traces"}


@pytest.mark.parametrize("script", RUNS)
def test_ours_stand_before_the_librarys(script):
    text = help_of(script).text
    assert "--output_dir" in help_of(script).section(groups.RUN)
    assert "--adam_beta1" in help_of(script).section(groups.TRAINER)
    ours = [f"--{name}" for name in AdditionalArguments.flag_names() if f"--{name}" in help_of(script).listed]
    assert len(ours) > 20
    assert max(text.index(f"\n  {name}") for name in ours) < text.index(f"\n{groups.TRAINER}:\n")


def test_settings_of_rows_are_in_the_group_of_their_table(monkeypatch):
    def setting(name: str) -> Setting:
        return Setting(name, f"Half of it, or 50 % ({name}).", SHARE, default=0.5)

    monkeypatch.setitem(
        VOCABULARIES, "share", Pruning(lambda settings, layer, confidence, vocab_share: 9, (setting("vocab_share"),))
    )
    monkeypatch.setitem(
        THRESHOLDS, "linear", Threshold(lambda level, position, length, exit_slope: level, (), (setting("exit_slope"),))
    )
    monkeypatch.setitem(LOSSES, "distilled", Loss(lambda layers, map_weight: map_weight, (setting("map_weight"),)))
    found = shown("run_summarization")
    for title, name in (
        (groups.PRUNING, "vocab_share"),
        (groups.LEAVING, "exit_slope"),
        (groups.TRAINING, "map_weight"),
    ):
        assert f"--{name} VALUE" in found.section(title)
    found = shown("generate")
    assert "--exit_slope VALUE" in found.section(groups.LEAVING) and "map_weight" not in found.text
