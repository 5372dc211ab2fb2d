"""The models. `Deploy...` classes are the Hugging Face ones with a `generate` that may leave the decoder early."""

from transformers import PreTrainedModel

from models.deploying import EarlyExitGeneration
from models.deploying_gemma3 import DeployGemma3ForCausalLM
from models.deploying_gpt2 import DeployGPT2LMHeadModel
from models.deploying_gpt_neox import DeployGPTNeoXForCausalLM
from models.deploying_granite import DeployGraniteForCausalLM
from models.deploying_llama import (
    DeployLlamaForCausalLM,
    DeployMistralForCausalLM,
    DeployQwen2ForCausalLM,
    DeployQwen3ForCausalLM,
)
from models.deploying_longt5 import DeployLongT5ForConditionalGeneration
from models.deploying_olmo2 import DeployOlmo2ForCausalLM
from models.deploying_opt import DeployOPTForCausalLM
from models.deploying_phi import DeployPhiForCausalLM
from models.deploying_stablelm import DeployStableLmForCausalLM
from models.deploying_t5 import DeployMT5ForConditionalGeneration, DeployT5ForConditionalGeneration
from models.loaded import refuse_wrapped, view

# One row per architecture: the config's model_type and the class that decodes it.
DEPLOYED = {
    "t5": DeployT5ForConditionalGeneration,
    "mt5": DeployMT5ForConditionalGeneration,
    "longt5": DeployLongT5ForConditionalGeneration,
    "gpt2": DeployGPT2LMHeadModel,
    "llama": DeployLlamaForCausalLM,
    "mistral": DeployMistralForCausalLM,
    "qwen2": DeployQwen2ForCausalLM,
    "qwen3": DeployQwen3ForCausalLM,
    "gpt_neox": DeployGPTNeoXForCausalLM,
    "opt": DeployOPTForCausalLM,
    "phi": DeployPhiForCausalLM,
    "stablelm": DeployStableLmForCausalLM,
    "olmo2": DeployOlmo2ForCausalLM,
    "granite": DeployGraniteForCausalLM,
    "gemma3_text": DeployGemma3ForCausalLM,
}


def deploying_class(config) -> type:
    """The class that decodes checkpoints of this config.

    Raises:
        ValueError: The architecture has no adapter; the sentence lists those that have.
    """
    if config.model_type not in DEPLOYED:
        raise ValueError(f"model_type is {config.model_type!r}: early-exit decoding supports {', '.join(DEPLOYED)}.")
    return DEPLOYED[config.model_type]


def deploy(model: PreTrainedModel) -> EarlyExitGeneration:
    """A loaded model with our `generate` on its own parameters: not a copy but a second view, see `models.loaded`.

    It goes wherever the model went: `transformers.pipeline("text-generation", model=deploy(model), tokenizer=...)`
    decodes under the policy that its call is given, `policy=Policy(...)`, or else under that of `model.config`. Of an
    encoder-decoder, for which the library has no pipeline any more, that one gives ids: `return_tensors=True`.

    Raises:
        ValueError: It is no such model, or its architecture has no adapter; the sentence says what is valid.
    """
    refuse_wrapped(model)
    return view(model, deploying_class(model.config))
