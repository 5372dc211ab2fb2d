"""GPT-2 with early exits: the adapter of the GPT-2 decoder and the model class whose `generate` uses it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from decoding.flops import Cost
from decoding.policy import Policy
from decoding.states import Block
from models.decoder_only import FusedLayerWeights, LayerNormAdapter, Linear
from models.deploying import EarlyExitGeneration
from models.modeling_causal import EarlyExitGPT2LMHeadModel


class GPT2Adapter(LayerNormAdapter):
    """How a token passes a GPT-2."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict, capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config = model.config
        if config.add_cross_attention:
            raise ValueError("add_cross_attention is set: early-exit decoding of GPT-2 supports decoder-only models.")
        self.refuse_more_than(config.n_positions)
        self.heads = self.kv_heads = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.layers = [None, *(_layer_weights(block) for block in model.transformer.h)]
        self.eps = config.layer_norm_epsilon
        self.final_norm = Linear.stored(model.transformer.ln_f)
        self.scales = [_attention_scale(config, layer, self.head_dim) for layer in range(self.num_layers + 1)]

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token plus learned position embedding, [N * width, D]."""
        transformer = self.model.transformer
        hidden = F.embedding(tokens, transformer.wte.weight)
        return (hidden + F.embedding(self.positions(block), transformer.wpe.weight)).flatten(0, 1)

    def project(self, weights: FusedLayerWeights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        projected = weights.qkv(self.norm(hidden, weights.attention_norm), block)
        return tuple(self.split(part, block.width) for part in projected.chunk(3, dim=-1))

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, heads, head_dim] each."""
        weights = self.layers[layer]
        normed = self.norm(hidden, weights.attention_norm)
        width = hidden.shape[-1]
        projected = F.linear(normed, weights.qkv.weight[:, width:].t(), weights.qkv.bias[width:])
        return projected.view(len(hidden), 2, self.kv_heads, self.head_dim).unbind(1)

    def cost(self, policy: Policy) -> Cost:
        """Sizes for the FLOP counter."""
        width = self.model.config.n_embd
        return self.cost_of(policy, width, 2 * width * self.layers[1].inner.weight.shape[1])


class DeployGPT2LMHeadModel(EarlyExitGeneration, EarlyExitGPT2LMHeadModel):
    """GPT-2 with early exits."""

    adapter_class = GPT2Adapter


def _layer_weights(block: nn.Module) -> FusedLayerWeights:
    modules = (block.ln_1, block.attn.c_attn, block.attn.c_proj, block.ln_2, block.mlp.c_fc, block.mlp.c_proj)
    return FusedLayerWeights(*map(Linear.stored, modules), block.mlp.act)


def _attention_scale(config, layer: int, head_dim: int) -> float:
    scale = head_dim**-0.5 if config.scale_attn_weights else 1.0
    return scale / layer if config.scale_attn_by_inverse_layer_idx and layer else scale
