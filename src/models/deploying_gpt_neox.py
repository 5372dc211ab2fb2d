"""GPT-NeoX, the architecture of Pythia, with early exits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from decoding.flops import Cost
from decoding.policy import Policy
from decoding.states import Block
from models.decoder_only import FusedLayerWeights, LayerNormAdapter, Linear, Rotary
from models.deploying import EarlyExitGeneration
from models.modeling_causal import EarlyExitGPTNeoXForCausalLM


class GPTNeoXAdapter(LayerNormAdapter):
    """How a token passes a GPT-NeoX: part of each head is turned, and both blocks may read the layer's input."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict, capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config, decoder = model.config, model.gpt_neox
        self.heads = self.kv_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.layers = [None, *map(_layer_weights, decoder.layers)]
        self.eps = config.layer_norm_eps
        self.final_norm = Linear.stored(decoder.final_layer_norm)
        self.rotary = Rotary(decoder.rotary_emb, capacity, self.final_norm.weight)
        self.parallel = config.use_parallel_residual
        self.scales = [self.head_dim**-0.5] * (self.num_layers + 1)

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token embedding, [N * width, D]."""
        return F.embedding(tokens.flatten(), self.model.gpt_neox.embed_in.weight)

    def project(self, weights: FusedLayerWeights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        projected = weights.qkv(self.norm(hidden, weights.attention_norm), block)
        heads = projected.view(-1, block.width, self.heads, 3 * self.head_dim).transpose(1, 2)
        return heads.chunk(3, dim=-1)

    def close(self, weights: FusedLayerWeights, hidden: Tensor, context: Tensor, block: Block) -> Tensor:
        if not self.parallel:
            return super().close(weights, hidden, context, block)
        return hidden + weights.attention_out(context, block) + self.feed_forward(weights, hidden, block)

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, heads, head_dim] each."""
        weights = self.layers[layer]
        width, size = hidden.shape[-1], self.head_dim
        matrix = weights.qkv.weight.t().view(self.heads, 3, size, width)[:, 1:].reshape(-1, width)
        bias = weights.qkv.bias
        bias = None if bias is None else bias.view(self.heads, 3, size)[:, 1:].reshape(-1)
        projected = F.linear(self.norm(hidden, weights.attention_norm), matrix, bias)
        keys, values = projected.view(len(hidden), self.heads, 2, size).unbind(2)
        return self.turned(keys, rows, slots), values

    def cost(self, policy: Policy) -> Cost:
        """Sizes for the FLOP counter."""
        config = self.model.config
        return self.cost_of(policy, config.hidden_size, 2 * config.hidden_size * config.intermediate_size)


class DeployGPTNeoXForCausalLM(EarlyExitGeneration, EarlyExitGPTNeoXForCausalLM):
    """GPT-NeoX with early exits."""

    adapter_class = GPTNeoXAdapter


def _layer_weights(layer: nn.Module) -> FusedLayerWeights:
    attention, dense = layer.attention, layer.mlp
    return FusedLayerWeights(
        Linear.stored(layer.input_layernorm),
        Linear.of(attention.query_key_value),
        Linear.of(attention.dense),
        Linear.stored(layer.post_attention_layernorm),
        Linear.of(dense.dense_h_to_4h),
        Linear.of(dense.dense_4h_to_h),
        dense.act,
    )
