"""What the adapters of all architectures share: the head, and the shapes and masks around attention."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoding.states import Block

# On a CPU several states meet the head in pieces of so many rows, which stay in its cache. At T5-base size that takes
# little more than half the time of one product.
HEAD_PIECE = 1024


# So many slots are few.
FEW_SLOTS = 16


class Adapter:
    """Base of an architecture's adapter; `decoding.loop` says what an adapter gives the loop.

    A subclass sets `model`, `num_layers`, `output_weight` [V, D], `head_scale`, `kv_heads`, `head_dim`, `kv_dtype` and
    `device`.
    """

    head_scale: float | None = None

    @property
    def vocabulary_size(self) -> int:
        return self.output_weight.shape[0]

    @property
    def confidence_head(self) -> nn.Module:
        """The model's trained `cm_head`."""
        return self.model.cm_head

    def head(self, normed: Tensor, block: Block | None = None) -> Tensor:
        """Logits [n, V] of final-normed states [n, D]; those of a block's slots where one is given."""
        normed = self._scaled(normed)
        if block is not None and are_few(normed, block):
            return product(normed, self.output_weight.t(), block)
        if len(normed) == 1 or normed.is_cuda:
            return F.linear(normed, self.output_weight)
        return torch.cat([F.linear(normed, rows) for rows in self.output_weight.split(HEAD_PIECE)], 1)

    def head_rows(self, ids: Tensor) -> Tensor:
        """A copy of the rows `ids` [..., K] of the head, [..., K, D]."""
        return F.embedding(ids, self.output_weight)

    def head_on(self, rows: Tensor, normed: Tensor) -> Tensor:
        """Logits [n, J, K] of final-normed states [n, J, D] on copied rows of the head [n, K, D]."""
        return torch.bmm(self._scaled(normed), rows.transpose(1, 2))

    def _scaled(self, normed: Tensor) -> Tensor:
        return normed if self.head_scale is None else normed * self.head_scale

    def split(self, projected: Tensor, width: int, heads: int | None = None) -> Tensor:
        """[N * width, heads * head_dim] to [N, heads, width, head_dim]; heads are those of keys where not given."""
        heads = heads or self.kv_heads
        if width == 1:
            return projected.reshape(-1, heads, 1, self.head_dim)
        return projected.reshape(-1, width, heads, self.head_dim).transpose(1, 2)


def product(hidden: Tensor, matrix: Tensor, block: Block) -> Tensor:
    """hidden [n, K] x matrix [K, M] for the slots of a block.

    A few slots of a row together are multiplied from the other side on a CPU where the matrix is the transposed view of
    a weight: that reads the weight once, where a plain product of so few rows first copies it, and takes nearly twice
    the time. A weight stored as [K, M], as GPT-2's are, would take ten times as long from there.
    """
    if are_few(hidden, block) and matrix.stride(0) == 1:
        return matrix.t().mm(hidden.t()).t()
    return hidden.mm(matrix)


def are_few(hidden: Tensor, block: Block) -> bool:
    """Whether a row of the block has several slots, and all are few, on a CPU."""
    return block.several and hidden.shape[0] <= FEW_SLOTS and not hidden.is_cuda


def merge(context: Tensor) -> Tensor:
    """[N, heads, width, head_dim] to [N * width, heads * head_dim]."""
    rows, heads, width, head_dim = context.shape
    if width > 1:
        context = context.transpose(1, 2)
    return context.reshape(rows * width, heads * head_dim)


def rms_norm(hidden: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """The norm of T5 and Llama over the last dimension: no mean, no bias; in half precision the variance is taken in
    float32, as the library does.

    The library's formula takes half again as many operations, and at batch 1 it is their number that costs.

    Args:
        eps: A tensor without dimensions, of the weight's type.
    """
    if weight.dtype not in (torch.float16, torch.bfloat16):
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden * weight * torch.addcmul(eps, length, length, value=1 / weight.shape[0]).rsqrt_()
    variance = hidden.float().pow(2).mean(-1, keepdim=True)
    return weight * (hidden * torch.rsqrt(variance + eps)).to(weight.dtype)


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
