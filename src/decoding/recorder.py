"""The recorder: collects what a decode call does, step by step, and makes its trace of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from decoding.blocks import Block
from decoding.exits import ExitState
from decoding.flops import Cost
from decoding.trace import COUNTS, PER_LAYER, ExitTrace


class Entry(NamedTuple):
    """One event: what happened (a kind that `_Arrays` knows), in which step, to which batch rows, at which layer."""

    kind: str
    step: int
    rows: Any
    layer: int
    values: Any


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
        self.entries: list[Entry] = []  # in the order of events
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
        for layer, rows in exit.take_translated():
            self._enter("translated", rows, layer, 1)

    def multiplied(self, rows: list[int], layer: int, head_rows: int, translated: bool) -> None:
        """The head met the current tokens of some rows, behind the layer's translator where it has one."""
        self._enter("rows", rows, layer, head_rows)
        if translated:
            self._enter("translated", rows, layer, 1)

    def multiplied_at(self, row: int, slots: range, layer: int, head_rows: int) -> None:
        """The head met several slots of a row."""
        positions = [slot + 1 - self.prompt for slot in slots]
        self._enter("rows at", row, layer, (positions, head_rows))

    def emitted(self, rows: list[int], layer: int) -> None:
        """Rows have emitted a token, which ran so many layers before."""
        self._enter("emitted", rows, layer, layer)

    def synchronised(self, pending: list[tuple[int, int]]) -> None:
        """Slots that were pending ran the deep layers: (row, how many)."""
        for row, slots in pending:
            self.counts["synchronizations"][row] += 1
            self.counts["run_deep"][row] += slots

    def ran_pending(self, row: int, layers: int) -> None:
        """Layers were run in a row for pending slots alone."""
        self.counts["layers_in_turn"][row] += layers

    def verified(self, row: int, drafted: int, accepted: int) -> None:
        """Tokens of a row were verified."""
        self.counts["drafted"][row] += drafted
        self.counts["accepted"][row] += accepted

    def drafted(self, row: int, undrafted: bool, stops: int) -> None:
        """Whether a row's token ran at full depth because drafting has stopped, and how often it has."""
        self.counts["undrafted"][row] += undrafted
        self.counts["stops"][row] = stops

    def rolled_back(self, row: int, position: int) -> None:
        """Tokens of a row from `position` on were rejected; the last layer emitted another one there instead."""
        self._enter("rolled back", row, self.num_layers, position)

    def ran(self, block: Block, layer: int, hidden: Tensor) -> None:
        """Keep h^layer of a block's current tokens, where states are wanted."""
        if self.width is not None:
            self._enter("states", block.live_rows, layer, block.live_current(hidden).float().cpu().numpy())

    def _enter(self, kind: str, rows: int | list[int], layer: int, values) -> None:
        self.entries.append(Entry(kind, len(self.thresholds) - 1, rows, layer, values))

    def finish(
        self,
        cost: Cost,
        lengths: list[int],
        logprobs: np.ndarray | None,
        seconds: dict[str, float],
        depths: np.ndarray | None = None,
        masked_keys: list[int] | None = None,
    ) -> ExitTrace:
        """The record of the whole call.

        Args:
            lengths: Tokens of each row's answer.
            logprobs: [B, T], or None.
            depths: Layers run by the slot of each token, [B, T]; None where these are the exit layers.
            masked_keys: See `States`.
        """
        if masked_keys is not None:
            self.counts["masked_keys"] = masked_keys
        arrays = _Arrays(self, max(lengths, default=0))
        arrays.replay()
        return arrays.trace(cost, np.array(lengths), logprobs, seconds, depths)


class _Arrays:
    """The entries of a recorder replayed into arrays [B, T, ...]; T has room for tokens that were rolled back too."""

    def __init__(self, recorder: Recorder, most: int):
        self.recorder, self.most = recorder, most
        self.room = max([most, *(position + 1 for step in recorder.positions for position in step)])
        shape, layers = (recorder.batch, self.room), recorder.num_layers
        self.per_layer = {name: np.full((*shape, layers), empty, kind) for name, (kind, empty) in PER_LAYER.items()}
        self.exit_layers, self.steps = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.thresholds = np.full(shape, np.nan)
        width = recorder.width
        self.states = None if width is None else np.full((*shape, layers + 1, width), np.nan, np.float32)
        self.positions = np.array(recorder.positions, np.int64).reshape(-1, recorder.batch)
        self.discarded: list[tuple[int, int, int]] = []
        self.wasted: list[dict] = []

    def replay(self) -> None:
        """Fill the arrays from the entries, in the order of events."""
        for entry in self.recorder.entries:
            if entry.kind == "rows at":
                positions, head_rows = entry.values
                self.per_layer["rows"][entry.rows, positions, entry.layer - 1] = head_rows
            elif entry.kind == "rolled back":
                self._roll_back(entry.rows, entry.values, entry)
            elif entry.kind == "emitted":
                self._emit(entry)
            elif entry.kind == "states" and self.states is not None:
                self.states[entry.rows, self.positions[entry.step, entry.rows], entry.layer] = entry.values
            else:
                at = self.positions[entry.step, entry.rows]
                self.per_layer[entry.kind][entry.rows, at, entry.layer - 1] = entry.values

    def _emit(self, entry: Entry) -> None:
        at = self.positions[entry.step, entry.rows]
        self.exit_layers[entry.rows, at], self.steps[entry.rows, at] = entry.layer, entry.step + 1
        self.thresholds[entry.rows, at] = np.array(self.recorder.thresholds[entry.step])[entry.rows]
        for row in entry.rows:
            self.recorder.counts["layers_in_turn"][row] += entry.layer

    def _roll_back(self, row: int, position: int, entry: Entry) -> None:
        """Another token at `position`, from the last layer, and none behind; what those had cost is wasted."""
        behind = [p for p in range(position, self.room) if self.exit_layers[row, p] > 0]
        layers = {p: int(self.exit_layers[row, p]) for p in behind}
        self.discarded += [(row, p, layers[p]) for p in behind if layers[p] < entry.layer]
        self.wasted += [
            {"row": row, "position": p} | {name: array[row, p].copy() for name, array in self.per_layer.items()}
            for p in behind
            if p > position
        ]
        for name, array in self.per_layer.items():
            array[row, position + 1 :] = PER_LAYER[name][1]
        self.exit_layers[row, position + 1 :] = self.steps[row, position + 1 :] = 0
        self.exit_layers[row, position], self.steps[row, position] = entry.layer, entry.step + 1

    def trace(
        self,
        cost: Cost,
        lengths: np.ndarray,
        logprobs: np.ndarray | None,
        seconds: dict[str, float],
        depths: np.ndarray | None,
    ) -> ExitTrace:
        """What is left of the arrays once each row is cut to its length."""
        most, ended = self.most, np.arange(self.room) >= lengths[:, None]
        self.exit_layers[ended], self.steps[ended], self.thresholds[ended] = 0, 0, np.nan
        exit_layers = self.exit_layers[:, :most]
        return ExitTrace(
            exit_layers=exit_layers,
            depths=exit_layers if depths is None else np.where(ended[:, :most], 0, depths),
            **{name: array[:, :most] for name, array in self.per_layer.items()},
            threshold=self.thresholds[:, :most],
            step=self.steps[:, :most],
            logprobs=logprobs,
            cost=cost,
            seconds=seconds,
            states=None if self.states is None else self.states[:, :most],
            discarded=self.discarded,
            wasted=self.wasted,
            counts={name: np.array(values) for name, values in self.recorder.counts.items()},
        )
