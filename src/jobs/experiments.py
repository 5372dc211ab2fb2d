"""The experiments: methods and settings from the tables that job files, grids and figures share."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from decoding import naming
from decoding.policy import Policy
from jobs.loading import load_config
from models import deploying_class
from util import (
    AdditionalArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    TranslationArguments,
    parse_arguments,
)
from util.arguments import Arguments, CompletionArguments, LanguageModelingArguments, build
from util.checks import raise_together, without_effect
from util.parser import ArgumentParser

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / "src" / "scripts" / "experiments"

# Run script -> the kind of task it is for and its data arguments.
SCRIPTS = {
    "run_question_answering.py": ("question_answering", QuestionAnsweringArguments),
    "run_summarization.py": ("summarization", SummarizationArguments),
    "run_translation.py": ("translation", TranslationArguments),
    "run_language_modeling.py": ("language_modeling", LanguageModelingArguments),
    "run_completion.py": ("completion", CompletionArguments),
}
# Kind of task -> its data arguments.
TASK_ARGUMENTS = dict(SCRIPTS.values())


# What asks for exits -> the flag of their first layer.
EXIT_FLAGS = {"--use_early_exit": "--exit_min_layer", "--use_shallow_deep": "--shallow_exit_layer"}


class Setting(NamedTuple):
    """A model on a task: kind of task, its data arguments, and the flags all its runs share."""

    kind: str
    data_class: type
    flags: list[str]

    def arguments(self, *flags: str) -> Arguments:
        """What a command line of the shared flags and these comes to."""
        return parse_arguments(self.data_class, [*self.flags, *flags])


def read_table(path: Path) -> dict[str, list[str]]:
    """Name -> the words behind it, of a file with a line each; lines that begin with # are comments."""
    lines = [shlex.split(line) for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {words[0]: words[1:] for words in lines if words}


def read_methods() -> dict[str, list[str]]:
    """Method -> the flags of its policy."""
    return read_table(TABLES / "methods.txt")


def read_settings() -> dict[str, Setting]:
    """Name of a setting -> it; the paths of embedded models are good in any folder."""
    rows = read_table(TABLES / "settings.txt")
    return {
        name: Setting(*SCRIPTS[script], [str(ROOT / word) if word.startswith("src/") else word for word in flags])
        for name, (script, *flags) in rows.items()
    }


def pick(names: list[str] | None, table: dict, what: str) -> dict:
    """The rows of these names, all where none are given.

    Raises:
        ValueError: a name is none; the sentence lists those that are.
    """
    unknown = [name for name in names or () if name not in table]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such {what}; valid are {', '.join(table)}.")
    return {name: table[name] for name in (names or table)}


def exit_flag(method: list[str]) -> str | None:
    """The flag that says at which layer a method's tokens may leave first; None for one without exits."""
    return next((flag for asked, flag in EXIT_FLAGS.items() if asked in method), None)


def layers_of(method: list[str], num_layers: int) -> list[int | None]:
    """Every first layer with an exit that a method can have in a decoder of this depth, or [None] without exits."""
    if exit_flag(method) is None:
        return [None]
    last = num_layers - 2 if "--type_vocab_reduct" in method else num_layers - 1  # a single exit has nothing to prune
    return list(range(1, last + 1))


def refuse_layers(wanted: list[int] | None, settings: dict[str, Setting], methods: dict[str, list[str]]) -> None:
    """Refuses layers at which none of the methods can have its first exit, by the models' configs alone.

    Raises:
        ValueError: of the first setting without such a layer; it says which are valid there.
    """
    for name, setting in settings.items() if wanted else ():
        config = load_config(setting.arguments("--do_eval")[0])
        depth = deploying_class(config).adapter_class.count_layers(config)
        valid = {layer for flags in methods.values() for layer in layers_of(flags, depth)} - {None}
        wrong = [str(layer) for layer in wanted if layer not in valid]
        if wrong:
            these = f"valid are 1 to {max(valid)}" if valid else f"{', '.join(methods)} has no exit"
            raise ValueError(f"--layers {' '.join(wrong)}: {these} in {name}, whose decoder has {depth} layers.")


def policy_arguments(setting: Setting, flags: list[str]) -> AdditionalArguments:
    """The flags of early exit among `flags`, parsed as the setting's run script would."""
    return setting.arguments("--do_eval", *flags)[3]


def named(texts: Sequence[str], depth: int, new_tokens: int) -> dict[str, Policy]:
    """Name -> policy of each text of flags, full depth first.

    Raises:
        ValueError: One sentence on a policy that cannot be.
    """
    parser = ArgumentParser((AdditionalArguments,), "A policy.")
    policies = []
    for text in texts:
        (flags,) = build((AdditionalArguments,), parser.given(shlex.split(text)))
        raise_together(without_effect(flags))
        policies.append(flags.policy(new_tokens))
        policies[-1].check(depth)
    labels = [naming.label(policy.describe()) for policy in policies]
    alike: dict[str, list[str]] = {}
    for label, text in zip(labels, texts, strict=True):
        alike.setdefault(label, []).append(text)
    asked = {
        f"{label}{_own(text, alike[label])}": policy
        for label, text, policy in zip(labels, texts, policies, strict=True)
    }
    return {naming.label(Policy().describe()): Policy()} | asked


def _own(text: str, others: Sequence[str]) -> str:
    """Of a policy's flags those that not all of the others have, too, in brackets; nothing where there are none."""
    flags = [set(_flags(other)) for other in others]
    own = " ".join(flag for flag in _flags(text) if not all(flag in each for each in flags))
    return f" ({own})" if own else ""


def _flags(text: str) -> list[str]:
    """A policy's flags with their values."""
    return [f"--{flag.strip()}" for flag in f" {text}".split(" --")[1:]]
