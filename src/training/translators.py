"""Exit translators of a frozen model: what is read of it to fit them in closed form, and how they are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from losses.layers import IGNORED_LABEL, Layers
from losses.translators import divergence_to_last
from models.translators import ExitTranslators
from training.positions import Positions, labelled_positions
from training.translator_fit import TOO_LONG, TranslatorFit


class NotFinite(ValueError):
    """The states of a text are not finite.

    Attributes:
        input_ids: The text that was read.
    """

    def __init__(self, input_ids: list[int], layer: int):
        super().__init__(f"the states after layer {layer} are not finite")
        self.input_ids = input_ids


def length_limits(model, rows: Dataset, batch_size: int, layers: Sequence[int]) -> list[float]:
    """The greatest lengths that count in a fit: TOO_LONG times the median of h^l, of each of `layers`, and of h^L.

    Args:
        rows: A sample of the data, as of `labelled_positions`; the order of its rows does not matter.
    """
    lengths = [
        torch.stack([state.double().norm(dim=1) for state in (*hidden, last)], 1)
        for hidden, last in states_of(model, rows, batch_size, layers)
    ]
    return (TOO_LONG * torch.cat(lengths).median(0).values).tolist()


def add_texts(fit: TranslatorFit, model, rows: Dataset, batch_size: int) -> None:
    """Count the positions of labelled data whose label counts.

    Raises:
        NotFinite: The states of a text are not.
    """
    for hidden, last in states_of(model, rows, batch_size, fit.layers):
        fit.add(hidden, last)


def states_of(model, rows: Dataset, batch_size: int, layers: Sequence[int]) -> Iterator[tuple[list[Tensor], Tensor]]:
    """h^l of each of some layers, and h^L, [n, D] each, some positions at a time.

    Raises:
        NotFinite: The states of a text are not.
    """
    for some in labelled_positions(model, rows, batch_size):
        _refuse_not_finite(some, rows)
        yield [some.states.hidden[layer - 1] for layer in layers], some.states.last


def _refuse_not_finite(some: Positions, rows: Dataset) -> None:
    for layer, state in enumerate((*some.states.hidden, some.states.last), 1):
        if not bool(state.isfinite().all()):
            place = int((~state.isfinite().all(1)).nonzero()[0])
            raise NotFinite(rows[int(some.rows[place])]["input_ids"], layer)


class TranslatorTraining:
    """Training of translators by the divergence of their exits from the model's own last layer, see
    `losses.translators`; a step at a time, everything else frozen.

    Args:
        translators: Trained in place, in float32.
        rows: Columns input_ids and labels.
        batch_size: Rows of a step.
        positions: Of them at which layers are compared, at most, spread evenly.
        steps: In all; the learning rate falls in a line to zero over them.

    Attributes:
        step: Steps done.
    """

    def __init__(
        self,
        model,
        translators: ExitTranslators,
        rows: Dataset,
        batch_size: int,
        positions: int,
        steps: int,
        learning_rate: float,
    ):
        self.model, self.translators, self.rows = model.requires_grad_(False), translators, rows
        self.batch_size, self.positions, self.steps = min(batch_size, len(rows)), positions, steps
        self.learning_rate, self.step = learning_rate, 0
        self.optimizer = torch.optim.AdamW(translators.parameters(), learning_rate, weight_decay=0.0)

    def take_step(self) -> float:
        """One step; the mean divergence before it, in nats, over layers and positions."""
        rows = self.rows.select(rows_of_step(self.step, len(self.rows), self.batch_size))
        count = sum(label != IGNORED_LABEL for row in rows["labels"] for label in row)
        share = min(1.0, self.positions / max(1, count))
        pieces = labelled_positions(self.model, rows, self.batch_size, share)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - self.step / self.steps)
        self.optimizer.zero_grad()
        total, seen = 0.0, 0
        for some in pieces:
            loss = self._loss(some) * len(some.labels)  # a sum, since how many will come is not known yet
            loss.backward()
            total, seen = total + loss.item(), seen + len(some.labels)
        for parameter in self.translators.parameters() if seen else ():
            parameter.grad /= seen
        self.optimizer.step()
        self.step += 1
        return total / max(1, seen)

    def _loss(self, some: Positions) -> Tensor:
        unembed = self.model.unembed()

        def read(hidden: Tensor, layer: int) -> Tensor:
            return unembed.norm(self.translators(hidden.float(), layer).to(hidden.dtype))

        return divergence_to_last(Layers(some.states, some.labels, unembed), read, self.translators.layers)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {
            "step": self.step,
            "translators": self.translators.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, held: dict[str, Any]) -> None:
        """Go on where another one was."""
        self.step = held["step"]
        self.translators.load_state_dict(held["translators"])
        self.optimizer.load_state_dict(held["optimizer"])


def rows_of_step(step: int, count: int, size: int) -> list[int]:
    """The rows of a step, from 0, out of `count`: in an order drawn anew whenever all have come once."""
    passes = (divmod(place, count) for place in range(step * size, (step + 1) * size))
    return [_order(epoch, count)[index] for epoch, index in passes]


@lru_cache(maxsize=4)
def _order(epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(epoch)).tolist()
