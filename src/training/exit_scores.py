"""What every layer's exit makes of labelled data under teacher forcing: loss, token accuracy, perplexity."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional

from training.positions import labelled_positions


class ExitScore(NamedTuple):
    """Of one layer, over all labels that count: mean cross entropy in nats, and the share of likeliest tokens that are
    the label."""

    loss: float
    accuracy: float


@torch.no_grad()
def exit_scores(model, rows: Dataset, batch_size: int, layers: Sequence[int]) -> dict[int, ExitScore]:
    """Layer -> its score. The head is run for one layer at a time; the model's mode is restored.

    Args:
        model: With `teacher_forced` and `unembed`, see `models.exit_training`.
        rows: Columns input_ids and labels, as for training.
        layers: From 1; each is read by itself.

    Raises:
        ValueError: No label counts.
    """
    unembed, count = model.unembed(), 0
    sums = torch.zeros(len(layers), 2, dtype=torch.float64)
    for some in labelled_positions(model, rows, batch_size):
        count += len(some.labels)
        for place, layer in enumerate(layers):
            logits = unembed(some.states.normed[layer - 1]).float()  # [n, V]
            sums[place] += _sums(logits, some.labels)
    if not count:
        raise ValueError("No label counts, so there is no loss of any layer: prompts fill what is read of every text.")
    return {layer: ExitScore(*found) for layer, found in zip(layers, (sums / count).tolist(), strict=True)}


def perplexities(model, blocks: Dataset, batch_size: int) -> dict:
    """`loss` and `perplexity` of the last layer over all labels that count, and `perplexity_by_layer`."""
    scores = exit_scores(model, blocks, batch_size, range(1, model.num_exit_layers + 1))
    by_layer = {str(layer): math.exp(min(score.loss, 700.0)) for layer, score in scores.items()}
    last = model.num_exit_layers
    return {"loss": scores[last].loss, "perplexity": by_layer[str(last)], "perplexity_by_layer": by_layer}


def exit_score_metrics(model, rows: Dataset, batch_size: int, layers: Sequence[int]) -> dict[str, float]:
    """`loss_layer_<l>` and `accuracy_layer_<l>` of each layer, the latter in percent."""
    scores = exit_scores(model, rows, batch_size, layers).items()
    losses = {f"loss_layer_{layer}": score.loss for layer, score in scores}
    return losses | {f"accuracy_layer_{layer}": 100 * score.accuracy for layer, score in scores}


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    loss = functional.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss.double(), (logits.argmax(-1) == labels).sum().double()]).cpu()
