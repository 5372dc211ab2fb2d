"""GPT-2 with early exits: the adapter of the GPT-2 decoder and the model class whose `generate` uses it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from decoding.blocks import Block
from models.decoder_only import DecoderOnlyAdapter, FusedWeights
from models.deploying import EarlyExitGeneration
from models.modeling_causal import EarlyExitGPT2LMHeadModel
from models.norms import Norm
from models.products import Beside, Linear


class GPT2Adapter(DecoderOnlyAdapter[FusedWeights]):
    """How a token passes a GPT-2."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config = model.config
        if config.add_cross_attention:
            raise ValueError("add_cross_attention is set: early-exit decoding of GPT-2 supports decoder-only models.")
        self.refuse_more_than(config.n_positions)
        self.heads = self.kv_heads = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.layers = [_layer_weights(block, self.unembed.norm) for block in model.transformer.h]

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token plus learned position embedding, [N * width, D]."""
        transformer = self.model.transformer
        hidden = F.embedding(tokens, transformer.wte.weight)
        return (hidden + F.embedding(self.positions(block), transformer.wpe.weight)).flatten(0, 1)

    def scale(self, layer: int) -> float:
        config = self.model.config
        scale = super().scale(layer) if config.scale_attn_weights else 1.0
        return scale / layer if config.scale_attn_by_inverse_layer_idx else scale

    def project_qkv(self, weights: FusedWeights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        projected = weights.qkv(weights.attention_norm(hidden))
        query, keys, values = (self.split(part, block.width) for part in projected.chunk(3, dim=-1))
        return query, keys, values

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, heads, head_dim] each."""
        weights, width = self.layers[layer - 1], hidden.shape[-1]
        bias = None if weights.qkv.bias is None else weights.qkv.bias[width:]
        projected = Linear(weights.qkv.weight[:, width:], bias)(weights.attention_norm(hidden))
        keys, values = projected.view(len(hidden), 2, self.kv_heads, self.head_dim).unbind(1)
        return keys, values


class DeployGPT2LMHeadModel(EarlyExitGeneration, EarlyExitGPT2LMHeadModel):
    """GPT-2 with early exits."""

    adapter_class = GPT2Adapter


def _layer_weights(block: Any, norm: Norm) -> FusedWeights:
    return FusedWeights(
        attention_norm=norm.of(block.ln_1),
        qkv=Linear.stored(block.attn.c_attn),
        attention_out=Linear.stored(block.attn.c_proj),
        feed_forward_norm=norm.of(block.ln_2),
        up=Beside([Linear.stored(block.mlp.c_fc)]),
        down=Linear.stored(block.mlp.c_proj),
        activation=block.mlp.act,
    )
