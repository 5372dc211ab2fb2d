"""What the model of lm-evaluation-harness takes beside the flags of early exit."""

from dataclasses import dataclass

from util import groups
from util.additional_args import flag


@dataclass
class HarnessArguments:
    """The arguments of `jobs.harness.EarlyExitLM`, for --help."""

    _argument_group_name = groups.MODEL
    hidden_groups = (groups.TRAINING, groups.MEASUREMENT)

    pretrained: str | None = flag(None, "A folder or a name on the hub; the small GPT-2 of this repository.")
    exit_translators: str | None = flag(None, "Translators of its exits, made by src/scripts/fit_translators.py.")
    likelihood_layer: int | None = flag(
        None, "The layer whose log-likelihoods are taken, from 1; the last where not given."
    )
    dtype: str = flag("float32", "Of the weights: float32, bfloat16, float16.")
    device: str | None = flag(None, "cpu, cuda or cuda:1; a GPU where there is one.")
    batch_size: int = flag(8, "Requests that are computed together.")
    max_length: int | None = flag(None, "Tokens of prompt and answer together; what the model allows.")
