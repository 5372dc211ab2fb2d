"""What a decode call did, token by token: enough to replay every count."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from decoding.flops import Cost, count_flops


class Recorder:
    """Collects one generated token per row and step; `finish` turns the steps into an `ExitTrace`."""

    def __init__(self, batch: int, num_layers: int):
        self.batch = batch
        self.num_layers = num_layers
        self.steps: list[dict[str, np.ndarray]] = []

    def begin_step(self, threshold: float) -> None:
        shape = (self.batch, self.num_layers)
        self.steps.append(
            {
                "exit_layers": np.zeros(self.batch, np.int64),
                "confidences": np.full(shape, np.nan, np.float32),
                "rows": np.zeros(shape, np.int64),
                "threshold": np.full(self.batch, threshold, np.float64),
            }
        )

    def tried(self, rows: list[int], layer: int, confidences: list[float]) -> None:
        self.steps[-1]["confidences"][rows, layer - 1] = confidences

    def multiplied(self, rows: list[int], layer: int, head_rows: int) -> None:
        self.steps[-1]["rows"][rows, layer - 1] = head_rows

    def left(self, rows: list[int], layer: int) -> None:
        self.steps[-1]["exit_layers"][rows] = layer

    def finish(self, cost: Cost, logprobs: np.ndarray | None, seconds: dict[str, float]) -> ExitTrace:
        def stacked(name: str, *tail: int, dtype) -> np.ndarray:
            empty = np.zeros((self.batch, 0, *tail), dtype)
            return np.stack([step[name] for step in self.steps], axis=1) if self.steps else empty

        exit_layers = stacked("exit_layers", dtype=np.int64)
        ended = exit_layers == 0
        rows = stacked("rows", self.num_layers, dtype=np.int64)
        return ExitTrace(
            exit_layers=exit_layers,
            confidences=stacked("confidences", self.num_layers, dtype=np.float32),
            rows=rows,
            amateur_rows=np.zeros_like(rows),
            threshold=np.where(ended, np.nan, stacked("threshold", dtype=np.float64)),
            step=np.where(ended, 0, np.arange(1, exit_layers.shape[1] + 1)[None, :]),
            logprobs=logprobs,
            cost=cost,
            seconds=seconds,
        )


@dataclass(frozen=True)
class ExitTrace:
    """The record of a decode call. B rows, T generated tokens (end-of-sequence included), L decoder layers.

    Attributes:
        exit_layers: [B, T], layers run for each token, L where it did not exit, 0 after the end of a row.
        confidences: [B, T, L], nan where no exit was tried; entry l-1 belongs to layer l.
        rows: [B, T, L], rows of the head multiplied; the final head stands at the layer the token left from.
        amateur_rows: [B, T, L], rows of the head multiplied for an earlier layer's logits.
        threshold: [B, T], the threshold in force, nan after the end.
        step: [B, T], the loop's step that emitted the token, from 1; 0 after the end.
        logprobs: [B, T], log p_l of the emitted token at its exit, or None where not asked for.
        cost: Sizes that turn the trace into FLOPs.
        seconds: encoder_forward and decoder_forward of the whole call.
        discarded: (row, position, exit layer) of tokens that verification threw away.
    """

    exit_layers: np.ndarray
    confidences: np.ndarray
    rows: np.ndarray
    amateur_rows: np.ndarray
    threshold: np.ndarray
    step: np.ndarray
    logprobs: np.ndarray | None
    cost: Cost
    seconds: dict[str, float]
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
        cut = {
            name: getattr(self, name)[index : index + 1, :length]
            for name in ("exit_layers", "confidences", "rows", "amateur_rows", "threshold", "step")
        }
        return replace(
            self,
            **cut,
            logprobs=None if self.logprobs is None else self.logprobs[index : index + 1, :length],
            cost=self.cost.row(index),
            discarded=[(0, *rest) for row, *rest in self.discarded if row == index],
        )
