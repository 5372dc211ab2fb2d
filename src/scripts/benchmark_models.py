"""What the benchmark times: models of real sizes with random weights, their inputs, and the weights a token reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from models import DeployGPT2LMHeadModel, DeployLlamaForCausalLM, DeployT5ForConditionalGeneration
from models.adjacent import move_all_together

T5_SIZES = {
    "t5-small": {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "tiny": {"d_model": 64, "d_ff": 128, "num_layers": 4, "num_heads": 4},
}
GPT2_SIZES = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {"n_embd": 1280, "n_layer": 36, "n_head": 20},
    "tiny-gpt2": {"n_embd": 64, "n_layer": 4, "n_head": 4},
}
LLAMA_SIZES = {
    "smollm2-135m": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152},
    "tiny-llama": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 512},
}
DECODER_SIZES = {**GPT2_SIZES, **LLAMA_SIZES}
SIZES = {**T5_SIZES, **DECODER_SIZES}
# Of the decoder-only sizes: tokens of prompt and answer together.
POSITIONS = 1024
# One token alone is plausible where the others' logits are lower by more than this (alpha 0.1).
PLAUSIBLE_GAP = math.log(10)
# Mean gap between the two highest of as many normal numbers as a vocabulary has, in deviations.
MEAN_GAP = 0.22


@dataclass
class Workload:
    """A model and a batch of inputs for it.

    Attributes:
        library: The Hugging Face class whose `generate` is the comparison.
        inputs: Makes the arguments of `generate`, anew for each call.
        prompt: Rows that meet `once` before the first token: the encoded source, or the prompt, [n, D].
        layers: Per layer the matrices [in, out] that a token reads.
        once: Per layer the matrices that `prompt` meets.
        prefilled: Whether the prompt runs all layers, and the first token comes from it.
    """

    model: nn.Module
    library: type
    inputs: Callable[[], dict]
    prompt: Tensor
    layers: list[list[Tensor]]
    once: list[list[Tensor]]
    prefilled: bool

    @property
    def head(self) -> Tensor:
        return self.model.lm_head.weight.t()


def make_workload(size: str, dtype: torch.dtype, device: str, several: float, batch: int, length: int) -> Workload:
    """A model of that size with random weights, which never ends a sequence, and `length` tokens of input per row.

    Args:
        several: Share of the exits tried at which several tokens are plausible. The gap of the two highest logits is
            about exponential, so a share of exp(-gap / mean) of them is above log 10, where one alone is; the head,
            which is not tied, is scaled for it.
    """
    torch.manual_seed(0)
    build = _t5 if size in T5_SIZES else _gpt2 if size in GPT2_SIZES else _llama
    model = build(size)
    deviation = PLAUSIBLE_GAP / (MEAN_GAP * -math.log(1 - several))
    rows, width = model.lm_head.weight.shape
    model.lm_head.weight = nn.Parameter(torch.randn(rows, width) * deviation * width**-0.5)
    model = model.eval().to(device=device, dtype=dtype)
    move_all_together(model)
    mask = torch.ones(batch, length, dtype=torch.long, device=device)
    if size in T5_SIZES:
        source = torch.randn(batch, length, width, dtype=dtype, device=device)

        def encoded() -> dict:
            return {"encoder_outputs": BaseModelOutput(last_hidden_state=source), "attention_mask": mask}

        layers, once = zip(*map(_t5_matrices, model.decoder.block), strict=True)
        return Workload(
            model, T5ForConditionalGeneration, encoded, source.flatten(0, 1), list(layers), list(once), False
        )
    ids = torch.randint(1, rows, (batch, length), device=device)
    prompt = torch.randn(batch * length, width, dtype=dtype, device=device)
    if size in GPT2_SIZES:
        library, layers = GPT2LMHeadModel, [_gpt2_matrices(block) for block in model.transformer.h]
    else:
        library, layers = LlamaForCausalLM, [_llama_matrices(layer) for layer in model.model.layers]
    return Workload(model, library, lambda: {"input_ids": ids, "attention_mask": mask}, prompt, layers, layers, True)


def _t5(size: str) -> DeployT5ForConditionalGeneration:
    config = T5Config(vocab_size=32128, d_kv=64, decoder_start_token_id=0, eos_token_id=None, **T5_SIZES[size])
    config.scale_decoder_outputs = False
    return DeployT5ForConditionalGeneration(config)


def _gpt2(size: str) -> DeployGPT2LMHeadModel:
    tokens = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
    sizes = {"vocab_size": 50257, "n_positions": POSITIONS, **GPT2_SIZES[size]}
    config = GPT2Config(tie_word_embeddings=False, **tokens, **sizes)
    return DeployGPT2LMHeadModel(config)


def _llama(size: str) -> DeployLlamaForCausalLM:
    tokens = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0}
    sizes = {"max_position_embeddings": POSITIONS, **LLAMA_SIZES[size]}
    return DeployLlamaForCausalLM(LlamaConfig(tie_word_embeddings=False, **tokens, **sizes))


def _t5_matrices(block: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    own, cross, dense = block.layer[0].SelfAttention, block.layer[1].EncDecAttention, block.layer[-1].DenseReluDense
    feed_forward = [dense.wi] if hasattr(dense, "wi") else [dense.wi_0, dense.wi_1]
    per_token = [own.q, own.k, own.v, own.o, cross.q, cross.o, *feed_forward, dense.wo]
    return [module.weight.t() for module in per_token], [cross.k.weight.t(), cross.v.weight.t()]


def _gpt2_matrices(block: nn.Module) -> list[Tensor]:
    return [module.weight for module in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)]


def _llama_matrices(layer: nn.Module) -> list[Tensor]:
    own, dense = layer.self_attn, layer.mlp
    modules = (own.q_proj, own.k_proj, own.v_proj, own.o_proj, dense.gate_proj, dense.up_proj, dense.down_proj)
    return [module.weight.t() for module in modules]
