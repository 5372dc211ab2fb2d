"""Weights in files of safetensors that go straight into their place: to the device, in the dtype, a piece at a time.

The library maps whole files and keeps each until the last weight is loaded. What was read of it stays in memory beside
what it became: a checkpoint in bfloat16 that is loaded in float32 takes half as much again, one in float32 that is
loaded in bfloat16 three times as much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

# Bytes that are read at once. The library loads several weights at a time.
PIECE = 2**20
# What safetensors calls the dtypes of tensors.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}


@dataclass(frozen=True)
class Stored:
    """A weight that was not read yet: as much of a tensor as the library's loading asks of one, `weight[...].to(...)`.

    It is read as a file is and not mapped: of a mapped file what was read is counted as memory of the process. A slice
    of safetensors that is not mapped reads the whole weight each time.

    Attributes:
        start: Where its first byte stands in the file.
    """

    path: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def __getitem__(self, where: EllipsisType) -> Stored:
        return self

    def to(self, device: torch.device | str | int | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """The weight, read there; in the dtype of the file where none is given.

        Raises:
            OSError: The file ends before the weight does.
        """
        found = torch.empty(self.shape, dtype=dtype or self.dtype, device=device)
        size, flat = self.dtype.itemsize, found.view(-1)
        step = max(1, PIECE // size)
        buffer = bytearray(min(step, len(flat)) * size)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            for start in range(0, len(flat), step):
                piece = memoryview(buffer)[: min(step, len(flat) - start) * size]
                self._fill(piece, file)
                flat[start : start + step] = torch.frombuffer(piece, dtype=self.dtype)
        return found

    def _fill(self, piece: memoryview, file: Any) -> None:
        while len(piece):
            read = file.readinto(piece)
            if not read:
                raise OSError(f"{self.path} ends before its weights do.")
            piece = piece[read:]


def stored_weights(files: Sequence[str]) -> dict[str, Stored] | None:
    """The weights of some files by name; None where one is of a dtype that is not read here.

    Raises:
        SafetensorError: A file is broken.
    """
    found = {}
    for path in map(Path, files):
        with safe_open(path, "pt"):  # compares the size of the file with what its head says
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if any(told["dtype"] not in DTYPES for told in header.values()):
            return None
        for name, told in header.items():
            start = 8 + length + told["data_offsets"][0]
            found[name] = Stored(path, start, DTYPES[told["dtype"]], tuple(told["shape"]))
    return found


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
