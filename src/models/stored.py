"""Weights in files of safetensors that go straight into their place: to the device, in the dtype, a piece at a time.

The library maps whole files and keeps each until the last weight is loaded. What was read of it stays in memory beside
what it became: a checkpoint in bfloat16 that is loaded in float32 takes half as much again, one in float32 that is
loaded in bfloat16 three times as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

# Bytes that are read at once. The library loads several weights at a time.
PIECE = 2**20


class Stored:
    """A weight that was not read yet: as much of a tensor as the library's loading asks of one, `weight[...].to(...)`.

    Args:
        file: Of safetensors, open.
        name: The weight's there.
    """

    def __init__(self, file: Any, name: str):
        self._file, self._name = file, name

    def __getitem__(self, where: EllipsisType) -> Stored:
        return self

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """The weight, read there; in the dtype of the file where none is given."""
        weight = self._file.get_slice(self._name)
        shape = weight.get_shape()
        if 0 in shape or not shape:  # there is nothing to slice, which safetensors refuses
            return self._file.get_tensor(self._name).to(device=device, dtype=dtype)
        step = max(1, PIECE // (4 * math.prod(shape[1:])))
        found = torch.empty(shape, dtype=dtype or weight[:1].dtype, device=device)
        for start in range(0, shape[0], step):
            end = min(start + step, shape[0])  # so it does an end behind the last
            found[start:end] = weight[start:end]
        return found


def stored_weights(files: Sequence[str]) -> dict[str, Stored]:
    """The weights of some files by name. They are read as a file is and not mapped: a mapped file is counted as memory
    of the process, which a batch system may end it for."""
    opened = [safe_open(file, framework="pt", backend="pread") for file in files]
    return {name: Stored(file, name) for file in opened for name in file.keys()}  # noqa: SIM118 - no dict


def refuse_spread(device_map: Mapping[str, Any] | None) -> None:
    """Refuse a map of modules to several devices, or to a disk.

    Raises:
        ValueError: The sentence says why.
    """
    places = sorted({str(place) for place in (device_map or {}).values()})
    if len(places) > 1 or "disk" in places:
        raise ValueError(
            f"device_map spreads the model over {', '.join(places)}: the decode loop reads the weights of a layer "
            "itself, where nothing moves states from one device to another; give one device that holds the model."
        )
