"""Logits and what is read from them: the likeliest token, the plausible ones, log-probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Plausible tokens are looked for among this many likeliest ones first.
FEW = 16


def plausible_floor(highest: Tensor, alpha: float) -> Tensor:
    """The logit of alpha times the probability of the highest logit, of the same shape; the lowest number for 0."""
    lowest = torch.finfo(torch.float32).min
    return torch.full_like(highest, lowest) if alpha == 0 else (highest + math.log(alpha)).clamp_min(lowest)


def plausible_columns(logits: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Columns whose logit reaches the floor, and which of them count, [n, m] each.

    Args:
        logits: [n, C].
        floor: [n, 1].
    """
    values, columns = logits.topk(min(FEW, logits.shape[1]), dim=-1)
    valid = values >= floor
    width = int(valid.sum(-1).max())
    if width < FEW:
        return columns[:, :width], valid[:, :width]
    plausible = logits >= floor
    row, column = plausible.nonzero().unbind(1)  # row by row, columns rising
    counts = plausible.sum(-1)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    columns = row.new_zeros(len(logits), int(counts.max()))
    columns[row, place] = column
    return columns, torch.arange(columns.shape[1], device=row.device) < counts[:, None]


def partition_of(logits: Tensor) -> Tensor:
    """The highest logit and the log-probability of its token, [.., 2]."""
    return torch.stack([logits.amax(-1), logits.softmax(-1).amax(-1).log()], -1)


def log_probabilities(logits: Tensor, partition: Tensor) -> Tensor:
    """log p of logits [.., C], given the partition [.., 2] of their distribution.

    Relative to the likeliest token, so that a probability near 1 keeps its digits.
    """
    return (logits - partition[..., :1]) + partition[..., 1:]


def argmax_token(logits: Tensor, ids: Tensor | None) -> Tensor:
    """The likeliest token of each row, the lowest id on a tie, [n].

    Args:
        logits: [n, V], or [n, K] over the tokens `ids` [n, K].
    """
    if ids is None:
        return logits.argmax(-1)
    return torch.where(logits == logits.amax(-1, keepdim=True), ids, torch.iinfo(ids.dtype).max).amin(-1)
