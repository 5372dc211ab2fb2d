"""GPT-NeoX, the architecture of Pythia, with early exits."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GPTNeoXForCausalLM

from decoding.blocks import Block
from models.decoder_only import FusedWeights, ParallelBlocks, Rotary
from models.deploying import EarlyExitGeneration
from models.modeling_causal import CausalMixin
from models.norms import Norm
from models.products import Beside, Linear


class GPTNeoXAdapter(ParallelBlocks[FusedWeights]):
    """How a token passes a GPT-NeoX: part of each head is rotated, and both blocks may read the layer's input."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config, decoder = model.config, model.gpt_neox
        self.heads = self.kv_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.layers = [_layer_weights(layer, self.unembed.norm) for layer in decoder.layers]
        self.rotaries = [Rotary(decoder.rotary_emb, capacity, self.unembed.weight)] * self.num_layers
        self.parallel = config.use_parallel_residual

    def project_qkv(self, weights: FusedWeights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        projected = weights.qkv(weights.attention_norm(hidden))
        heads = projected.view(-1, block.width, self.heads, 3 * self.head_dim).transpose(1, 2)
        query, keys, values = heads.chunk(3, dim=-1)
        return query, keys, values

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, heads, head_dim] each."""
        weights = self.layers[layer - 1]
        width, size = hidden.shape[-1], self.head_dim
        matrix = weights.qkv.weight.t().view(self.heads, 3, size, width)[:, 1:].reshape(-1, width)
        bias = weights.qkv.bias
        bias = None if bias is None else bias.view(self.heads, 3, size)[:, 1:].reshape(-1)
        projected = Linear(matrix.t(), bias)(weights.attention_norm(hidden))
        keys, values = projected.view(len(hidden), self.heads, 2, size).unbind(2)
        return self.rotated(layer, keys, rows, slots), values


class DeployGPTNeoXForCausalLM(EarlyExitGeneration, CausalMixin, GPTNeoXForCausalLM):
    """GPT-NeoX with early exits."""

    adapter_class = GPTNeoXAdapter
    final_norm = "gpt_neox.final_layer_norm"
    lora_targets = ("query_key_value",)


def _layer_weights(layer: Any, norm: Norm) -> FusedWeights:
    return FusedWeights(
        attention_norm=norm.of(layer.input_layernorm),
        qkv=Linear.of(layer.attention.query_key_value),
        attention_out=Linear.of(layer.attention.dense),
        feed_forward_norm=norm.of(layer.post_attention_layernorm),
        up=Beside.of(layer.mlp.dense_h_to_4h),
        down=Linear.of(layer.mlp.dense_4h_to_h),
        activation=layer.mlp.act,
    )
