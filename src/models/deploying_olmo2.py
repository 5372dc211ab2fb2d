"""OLMo 2 with early exits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import Olmo2ForCausalLM

from models.decoder_only import SeparateWeights
from models.deploying import EarlyExitGeneration
from models.deploying_llama import LlamaAdapter
from models.modeling_causal import CausalMixin
from models.products import Beside, Linear


class Olmo2Adapter(LlamaAdapter):
    """How a token passes an OLMo 2: norms follow the blocks, and those of queries and keys span all heads together."""

    def layer_weights(self, layer: Any) -> SeparateWeights:
        attention, dense, norm = layer.self_attn, layer.mlp, self.unembed.norm
        return SeparateWeights(
            attention_norm=norm.of(layer.post_attention_layernorm),
            qkv=Beside.of(attention.q_proj, attention.k_proj, attention.v_proj),
            q_norm=norm.of(attention.q_norm),
            k_norm=norm.of(attention.k_norm),
            attention_out=Linear.of(attention.o_proj),
            feed_forward_norm=norm.of(layer.post_feedforward_layernorm),
            up=Beside.of(dense.gate_proj, dense.up_proj),
            down=Linear.of(dense.down_proj),
            activation=dense.act_fn,
        )

    def attention_input(self, weights: SeparateWeights, hidden: Tensor) -> Tensor:
        return hidden

    def split_normed(
        self, projected: Tensor, width: int, norm: Callable[[Tensor], Tensor] | None, heads: int | None = None
    ) -> Tensor:
        return self.split(projected if norm is None else norm(projected), width, heads)

    def after_attention(self, weights: SeparateWeights, hidden: Tensor, context: Tensor) -> Tensor:
        hidden = hidden + weights.attention_norm(weights.attention_out(context))
        return hidden + weights.feed_forward_norm(self.feed_forward(weights, hidden))


class DeployOlmo2ForCausalLM(EarlyExitGeneration, CausalMixin, Olmo2ForCausalLM):
    """OLMo 2 with early exits."""

    adapter_class = Olmo2Adapter
    final_norm = "model.norm"
