"""What the adapters of decoder-only models share: positions of left-padded rows, masks, rotary positions, and a layer
of attention and feed-forward blocks behind norms.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decoding.adapter import KeyValues
from decoding.blocks import AttentionBias, Block, WindowedBias
from decoding.flops import Cost
from models.adapter import Adapter, effective_mask, gated, mask_bias, merge, true_lengths
from models.norms import Norm
from models.products import Beside, Linear

# Kinds of rotary positions whose frequencies change once a text is longer than those the model was trained on.
STRETCHING = ("dynamic", "longrope")


class Rotary:
    """Rotary positions (arXiv:2104.09864) of one call, in the model's own frequencies.

    Attributes:
        cos, sin: [capacity, R], R at most head_dim; the sine of the first half has its sign already.
    """

    def __init__(self, module: Any, capacity: int, like: Tensor, layers: str | None = None):
        """Of a module of the library.

        Args:
            layers: Of which kind of layers, where each kind has its own; None where all share one.
        """
        kind, settings = module.rope_type, module.config.rope_parameters
        if layers is not None:
            kind, settings = kind[layers], settings[layers]
        trained = settings.get("original_max_position_embeddings") if kind == "longrope" else None
        trained = trained or module.original_max_seq_len
        if kind in STRETCHING and capacity > trained:
            raise ValueError(
                f"The model's rotary positions are of the kind {kind!r}, which change beyond {trained} tokens: prompt "
                f"and answer may take {capacity} together, so shorten the prompt or ask for fewer new tokens."
            )
        own = () if layers is None else (layers,)
        cos, sin = module(like, torch.arange(capacity, device=like.device)[None], *own)
        self.cos, self.sin = cos[0], sin[0].clone()
        self.half = self.cos.shape[-1] // 2
        self.sin[:, : self.half].neg_()

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [...], [..., R] each."""
        return F.embedding(positions, self.cos), F.embedding(positions, self.sin)

    def rotate(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys [..., head_dim] rotated to their positions."""
        width = cos.shape[-1]
        if width < states.shape[-1]:
            return torch.cat([self.rotate(states[..., :width], cos, sin), states[..., width:]], -1)
        rotated = states * cos + states.roll(self.half, -1) * sin
        return rotated.to(states.dtype)  # OLMo 2 rotates in float32


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """The parameters of one layer themselves, no copies.

    Attributes:
        attention_norm, feed_forward_norm: Of each block's input; of its output in OLMo 2.
        attention_out_norm, feed_forward_out_norm: Of its output, beside those of its input; None where there is none.
        up: Into the feed-forward block: a gate, if it has one, and what that lets through.
    """

    attention_norm: Norm
    attention_out: Linear
    feed_forward_norm: Norm
    up: Beside
    down: Linear
    activation: Callable[[Tensor], Tensor]
    attention_out_norm: Norm | None = None
    feed_forward_out_norm: Norm | None = None


@dataclass(frozen=True, kw_only=True)
class FusedWeights(LayerWeights):
    """Those of a layer with one matrix for queries, keys and values."""

    qkv: Linear


@dataclass(frozen=True, kw_only=True)
class SeparateWeights(LayerWeights):
    """Those of a layer with a matrix each; queries and keys may have norms of their own."""

    qkv: Beside
    q_norm: Callable[[Tensor], Tensor] | None = None
    k_norm: Callable[[Tensor], Tensor] | None = None


Weights = TypeVar("Weights", bound=LayerWeights)


class DecoderOnlyAdapter(Adapter, Generic[Weights]):
    """Base of the adapters of decoder-only models: a norm before each of two blocks, one behind the other.

    A subclass sets `heads`, `kv_heads`, `head_dim` and `layers`, and writes what is special to its architecture.

    Attributes:
        heads: Of queries, a multiple of `kv_heads`.
        layers: Their weights, first to last.
        rotaries: Per layer, first to last, its rotary positions; empty where positions are embedded.
        windows: Per layer, first to last, how many of the last slots it sees; None for all of them.
    """

    heads: int
    layers: list[Weights]
    rotaries: Sequence[Rotary] = ()
    windows: Sequence[int | None] = ()

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        self.batch = prompt.shape[0]
        self.kv_dtype, self.device = self.unembed.dtype, self.unembed.device
        self.prompt_mask = effective_mask(model_kwargs.get("attention_mask"))
        self.prompt_bias = mask_bias(self.prompt_mask, self.kv_dtype)
        # Slots that a left-padded row spends on padding do not count as positions.
        self.padding = None if self.prompt_mask is None else (self.prompt_mask == 0).sum(1)
        self._rotated: Block | None = None
        self._rotations: dict[Rotary, tuple[Tensor, Tensor]] = {}

    def refuse_more_than(self, positions: int) -> None:
        """Refuse a text longer than the table of positions."""
        if self.capacity > positions:
            raise ValueError(
                f"prompt and answer may take {self.capacity} tokens together, but the model has {positions} "
                "positions: shorten the prompt or ask for fewer new tokens."
            )

    def positions(self, block: Block) -> Tensor:
        """Of the block's slots, [N or 1, width]."""
        slots = block.slots(self.device)
        if self.padding is None:
            return slots
        padding = self.padding if block.index is None else self.padding[block.index]
        return (slots - padding[:, None]).clamp_min(0)

    # ---------------------------------------------------------------------------------------------------------- masks
    def attention_bias(self, slot: int, keys: int) -> AttentionBias:
        """Mask of slots to come and of padding for one slot, [1 or B, 1, 1, keys], or None where nothing is hidden."""
        hidden_by_window = any(window is not None and window <= slot for window in self.windows)
        if keys == slot + 1 and self.prompt_bias is None and not hidden_by_window:
            return None
        return self.attention_bias_at(torch.tensor([[slot]], device=self.device), keys)

    def attention_bias_at(self, slots: Tensor, keys: int, ends: Tensor | None = None) -> Tensor | WindowedBias:
        """The same of several slots, [1 or B, width], per row: [1 or B, 1, width, keys].

        Args:
            ends: The last slot that each may see, [1 or B, 1]; None for its own.
        """
        lasts = slots if ends is None else ends.expand(slots.shape)
        places = torch.arange(keys, device=self.device)
        visible = places <= lasts[..., None]
        window = next((window for window in self.windows if window is not None), None)
        if window is None or window >= keys:
            return self._masked(visible)
        return WindowedBias(self._masked(visible), self._masked(visible & (places > slots[..., None] - window)))

    def _masked(self, visible: Tensor) -> Tensor:
        bias = torch.zeros(visible.shape, dtype=self.kv_dtype, device=self.device)
        bias = bias.masked_fill_(~visible, torch.finfo(self.kv_dtype).min)[:, None]
        if self.prompt_bias is None:
            return bias
        keys = visible.shape[-1]
        return torch.minimum(bias, F.pad(self.prompt_bias, (0, max(0, keys - self.prompt_length)))[..., :keys])

    # --------------------------------------------------------------------------------------------------------- layers
    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token embedding, [N * width, D]."""
        return F.embedding(tokens.flatten(), self.model.get_input_embeddings().weight)

    def scale(self, layer: int) -> float:
        """What the attention scores of a layer are multiplied by."""
        return self.head_dim**-0.5

    def run_layer(self, layer: int, hidden: Tensor, states: KeyValues, block: Block) -> Tensor:
        """One layer for the block, [N * width, D]."""
        weights = self.layers[layer - 1]
        query, keys, values = self.project_qkv(weights, hidden, block)
        if self.rotaries:
            rotary = self.rotaries[layer - 1]
            cos, sin = self._rotation_of(block, rotary)
            both = rotary.rotate(torch.cat([query, keys], 1), cos, sin)
            query, keys = both.split([self.heads, self.kv_heads], 1)
        states.store(layer, block, keys, values)
        bias = block.bias
        if isinstance(bias, WindowedBias):
            bias = bias.all_slots if self.windows[layer - 1] is None else bias.window
        context = merge(states.attend(layer, query, block, self.scale(layer), bias))
        return self.after_attention(weights, hidden, context)

    @abstractmethod
    def project_qkv(self, weights: Weights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Query [N, heads, width, head_dim], keys and values [N, kv_heads, width, head_dim], not yet rotated."""

    def after_attention(self, weights: Weights, hidden: Tensor, context: Tensor) -> Tensor:
        """What the layer makes of its input [n, D] and of its heads' context [n, heads * head_dim]."""
        hidden = self.add(hidden, weights.attention_out, context, weights.attention_out_norm)
        inner = self.inner(weights, weights.feed_forward_norm(hidden))
        return self.add(hidden, weights.down, inner, weights.feed_forward_out_norm)

    def add(self, hidden: Tensor, out: Linear, states: Tensor, norm: Norm | None = None) -> Tensor:
        """The residual stream [n, D] with what a block's last layer makes of states [n, K] added to it, normed where
        there is a norm of it."""
        return out.added_to(hidden, states) if norm is None else hidden + norm(out(states))

    def inner(self, weights: Weights, normed: Tensor) -> Tensor:
        """What the feed-forward block makes of its input [n, D] before its last layer, [n, F]."""
        return gated(weights.activation, weights.up(normed))

    def feed_forward(self, weights: Weights, normed: Tensor) -> Tensor:
        """What the feed-forward block makes of its input [n, D]."""
        return weights.down(self.inner(weights, normed))

    def rotated(self, layer: int, keys: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
        """A layer's keys [P, kv_heads, head_dim] of some slots, each rotated to its own position."""
        if not self.rotaries:
            return keys
        positions = slots if self.padding is None else (slots - self.padding[rows]).clamp_min(0)
        rotary = self.rotaries[layer - 1]
        cos, sin = rotary.at(positions)
        return rotary.rotate(keys, cos[:, None], sin[:, None])

    def _rotation_of(self, block: Block, rotary: Rotary) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the block's positions, [N or 1, 1, width, R]; the same for layers that share them."""
        if self._rotated is not block:
            self._rotated, self._rotations = block, {}
        if rotary not in self._rotations:
            cos, sin = rotary.at(self.positions(block))
            self._rotations[rotary] = (cos[:, None], sin[:, None])
        return self._rotations[rotary]

    # ----------------------------------------------------------------------------------------------------------- sums
    def cost(self) -> Cost:
        """Sizes for the FLOP counter."""
        weights = self.layers[0]
        matrices = [linear.weight for linear in (*weights.up.parts, weights.down)]
        return Cost(
            num_layers=self.num_layers,
            width=self.unembed.width,
            attention_width=self.heads * self.head_dim,
            kv_width=self.kv_heads * self.head_dim,
            feed_forward=sum(matrix.numel() for matrix in matrices),
            prompt=true_lengths(self.prompt_mask, self.batch, self.prompt_length),
            prompt_slots=self.prompt_length,
            prefilled=True,
            source=np.zeros(self.batch, np.int64),
        )


def normed(norm: Callable[[Tensor], Tensor] | None, states: Tensor) -> Tensor:
    """States [..., D] normed where there is a norm."""
    return states if norm is None else norm(states)


class SeparateAdapter(DecoderOnlyAdapter[SeparateWeights]):
    """Base of those with matrices of their own for queries, keys and values."""

    def project_qkv(self, weights: SeparateWeights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Query [N, heads, width, head_dim], keys and values [N, kv_heads, width, head_dim], not yet rotated."""
        given = self.attention_input(weights, hidden)
        query, keys, values = weights.qkv(given)
        query = self.split_normed(query, block.width, weights.q_norm, self.heads)
        return query, self.split_normed(keys, block.width, weights.k_norm), self.split(values, block.width)

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, kv_heads, head_dim] each."""
        weights = self.layers[layer - 1]
        given = self.attention_input(weights, hidden)
        _, k, v = weights.qkv.parts
        keys, values = self.split_normed(k(given), 1, weights.k_norm), self.split(v(given), 1)
        return self.rotated(layer, keys[:, :, 0], rows, slots), values[:, :, 0]

    def attention_input(self, weights: SeparateWeights, hidden: Tensor) -> Tensor:
        """What queries, keys and values are projected from, [n, D]."""
        return weights.attention_norm(hidden)

    def split_normed(
        self, projected: Tensor, width: int, norm: Callable[[Tensor], Tensor] | None, heads: int | None = None
    ) -> Tensor:
        """Queries or keys [N, heads, width, head_dim] of what was projected, each head normed where there is a norm."""
        return normed(norm, self.split(projected, width, heads))


class ParallelBlocks(DecoderOnlyAdapter[Weights]):
    """Mixin of those whose attention and feed-forward blocks may both read the layer's input.

    Attributes:
        parallel: Whether they do.
    """

    parallel: bool

    def after_attention(self, weights: Weights, hidden: Tensor, context: Tensor) -> Tensor:
        if not self.parallel:
            return super().after_attention(weights, hidden, context)
        attended = hidden + weights.attention_out(context)
        return attended + self.feed_forward(weights, weights.feed_forward_norm(hidden))
