"""What the adapters of decoder-only models share: positions of left-padded rows, masks, rotary positions, norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoding.flops import Cost
from decoding.policy import Policy
from decoding.states import Block, States
from models.adapter import Adapter, effective_mask, mask_bias, merge, product, true_lengths

# Kinds of rotary positions whose frequencies change once a text is longer than those the model was trained on.
STRETCHING = ("dynamic", "longrope")


class Linear(NamedTuple):
    """The weight of a linear layer or of a norm, and its bias or None; no copies. A matrix is [in, out]."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, module: nn.Linear) -> Linear:
        """Of a linear layer, whose own weight is [out, in]."""
        return cls(module.weight.t(), module.bias)

    @classmethod
    def stored(cls, module: nn.Module) -> Linear:
        """Of a norm, or of a layer whose own weight is [in, out] as GPT-2's are."""
        return cls(module.weight, module.bias)

    def __call__(self, hidden: Tensor, block: Block) -> Tensor:
        """The product with the states [n, in] of a block, [n, out]."""
        if block.several:
            projected = product(hidden, self.weight, block)
            return projected if self.bias is None else projected + self.bias
        return hidden.mm(self.weight) if self.bias is None else torch.addmm(self.bias, hidden, self.weight)


class Biases(NamedTuple):
    """What is added to attention scores, where some layers see all slots and others a window of the last ones."""

    all_slots: Tensor | None
    window: Tensor


class Rotary:
    """Rotary positions (arXiv:2104.09864) of one call, in the model's own frequencies.

    Attributes:
        cos, sin: [capacity, R], R at most head_dim; the sine of the first half has its sign already.
    """

    def __init__(self, module: nn.Module, capacity: int, like: Tensor):
        kind, settings = module.rope_type, module.config.rope_parameters
        trained = settings.get("original_max_position_embeddings") if kind == "longrope" else None
        trained = trained or module.original_max_seq_len
        if kind in STRETCHING and capacity > trained:
            raise ValueError(
                f"The model's rotary positions are of the kind {kind!r}, which change beyond {trained} tokens: prompt "
                f"and answer may take {capacity} together, so shorten the prompt or ask for fewer new tokens."
            )
        cos, sin = module(like, torch.arange(capacity, device=like.device)[None])
        self.cos, self.sin = cos[0], sin[0].clone()
        self.half = self.cos.shape[-1] // 2
        self.sin[:, : self.half].neg_()

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [...], [..., R] each."""
        return F.embedding(positions, self.cos), F.embedding(positions, self.sin)

    def turn(self, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys [..., head_dim] turned to their positions."""
        width = cos.shape[-1]
        if width < states.shape[-1]:
            return torch.cat([self.turn(states[..., :width], cos, sin), states[..., width:]], -1)
        return states * cos + states.roll(self.half, -1) * sin


