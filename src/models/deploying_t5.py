"""T5 and mT5 with early exits: the adapter of the T5 decoder and the model classes whose `generate` uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decoding.adapter import KeyValues
from decoding.attention import attend
from decoding.blocks import Block, WindowedBias
from decoding.flops import Cost
from decoding.states import BUCKET
from models.adapter import Adapter, effective_mask, gated, mask_bias, merge, true_lengths
from models.deploying import EarlyExitGeneration
from models.modeling_t5 import EarlyExitMT5ForConditionalGeneration, EarlyExitT5ForConditionalGeneration
from models.norms import Norm
from models.products import Beside, Linear


class T5LayerWeights(NamedTuple):
    """The parameters of one decoder layer themselves, no copies: named once per call, because looking a parameter up
    on a module costs as much as a small product."""

    self_norm: Norm
    qkv: Beside
    o: Linear
    cross_norm: Norm
    cross_q: Linear
    cross_k: Linear
    cross_v: Linear
    cross_o: Linear
    feed_forward_norm: Norm
    wi: Beside
    wo: Linear
    activation: Callable[[Tensor], Tensor]


def layer_weights(block: Any, norm: Norm) -> T5LayerWeights:
    """Name the parameters of a Hugging Face T5, mT5 or LongT5 decoder block."""
    self_attention, cross_attention, feed_forward = block.layer[0], block.layer[1], block.layer[-1]
    own, cross, dense = self_attention.SelfAttention, cross_attention.EncDecAttention, feed_forward.DenseReluDense
    return T5LayerWeights(
        norm.of(self_attention.layer_norm),
        Beside.of(own.q, own.k, own.v),
        Linear.of(own.o),
        norm.of(cross_attention.layer_norm),
        Linear.of(cross.q),
        Linear.of(cross.k),
        Linear.of(cross.v),
        Linear.of(cross.o),
        norm.of(feed_forward.layer_norm),
        Beside.of(dense.wi_0, dense.wi_1) if hasattr(dense, "wi_0") else Beside.of(dense.wi),
        Linear.of(dense.wo),
        dense.act,
    )


class T5Adapter(Adapter):
    """How a token passes the decoder of a T5, on the Hugging Face module's own weights. One per generate call.

    Scores are not divided by sqrt(head_dim) in T5; a bias by relative distance, shared by all layers, is added.
    """

    scale = 1.0

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config, norm = model.config, self.unembed.norm
        self.kv_heads, self.head_dim = config.num_heads, config.d_kv
        self.layers = [layer_weights(block, norm) for block in model.decoder.block]
        self.kv_dtype = self.layers[0].o.weight.dtype
        self.device = self.layers[0].o.weight.device
        self.source = model_kwargs["encoder_outputs"][0]  # [B, S, D]
        self.source_mask = effective_mask(model_kwargs.get("attention_mask"))
        self.source_bias = mask_bias(self.source_mask, self.kv_dtype)
        self.prompt_mask = effective_mask(model_kwargs.get("decoder_attention_mask"))
        self.prompt_bias = mask_bias(self.prompt_mask, self.kv_dtype)
        self.distance_bias = self._distance_bias(capacity)
        self.cross: list[tuple[Tensor, Tensor] | None] = [None] * self.num_layers

    @staticmethod
    def count_layers(config) -> int:
        return config.num_decoder_layers

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """h^0 of the tokens [N, width]: [N * width, D]; T5 adds no position to it."""
        return F.embedding(tokens.flatten(), self.model.decoder.embed_tokens.weight)

    def attention_bias(self, slot: int, keys: int) -> Tensor:
        """Relative distance bias of one slot over the first `keys` slots, [1 or B, heads, 1, keys].

        One slice of a table: entry i of the table belongs to the distance capacity - 1 - i.
        """
        bias = self.distance_bias.narrow(1, self.capacity - 1 - slot, keys)[None, :, None]
        return bias if self.prompt_bias is None else bias + self._hidden_prompt(self.prompt_bias, keys)

    def attention_bias_at(self, slots: Tensor, keys: int, ends: Tensor | None = None) -> Tensor:
        """The same of several slots, [1 or B, width], per row: [1 or B, heads, width, keys].

        Args:
            ends: The last slot that each may see, [1 or B, 1], at distance 0 where it is to come; None for its own.
        """
        seen = torch.arange(keys, device=self.device)
        places = (self.capacity - 1 - slots)[..., None] + seen
        if ends is not None:
            places = torch.where(seen <= ends[..., None], places.clamp_max(self.capacity - 1), places)
        bias = self.distance_bias[:, places].transpose(0, 1)
        return bias if self.prompt_bias is None else bias + self._hidden_prompt(self.prompt_bias, keys)

    def _hidden_prompt(self, prompt_bias: Tensor, keys: int) -> Tensor:
        """What hides the prompt's padding among the first `keys` slots, [B, 1, 1, keys]."""
        return F.pad(prompt_bias, (0, max(0, keys - self.prompt_length)))[..., :keys]

    def run_layer(self, layer: int, hidden: Tensor, states: KeyValues, block: Block) -> Tensor:
        """One decoder layer for the block, [N * width, D]: self-attention, cross-attention, feed-forward."""
        weights, width = self.layers[layer - 1], block.width
        normed = weights.self_norm(hidden)
        query, keys, values = (self.split(projected, width) for projected in weights.qkv(normed))
        states.store(layer, block, keys, values)
        assert not isinstance(block.bias, WindowedBias), "a T5 has no windows"
        context = states.attend(layer, query, block, self.scale, block.bias)
        hidden = _add_product(hidden, merge(context), weights.o)

        normed = weights.cross_norm(hidden)
        query = self.split(weights.cross_q(normed), width)
        context = attend(query, *self._cross_states(layer), block, self.source_bias, self.scale)
        hidden = _add_product(hidden, merge(context), weights.cross_o)

        normed = weights.feed_forward_norm(hidden)
        return _add_product(hidden, gated(weights.activation, weights.wi(normed)), weights.wo)

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, heads, head_dim] each."""
        weights = self.layers[layer - 1]
        normed = weights.self_norm(hidden)
        shape = (len(hidden), self.kv_heads, self.head_dim)
        _, k, v = weights.qkv.parts
        return k(normed).view(shape), v(normed).view(shape)

    def cost(self) -> Cost:
        """Sizes for the FLOP counter."""
        config = self.model.config
        batch, source_length, _ = self.source.shape
        weights = self.layers[0]
        inner = config.num_heads * config.d_kv
        feed_forward = config.d_model * config.d_ff * (len(weights.wi.parts) + 1)
        source = true_lengths(self.source_mask, batch, source_length)
        passed = 2 * (4 * config.d_model * inner + feed_forward)  # of a token, by the matrices of an encoder layer
        return Cost(
            num_layers=self.num_layers,
            width=config.d_model,
            attention_width=inner,
            kv_width=inner,
            feed_forward=feed_forward,
            prompt=true_lengths(self.prompt_mask, batch, self.prompt_length),
            prefilled=self.prompt_length > 1,
            source=source,
            encoder=config.num_layers * (source * passed + self.encoder_attention(source)),
        )

    def encoder_attention(self, lengths: np.ndarray) -> np.ndarray:
        """FLOPs of one encoder layer beside the matrices that every token meets, of sources so long, [B]."""
        return 2 * 2 * self.kv_heads * self.head_dim * lengths**2

    def _distance_bias(self, capacity: int) -> Tensor:
        """[heads, capacity + future]: the bias by distance, capacity - 1 down to 0, then a mask for slots to come."""
        attention = self.model.decoder.block[0].layer[0].SelfAttention
        bias = attention.compute_bias(1, capacity, device=self.device, past_seen_tokens=capacity - 1)[0, :, 0]
        future = bias.new_full((bias.shape[0], capacity + BUCKET), torch.finfo(bias.dtype).min)
        return torch.cat([bias, future], 1).to(self.kv_dtype)

    def _cross_states(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the source at a layer, [B, heads, S, head_dim], projected when first reached."""
        held = self.cross[layer - 1]
        if held is None:
            weights, length = self.layers[layer - 1], self.source.shape[1]
            source = self.source.to(weights.cross_k.weight.dtype).flatten(0, 1)
            keys, values = (self.split(matrix(source), length) for matrix in (weights.cross_k, weights.cross_v))
            held = self.cross[layer - 1] = (keys.contiguous(), values.contiguous())
        return held


def _add_product(hidden: Tensor, inner: Tensor, out: Linear) -> Tensor:
    """hidden [n, D] with what `out` makes of inner [n, K] added to it, [n, D].

    T5 overflows float16 in its residual stream, so that is clamped as the library does, but row by row.
    """
    hidden = out.added_to(hidden, inner.to(out.weight.dtype))
    if hidden.dtype != torch.float16:
        return hidden
    limit = torch.finfo(torch.float16).max - 1000
    return hidden.clamp(-limit, limit)


class DeployT5ForConditionalGeneration(EarlyExitGeneration, EarlyExitT5ForConditionalGeneration):
    """T5 1.0, T5 1.1 and flan-T5 with early exits."""

    adapter_class = T5Adapter


class DeployMT5ForConditionalGeneration(EarlyExitGeneration, EarlyExitMT5ForConditionalGeneration):
    """mT5 with early exits."""

    adapter_class = T5Adapter
