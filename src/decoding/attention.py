"""Attention of a block's rows over the keys and values of the whole batch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from decoding.blocks import Block


def attend(query: Tensor, keys: Tensor, values: Tensor, block: Block, bias: Tensor | None, scale: float) -> Tensor:
    """Scaled dot-product attention of the block's rows over keys and values of the whole batch.

    Keys and values stay where they are: the few query rows are spread over the batch instead, and collected again.

    Args:
        query: [N, heads, width, head_dim].
        keys, values: [B, kv_heads, length, head_dim], each for heads / kv_heads heads of queries side by side.
        bias: Added to the scores, broadcastable to [B, heads, width, length], or None.

    Returns:
        [N, heads, width, head_dim].
    """
    if block.index is None:
        return _attention(query, keys, values, bias, scale)
    if block.ragged is not None:
        where = (block.ragged.row, slice(None), block.ragged.offset)
        spread = query.new_zeros(keys.shape[0], query.shape[1], block.ragged.width, query.shape[3])
        spread[where] = query[:, :, 0]
        return _attention(spread, keys, values, bias, scale)[where].unsqueeze(2)
    spread = query.new_zeros(keys.shape[0], *query.shape[1:])
    spread[block.index] = query
    return _attention(spread, keys, values, bias, scale)[block.index]


def _attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """The library's attention; heads of queries that share keys read them as one head with more queries."""
    batch, heads, width, _ = query.shape
    groups = heads // keys.shape[1]
    if groups == 1:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, scale=scale)
    if bias is not None and width > 1:
        bias = bias.repeat(1, 1, groups, 1)
    folded = query.reshape(batch, keys.shape[1], groups * width, -1)
    return F.scaled_dot_product_attention(folded, keys, values, attn_mask=bias, scale=scale).reshape(query.shape)
