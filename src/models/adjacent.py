"""Weights one behind the other in memory, so that one product multiplies with all of them; none is held twice.

They share a storage then, which some ways of saving and of training take for tied weights: so they are moved where a
model was loaded to decode and for nothing else, and never those of a model that somebody brings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Names of linear layers of one module that read the same states.
READ_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("q", "k", "v"), ("wi_0", "wi_1"))


def are_adjacent(weights: Sequence[Tensor]) -> bool:
    """Whether weights [M, K] of one K begin where the one before ends."""
    first = weights[0]
    ends = first.data_ptr()
    for weight in weights:
        if not weight.is_contiguous() or weight.data_ptr() != ends or weight.shape[1:] != first.shape[1:]:
            return False
        if weight.dtype != first.dtype or weight.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return False
        ends += weight.nbytes
    return True


def as_one(weights: Sequence[Tensor]) -> Tensor:
    """Adjacent weights as one, [sum of M, K], without a copy."""
    first = weights[0]
    if len(weights) == 1:
        return first
    return first.as_strided((sum(len(weight) for weight in weights), first.shape[1]), (first.shape[1], 1))


def move_together(weights: Sequence[Tensor]) -> None:
    """Let weights on a CPU be adjacent: the same tensors, whose numbers lie elsewhere.

    Those that are views of something, or that other processes see, stay where they are.
    """
    first = weights[0]
    if any(
        weight.device.type != "cpu"
        or weight.is_shared()
        or weight.is_inference()
        or not weight.is_contiguous()
        or weight.untyped_storage().nbytes() != weight.nbytes
        or (weight.dtype, weight.shape[1:]) != (first.dtype, first.shape[1:])
        for weight in weights
    ):
        return
    with torch.inference_mode(False), torch.no_grad():  # what is made for inference could not be trained on
        together = torch.cat([weight.data for weight in weights])
        for weight, part in zip(weights, together.split([len(weight) for weight in weights]), strict=True):
            weight.data = part


def move_all_together(model: nn.Module) -> None:
    """The same for all layers of a model that read the same states; for one that decodes and is neither trained nor
    saved."""
    for module in model.modules():
        for names in READ_TOGETHER:
            layers = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, nn.Linear) for layer in layers):
                move_together([layer.weight for layer in layers if layer is not None])
