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
PER_TOKEN = ("exit_layers", "depths", *PER_LAYER, "threshold", "step")
# Per row: what verification and the synchronisation of waiting slots came to.
COUNTS = ("layers_in_turn", "synchronizations", "run_deep", "drafted", "accepted", "masked_keys")


class Recorder:
    """Collects what a decode call does, step by step; `finish` turns it into an `ExitTrace`.

    In the loop it only appends to lists: an array is filled once, at the end.

    Args:
        prompt: Tokens before the answer.
        width: D, to keep the states of every layer as well; None keeps none.
    """

    def __init__(self, batch: int, num_layers: int, prompt: int, width: int | None = None):
        self.batch = batch
        self.num_layers = num_layers
        self.prompt = prompt
        self.width = width
        self.thresholds: list[list[float]] = []
        self.positions: list[list[int]] = []  # of the answer, which a row's step emits
        self.entries: list[tuple] = []  # name, step, rows, layer, values; in the order of events
        self.counts = {name: [0] * batch for name in COUNTS}

    def begin_step(self, thresholds: list[float], positions: list[int]) -> None:
        """The next step of the loop: threshold, and position in the answer, of every row."""
        self.thresholds.append(thresholds)
        self.positions.append(positions)

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
        """The head met the current tokens of some rows."""
        self._enter("rows", rows, layer, head_rows)

    def multiplied_at(self, row: int, slots: range, layer: int, head_rows: int) -> None:
        """The head met several slots of a row."""
        positions = [slot + 1 - self.prompt for slot in slots]
        self.entries.append(("rows at", len(self.thresholds) - 1, row, layer, (positions, head_rows)))

    def left(self, rows: list[int], layer: int) -> None:
        """Rows have emitted a token."""
        self._enter("left", rows, layer, layer)

    def synchronised(self, waited: list[tuple[int, int]]) -> None:
        """Slots that had waited ran the deep layers: (row, how many)."""
        for row, slots in waited:
            self.counts["synchronizations"][row] += 1
            self.counts["run_deep"][row] += slots

    def caught_up(self, row: int, layers: int) -> None:
        """Layers were run in a row for waiting slots alone."""
        self.counts["layers_in_turn"][row] += layers

    def judged(self, row: int, drafted: int, accepted: int) -> None:
        """Tokens of a row were verified."""
        self.counts["drafted"][row] += drafted
        self.counts["accepted"][row] += accepted

    def took_back(self, row: int, position: int) -> None:
        """Tokens of a row from `position` on do not stand; the last layer emitted another one there instead."""
        self._enter("took back", row, self.num_layers, position)

    def ran(self, block: Block, layer: int, hidden: Tensor) -> None:
        """Keep h^layer of a block's current tokens, where states are wanted."""
        if self.width is not None:
            self._enter("states", block.live_rows, layer, block.take(hidden).float().cpu().numpy())

    def _enter(self, name: str, rows: int | list[int], layer: int, values) -> None:
        self.entries.append((name, len(self.thresholds) - 1, rows, layer, values))

    def finish(
        self,
        cost: Cost,
        lengths: list[int],
        logprobs: np.ndarray | None,
        seconds: dict[str, float],
        depths: np.ndarray | None = None,
        masked: list[int] | None = None,
    ) -> ExitTrace:
        """The record of the whole call.

        Args:
            lengths: Tokens of each row's answer.
            logprobs: [B, T], or None.
            depths: Layers run by the slot of each token, [B, T]; None where these are the exit layers.
            masked: See `RecomputeStates`.
        """
        if masked is not None:
            self.counts["masked_keys"] = masked
        most = max(lengths, default=0)
        room = max([most, *(position + 1 for step in self.positions for position in step)])
        shape = (self.batch, room)
        arrays = {name: np.full((*shape, self.num_layers), empty, kind) for name, (kind, empty) in PER_LAYER.items()}
        exit_layers, steps = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        thresholds = np.full(shape, np.nan)
        states = None if self.width is None else np.full((*shape, self.num_layers + 1, self.width), np.nan, np.float32)
        positions = np.array(self.positions, np.int64).reshape(-1, self.batch)
        discarded: list[tuple[int, int, int]] = []
        wasted: list[dict[str, np.ndarray]] = []
        for name, step, rows, layer, values in self.entries:
            if name == "rows at":
                arrays["rows"][rows, values[0], layer - 1] = values[1]
                continue
            if name == "took back":
                row, position = rows, values
                behind = [p for p in range(position, room) if exit_layers[row, p] > 0]
                discarded += [(row, p, int(exit_layers[row, p])) for p in behind if exit_layers[row, p] < layer]
                wasted += [
                    {"row": row, "position": p} | {key: array[row, p].copy() for key, array in arrays.items()}
                    for p in behind
                    if p > position
                ]
                for key, array in arrays.items():
                    array[row, position + 1 :] = PER_LAYER[key][1]
                exit_layers[row, position + 1 :] = steps[row, position + 1 :] = 0
                exit_layers[row, position], steps[row, position] = layer, step + 1
                continue
            at = positions[step, rows]
            if name == "left":
                exit_layers[rows, at], steps[rows, at] = layer, step + 1
                thresholds[rows, at] = np.array(self.thresholds[step])[rows]
                for row in rows:
                    self.counts["layers_in_turn"][row] += layer
            elif name == "states":
                states[rows, at, layer] = values
            else:
                arrays[name][rows, at, layer - 1] = values
        behind = np.arange(room) >= np.array(lengths)[:, None]
        exit_layers[behind], steps[behind], thresholds[behind] = 0, 0, np.nan
        depths = exit_layers[:, :most] if depths is None else np.where(behind[:, :most], 0, depths)
        return ExitTrace(
            exit_layers=exit_layers[:, :most],
            depths=depths,
            **{name: array[:, :most] for name, array in arrays.items()},
            threshold=thresholds[:, :most],
            step=steps[:, :most],
            logprobs=logprobs,
            cost=cost,
            seconds=seconds,
            states=None if states is None else states[:, :most],
            discarded=discarded,
            wasted=wasted,
            counts={name: np.array(values) for name, values in self.counts.items()},
        )


