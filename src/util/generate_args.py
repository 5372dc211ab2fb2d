"""The arguments of generate.py: prompts, strategy, and what is printed or written."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from decoding.stops import ends_of
from decoding.strategies import DIVERGENCES, Strategy, bucket
from util import groups
from util.additional_args import flag
from util.checks import raise_together, stop_problems
from util.compute_args import ComputeArguments
from util.files import file_problem
from util.ranges import range_problems
from util.terminal import asks


class StrategyChoice(NamedTuple):
    """A --strategy: its row of `decoding.strategies.SCORE_RULES`, None where the decode loop, with its exits, does it;
    and what --help says of it."""

    rule: str | None
    help: str


STRATEGY_CHOICES = {
    "greedy": StrategyChoice(None, "the likeliest token; may leave early"),
    "sample": StrategyChoice(None, "a token drawn by --temperature, --top_k and --top_p; may leave early"),
    "beam": StrategyChoice("plain", "--beam_size continuations, ranked by the sum of their log-probabilities"),
    "contrastive": StrategyChoice(
        "contrastive",
        "contrastive decoding (arXiv:2210.15097): beams of log p of the last layer minus log p of an earlier one",
    ),
    "acd": StrategyChoice("acd", "auto-contrastive decoding (arXiv:2305.01628): that difference, as a distribution"),
    "dola": StrategyChoice("dola", "DoLa (arXiv:2309.03883): the layer contrasted with is the one that differs most"),
    "dola_static": StrategyChoice("dola_static", "DoLa with one layer, the same for every token"),
}
# Repetition penalty of dola and dola_static where none is given, as their authors' scripts have it.
DOLAS_PENALTY = 1.2
# Flags that name layers.
LAYERS = ("intermediate_layer", "upper_layer", "early_exit_layers")
# What DoLa's code calls the last layer.
LAST = -1


@dataclass
class StrategyArguments:
    """What a strategy contrasts, and how."""

    _argument_group_name = groups.LAYERS

    alpha: float = flag(0.1, "Of contrast: tokens of at least alpha times the highest probability are scored.", "a")
    intermediate_layer: int | None = flag(
        None,
        "The layer contrasted with, for contrastive, acd and dola_static; the number of layers minus 2.",
        "i",
    )
    upper_layer: int | None = flag(None, "The layer that is contrasted; the last where not given.")
    amateur_temperature: float = flag(0.5, "Of contrastive: temperature of the earlier layer's distribution.", "t")
    coefficient: float = flag(1.0, "Of contrastive: weight of the earlier layer's log-probabilities.")
    beam_size: int | None = flag(
        None,
        "Beams, of sums of scores without a norm of length; 5 for beam and contrastive.",
        group=groups.STRATEGY,
    )
    early_exit_layers: str | None = flag(
        None,
        "Of dola and dola_static: layers as DoLa's code takes them, the last contrasted with the others, such as "
        "16,32 or 0,2,..,32; or a bucket, low or high; high where not given. One layer alone, or -1 for the last, is "
        "contrasted with none: that is plain decoding.",
    )
    dola_divergence: str = flag(
        "paper",
        f"Of dola: how far a layer is from the last, one of {', '.join(DIVERGENCES)}. paper is the Jensen-Shannon "
        "divergence of DoLa's text; code the mean of KL(M||P) and KL(M||Q) that its code computes, whose layers and "
        "tokens come out with --lens_final_norm False.",
    )
    lens_final_norm: bool = flag(True, "Norm an intermediate layer before the head; False is DoLa's own arithmetic.")

    def contrast_problems(self) -> list[str]:
        """A sentence on each of these that cannot be, numbers aside."""
        problems = []
        if self.dola_divergence not in DIVERGENCES:
            problems.append(f"--dola_divergence {self.dola_divergence}: valid are {', '.join(DIVERGENCES)}.")
        if self.early_exit_layers not in (None, "low", "high"):
            try:  # also where the strategy reads no layers
                layers_of(self.early_exit_layers)
            except ValueError as error:
                problems.append(str(error))
        return problems

    def strategy_named(self, name: str, num_layers: int, tied: bool) -> Strategy | None:
        """A --strategy in a model of this depth; None for greedy and sample. DoLa of one layer alone is plain.

        Raises:
            ValueError: Its layers are not there.
        """
        rule = STRATEGY_CHOICES[name].rule
        if rule is None:
            return None
        amateurs, expert = self._layers(name, num_layers, tied)
        numbers = self.alpha, self.amateur_temperature, self.coefficient, self.lens_final_norm
        beams = self.beam_size or (5 if name in ("beam", "contrastive") else 1)
        if name.startswith("dola") and not self.contrasts_dola(name):
            rule = "plain"
        try:
            strategy = Strategy(rule, amateurs, expert, *numbers, beams, self.dola_divergence)
            strategy.check(num_layers)
        except ValueError as error:
            given = [f"--{name} {value}" for name in LAYERS if (value := getattr(self, name)) is not None]
            raise ValueError(f"{', '.join(given)}: {error}" if given else str(error)) from None
        return strategy

    def _layers(self, name: str, num_layers: int, tied: bool) -> tuple[tuple[int, ...], int | None]:
        """Layers contrasted with, and the contrasted one, None for the last."""
        if name == "beam":
            return (), None
        if not name.startswith("dola") or (name == "dola_static" and self.early_exit_layers is None):
            lower = self.intermediate_layer
            return (num_layers - 2 if lower is None else lower,), self.upper_layer
        named = self.early_exit_layers or "high"
        if named in ("low", "high"):
            return bucket(named, num_layers, tied), self.upper_layer
        *amateurs, expert = layers_of(named)
        return tuple(amateurs), None if expert == LAST else expert

    def contrasts_dola(self, name: str) -> bool:
        """Whether a --strategy contrasts layers as DoLa does."""
        named = self.early_exit_layers
        return name.startswith("dola") and (named in (None, "low", "high") or len(layers_of(named)) > 1)


@dataclass
class PromptArguments:
    """Prompts, of the command line and of a file; see `jobs.generating.read_prompts`."""

    _argument_group_name = groups.PROMPTS

    prompt: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Text to continue; several in quotes are continued one by one.",
            "aliases": ["-p"],
        },
    )
    prompt_file: str | None = flag(
        None, "File of prompts: .txt with one per line, or .jsonl, .json, .csv with a 'prompt'. Continued in batches."
    )

    def prompt_problems(self, nothing: str | None) -> list[str]:
        """A sentence on each of these that cannot be.

        Args:
            nothing: That where there is no prompt; None where there need be none.
        """
        problems = [nothing] if nothing and self.prompt is None and self.prompt_file is None else []
        if self.prompt_file is not None and not Path(self.prompt_file).is_file():
            problems.append(f"--prompt_file {self.prompt_file}: there is no such file.")
        return problems


@dataclass
class GenerateArguments(PromptArguments, StrategyArguments, ComputeArguments):
    """Prompts, how they are continued, and what is shown."""

    _argument_group_name = groups.STRATEGY
    hidden_groups = (groups.TRAINING, groups.MEASUREMENT)

    strategy: str = flag(
        "greedy",
        "How the next token is chosen; what may not leave early runs every layer for every token:\n"
        + "\n".join(f"{name}: {choice.help}" for name, choice in STRATEGY_CHOICES.items())
        + "\n",
    )
    max_new_tokens: int = flag(60, "New tokens at most.", "l", group=groups.GENERATION)
    temperature: float = flag(1.0, "Of sample: divides the logits.")
    top_k: int = flag(50, "Of sample: draw among the k likeliest tokens; 0 for all.")
    top_p: float = flag(1.0, "Of sample: draw among the likeliest tokens that have this much probability together.")
    do_sample: bool = flag(False, "Draw from the scores of another strategy too, such as dola, in the way of sample.")
    repetition_penalty: float | None = flag(
        None,
        "Divide the scores of tokens that are there already; 1.0 is none. Where not given "
        f"{DOLAS_PENALTY} for dola and dola_static, as their authors have it, and 1.0 otherwise.",
        group=groups.GENERATION,
    )
    no_repeat_ngram_size: int = flag(
        0, "Forbid n-grams of this length to occur twice, in prompt and answer; 0 is none.", group=groups.GENERATION
    )
    stop: list[str] | None = field(
        default=None,
        metadata={
            "help": "Texts that end an answer, \\n for a line's end; they are no part of it.",
            "group": groups.GENERATION,
        },
    )
    stop_token_ids: list[int] | None = field(
        default=None,
        metadata={
            "help": "Tokens that end an answer beside the model's own; they are no part of its text.",
            "group": groups.GENERATION,
        },
    )
    apply_chat_template: bool | None = flag(
        None,
        "Put prompts into turns of the tokenizer's chat template. Where not given a conversation does so if there is "
        "one, and then keeps earlier turns; prompts of the command line or of a file are continued as they are.",
        group=groups.PROMPTS,
    )
    compare: bool = flag(
        False,
        "Print what the model continues greedily at full depth beside it, with the speed of both.",
        group=groups.OUTPUT,
    )
    show_drafts: bool = flag(
        False,
        "With --lossless True: show drafts in grey until they are verified, in a terminal that shows colours.",
        group=groups.OUTPUT,
    )
    show_exits: bool = flag(
        False,
        "Colour each token by the layer it left after, shallow blue to deep red; in a pipe, or with NO_COLOR set, put "
        "the layer behind it.",
        group=groups.OUTPUT,
    )
    output_file: str | None = flag(
        None,
        "Write a JSON line per prompt there, with the layers tokens left after, batch by batch: the same command goes "
        "on where it was killed.",
        "out",
        group=groups.OUTPUT,
    )
    batch_size: int = flag(8, "Prompts of a file that are continued together.", group=groups.PROMPTS)
    seed: int = flag(0, "Of sample and --do_sample: what is drawn.")

    def __post_init__(self) -> None:
        raise_together(
            [
                *range_problems(self),
                *self.compute_problems(),
                *self._named_problems(),
                *self._file_problems(),
                *self._shown_problems(),
                *self._stop_problems(),
            ]
        )
        if self.repetition_penalty is None:
            self.repetition_penalty = DOLAS_PENALTY if self.contrasts_dola(self.strategy) else 1.0

    @property
    def converses(self) -> bool:
        """Whether prompts are asked for."""
        return self.prompt is None and self.prompt_file is None

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.do_sample or self.strategy == "sample"

    def _named_problems(self) -> list[str]:
        """What is none of the names that a flag knows."""
        valid = f"valid are {', '.join(STRATEGY_CHOICES)}."
        problems = [] if self.strategy in STRATEGY_CHOICES else [f"--strategy {self.strategy}: {valid}"]
        return problems + self.contrast_problems()

    def _file_problems(self) -> list[str]:
        nothing = "There is nothing to continue: give -p TEXT or --prompt_file FILE, or be asked in a terminal."
        problems = self.prompt_problems(None if asks() else nothing)
        if self.output_file is not None and self.converses and not problems:
            problems.append("--out is for -p or --prompt_file: prompts that are asked for are not written.")
        if self.output_file is not None and (problem := file_problem(self.output_file)):
            problems.append(f"--out {problem}")
        return problems

    def _shown_problems(self) -> list[str]:
        problems = []
        choice = STRATEGY_CHOICES.get(self.strategy)
        if self.show_exits and choice is not None and choice.rule:
            problems.append(f"--show_exits needs greedy or sample: {self.strategy} runs every layer for every token.")
        beside = [f"--{name}" for name in ("compare", "show_exits", "prompt_file") if getattr(self, name)]
        if self.show_drafts and beside:
            problems.append(f"--show_drafts shows an answer while it comes, {', '.join(beside)} when it is there.")
        return problems

    def _stop_problems(self) -> list[str]:
        """A sentence on each end that cannot be; of the others lists are made."""
        self.stop, ids = ends_of(() if self.stop is None else self.stop), self.stop_token_ids
        self.stop_token_ids = [ids] if isinstance(ids, int) else list(ids or ())
        return stop_problems(self.stop)

    def strategy_of(self, num_layers: int, tied: bool) -> Strategy | None:
        """Of --strategy; see `StrategyArguments.strategy_named`."""
        return self.strategy_named(self.strategy, num_layers, tied)


def layers_of(text: str) -> list[int]:
    """Layers of a list such as 16,32 or 0,2,..,32, where .. goes on by the step before it; -1 alone is `LAST`.

    Raises:
        ValueError: The text is no such list.
    """
    if text.strip() == str(LAST):
        return [LAST]
    words = [word.strip() for word in text.split(",")]
    layers: list[int] = []
    for place, word in enumerate(words):
        if word == ".." and len(layers) >= 2 and place + 1 < len(words) and words[place + 1].isdigit():
            step, end = layers[-1] - layers[-2], int(words[place + 1])
            layers += range(layers[-1] + step, end, step) if step > 0 else []
        elif word.isdigit():
            layers.append(int(word))
        else:
            raise ValueError(f"--early_exit_layers {text}: valid are lists such as 16,32 or 0,2,..,32, or low or high.")
    return layers
