"""What the adapters of all architectures share: the shapes of heads, and masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.adapter import DecoderAdapter
from models.unembed import Unembed


class Adapter(DecoderAdapter):
    """Base of an architecture's adapter, on the Hugging Face module's own weights; one per generate call.

    Args:
        model: The model, an `EarlyExitGeneration`.
        prompt: Token ids the decoder starts from, [B, P].
        model_kwargs: What the library prepared for its forward: masks, and the encoder's output.
        capacity: Slots of prompt and answer together at most.
    """

    unembed: Unembed

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        self.model = model
        self.num_layers = self.count_layers(model.config)
        self.unembed = model.unembed()
        self.prompt_length = prompt.shape[1]
        self.capacity = capacity

    @staticmethod
    def count_layers(config) -> int:
        """Decoder layers L of a model of this config."""
        return config.num_hidden_layers

    @property
    def confidence_head(self) -> Callable[[Tensor], Tensor] | None:
        return getattr(self.model, "cm_head", None)

    def split(self, projected: Tensor, width: int, heads: int | None = None) -> Tensor:
        """[N * width, heads * head_dim] to [N, heads, width, head_dim]; heads are those of keys where not given."""
        heads = heads or self.kv_heads
        if width == 1:
            return projected.reshape(-1, heads, 1, self.head_dim)
        return projected.reshape(-1, width, heads, self.head_dim).transpose(1, 2)


def merge(context: Tensor) -> Tensor:
    """[N, heads, width, head_dim] to [N * width, heads * head_dim]."""
    rows, heads, width, head_dim = context.shape
    if width > 1:
        context = context.transpose(1, 2)
    return context.reshape(rows * width, heads * head_dim)


def gated(activation: Callable[[Tensor], Tensor], projected: Sequence[Tensor]) -> Tensor:
    """What comes into a feed-forward block, [n, F]: activated, or let through by a gate that is."""
    inner = activation(projected[0])
    return inner if len(projected) == 1 else inner * projected[1]


def effective_mask(mask: Tensor | None) -> Tensor | None:
    """The mask [B, S], or None where it hides nothing and can be spared."""
    return None if mask is None or bool((mask != 0).all()) else mask


def mask_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """0 where the mask [B, S] is set, the lowest finite number elsewhere (no row may be all -inf), [B, 1, 1, S]."""
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return bias.masked_fill_(mask == 0, torch.finfo(dtype).min)[:, None, None]


def true_lengths(mask: Tensor | None, batch: int, length: int) -> np.ndarray:
    """Lengths [B] of rows without their padding, from an attention mask [B, length] or the shape alone."""
    return np.full(batch, length) if mask is None else mask.sum(1).cpu().numpy()
