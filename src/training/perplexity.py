"""The perplexity of a decoder-only model at every layer: what each exit, read through the head, makes of a text."""

import math

import torch
from datasets import Dataset
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from losses.layers import IGNORED_LABEL


@torch.no_grad()
def perplexities(model, blocks: Dataset, batch_size: int) -> dict:
    """Perplexities over all labels that count: `loss` and `perplexity` of the last layer, and `perplexity_by_layer`.

    Args:
        model: With `normed_states` (see `models.modeling_causal`).
        blocks: Columns input_ids and labels; each is read by itself.
    """
    was_training = model.training
    model.eval()
    unembed = model.unembed()
    totals: list[float] = []
    count = 0
    for start in range(0, len(blocks), batch_size):
        rows = blocks[start : start + batch_size]
        ids = _padded(rows["input_ids"], 0).to(model.device)
        mask = _padded([[1] * len(row) for row in rows["input_ids"]], 0).to(model.device)
        labels = _padded(rows["labels"], IGNORED_LABEL)[:, 1:].to(model.device)
        counted = labels != IGNORED_LABEL
        count += int(counted.sum())
        states = model.normed_states(input_ids=ids, attention_mask=mask)
        sums = [_loss(unembed, hidden, labels, counted) for hidden in states]
        totals = sums if not totals else [a + b for a, b in zip(totals, sums, strict=True)]
    model.train(was_training)
    if not count:
        raise ValueError("No token of the texts counts, so there is no perplexity: their prompts fill --block_size.")
    means = [total / count for total in totals]
    by_layer = {str(layer): math.exp(min(mean, 700.0)) for layer, mean in enumerate(means, 1)}
    return {"loss": means[-1], "perplexity": by_layer[str(len(means))], "perplexity_by_layer": by_layer}


def _loss(unembed, hidden: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor) -> float:
    logits = unembed(hidden[:, :-1][counted]).float()
    return float(functional.cross_entropy(logits, labels[counted], reduction="sum"))


def _padded(rows: list[list[int]], filler: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)