@dataclass(frozen=True)
class ExitTrace:
    """The record of a decode call. B rows, T generated tokens (end-of-sequence included), L decoder layers.

    Attributes:
        exit_layers: [B, T], layers run for each token before it was emitted, L where it did not exit, or where
            verification replaced it; 0 after the end of a row.
        depths: [B, T], layers run in the end for the slot that emitted each token: more than its exit layer where it
            ran the deep layers later on.
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
        wasted: What the slots behind a token that was replaced had cost, all layers run: row, position, and the
            numbers [L] of PER_LAYER.
        counts: Of COUNTS, [B] each: layers_in_turn, run one after the other, each by one slot or by several together;
            synchronizations of waiting slots; run_deep, the slots that ran the deep layers
            later on; drafted and accepted tokens, of those that were verified; masked_keys, multiplied for slots that
            came before them.
    """

    exit_layers: np.ndarray
    depths: np.ndarray
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
    wasted: list[dict] = field(default_factory=list)
    counts: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def lengths(self) -> np.ndarray:
        """Generated tokens of each row, end-of-sequence included, [B]."""
        return (self.exit_layers > 0).sum(1)

    @property
    def passes(self) -> np.ndarray:
        """Layer passes of each row, those of tokens that waited, of verification and in vain included, [B]."""
        in_vain = np.bincount([each["row"] for each in self.wasted], minlength=len(self.depths))
        return self.depths.sum(1) + self.cost.num_layers * in_vain.astype(np.int64)

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
            wasted=[each | {"row": 0} for each in self.wasted if each["row"] == index],
            counts={name: values[index : index + 1] for name, values in self.counts.items()},
        )
