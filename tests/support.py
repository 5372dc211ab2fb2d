"""Tiny random models that the tests share, built from local configurations in milliseconds."""

from contextlib import contextmanager
from unittest import mock

import torch
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MT5Config,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from decoding.exits import ExitState
from decoding.past import Past
from decoding.policy import Policy
from models import (
    DeployGPT2LMHeadModel,
    DeployGPTNeoXForCausalLM,
    DeployLlamaForCausalLM,
    DeployMistralForCausalLM,
    DeployMT5ForConditionalGeneration,
    DeployOPTForCausalLM,
    DeployQwen2ForCausalLM,
    DeployQwen3ForCausalLM,
    DeployT5ForConditionalGeneration,
)
from models.adapter import Adapter

VOCABULARY = 61


def tiny_t5(seed: int = 0, *, layers: int = 4, gated: bool = False, tied: bool = True, mt5: bool = False, **config):
    """A random T5 with peaky logits, so that confidences spread and few argmaxes are close."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "d_model": 24,
        "d_kv": 6,
        "d_ff": 40,
        "num_layers": 2,
        "num_decoder_layers": layers,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": tied,
        "dropout_rate": 0.0,
        **config,
    }
    if mt5:
        model = DeployMT5ForConditionalGeneration(MT5Config(**settings))
    else:
        model = DeployT5ForConditionalGeneration(T5Config(**settings))
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    return _spread(model)


def tiny_gpt2(seed: int = 0, *, layers: int = 4, **config):
    """A random GPT-2."""
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCABULARY, "n_embd": 24, "n_head": 4, "n_layer": layers, "n_positions": 64}
    return _spread(DeployGPT2LMHeadModel(GPT2Config(**{**settings, **TOKENS, **config})))


WINDOWED = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
# Of Llama's kin: model_type -> the deployed class, the config's class, and what is special about the tiny one.
LLAMAS = {
    "llama": (DeployLlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (DeployMistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "qwen2": (
        DeployQwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    ),
    "qwen3": (DeployQwen3ForCausalLM, Qwen3Config, {"head_dim": 10}),
}
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def tiny_llama(seed: int = 0, *, kind: str = "llama", layers: int = 4, tied: bool = False, **config):
    """A random Llama, Mistral, Qwen2 or Qwen3, whose keys are shared by two heads of queries each."""
    torch.manual_seed(seed)
    deployed, config_class, special = LLAMAS[kind]
    settings = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return _spread(deployed(config_class(**settings, **TOKENS, tie_word_embeddings=tied, **special | config)))


def tiny_neox(seed: int = 0, *, layers: int = 4, tied: bool = False, **config):
    """A random GPT-NeoX; half of each head is turned."""
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": 3, "max_position_embeddings": 64, "rotary_pct": 0.5}
    return _spread(DeployGPTNeoXForCausalLM(GPTNeoXConfig(**settings, **TOKENS, tie_word_embeddings=tied, **config)))


def tiny_opt(seed: int = 0, *, layers: int = 4, tied: bool = True, **config):
    """A random OPT."""
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCABULARY, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 24}
    return _spread(DeployOPTForCausalLM(OPTConfig(**settings | config, **TOKENS, tie_word_embeddings=tied)))


# Every decoder-only architecture, tied and untied.
DECODERS = {
    "gpt2": tiny_gpt2,
    "gpt2, untied": lambda seed: tiny_gpt2(seed, tie_word_embeddings=False),
    **{kind: lambda seed, kind=kind: tiny_llama(seed, kind=kind) for kind in LLAMAS},
    "llama, tied": lambda seed: tiny_llama(seed, tied=True),
    "neox": tiny_neox,
    "neox, in sequence, tied": lambda seed: tiny_neox(seed, tied=True, use_parallel_residual=False),
    "opt": tiny_opt,
    "opt, untied": lambda seed: tiny_opt(seed, tied=False),
}


def _spread(model):
    """Randomise every parameter, norms and biases too, because a wrong use of a constant would otherwise pass.

    The head is scaled so that logits have a deviation of about 3 and confidences spread over [0, 1].
    """
    head = model.get_output_embeddings().weight
    head_scale = 3.0 if getattr(model.config, "scale_decoder_outputs", False) else 3 * head.shape[-1] ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.dim() == 1 else 3 * parameter.shape[-1] ** -0.5
            scale = head_scale if parameter is head else scale
            centre = 1.0 if "norm" in name or ("ln_" in name and name.endswith("weight")) else 0.0
            parameter.copy_(centre + scale * torch.randn_like(parameter))
    return model.eval()


def sources(seed: int, batch: int, length: int = 9, left: bool = False):
    """Random token ids [B, S] of different lengths, with their mask; padding on the right, or left."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        cut = int(torch.randint(0, length - 1, (1,), generator=generator))
        mask[row, slice(0, cut) if left else slice(length - cut, length)] = 0
    return ids * mask, mask


