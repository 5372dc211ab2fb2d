"""GPT-2 with early exits: the adapter of the GPT-2 decoder and the model class whose `generate` uses it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from decoding.flops import Cost
from decoding.policy import Policy
from decoding.states import Block, States
from models.adapter import Adapter, effective_mask, mask_bias, merge, true_lengths
from models.deploying import EarlyExitGeneration


class Affine(NamedTuple):
    """A weight and its bias: of a norm, or of a Conv1D, whose weight is [in, out]."""

    weight: Tensor
    bias: Tensor


class GPT2LayerWeights(NamedTuple):
    """The parameters of one layer themselves, no copies."""

    attention_norm: Affine
    qkv: Affine
    attention_out: Affine
    feed_forward_norm: Affine
    inner: Affine
    outer: Affine
    activation: nn.Module


class GPT2Adapter(Adapter):
    """How a token passes a GPT-2, on the Hugging Face module's own weights. One per generate call."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict, capacity: int):
        config = model.config
        if config.add_cross_attention:
            raise ValueError("add_cross_attention is set: early-exit decoding of GPT-2 supports decoder-only models.")
        if capacity > config.n_positions:
            raise ValueError(
                f"prompt and answer may take {capacity} tokens together, but the model has {config.n_positions} "
                "positions: shorten the prompt or lower max_new_tokens."
            )
        self.model = model
        self.num_layers = self.count_layers(config)
        self.output_weight = model.lm_head.weight
        self.kv_heads, self.head_dim = config.n_head, config.n_embd // config.n_head
        self.layers = [None, *(_layer_weights(block) for block in model.transformer.h)]
        self.kv_dtype, self.device = self.layers[1].qkv.weight.dtype, self.layers[1].qkv.weight.device
        self.eps = config.layer_norm_epsilon
        self.final_norm = _affine(model.transformer.ln_f)
        self.batch, self.prompt_length = prompt.shape
        self.prompt_mask = effective_mask(model_kwargs.get("attention_mask"))
        self.prompt_bias = mask_bias(self.prompt_mask, self.kv_dtype)
        # Slots that a left-padded row spends on padding do not count as positions.
        self.padding = None if self.prompt_mask is None else (self.prompt_mask == 0).sum(1)
        self.scales = [_attention_scale(config, layer, self.head_dim) for layer in range(self.num_layers + 1)]

    @staticmethod
    def count_layers(config) -> int:
        return config.n_layer

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token plus learned position embedding, [N * width, D]."""
        slots = torch.as_tensor(block.slots, device=self.device)
        if self.padding is not None:
            padding = self.padding if block.index is None else self.padding[block.index]
            slots = (slots - padding[:, None]).clamp_min(0)
        transformer = self.model.transformer
        hidden = F.embedding(tokens, transformer.wte.weight) + F.embedding(slots, transformer.wpe.weight)
        return hidden.flatten(0, 1)

    def attention_bias(self, slot: int, keys: int) -> Tensor | None:
        """Mask of slots to come and of padding for one slot, [1 or B, 1, 1, keys], or None where nothing is hidden."""
        if keys == slot + 1 and self.prompt_bias is None:
            return None
        return self.attention_bias_at(torch.tensor([[slot]], device=self.device), keys)

    def attention_bias_at(self, slots: Tensor, keys: int, ends: Tensor | None = None) -> Tensor:
        """The same of several slots, [1 or B, width], per row: [1 or B, 1, width, keys].

        Args:
            ends: The last slot that each may see, [1 or B, 1]; None for its own.
        """
        lasts = slots if ends is None else ends.expand(slots.shape)
        visible = torch.arange(keys, device=self.device) <= lasts[..., None]
        bias = torch.zeros(visible.shape, dtype=self.kv_dtype, device=self.device)
        bias = bias.masked_fill_(~visible, torch.finfo(self.kv_dtype).min)[:, None]
        if self.prompt_bias is None:
            return bias
        return torch.minimum(bias, F.pad(self.prompt_bias, (0, max(0, keys - self.prompt_length)))[..., :keys])

    def run_layer(self, layer: int, hidden: Tensor, states: States, block: Block) -> Tensor:
        """One layer for the block, [N * width, D]: self-attention, feed-forward."""
        weights = self.layers[layer]
        projected = _conv(self._norm(hidden, weights.attention_norm), weights.qkv)
        query, keys, values = (self.split(part, block.width) for part in projected.chunk(3, dim=-1))
        states.store(layer, block, keys, values)
        context = states.attend(layer, query, block, self.scales[layer])
        hidden = hidden + _conv(merge(context), weights.attention_out)
        inner = weights.activation(_conv(self._norm(hidden, weights.feed_forward_norm), weights.inner))
        return hidden + _conv(inner, weights.outer)

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, heads, head_dim] each."""
        weights = self.layers[layer]
        normed = self._norm(hidden, weights.attention_norm)
        width = hidden.shape[-1]
        projected = torch.addmm(weights.qkv.bias[width:], normed, weights.qkv.weight[:, width:])
        return projected.view(len(hidden), 2, self.kv_heads, self.head_dim).unbind(1)

    def normalise(self, hidden: Tensor) -> Tensor:
        """Final norm, [n, D]."""
        return self._norm(hidden, self.final_norm)

    def cost(self, policy: Policy) -> Cost:
        """Sizes for the FLOP counter."""
        width = self.model.config.n_embd
        return Cost(
            num_layers=self.num_layers,
            width=width,
            attention_width=width,
            kv_width=width,
            feed_forward=2 * width * self.layers[1].inner.weight.shape[1],
            prompt=true_lengths(self.prompt_mask, self.batch, self.prompt_length),
            prefilled=True,
            source=np.zeros(self.batch, np.int64),
            recomputes=policy.recomputes,
            **({} if policy.confidence is None else policy.measure.counts),
        )

    def _norm(self, hidden: Tensor, norm: Affine) -> Tensor:
        return F.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, self.eps)


class DeployGPT2LMHeadModel(EarlyExitGeneration, GPT2LMHeadModel):
    """GPT-2 with early exits."""

    adapter_class = GPT2Adapter

    @classmethod
    def is_custom_code(cls) -> bool:
        """The library's own initialisation rules apply, as this class adds no layer of another kind."""
        return False


def _affine(module: nn.Module) -> Affine:
    return Affine(module.weight, module.bias)


def _layer_weights(block: nn.Module) -> GPT2LayerWeights:
    return GPT2LayerWeights(
        _affine(block.ln_1),
        _affine(block.attn.c_attn),
        _affine(block.attn.c_proj),
        _affine(block.ln_2),
        _affine(block.mlp.c_fc),
        _affine(block.mlp.c_proj),
        block.mlp.act,
    )


def _conv(hidden: Tensor, conv: Affine) -> Tensor:
    """Hugging Face's Conv1D on [n, in]: its weight is [in, out], and stays so."""
    return torch.addmm(conv.bias, hidden, conv.weight)


def _attention_scale(config, layer: int, head_dim: int) -> float:
    scale = head_dim**-0.5 if config.scale_attn_weights else 1.0
    return scale / layer if config.scale_attn_by_inverse_layer_idx and layer else scale
