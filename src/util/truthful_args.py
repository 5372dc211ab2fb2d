"""The arguments of run_truthfulqa.py: which strategies, on which tests, and how much of them."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from decoding.ranges import COUNT
from util import groups
from util.additional_args import flag
from util.checks import raise_together
from util.compute_args import ComputeArguments
from util.files import folder_problem
from util.generate_args import STRATEGY_CHOICES, GenerateArguments
from util.ranges import range_problems
from util.scoring_args import ScoringArguments

VANILLA = "vanilla"
# What is compared -> the --strategy of generate.py.
CONTRASTING = [name for name, choice in STRATEGY_CHOICES.items() if choice.rule not in (None, "plain")]
COMPARED = {VANILLA: "greedy", **{name: name for name in CONTRASTING}}
DEFAULT = (VANILLA, "dola", "dola_static", "acd", "contrastive")
TESTS = {
    "choices": "MC1, MC2 and MC3 of the questions",
    "answers": "answers to the questions against right and wrong ones",
    "factor": "which completion is likelier",
    "gsm8k": "the last number of an answer",
    "open_ended": "repetition and diversity of continuations",
}
# Test -> the file it is made of, where it is not that of the questions.
FILES = {"factor": "factor_file", "gsm8k": "gsm8k_file", "open_ended": "prompt_file"}


@dataclass
class TruthfulArguments(ScoringArguments, ComputeArguments):
    """What is compared, on what, and where it goes."""

    regrouped = {"beam_size": groups.GENERATION}  # noqa: RUF012 - as of other arguments

    strategies: list[str] | None = field(
        default=None,
        metadata={
            "help": f"What is compared, of {', '.join(COMPARED)}; vanilla is the model as it is, greedy, from which "
            "the others' differences are taken.",
            "group": groups.STRATEGY,
        },
    )
    tests: list[str] | None = field(
        default=None,
        metadata={
            "help": "What is measured; all that there are data for where not given:\n"
            + "\n".join(f"{name}: {text}" for name, text in TESTS.items())
            + "\n",
            "group": groups.MEASUREMENT,
        },
    )
    data: str | None = flag(
        None,
        "TruthfulQA.csv, or a file with its columns; where no file is given at all, invented questions.",
        group=groups.DATA,
    )
    factor_file: str | None = flag(
        None, "Completions to choose from: .jsonl with prefix, completion and contradictions.", group=groups.DATA
    )
    gsm8k_file: str | None = flag(
        None, "Questions whose answers end in a number: .jsonl with question and answer.", group=groups.DATA
    )
    prompt_file: str | None = flag(
        None,
        "Prompts to continue: .txt with one per line, or .jsonl, .json, .csv with a 'prompt'.",
        group=groups.DATA,
    )
    limit: int | None = flag(None, "Examples of each test at most, spread evenly over its file.", group=groups.DATA)
    beam_size: int = flag(1, "Beams of every strategy but vanilla; 1 is greedy.")
    max_new_tokens: int = flag(50, "Tokens of an answer or a continuation at most.", "l", group=groups.GENERATION)
    gsm8k_tokens: int = flag(256, "Tokens of an answer to --gsm8k_file at most.", group=groups.GENERATION)
    repetition_penalty: float = flag(
        1.0, "Divide the scores of tokens that are there already; 1.0 is none.", group=groups.GENERATION
    )
    batch_size: int = flag(16, "Examples that are computed together.", group=groups.RUN)
    out: str = flag("save/truthfulqa", "Folder of answers, table, numbers and figure.", group=groups.OUTPUT)

    def __post_init__(self) -> None:
        for name in ("strategies", "tests"):
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, str) else value)
        self.strategies = list(dict.fromkeys(self.strategies or DEFAULT))
        problems = [*range_problems(self, limit=COUNT, gsm8k_tokens=COUNT), *self.contrast_problems()]
        problems += [*self.compute_problems(), *self._name_problems()]
        raise_together([*problems, *self._file_problems()])
        self.tests = [name for name in TESTS if name in (self.tests or self._possible())]

    def _name_problems(self) -> list[str]:
        """What is none of the names that a flag knows."""
        given = ("strategies", self.strategies, COMPARED), ("tests", self.tests or (), TESTS)
        return [
            f"--{flag} {name}: valid are {', '.join(valid)}."
            for flag, names, valid in given
            for name in names
            if name not in valid
        ]

    def _file_problems(self) -> list[str]:
        problems = [
            f"--{name} {file}: there is no such file."
            for name in ("data", *FILES.values())
            if (file := getattr(self, name)) is not None and not Path(file).is_file()
        ]
        lacking = [name for name in self.tests or () if name in FILES and getattr(self, FILES[name]) is None]
        problems += [f"--tests {name} needs data: give --{FILES[name]}." for name in lacking]
        if problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        return problems

    def _possible(self) -> list[str]:
        """The tests that there are data for."""
        held = [name for name, file in FILES.items() if getattr(self, file) is not None]
        return [*held, "choices", "answers"] if self.data is not None or not held else held

    def generate_arguments(self, strategy: str, **others: Any) -> GenerateArguments:
        """What generate.py would be given.

        Args:
            strategy: Key of `COMPARED`.
        """
        shared = {each.name for each in fields(GenerateArguments)} & {each.name for each in fields(self)}
        given = {name: getattr(self, name) for name in shared}
        return GenerateArguments(**given | {"prompt": "", "strategy": COMPARED[strategy]} | others)
