"""What the model of lm-evaluation-harness takes beside the flags of early exit."""

from dataclasses import dataclass

from decoding.ranges import COUNT
from decoding.strategies import Strategy
from util import groups
from util.additional_args import flag
from util.checks import raise_together
from util.compute_args import ComputeArguments
from util.generate_args import STRATEGY_CHOICES
from util.ranges import range_problems
from util.scoring_args import ScoringArguments

# Whether tokens are drawn is the task's affair.
STRATEGIES = {name: choice for name, choice in STRATEGY_CHOICES.items() if name != "sample"}


@dataclass
class HarnessArguments(ScoringArguments, ComputeArguments):
    """The arguments of `jobs.harness.EarlyExitLM`."""

    _argument_group_name = groups.MODEL
    hidden_groups = (groups.TRAINING, groups.MEASUREMENT)

    pretrained: str | None = flag(None, "A folder or a name on the hub; the small GPT-2 of this repository.")
    gguf_file: str | None = flag(None, "A GGUF checkpoint in it.")
    exit_translators: str | None = flag(None, "Translators of its exits, made by src/scripts/fit_translators.py.")
    likelihood_layer: int | None = flag(
        None, "The layer whose log-likelihoods are taken, from 1; the last where not given."
    )
    strategy: str = flag(
        "greedy",
        "What scores answers and chooses tokens, at full depth but for greedy:\n"
        + "\n".join(f"{name}: {choice.help}" for name, choice in STRATEGIES.items())
        + "\n",
        group=groups.STRATEGY,
    )
    post_softmax: bool = flag(
        False,
        "Of log-likelihoods: make a strategy's scores a distribution, as DoLa's code does for FACTOR; otherwise they "
        "are summed as they are, as it does for TruthfulQA.",
        group=groups.STRATEGY,
    )
    batch_size: int = flag(8, "Requests that are computed together.")
    max_length: int | None = flag(None, "Tokens of prompt and answer together; what the model allows.")

    def __post_init__(self) -> None:
        if isinstance(self.early_exit_layers, (list, tuple)):  # as --model_args reads [0,2,4]
            self.early_exit_layers = ",".join(map(str, self.early_exit_layers))
        elif self.early_exit_layers is not None:
            self.early_exit_layers = str(self.early_exit_layers)
        problems = [*range_problems(self, max_length=COUNT), *self.compute_problems(), *self.contrast_problems()]
        if self.strategy not in STRATEGIES:
            problems.append(f"--strategy {self.strategy}: valid are {', '.join(STRATEGIES)}.")
        elif self.strategy != "greedy" and self.likelihood_layer is not None:
            problems.append(
                f"--likelihood_layer is of strategy greedy: {self.strategy} scores with --upper_layer, the last."
            )
        elif self.strategy == "greedy" and self.post_softmax:
            problems.append("--post_softmax is of a strategy that contrasts layers: give --strategy.")
        raise_together(problems)

    def strategy_of(self, num_layers: int, tied: bool) -> Strategy | None:
        """Of --strategy; see `StrategyArguments.strategy_named`."""
        return self.strategy_named(self.strategy, num_layers, tied)
