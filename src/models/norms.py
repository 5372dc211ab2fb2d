"""Norms on the model's own parameters, in few operations: at batch 1 it is their number that costs."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(Protocol):
    """A norm over the last dimension of states."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """States [..., D] normed."""

    def of(self, module: Any) -> Self:
        """The same norm with another module's parameters."""


class RMSNorm(NamedTuple):
    """The norm of T5 and Llama: no mean, no bias; in half precision the variance is taken in float32, as the library
    does.

    Attributes:
        eps: A tensor without dimensions, of the weight's type.
    """

    weight: Tensor
    eps: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, self.weight, self.eps)

    def of(self, module: Any) -> RMSNorm:
        return RMSNorm(module.weight, self.eps)


class LayerNorm(NamedTuple):
    """The norm of mean and variance; bias may be None."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    def __call__(self, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.eps)

    def of(self, module: Any) -> LayerNorm:
        return LayerNorm(module.weight, module.bias, self.eps)


def norm_of(module: Any) -> Norm:
    """The norm that a module of the library is: a LayerNorm, or one of the many RMS norms."""
    if isinstance(module, nn.LayerNorm):
        return LayerNorm(module.weight, module.bias, module.eps)
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    return RMSNorm(module.weight, torch.tensor(eps, dtype=module.weight.dtype, device=module.weight.device))


def rms_norm(hidden: Tensor, weight: Tensor, eps: Tensor) -> Tensor:
    """weight * hidden / sqrt(mean of squares + eps); the library's formula takes half again as many operations."""
    if weight.dtype not in (torch.float16, torch.bfloat16):
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden * weight * torch.addcmul(eps, length, length, value=1 / weight.shape[0]).rsqrt_()
    variance = hidden.float().pow(2).mean(-1, keepdim=True)
    return weight * (hidden * torch.rsqrt(variance + eps)).to(weight.dtype)
