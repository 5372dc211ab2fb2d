"""Llama, Mistral, Qwen2 and Qwen3 with early exits: one adapter, a model class for each."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

from models.decoder_only import Rotary, SeparateAdapter, SeparateWeights
from models.deploying import EarlyExitGeneration
from models.modeling_causal import CausalMixin
from models.products import Beside, Linear


class LlamaAdapter(SeparateAdapter):
    """How a token passes a decoder with rotary positions, grouped keys and values, and a gated feed-forward block.

    Base of the adapters of its kin, which name their modules alike.
    """

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config, decoder = model.config, model.model
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.layers = [self.layer_weights(layer) for layer in decoder.layers]
        self.rotaries = self.make_rotaries(decoder.rotary_emb)
        self.windows = [_window(config, layer) for layer in range(self.num_layers)]

    def make_rotaries(self, module: Any) -> list[Rotary]:
        """The rotary positions of each layer, first to last."""
        return [Rotary(module, self.capacity, self.unembed.weight)] * self.num_layers

    def layer_weights(self, layer: Any) -> SeparateWeights:
        """Name the parameters of one layer; Qwen3 alone has norms of queries and keys."""
        attention, dense, norm = layer.self_attn, layer.mlp, self.unembed.norm
        has_norms = hasattr(attention, "q_norm")
        return SeparateWeights(
            attention_norm=norm.of(layer.input_layernorm),
            qkv=Beside.of(attention.q_proj, attention.k_proj, attention.v_proj),
            q_norm=norm.of(attention.q_norm) if has_norms else None,
            k_norm=norm.of(attention.k_norm) if has_norms else None,
            attention_out=Linear.of(attention.o_proj),
            feed_forward_norm=norm.of(layer.post_attention_layernorm),
            up=Beside.of(dense.gate_proj, dense.up_proj),
            down=Linear.of(dense.down_proj),
            activation=dense.act_fn,
        )


class DeployLlamaForCausalLM(EarlyExitGeneration, CausalMixin, LlamaForCausalLM):
    """Llama with early exits."""

    adapter_class = LlamaAdapter
    final_norm = "model.norm"


class DeployMistralForCausalLM(EarlyExitGeneration, CausalMixin, MistralForCausalLM):
    """Mistral with early exits."""

    adapter_class = LlamaAdapter
    final_norm = "model.norm"


class DeployQwen2ForCausalLM(EarlyExitGeneration, CausalMixin, Qwen2ForCausalLM):
    """Qwen2 and Qwen2.5 with early exits."""

    adapter_class = LlamaAdapter
    final_norm = "model.norm"


class DeployQwen3ForCausalLM(EarlyExitGeneration, CausalMixin, Qwen3ForCausalLM):
    """Qwen3 with early exits."""

    adapter_class = LlamaAdapter
    final_norm = "model.norm"


def _window(config, layer: int) -> int | None:
    """How many of the last slots a layer (from 0) sees; None for all of them."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    return window if kinds is None or kinds[layer] == "sliding_attention" else None
