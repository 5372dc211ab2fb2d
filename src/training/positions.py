"""Labelled data under teacher forcing: the state of every layer at the positions whose label counts, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from losses.layers import IGNORED_LABEL, LayerStates

# So many logits of one layer are held at once.
HELD = 2**26


class Positions(NamedTuple):
    """Some positions whose label counts.

    Attributes:
        states: Of every layer, [n, D] each.
        labels: The token that each predicts, [n].
        rows: The row of the data that each is of, [n].
    """

    states: LayerStates
    labels: Tensor
    rows: Tensor


@torch.no_grad()
def labelled_positions(
    model, rows: Dataset, batch_size: int, share: float = 1.0, held: int = HELD
) -> Iterator[Positions]:
    """The positions in the order of the data; the model's mode is restored at the end.

    Args:
        model: With `teacher_forced` and `unembed`, see `models.exit_training`.
        rows: Columns input_ids and labels, as for training.
        share: Of the positions whose label counts so many are taken, evenly.
        held: What bounds memory: so many positions come together that their logits are at most so many numbers.
    """
    was_training = model.training
    model.eval()
    at_once, seen = max(1, held // model.unembed().vocabulary_size), 0
    for start in range(0, len(rows), batch_size):
        states, labels = model.teacher_forced(**_batch(rows[start : start + batch_size], model.device))
        row, column = (labels != IGNORED_LABEL).nonzero().unbind(1)
        steps = (share * torch.arange(seen, seen + len(row) + 1, dtype=torch.float64, device=row.device)).floor()
        taken = steps.diff().nonzero().flatten()
        seen += len(row)
        for some in taken.split(at_once) if len(taken) else ():
            where = row[some], column[some]
            yield Positions(states.at(where), labels[where], start + row[some])
    model.train(was_training)


def _batch(rows: dict, device: torch.device) -> dict[str, Tensor]:
    masks = [[1] * len(ids) for ids in rows["input_ids"]]
    columns = {
        "input_ids": (rows["input_ids"], 0),
        "attention_mask": (masks, 0),
        "labels": (rows["labels"], IGNORED_LABEL),
    }
    return {name: _padded(*column).to(device) for name, column in columns.items()}


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)