class DecoderOnlyAdapter(Adapter):
    """Base of the adapters of decoder-only models. One per generate call, on the Hugging Face module's own weights.

    A subclass sets what `Adapter` asks for, `layers` (a NamedTuple of weights per layer, from 1), `scales` (of
    attention, per layer from 1), and writes `embed`, `project`, `project_kv`, `close` and `normalise`.

    Attributes:
        heads: Of queries, a multiple of `kv_heads`.
        rotary: None where positions are embedded.
        windows: Per layer from 1, how many of the last slots it sees; None for all of them.
    """

    rotary: Rotary | None = None
    windows: Sequence[int | None] = ()

    def __init__(self, model, prompt: Tensor, model_kwargs: dict, capacity: int):
        self.model = model
        self.num_layers = self.count_layers(model.config)
        self.output_weight = model.lm_head.weight
        self.batch, self.prompt_length = prompt.shape
        self.capacity = capacity
        self.kv_dtype, self.device = self.output_weight.dtype, self.output_weight.device
        self.prompt_mask = effective_mask(model_kwargs.get("attention_mask"))
        self.prompt_bias = mask_bias(self.prompt_mask, self.kv_dtype)
        # Slots that a left-padded row spends on padding do not count as positions.
        self.padding = None if self.prompt_mask is None else (self.prompt_mask == 0).sum(1)
        self._turned: tuple[Block, Tensor, Tensor] | None = None

    @staticmethod
    def count_layers(config) -> int:
        return config.num_hidden_layers

    def refuse_more_than(self, positions: int) -> None:
        """Refuse a text longer than the table of positions."""
        if self.capacity > positions:
            raise ValueError(
                f"prompt and answer may take {self.capacity} tokens together, but the model has {positions} "
                "positions: shorten the prompt or ask for fewer new tokens."
            )

    def positions(self, block: Block) -> Tensor:
        """Of the block's slots, [N or 1, width]."""
        slots = block.slots
        if block.places is None:
            slots = torch.arange(slots.start, slots.stop, device=self.device)[None]
        if self.padding is None:
            return slots
        padding = self.padding if block.index is None else self.padding[block.index]
        return (slots - padding[:, None]).clamp_min(0)

    # ---------------------------------------------------------------------------------------------------------- masks
    def attention_bias(self, slot: int, keys: int) -> Tensor | Biases | None:
        """Mask of slots to come and of padding for one slot, [1 or B, 1, 1, keys], or None where nothing is hidden."""
        hidden_by_window = any(window is not None and window <= slot for window in self.windows)
        if keys == slot + 1 and self.prompt_bias is None and not hidden_by_window:
            return None
        return self.attention_bias_at(torch.tensor([[slot]], device=self.device), keys)

    def attention_bias_at(self, slots: Tensor, keys: int, ends: Tensor | None = None) -> Tensor | Biases:
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
        return Biases(self._masked(visible), self._masked(visible & (places > slots[..., None] - window)))

    def _masked(self, visible: Tensor) -> Tensor:
        bias = torch.zeros(visible.shape, dtype=self.kv_dtype, device=self.device)
        bias = bias.masked_fill_(~visible, torch.finfo(self.kv_dtype).min)[:, None]
        if self.prompt_bias is None:
            return bias
        keys = visible.shape[-1]
        return torch.minimum(bias, F.pad(self.prompt_bias, (0, max(0, keys - self.prompt_length)))[..., :keys])

    # --------------------------------------------------------------------------------------------------------- layers
    def run_layer(self, layer: int, hidden: Tensor, states: States, block: Block) -> Tensor:
        """One layer for the block, [N * width, D]."""
        weights = self.layers[layer]
        query, keys, values = self.project(weights, hidden, block)
        if self.rotary is not None:
            cos, sin = self._turning(block)
            query, keys = self.rotary.turn(query, cos, sin), self.rotary.turn(keys, cos, sin)
        states.store(layer, block, keys, values)
        bias = block.bias
        if isinstance(bias, Biases):
            bias = bias.all_slots if self.windows[layer] is None else bias.window
        context = merge(states.attend(layer, query, block, self.scales[layer], bias))
        return self.close(weights, hidden, context, block)

    def project(self, weights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Query [N, heads, width, head_dim], keys and values [N, kv_heads, width, head_dim], not yet turned."""
        raise NotImplementedError

    def close(self, weights, hidden: Tensor, context: Tensor, block: Block) -> Tensor:
        """What the layer makes of its input [n, D] and of its heads' context [n, heads * head_dim]."""
        raise NotImplementedError

    def turned(self, keys: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
        """Keys [P, kv_heads, head_dim] of some slots, each at its own position."""
        if self.rotary is None:
            return keys
        positions = slots if self.padding is None else (slots - self.padding[rows]).clamp_min(0)
        cos, sin = self.rotary.at(positions)
        return self.rotary.turn(keys, cos[:, None], sin[:, None])

    def _turning(self, block: Block) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the block's positions, [N or 1, 1, width, R]; the same for all layers it passes."""
        if self._turned is None or self._turned[0] is not block:
            cos, sin = self.rotary.at(self.positions(block))
            self._turned = (block, cos[:, None], sin[:, None])
        return self._turned[1:]

    # ----------------------------------------------------------------------------------------------------------- sums
    def cost_of(self, policy: Policy, width: int, feed_forward: int) -> Cost:
        """Sizes for the FLOP counter; `feed_forward` as of `Cost`."""
        return Cost(
            num_layers=self.num_layers,
            width=width,
            attention_width=self.heads * self.head_dim,
            kv_width=self.kv_heads * self.head_dim,
            feed_forward=feed_forward,
            prompt=true_lengths(self.prompt_mask, self.batch, self.prompt_length),
            prompt_slots=self.prompt_length,
            prefilled=True,
            source=np.zeros(self.batch, np.int64),
            recomputes=policy.recomputes,
            **({} if policy.confidence is None else policy.measure.counts),
        )


class FusedLayerWeights(NamedTuple):
    """The parameters of one layer of GPT-2 and GPT-NeoX themselves, no copies; `qkv` holds query, key and value."""

    attention_norm: Linear
    qkv: Linear
    attention_out: Linear
    feed_forward_norm: Linear
    inner: Linear
    outer: Linear
    activation: nn.Module


class LayerNormAdapter(DecoderOnlyAdapter):
    """Base of those with a norm of mean and bias before each block and a feed-forward block without gate.

    A subclass sets `eps` and `final_norm` as well; the weights of its layers are named as in `FusedLayerWeights`.
    """

    def norm(self, hidden: Tensor, norm: Linear) -> Tensor:
        return F.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, self.eps)

    def close(self, weights, hidden: Tensor, context: Tensor, block: Block) -> Tensor:
        attended = hidden + weights.attention_out(context, block)
        return attended + self.feed_forward(weights, attended, block)

    def feed_forward(self, weights, hidden: Tensor, block: Block) -> Tensor:
        """What the feed-forward block adds to the residual stream."""
        inner = weights.activation(weights.inner(self.norm(hidden, weights.feed_forward_norm), block))
        return weights.outer(inner, block)

    def normalise(self, hidden: Tensor) -> Tensor:
        """Final norm, [n, D]."""
        return self.norm(hidden, self.final_norm)
