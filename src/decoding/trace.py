"""What a decode call did, token by token: enough to replay every count."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from decoding.exits import ExitState
from decoding.flops import Cost, count_flops
from decoding.states import Block

# Per step, row and layer: name -> type and what stands where nothing happened.
PER_LAYER = {
    "confidences": (np.float32, np.nan),
    "rows": (np.int64, 0),
    "amateur_rows": (np.int64, 0),
    "kept": (np.int64, 0),
    "members": (np.int64, 0),
}
PER_TOKEN = ("exit_layers", *PER_LAYER, "threshold", "step")


class Recorder:
    """Collects one generated token per row and step; `finish` turns the steps into an `ExitTrace`.

    In the loop it only appends to lists: an array is filled once, at the end.

    Args:
        width: D, to keep the states of every layer as well; None keeps none.
    """

    def __init__(self, batch: int, num_layers: int, width: int | None = None):
        self.batch = batch
        self.num_layers = num_layers
        self.width = width
        self.thresholds: list[float] = []
        self.lefts: list[tuple[int, list[int], int]] = []  # step, rows, layer
        self.entries: list[tuple[str, int, list[int], int, int | list]] = []  # name, step, rows, layer, values
        self.states: list[np.ndarray] = []

    def begin_step(self, threshold: float) -> None:
        self.thresholds.append(threshold)
        if self.width is not None:
            self.states.append(np.full((self.batch, self.num_layers + 1, self.width), np.nan, np.float32))

    def tried(self, exit: ExitState, confidences: list[float], sizes: list[int] | None) -> None:
        """An exit was tried; `sizes` are those of V_head, where the measure has one."""
        self._enter("confidences", exit.rows, exit.layer, confidences)
        if exit.has_logits:
            self._enter("rows", exit.rows, exit.layer, exit.multiplied)
            self._enter("kept", exit.rows, exit.layer, exit.kept)
        if sizes is not None:
            self._enter("members", exit.rows, exit.layer, sizes)
            self._enter("amateur_rows", exit.rows, exit.layer, exit.amateur_rows)

    def multiplied(self, rows: list[int], layer: int, head_rows: int) -> None:
        self._enter("rows", rows, layer, head_rows)

    def left(self, rows: list[int], layer: int) -> None:
        self.lefts.append((len(self.thresholds) - 1, rows, layer))

    def ran(self, block: Block, layer: int, hidden: Tensor) -> None:
        """Keep h^layer [N, D] of a block one slot wide, where states are wanted."""
        if self.width is not None:
            self.states[-1][block.live_rows, layer] = block.take(hidden).float().cpu().numpy()

    def _enter(self, name: str, rows: list[int], layer: int, values: int | float | list) -> None:
        self.entries.append((name, len(self.thresholds) - 1, rows, layer, values))

    def finish(self, cost: Cost, logprobs: np.ndarray | None, seconds: dict[str, float]) -> ExitTrace:
        steps = len(self.thresholds)
        exit_layers = np.zeros((self.batch, steps), np.int64)
        for step, rows, layer in self.lefts:
            exit_layers[rows, step] = layer
        shape = (self.batch, steps, self.num_layers)
        arrays = {name: np.full(shape, empty, kind) for name, (kind, empty) in PER_LAYER.items()}
        for name, step, rows, layer, values in self.entries:
            arrays[name][rows, step, layer - 1] = values
        ended = exit_layers == 0
        states = None
        if self.width is not None:
            empty = np.zeros((self.batch, 0, self.num_layers + 1, self.width), np.float32)
            states = np.stack(self.states, 1) if steps else empty
        return ExitTrace(
            exit_layers=exit_layers,
            **arrays,
            threshold=np.where(ended, np.nan, np.array(self.thresholds, np.float64)[None, :]),
            step=np.where(ended, 0, np.arange(1, steps + 1)[None, :]),
            logprobs=logprobs,
            cost=cost,
            seconds=seconds,
            states=states,
        )


@dataclass(frozen=True)
class ExitTrace:
    """The record of a decode call. B rows, T generated tokens (end-of-sequence included), L decoder layers.

    Attributes:
        exit_layers: [B, T], layers run for each token, L where it did not exit, 0 after the end of a row.
        confidences: [B, T, L], nan where no exit was tried; entry l-1 belongs to layer l.
        rows: [B, T, L], rows of the head multiplied; the final head stands at the layer the token left from.
        amateur_rows: [B, T, L], rows of the head that the exit after layer l multiplied for earlier layers' logits.
        kept: [B, T, L], tokens in the running at an exit tried: V before pruning, then its k.
        members: [B, T, L], the size of V_head at an exit tried by a contrastive measure, 0 elsewhere.
        threshold: [B, T], the threshold in force, nan after the end.
        step: [B, T], the loop's step that emitted the token, from 1; 0 after the end.
        logprobs: [B, T], log p_l of the emitted token at its exit, or None where not asked for.
        cost: Sizes that turn the trace into FLOPs.
        seconds: encoder_forward and decoder_forward of the whole call.
        states: [B, T, L + 1, D], h^0 to h^L of the position that emitted the token, nan where it did not run; or None
            where not asked for.
        discarded: (row, position, exit layer) of tokens that verification threw away.
    """

    exit_layers: np.ndarray
    confidences: np.ndarray
    rows: np.ndarray
    amateur_rows: np.ndarray
    kept: np.ndarray
    members: np.ndarray
    threshold: np.ndarray
    step: np.ndarray
    logprobs: np.ndarray | None
    cost: Cost
    seconds: dict[str, float]
    states: np.ndarray | None = None
    discarded: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def lengths(self) -> np.ndarray:
        """Generated tokens of each row, end-of-sequence included, [B]."""
        return (self.exit_layers > 0).sum(1)

    @property
    def mean_exit_layer(self) -> float:
        """Mean depth over all generated tokens (`block_avg`); nan where there is none."""
        used = self.exit_layers[self.exit_layers > 0]
        return float(used.mean()) if used.size else float("nan")

    def flops(self) -> dict[str, np.ndarray]:
        """Floating point operations of each row per part, [B] each; a multiply-add is 2."""
        return count_flops(self)

    def row(self, index: int) -> ExitTrace:
        """The trace of one row alone, without the padding after its end."""
        length = int(self.lengths[index])

        def cut(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[index : index + 1, :length]

        return replace(
            self,
            **{name: cut(getattr(self, name)) for name in (*PER_TOKEN, "logprobs", "states")},
            cost=self.cost.row(index),
            discarded=[(0, *rest) for row, *rest in self.discarded if row == index],
        )
