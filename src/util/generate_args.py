"""The arguments of generate.py: prompts, strategy, and what is printed or written."""

from dataclasses import dataclass, field
from pathlib import Path

from decoding.strategies import DIVERGENCES, Strategy, bucket
from util.additional_args import flag
from util.checks import device_problems, raise_together
from util.files import file_problem
from util.ranges import range_problems

# --strategy -> the row of `decoding.strategies.SCORE_RULES`; None where the decode loop, with its exits, does it.
STRATEGIES = {
    "greedy": None,
    "sample": None,
    "beam": "plain",
    "contrastive": "contrastive",
    "acd": "acd",
    "dola": "dola",
    "dola_static": "dola_static",
}
# Flags that name layers.
LAYERS = ("intermediate_layer", "upper_layer", "early_exit_layers")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class GenerateArguments:
    """Prompts, how they are continued, and what is shown."""

    _argument_group_name = "generation"

    prompt: list[str] | str | None = field(
        default=None,
        metadata={"help": "Text to continue; several in quotes are continued one by one.", "aliases": ["-p"]},
    )
    prompt_file: str | None = flag(
        None, "File of prompts: .txt with one per line, or .jsonl, .json, .csv with a 'prompt'. Continued in batches."
    )
    strategy: str = flag(
        "greedy",
        f"One of {', '.join(STRATEGIES)}. greedy and sample may leave early (see the decoding policy); the others run "
        "every layer: beam sums log-probabilities, contrastive and acd contrast the last layer with an earlier one "
        "(arXiv:2210.15097, arXiv:2305.01628), dola with the one that differs most (arXiv:2309.03883).",
    )
    max_new_tokens: int = flag(60, "New tokens at most.", "l")
    alpha: float = flag(0.1, "Of contrast: tokens of at least alpha times the highest probability are scored.", "a")
    intermediate_layer: int | None = flag(
        None, "The layer contrasted with, for contrastive, acd and dola_static; the number of layers minus 2.", "i"
    )
    upper_layer: int | None = flag(None, "The layer that is contrasted; the last where not given.")
    amateur_temperature: float = flag(0.5, "Of contrastive: temperature of the earlier layer's distribution.", "t")
    coefficient: float = flag(1.0, "Of contrastive: weight of the earlier layer's log-probabilities.")
    beam_size: int | None = flag(None, "Beams, of sums of scores without a norm of length; 5 for beam and contrastive.")
    early_exit_layers: str | None = flag(
        None,
        "Of dola and dola_static: layers as DoLa's code takes them, the last contrasted with the others, such as "
        "16,32 or 0,2,..,32; or a bucket, low or high; high where not given.",
    )
    dola_divergence: str = flag(
        "paper",
        f"Of dola: how far a layer is from the last, one of {', '.join(DIVERGENCES)}. paper is the Jensen-Shannon "
        "divergence of DoLa's text; code the mean of KL(M||P) and KL(M||Q) that its code computes, whose layers and "
        "tokens come out with --lens_final_norm False.",
    )
    lens_final_norm: bool = flag(True, "Norm an intermediate layer before the head; False is DoLa's own arithmetic.")
    temperature: float = flag(1.0, "Of sample.")
    top_k: int = flag(50, "Of sample: draw among the k likeliest tokens; 0 for all.")
    top_p: float = flag(1.0, "Of sample: draw among the likeliest tokens that have this much probability together.")
    repetition_penalty: float = flag(1.0, "Divide the scores of tokens that are there already; 1.0 is none.")
    compare: bool = flag(False, "Print the plain greedy continuation beside that of the strategy.")
    show_exits: bool = flag(
        False,
        "Colour each token by the layer it left after, shallow blue to deep red; in a pipe, or with NO_COLOR set, put "
        "the layer behind it.",
    )
    output_file: str | None = flag(
        None,
        "Write a JSON line per prompt there, with the layers tokens left after, batch by batch: the same command goes "
        "on where it was killed.",
        "out",
    )
    batch_size: int = flag(8, "Prompts of a file that are continued together.")
    seed: int = flag(0, "Of sample.")
    dtype: str = flag("float32", f"Of the weights: {', '.join(DTYPES)}.")
    device: str | None = flag(None, "cpu, cuda or cuda:1; a GPU where there is one.")

    def __post_init__(self) -> None:
        raise_together(
            [
                *range_problems(self),
                *device_problems(self.device),
                *self._named_problems(),
                *self._file_problems(),
                *self._shown_problems(),
            ]
        )

    def _named_problems(self) -> list[str]:
        """What is none of the names that a flag knows."""
        given = ("strategy", STRATEGIES), ("dola_divergence", DIVERGENCES), ("dtype", DTYPES)
        problems = [
            f"--{name} {value}: valid are {', '.join(valid)}."
            for name, valid in given
            if (value := getattr(self, name)) not in valid
        ]
        if self.early_exit_layers not in (None, "low", "high"):
            try:  # also where the strategy reads no layers
                layers_of(self.early_exit_layers)
            except ValueError as error:
                problems.append(str(error))
        return problems

    def _file_problems(self) -> list[str]:
        problems = []
        if self.prompt is None and self.prompt_file is None:
            problems.append("There is nothing to continue: give -p TEXT or --prompt_file FILE.")
        if self.prompt_file is not None and not Path(self.prompt_file).is_file():
            problems.append(f"--prompt_file {self.prompt_file}: there is no such file.")
        if self.output_file is not None and (problem := file_problem(self.output_file)):
            problems.append(f"--out {problem}")
        return problems

    def _shown_problems(self) -> list[str]:
        problems = []
        if self.show_exits and STRATEGIES.get(self.strategy):
            problems.append(f"--show_exits needs greedy or sample: {self.strategy} runs every layer for every token.")
        if self.compare and self.strategy == "greedy":
            problems.append("--compare shows another strategy beside greedy: give --strategy.")
        return problems

    def strategy_of(self, num_layers: int, tied: bool) -> Strategy | None:
        """The strategy in a model of this depth; None for greedy and sample.

        Raises:
            ValueError: Its layers are not there.
        """
        name = STRATEGIES[self.strategy]
        if name is None:
            return None
        amateurs, expert = self._layers(num_layers, tied)
        numbers = self.alpha, self.amateur_temperature, self.coefficient, self.lens_final_norm
        beams = self.beam_size or (5 if self.strategy in ("beam", "contrastive") else 1)
        try:
            strategy = Strategy(name, amateurs, expert, *numbers, beams, self.dola_divergence)
            strategy.check(num_layers)
        except ValueError as error:
            given = [f"--{name} {value}" for name in LAYERS if (value := getattr(self, name)) is not None]
            raise ValueError(f"{', '.join(given)}: {error}" if given else str(error)) from None
        return strategy

    def _layers(self, num_layers: int, tied: bool) -> tuple[tuple[int, ...], int | None]:
        """Layers contrasted with, and the contrasted one, None for the last."""
        if self.strategy == "beam":
            return (), None
        if not self.strategy.startswith("dola") or (self.strategy == "dola_static" and self.early_exit_layers is None):
            lower = self.intermediate_layer
            return (num_layers - 2 if lower is None else lower,), self.upper_layer
        named = self.early_exit_layers or "high"
        if named in ("low", "high"):
            return bucket(named, num_layers, tied), self.upper_layer
        *amateurs, expert = layers_of(named)
        return tuple(amateurs), expert


def layers_of(text: str) -> list[int]:
    """Layers of a list such as 16,32 or 0,2,..,32, where .. goes on by the step before it.

    Raises:
        ValueError: The text is no such list of two or more.
    """
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
    if len(layers) < 2:
        raise ValueError(f"--early_exit_layers {text} names one layer, but one is contrasted with another.")
    return layers