def plain_generate(model, **kwargs):
    """Hugging Face's own generate on the same weights. The cache is built without the config, which would size it by
    the number of encoder layers."""
    library = next(c for c in type(model).__mro__ if c.__module__.startswith("transformers.models."))
    if model.config.is_encoder_decoder:
        kwargs["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    return library.generate(model, **kwargs)


@contextmanager
def double_precision(model):
    """The model in float64, with the library's norms kept in float64 too: they compute in float32 otherwise."""
    model = model.double()
    with mock.patch("torch.Tensor.to", _to_but_never_narrower):
        yield model


_plain_to = torch.Tensor.to


def _to_but_never_narrower(tensor, *args, **kwargs):
    if tensor.dtype == torch.float64 and args and args[0] is torch.float32:
        return tensor
    return _plain_to(tensor, *args, **kwargs)


class ScriptedAdapter(Adapter):
    """A model whose states are its logits: the head is the identity, the norm does nothing."""

    device = torch.device("cpu")

    def __init__(self, vocabulary: int, num_layers: int):
        self.output_weight = torch.eye(vocabulary)
        self.num_layers = num_layers

    @staticmethod
    def normalise(hidden):
        return hidden

    @staticmethod
    def confidence_head(normed):
        return normed[:, :2]


def scripted_exit(layers, first_exit: int = 1, alpha: float = 0.1, survivors=None, final=None) -> ExitState:
    """The exit after the last of `layers` [l + 1, n, V], whose logits are scripted, as the loop would come to it.

    Args:
        first_exit: From here on every layer was an exit tried before.
        survivors: layer -> `Survivors` in force at its exit; the whole vocabulary where not given.
    """
    layers = torch.stack(list(layers)).to(next(iter(layers)).dtype)
    depth, batch, size = layers.shape
    adapter = ScriptedAdapter(size, depth)
    adapter.output_weight = adapter.output_weight.to(layers.dtype)
    past, rows = Past(adapter, batch), list(range(batch))
    for layer, hidden in enumerate(layers):
        past.ran(rows, hidden)
        if layer < min(first_exit, depth - 1):
            continue
        held = (survivors or {}).get(layer)
        previous = layers[max(layer - 1, 0)]
        exit = ExitState(adapter, layer, hidden, previous, held, rows=rows, past=past, alpha=alpha, final=final)
        if layer < depth - 1:
            exit.remember()
    return exit


POLICIES = {
    "full": Policy(),
    "static": Policy(static_exit=2),
    "softmax": Policy(confidence="softmax", threshold=0.3),
    "max_prob": Policy(confidence="max_prob", threshold=0.4, first_exit=2),
    "entropy": Policy(confidence="entropy", threshold=0.4),
    "state": Policy(confidence="state", threshold=0.5),
    "decaying threshold": Policy(confidence="softmax", threshold=0.4, temperature=4.0, length=10),
    "fixed": Policy("softmax", "fixed", 0.5, k=7),
    "fixed, whole head": Policy("max_prob", "fixed", 0.6, k=40, first_exit=2),
    "decaying": Policy("softmax", "decaying", 0.5, k_min=3, k_max=55),
    "adaptive": Policy("softmax", "adaptive", 0.6),
    "adaptive, capped": Policy("entropy", "adaptive", 0.6, k=9, adaptive_cap=True),
    "contrastive": Policy("contrastive_decoding", threshold=0.5),
    "weighted": Policy("reweight_contrastive_decoding", threshold=0.6, alpha=0.3),
    "JSD": Policy("JSD_contrastive_confidence", threshold=0.7, first_exit=2),
    "weighted, text": Policy("reweight_contrastive_text", threshold=0.3),
    "JSD, text": Policy("JSD_contrastive_text", threshold=0.3),
    "weighted, fixed": Policy("reweight_contrastive_decoding", "fixed", 0.6, k=6),
    "JSD, adaptive": Policy("JSD_contrastive_confidence", "adaptive", 0.9, first_exit=2),
    "JSD, decaying": Policy("JSD_contrastive_confidence", "decaying", 0.9, k_min=3, k_max=40, first_exit=2),
    "JSD, text, fixed": Policy("JSD_contrastive_text", "fixed", 0.3, k=6, first_exit=2),
    "emitted contrast": Policy("contrastive_decoding", threshold=0.4, emit="contrastive"),
    "no V_head": Policy("JSD_contrastive_confidence", "fixed", 0.4, k=7, alpha=0.0, emit="contrastive"),
    "oracle": Policy("oracle", threshold=0.5),
    "FREE": Policy("softmax", threshold=0.4, first_exit=2, last_exit=2, skipped="recompute"),
    "FREE, often": Policy(
        "max_prob", threshold=0.4, first_exit=1, last_exit=1, skipped="recompute", num_speculations=2
    ),
    "FREE, several exits": Policy("softmax", threshold=0.5, skipped="recompute"),
    "FREE, pruned": Policy("softmax", "fixed", 0.5, k=7, skipped="recompute", num_speculations=3),
    "FREE, contrastive": Policy("JSD_contrastive_confidence", threshold=0.8, first_exit=2, skipped="recompute"),
    "rollback": Policy(
        "softmax",
        threshold=0.3,
        first_exit=2,
        last_exit=2,
        skipped="recompute",
        verification="rollback",
        rollback_threshold=1.0,
    ),
    "lossless": Policy("softmax", threshold=0.3, skipped="recompute", verification="exact", num_speculations=3),
}
