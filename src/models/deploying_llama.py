"""Llama, Mistral, Qwen2 and Qwen3 with early exits: one adapter, a model class for each."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoding.flops import Cost
from decoding.policy import Policy
from decoding.states import Block
from models.adapter import rms_norm
from models.decoder_only import DecoderOnlyAdapter, Linear, Rotary
from models.deploying import EarlyExitGeneration
from models.modeling_causal import (
    EarlyExitLlamaForCausalLM,
    EarlyExitMistralForCausalLM,
    EarlyExitQwen2ForCausalLM,
    EarlyExitQwen3ForCausalLM,
)


class LlamaLayerWeights(NamedTuple):
    """The parameters of one layer themselves, no copies; `q_norm` and `k_norm` are Qwen3's alone."""

    attention_norm: Tensor
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    feed_forward_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear
    activation: nn.Module


class LlamaAdapter(DecoderOnlyAdapter):
    """How a token passes a decoder with rotary positions, grouped keys and values, RMS norms and a gated feed-forward
    block."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict, capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config, decoder = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.layers = [None, *map(_layer_weights, decoder.layers)]
        self.final_norm = decoder.norm.weight
        self.eps = torch.tensor(config.rms_norm_eps, dtype=self.final_norm.dtype, device=self.device)
        self.rotary = Rotary(decoder.rotary_emb, capacity, self.final_norm)
        self.scales = [self.head_dim**-0.5] * (self.num_layers + 1)
        self.windows = [None, *(_window(config, layer) for layer in range(self.num_layers))]

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token embedding, [N * width, D]."""
        return F.embedding(tokens.flatten(), self.model.model.embed_tokens.weight)

    def project(self, weights: LlamaLayerWeights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        normed = rms_norm(hidden, weights.attention_norm, self.eps)
        query = self.split(weights.q(normed, block), block.width, self.heads)
        keys, values = (self.split(linear(normed, block), block.width) for linear in (weights.k, weights.v))
        if weights.q_norm is not None:
            query, keys = rms_norm(query, weights.q_norm, self.eps), rms_norm(keys, weights.k_norm, self.eps)
        return query, keys, values

    def close(self, weights: LlamaLayerWeights, hidden: Tensor, context: Tensor, block: Block) -> Tensor:
        hidden = hidden + weights.o(context, block)
        normed = rms_norm(hidden, weights.feed_forward_norm, self.eps)
        inner = weights.activation(weights.gate(normed, block)) * weights.up(normed, block)
        return hidden + weights.down(inner, block)

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, kv_heads, head_dim] each."""
        weights = self.layers[layer]
        normed = rms_norm(hidden, weights.attention_norm, self.eps)
        shape = (len(hidden), self.kv_heads, self.head_dim)
        keys, values = (F.linear(normed, each.weight.t(), each.bias).view(shape) for each in (weights.k, weights.v))
        if weights.k_norm is not None:
            keys = rms_norm(keys, weights.k_norm, self.eps)
        return self.turned(keys, rows, slots), values

    def normalise(self, hidden: Tensor) -> Tensor:
        """Final norm, [n, D]."""
        return rms_norm(hidden, self.final_norm, self.eps)

    def cost(self, policy: Policy) -> Cost:
        """Sizes for the FLOP counter."""
        config = self.model.config
        return self.cost_of(policy, config.hidden_size, 3 * config.hidden_size * config.intermediate_size)


class DeployLlamaForCausalLM(EarlyExitGeneration, EarlyExitLlamaForCausalLM):
    """Llama with early exits."""

    adapter_class = LlamaAdapter


class DeployMistralForCausalLM(EarlyExitGeneration, EarlyExitMistralForCausalLM):
    """Mistral with early exits."""

    adapter_class = LlamaAdapter


class DeployQwen2ForCausalLM(EarlyExitGeneration, EarlyExitQwen2ForCausalLM):
    """Qwen2 and Qwen2.5 with early exits."""

    adapter_class = LlamaAdapter


class DeployQwen3ForCausalLM(EarlyExitGeneration, EarlyExitQwen3ForCausalLM):
    """Qwen3 with early exits."""

    adapter_class = LlamaAdapter


def _layer_weights(layer: nn.Module) -> LlamaLayerWeights:
    attention, dense = layer.self_attn, layer.mlp
    q_norm, k_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return LlamaLayerWeights(
        layer.input_layernorm.weight,
        *(Linear.of(getattr(attention, f"{name}_proj")) for name in "qkvo"),
        None if q_norm is None else q_norm.weight,
        None if k_norm is None else k_norm.weight,
        layer.post_attention_layernorm.weight,
        *(Linear.of(getattr(dense, f"{name}_proj")) for name in ("gate", "up", "down")),
        dense.act_fn,
    )


def _window(config, layer: int) -> int | None:
    """How many of the last slots a layer (from 0) sees; None for all of them."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    return window if kinds is None or kinds[layer] == "sliding_attention" else None
