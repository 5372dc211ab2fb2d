"""What the speed of a policy is held against: the products of its weights and nothing else, and memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from models.ways import WAYS
from scripts.benchmark_models import Workload

# Keys and values count among what is read where they are more than this share of the weights.
KEYS_FROM = 0.02


class Passes(NamedTuple):
    """What a policy's weights are multiplied with, token by token, over and over: per token (first layer, layers behind
    it, rows) for every stretch of layers."""

    tokens: list[list[tuple[int, int, int]]]


def straight(depth: int) -> Passes:
    """Every token runs `depth` layers."""
    return Passes([[(0, depth, 1)]])


def bound(workload: Workload, passes: Passes, batch: int, tokens: int) -> None:
    """The weight matrices of each token's layers and the head, multiplied in order for every token; what the input
    meets, once."""
    layers, head, prompt = workload.layers, workload.head, workload.prompt
    widths = {matrix.shape[0] for matrix in (*layers[0], head)}
    inputs = {
        rows: {width: prompt.new_zeros(batch * rows, width) for width in widths}
        for rows in {1, *(rows for token in passes.tokens for *_, rows in token)}
    }
    source = {width: prompt if width == prompt.shape[1] else prompt.new_zeros(len(prompt), width) for width in widths}
    deepest = max(first + count for token in passes.tokens for first, count, _ in token)
    for matrices in workload.once if workload.prefilled else workload.once[:deepest]:
        for matrix in matrices:
            source[matrix.shape[0]].mm(matrix)
    if workload.prefilled:
        inputs[1][head.shape[0]].mm(head)
    for _, token in zip(range(tokens - workload.prefilled), cycle(passes.tokens), strict=False):
        for first, count, rows in token:
            for matrices in layers[first : first + count]:
                for matrix in matrices:
                    inputs[rows][matrix.shape[0]].mm(matrix)
        inputs[1][head.shape[0]].mm(head)


def readers(workload: Workload) -> dict[str, Callable[[], object]]:
    """Name -> what reads the weights of all layers and of the head once: their sums, and each way to multiply one row
    with them. The fastest shows what memory gives to the threads at hand."""
    matrices = _all_matrices(workload)
    found: dict[str, Callable[[], object]] = {"read: sum": lambda: [matrix.sum() for matrix in matrices]}
    states = {matrix.shape[0]: torch.ones(1, matrix.shape[0], dtype=matrix.dtype) for matrix in matrices}
    for name, way in WAYS.items():
        if all(way.fits(matrix, 1) for matrix in matrices):
            bound_ways = [(way.bind(matrix), states[matrix.shape[0]]) for matrix in matrices]
            found[f"read: {name}"] = lambda pairs=bound_ways: [multiply(row, None) for multiply, row in pairs]
    return found


def memory_seconds(
    workload: Workload, passes: Passes, batch: int, tokens: int, seconds: dict[str, list[float]]
) -> float:
    """Seconds in which the threads at hand would read what a policy reads, as fast as any reader did at its best.

    Args:
        seconds: Those of the `readers` among others, by name.
    """
    best = min(min(times) for name, times in seconds.items() if name.startswith("read: "))
    return best * _bytes_read(workload, passes, batch, tokens) / sum(map(_bytes, _all_matrices(workload)))


def _bytes_read(workload: Workload, passes: Passes, batch: int, tokens: int) -> float:
    """Bytes of the weights of each token's layers and of the head, and of what the input meets, once; those of keys and
    values too where they are many."""
    layers = [sum(map(_bytes, matrices)) for matrices in workload.layers]
    head, (rows, width) = _bytes(workload.head), workload.prompt.shape
    deepest = max(first + count for token in passes.tokens for first, count, _ in token)
    once = workload.once if workload.prefilled else workload.once[:deepest]
    total = float(sum(_bytes(matrix) for matrices in once for matrix in matrices) + head * workload.prefilled)
    keys = 2 * (rows + batch * tokens / 2) * width * workload.head.element_size()  # of a layer, half of the answer
    for _, token in zip(range(tokens - workload.prefilled), cycle(passes.tokens), strict=False):
        weights = head + sum(sum(layers[first : first + count]) for first, count, _ in token)
        attended = keys * sum(count for _, count, _ in token)
        total += weights + (attended if attended > KEYS_FROM * weights else 0)
    return total


def _all_matrices(workload: Workload) -> list[Tensor]:
    return [matrix for matrices in workload.layers for matrix in matrices] + [workload.head]


def _bytes(matrix: Tensor) -> int:
    return matrix.numel() * matrix.element_size()
