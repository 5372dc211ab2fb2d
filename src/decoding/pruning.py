"""Vocabulary: which rows of the head are multiplied at the next exit.

A kind of pruning is one row of `VOCABULARIES`. Its schedule goes from what the last exit said to k, the number of rows
that survive; `prune` keeps the k likeliest by the logits of that exit, among the survivors so far, so the sets are
nested, and the likeliest token is always among them (arXiv:2410.18952). A kind may also say which rows survive at the
first exit already, before anything was multiplied: `first_survivors` makes them those of all exits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decoding.adapter import Unembedding
from decoding.exits import ExitState
from decoding.frequent import FREQUENT_TOKENS, frequent, frequent_problems
from decoding.pruning_settings import Given, PruningSettings
from decoding.settings import Setting, refuse_misfits
from decoding.survivors import RECOPY_AT, Survivors

# The bits of -inf in float32.
MINUS_INFINITY = np.float32(-np.inf).view(np.int32)


def fixed(settings: PruningSettings, layer: int, confidence: float) -> int:
    """The same k at every exit after the first."""
    return settings.k or decaying(settings, settings.first_exit, confidence)


def decaying(settings: PruningSettings, layer: int, confidence: float) -> int:
    """k_max / (1 + (k_max - k_min) / k_min * l / L), at least k_min: 2781 at l = 2, 842 at l = 7 of a T5-large."""
    slope = (settings.highest - settings.lowest) / settings.lowest
    return int(max(settings.lowest, settings.highest / (1 + slope * layer / settings.num_layers)))


def adaptive(settings: PruningSettings, layer: int, confidence: float) -> int:
    """V * (1 - scale * c): the more confident the last exit was, the fewer tokens stay."""
    k = int(settings.vocabulary * (1 - settings.scale * confidence))
    return min(k, fixed(settings, layer, confidence)) if settings.cap else k


# (settings, layer, the confidence at the exit before it) -> k at the exit after that layer.
Schedule = Callable[[PruningSettings, int, float], int]


def constant(settings: PruningSettings, layer: int, confidence: float, **own: object) -> int:
    """What survived the exit before survives the next: of kinds that choose their rows before the first exit."""
    return settings.vocabulary


# (settings, what the call is given) -> of each batch row the tokens that survive at the first exit.
First = Callable[[PruningSettings, Given], Sequence[Tensor]]


@dataclass(frozen=True)
class Pruning:
    """One row of the table.

    Attributes:
        schedule: (settings, layer, confidence at the exit before it) -> k at the exit after `layer`; the kind's own
            settings come as further arguments, by their names. `prune` keeps it between 2 and the survivors so far.
        settings: Its own, beside those of `PruningSettings`.
        first: (settings, what the call is given) -> of each batch row the ids [n] of the tokens that survive at the
            first exit, own settings as of `schedule`; None where the head is multiplied whole there. A kind that has
            one prunes at a single exit too.
        reads_k: Whether `PruningSettings.k` says how many survive.
        check: (V, the vocabulary of the tokenizer or None where it is not known) and own settings -> a sentence per
            setting that does not fit the model.
    """

    schedule: Callable[..., int] = constant
    settings: tuple[Setting, ...] = ()
    first: Callable[..., Sequence[Tensor]] | None = None
    reads_k: bool = False
    check: Callable[..., list[str]] | None = None

    def __post_init__(self):
        refuse_misfits(self.schedule, 3, self.settings)


VOCABULARIES: dict[str, Pruning | None] = {
    "none": None,
    "fixed": Pruning(fixed, reads_k=True),
    "decaying": Pruning(decaying),
    "adaptive": Pruning(adaptive),
    "frequent": Pruning(first=frequent, settings=(FREQUENT_TOKENS,), reads_k=True, check=frequent_problems),
}


def first_survivors(unembed: Unembedding, tokens: Sequence[Tensor], copy_share: float) -> Survivors:
    """The survivors of the first exit, chosen before anything is multiplied.

    All rows of the batch share one copy of the head's rows, made once per call, of the tokens of all of them; a row's
    logits are -inf on those that are none of its own, so that it says in a batch what it says alone.

    Args:
        tokens: Of each batch row its ids, [n], at least two; doubles count once.
        copy_share: Rows of the head are copied while they are at most this share of the vocabulary.

    Raises:
        ValueError: A row has fewer than two tokens, or one that the model does not know.
    """
    size, device = unembed.vocabulary_size, unembed.device
    own = [each.to(device).unique() for each in tokens]  # in rising order
    for each in own:
        if len(each) < 2 or int(each[0]) < 0 or int(each[-1]) >= size:
            raise ValueError(
                f"A row begins with {len(each)} surviving tokens"
                + (f" from {int(each[0])} to {int(each[-1])}" if len(each) else "")
                + f": valid are two or more of 0 to {size - 1}."
            )
    rows, together = list(range(len(own))), torch.cat(own).unique()
    kept = {row: len(each) for row, each in enumerate(own)}
    copied = len(together) <= copy_share * size
    columns = together if copied else torch.arange(size, device=device)
    belongs = torch.stack([torch.isin(columns, each, assume_unique=True) for each in own])
    penalty = (
        None if bool(belongs.all()) else torch.zeros(belongs.shape, device=device).masked_fill_(~belongs, -torch.inf)
    )
    if not copied:
        return Survivors(rows, kept, dict.fromkeys(rows, size), penalty=penalty)
    ids = together.expand(len(rows), -1)
    return Survivors(rows, kept, dict.fromkeys(rows, len(together)), ids, unembed.rows(together), penalty)


def prune(
    unembed: Unembedding,
    exit: ExitState,
    staying: list[int],
    schedule: Schedule,
    settings: PruningSettings,
    confidences: list[float],
    copy_share: float,
) -> Survivors | None:
    """The survivors for the next exit: of those so far, the k likeliest of each row by the logits of this exit.

    Args:
        staying: The exit's rows that go on.
        confidences: Of this exit, by row.
        copy_share: Rows of the head are copied while rows * k is at most this share of the vocabulary.
    """
    everyone, before, size = len(staying) == len(exit.rows), exit.survivors, settings.vocabulary
    rows = exit.rows if everyone else [exit.rows[i] for i in staying]
    held = [exit.kept[i] for i in staying]
    ks = [schedule(settings, exit.layer + 1, confidences[i]) for i in staying]
    ks = [max(2, min(k, most, size)) for k, most in zip(ks, held, strict=True)]
    if ks == held:
        return None if before is None else before.of(rows)
    logits = exit.logits if everyone else exit.logits[staying]
    ids = None if before is None else before.ids_of(rows)
    kept = dict(zip(rows, ks, strict=True))
    widest = max(ks)
    if before is not None and ids is not None and widest > RECOPY_AT * ids.shape[1]:
        return before.of(rows).masked(kept, rows, penalty_below(logits, ks, ids))
    if ids is None and len(ks) * widest > copy_share * size:
        return Survivors(rows, kept, dict.fromkeys(rows, size), penalty=penalty_below(logits, ks))
    columns = likeliest(logits, widest, ids)
    if before is None or ids is None or before.head is None:
        chosen, head = columns, unembed.rows(columns)
    else:
        chosen = ids.gather(1, columns)
        head = before.head.take([before.rows.index(row) for row in rows], columns)
    return Survivors(rows, kept, kept, chosen, head, padding(columns, ks))


def padding(ids: Tensor, ks: Sequence[int]) -> Tensor | None:
    """-inf behind the first k of each row, [n, K], or None where all rows are full."""
    if min(ks) == ids.shape[1]:
        return None
    places = torch.arange(ids.shape[1], device=ids.device)
    behind = places[None] >= torch.tensor(ks, device=ids.device)[:, None]
    return torch.zeros(ids.shape, device=ids.device).masked_fill_(behind, -torch.inf)


def likeliest(logits: Tensor, k: int, ids: Tensor | None = None) -> Tensor:
    """Columns of the k highest logits of each row, highest first, the lower token id on a tie, [n, k].

    Args:
        logits: [n, C], float32.
        ids: Token of each column, [n, C]; None where it is the column's number.
    """
    if logits.device.type != "cpu":
        return _ranked(logits, ids)[:, :k]
    chosen = []
    for row, values in enumerate(logits.numpy()):
        tokens = None if ids is None else ids[row].numpy()
        columns = np.flatnonzero(_highest(values, k, tokens))
        order = np.lexsort((columns if tokens is None else tokens[columns], -values[columns]))
        chosen.append(columns[order])
    return torch.from_numpy(np.stack(chosen))


def penalty_below(logits: Tensor, ks: Sequence[int], ids: Tensor | None = None) -> Tensor:
    """0 for the k highest logits of each row, -inf for the others, [n, C]; k is a row's own, ties as in `likeliest`."""
    if logits.device.type != "cpu":
        behind = torch.arange(logits.shape[1], device=logits.device) >= torch.tensor(ks, device=logits.device)[:, None]
        penalty = torch.zeros_like(logits).masked_fill_(behind, -torch.inf)
        return torch.empty_like(logits).scatter_(1, _ranked(logits, ids), penalty)
    kept = [
        _highest(values, k, None if ids is None else ids[row].numpy())
        for row, (values, k) in enumerate(zip(logits.numpy(), ks, strict=True))
    ]
    bits = (np.stack(kept).astype(np.int32) - 1) & MINUS_INFINITY  # no branch per token: half the time of `where`
    return torch.from_numpy(bits.view(np.float32))


def _highest(values: np.ndarray, k: int, tokens: np.ndarray | None) -> np.ndarray:
    """Whether each value is one of the k highest, [C]; ties at the k-th go to the lower token."""
    running = values > -np.inf
    count = np.count_nonzero(running)
    if k >= count:
        running[np.flatnonzero(~running)[: k - count]] = True
        return running
    # Many equal values would slow the selection down, which as it is takes a tenth of the time of torch.topk.
    among = values if count == len(values) else values.take(np.flatnonzero(running))
    lowest = np.partition(among, count - k)[count - k]
    kept = values >= lowest
    surplus = np.count_nonzero(kept) - k
    if surplus:
        ties = np.flatnonzero(values == lowest)
        if tokens is not None:
            ties = ties[np.argsort(tokens[ties])]
        kept[ties[len(ties) - surplus :]] = False
    return kept


def _ranked(logits: Tensor, ids: Tensor | None) -> Tensor:
    """All columns of each row, highest logit first, the lower token on a tie."""
    if ids is None:
        return logits.sort(dim=-1, descending=True, stable=True).indices
    by_token = ids.argsort(dim=-1)
    ranked = logits.gather(1, by_token).sort(dim=-1, descending=True, stable=True).indices
    return by_token.gather(1, ranked)
