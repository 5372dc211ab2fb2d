"""What every layer's exit says at positions of real text, beside what the last layer says there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from decoding.confidence import CONFIDENCES
from decoding.earlier import EarlierLayers
from decoding.exits import ExitState
from decoding.lens import rank_of
from decoding.logits import plausible_floor
from losses.layers import IGNORED_LABEL
from training.positions import HELD, Positions, labelled_positions


class ExitValues(NamedTuple):
    """Numbers of N positions at L layers; the last is the full model.

    Attributes:
        rows: The text that a position is of, [N].
        loss: Cross entropy of the next token, in nats, [N, L].
        divergence: KL(p_L || p_l), in nats, [N, L].
        equal: Whether the layer's likeliest token is the last layer's, [N, L].
        rank: Of the last layer's likeliest token, 1 for the first, [N, L].
        plausible: Tokens that are at least alpha times as likely as the likeliest, [N, L].
        confidences: Measure -> what it says below the last layer, nan where it tries no exit, [N, L - 1].
    """

    rows: np.ndarray
    loss: np.ndarray
    divergence: np.ndarray
    equal: np.ndarray
    rank: np.ndarray
    plausible: np.ndarray
    confidences: dict[str, np.ndarray]

    @property
    def layers(self) -> int:
        """L."""
        return self.loss.shape[1]


class _Last(NamedTuple):
    """What the last layer says of n positions: log p [n, V] and its likeliest token [n]."""

    log_p: Tensor
    token: Tensor


def exit_values(
    model, rows: Dataset, batch_size: int, most: int, measures: Sequence[str], alpha: float = 0.1
) -> ExitValues:
    """The values at `most` positions of labelled data or fewer, spread evenly over all, in one pass over the model.

    Memory holds one batch's states, the logits of all layers at a few positions, and a few numbers per position.

    Args:
        rows: Columns input_ids and labels, as for training.
        measures: Keys of CONFIDENCES, none that looks ahead.
        alpha: Of the plausible tokens.

    Raises:
        ValueError: No label counts.
    """
    labels = sum(label != IGNORED_LABEL for row in rows["labels"] for label in row)
    share = min(1.0, most / max(1, labels))
    held = HELD // (model.num_exit_layers + 1)
    pieces = [_piece(model, some, measures, alpha) for some in labelled_positions(model, rows, batch_size, share, held)]
    if not pieces:
        raise ValueError("No label counts, so there is nothing that a layer could say: give texts of several tokens.")
    *columns, confidences = zip(*pieces, strict=True)
    joined = {name: np.concatenate([each[name] for each in confidences]) for name in measures}
    return ExitValues(*map(np.concatenate, columns), joined)


@torch.no_grad()
def _piece(model, some: Positions, measures: Sequence[str], alpha: float) -> ExitValues:
    unembed, depth = model.unembed(), len(some.states.normed)
    logits = unembed.logits(some.states.normed[-1]).float()
    last = _Last(logits.log_softmax(-1), logits.argmax(-1))
    exits = _exits(model, unembed, some, alpha)
    found, confidences = [], {name: [] for name in measures}
    for layer, exit in enumerate(exits, 1):
        found.append(_numbers(exit.logits, alpha, last, some.labels))
        for name in measures:
            confidences[name].append(_confidence(name, exit))
        if layer < depth - 1 and any(CONFIDENCES[name].contrasts for name in measures):
            exit.remember()
    found.append(_numbers(logits, alpha, last, some.labels))
    columns = [torch.stack(column, 1).cpu().numpy() for column in zip(*found, strict=True)]
    kept = {name: torch.stack(each, 1).numpy() for name, each in confidences.items()}
    return ExitValues(some.rows.cpu().numpy(), *columns, kept)


def _exits(model, unembed, some: Positions, alpha: float):
    """The exits below the last layer, in their order, each as the decode loop would meet it."""
    index = list(range(len(some.labels)))
    earlier = EarlierLayers(unembed, len(some.states.normed), len(index))
    head = getattr(model, "cm_head", None)
    earlier.ran(index, some.states.embedded)
    previous = some.states.embedded
    for layer, hidden in enumerate(some.states.hidden, 1):
        more = {"rows": index, "earlier": earlier, "alpha": alpha, "confidence_head": head}
        yield ExitState(unembed, layer, hidden, previous, **more)
        earlier.ran(index, hidden)
        previous = hidden


def _numbers(logits: Tensor, alpha: float, last: _Last, labels: Tensor) -> tuple[Tensor, ...]:
    """loss, divergence, equal, rank and plausible of a layer's logits [n, V], [n] each."""
    log_q = logits.log_softmax(-1)
    return (
        -log_q.gather(1, labels[:, None])[:, 0],
        torch.nn.functional.kl_div(log_q, last.log_p, reduction="none", log_target=True).sum(-1),
        logits.argmax(-1) == last.token,
        rank_of(logits, last.token),
        (logits >= plausible_floor(logits.amax(-1, keepdim=True), alpha)).sum(-1),
    )


def _confidence(name: str, exit: ExitState) -> Tensor:
    measure = CONFIDENCES[name]
    if exit.layer < measure.first_layer:
        return torch.full((len(exit.rows),), torch.nan)
    return measure.compute(exit).float().cpu().clamp(max=1)
