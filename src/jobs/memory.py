"""What a model takes on its device, said before it is loaded or downloaded: its config tells, no weight is read."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from models import deploying_class

logger = logging.getLogger(__name__)

GIB = 2**30
# Where Linux keeps control groups, which containers and batch systems limit memory by.
GROUPS = Path("/sys/fs/cgroup")


class Rows(NamedTuple):
    """What is computed together: how many rows, and the most tokens of prompt and answer that one has."""

    count: int
    tokens: int


class Needs(NamedTuple):
    """Bytes of a model's weights, and of the keys and values of some rows."""

    weights: int
    states: int


def needs(config, dtype: torch.dtype, rows: Rows | None = None) -> Needs:
    """What a model of this config takes.

    Args:
        dtype: Of weights and states.
        rows: What is computed together; states are 0 where that is not known.
    """
    states = 0 if rows is None else rows.count * rows.tokens * _numbers_per_token(config)
    return Needs(_count_weights(config) * dtype.itemsize, states * dtype.itemsize)


def check_room(name: str, needed: Needs, dtype: torch.dtype, device: torch.device, rows: Rows | None = None) -> None:
    """Say what a model needs where its device has less.

    Raises:
        ValueError: The weights alone do not fit.
    """
    free = free_bytes(device)
    if free is None or needed.weights + needed.states <= free:
        return
    kind = str(dtype).removeprefix("torch.")
    told = f"The weights of {name} take {_gib(needed.weights)} in {kind}"
    if needed.weights > free:
        smaller = "bfloat16, which takes half of it, or " if dtype.itemsize > 2 else ""
        raise ValueError(f"{told}, and {device} has {_gib(free)} free: give {smaller}a device with more memory.")
    if rows is not None:
        logger.warning(
            "%s, the keys and values of %d rows of %d tokens, prompt and answer, up to %s (%s a row), and %s has %s "
            "free: fewer rows or tokens may be needed.",
            told,
            *rows,
            _gib(needed.states),
            _gib(needed.states / rows.count),
            device,
            _gib(free),
        )


def free_bytes(device: torch.device) -> float | None:
    """Memory that a device has for a model; None where that cannot be asked."""
    if device.type == "cpu":
        return min(psutil.virtual_memory().available, _left_of_group())
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return None


def _count_weights(config) -> int:
    """Numbers of the weights of a model of this config, those that are tied once."""
    with torch.device("meta"):
        model = deploying_class(config)(copy.deepcopy(config))
    count = sum(weight.numel() for weight in model.parameters())
    # T5 1.1 and mT5 have a head of their own in their checkpoints, while the library's config always says tied.
    if config.is_encoder_decoder and not getattr(config, "scale_decoder_outputs", False):
        count += model.get_output_embeddings().weight.numel()
    return count


def _numbers_per_token(config) -> int:
    """Numbers of keys and values that all decoder layers keep of a token: of a text, of an answer, or of what an
    encoder has read."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * deploying_class(config).adapter_class.count_layers(config) * heads * width


def _left_of_group() -> float:
    """Bytes that the control groups of this process leave it, files that were read aside; infinite where none does."""
    try:
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return math.inf
    folder = GROUPS / own.lstrip("/")
    return min((_left(each) for each in (folder, *folder.parents) if each.is_relative_to(GROUPS)), default=math.inf)


def _left(folder: Path) -> float:
    """The same of one group."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        files = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:  # the group has no limit of its own
        return math.inf
    cached = int(files.get("inactive_file", 0)) + int(files.get("active_file", 0))
    return math.inf if limit == "max" else int(limit) - used + cached


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
