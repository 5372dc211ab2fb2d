"""The models. `Deploy...` classes are the Hugging Face ones with a `generate` that may leave the decoder early."""

from models.deploying_gpt2 import DeployGPT2LMHeadModel
from models.deploying_t5 import DeployMT5ForConditionalGeneration, DeployT5ForConditionalGeneration

# One row per architecture: the config's model_type and the class that decodes it.
DEPLOYED = {
    "t5": DeployT5ForConditionalGeneration,
    "mt5": DeployMT5ForConditionalGeneration,
    "gpt2": DeployGPT2LMHeadModel,
}


def deploying_class(config) -> type:
    """The class that decodes checkpoints of this config.

    Raises:
        ValueError: The architecture has no adapter; the sentence lists those that have.
    """
    if config.model_type not in DEPLOYED:
        raise ValueError(f"model_type is {config.model_type!r}: early-exit decoding supports {', '.join(DEPLOYED)}.")
    return DEPLOYED[config.model_type]


__all__ = [
    "DEPLOYED",
    "DeployGPT2LMHeadModel",
    "DeployMT5ForConditionalGeneration",
    "DeployT5ForConditionalGeneration",
    "deploying_class",
]
