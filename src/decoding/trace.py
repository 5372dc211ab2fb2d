"""The trace: what a decode call did, token by token; enough to replay every count."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from decoding.flops import Cost, count_flops

# Per step, row and layer: name -> type and what stands where nothing happened.
PER_LAYER = {
    "confidences": (np.float32, np.nan),
    "rows": (np.int64, 0),
    "amateur_rows": (np.int64, 0),
    "kept": (np.int64, 0),
    "members": (np.int64, 0),
    "translated": (np.int64, 0),
}
PER_TOKEN = ("exit_layers", "depths", *PER_LAYER, "threshold", "step")
# Per row: what verification and the synchronisation of pending slots came to.
COUNTS = (
    "layers_in_turn",
    "synchronizations",
    "run_deep",
    "drafted",
    "accepted",
    "masked_keys",
    "undrafted",
    "stops",
)


@dataclass(frozen=True)
class SearchTrace:
    """What a search of contrastive generation did, token by token.

    Attributes:
        premature_layers: The layer each token was contrasted with, [B, T]; -1 where none was, and after the end.
        lengths: Tokens of each row, [B].
    """

    premature_layers: np.ndarray
    lengths: np.ndarray


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
        kept: [B, T, L], surviving tokens at an exit tried: V before pruning, then its k.
        members: [B, T, L], the size of V_head at an exit tried by a contrastive measure, 0 elsewhere.
        translated: [B, T, L], 1 where an exit's translator met the state after the layer, there or from above.
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
            synchronizations of pending slots; run_deep, the slots that ran the deep layers later on; drafted
            and accepted tokens, of those that were verified; masked_keys, multiplied for slots that came before them;
            undrafted, tokens that ran at full depth because drafts did not pay; stops, how often drafting stopped.
    """

    exit_layers: np.ndarray
    depths: np.ndarray
    confidences: np.ndarray
    rows: np.ndarray
    amateur_rows: np.ndarray
    kept: np.ndarray
    members: np.ndarray
    translated: np.ndarray
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
        """Layer passes of each row, those of pending tokens, of verification and of rejected drafts included, [B]."""
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

        def cut(array: np.ndarray | None) -> Any:
            return None if array is None else array[index : index + 1, :length]

        return replace(
            self,
            **{name: cut(getattr(self, name)) for name in (*PER_TOKEN, "logprobs", "states")},
            cost=self.cost.row(index),
            discarded=[(0, position, layer) for row, position, layer in self.discarded if row == index],
            wasted=[each | {"row": 0} for each in self.wasted if each["row"] == index],
            counts={name: values[index : index + 1] for name, values in self.counts.items()},
        )
