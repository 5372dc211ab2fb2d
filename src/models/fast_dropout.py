"""Dropout whose masks are bytes: eight numbers of a mask for one draw of 64 bits.

A CPU draws torch's own masks number by number, which takes an eighth of a small model's training step.
"""

import torch
from torch import Tensor, nn

LEVELS = 256


class FastDropout(nn.Dropout):
    """`nn.Dropout` at the next rate that is a multiple of 1/256, of torch's own generator."""

    def forward(self, states: Tensor) -> Tensor:
        dropped = round(self.p * LEVELS)
        if not self.training or not dropped:
            return states
        if dropped == LEVELS:
            return torch.zeros_like(states)
        words = torch.empty((states.numel() + 7) // 8, dtype=torch.int64, device=states.device)
        draws = words.random_(-(2**63), None).view(torch.uint8)[: states.numel()].view(states.shape)
        return states * (draws >= dropped).to(states.dtype).mul_(LEVELS / (LEVELS - dropped))


def use_fast_dropout(model: nn.Module) -> None:
    """Puts `FastDropout` of the same rate in the place of every `nn.Dropout` of a model."""
    for parent in [*model.modules()]:
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))
