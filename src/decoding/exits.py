"""What an exit offers a measure: its logits, the states behind it, and what earlier layers of the same token said."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from decoding.adapter import Unembedding
from decoding.earlier import EarlierLayers
from decoding.logits import argmax_token, log_probabilities, plausible_columns, plausible_floor
from decoding.survivors import Survivors

# An amateur's logits on a plausible set above this share of the vocabulary come from one product with the whole head.
WHOLE_ABOVE = 1 / 8
# The same for the surviving rows of the head that were copied, which lie side by side and need not be gathered.
SURVIVING_ABOVE = 1 / 4


class ExitState:
    """What one exit offers a measure. Everything is computed when a measure first asks for it.

    Attributes:
        layer: The exit's layer, which is the number of layers the rows have run, from 1.
        hidden: h^l, the residual stream after `layer` layers, [n, D].
        previous: h^(l-1), [n, D].
        rows: Batch rows, [n].
        survivors: Rows of the head that pruning left, or None for all of them.
        earlier: What earlier layers left of these tokens, for measures that contrast.
        alpha: V_head are the tokens of at least alpha times the highest probability.
        amateur_rows: Rows of the head multiplied for earlier layers' logits, by row.
        notes: What a measure has worked out here and may be asked for again.
    """

    def __init__(
        self,
        unembed: Unembedding,
        layer: int,
        hidden: Tensor,
        previous: Tensor,
        survivors: Survivors | None = None,
        *,
        rows: list[int] | None = None,
        earlier: EarlierLayers | None = None,
        alpha: float = 0.1,
        final: Tensor | None = None,
        confidence_head: Callable[[Tensor], Tensor] | None = None,
    ):
        self.unembed = unembed
        self.layer = layer
        self.hidden = hidden
        self.previous = previous
        self.survivors = survivors
        self.rows = list(range(hidden.shape[0])) if rows is None else rows
        self._earlier = earlier
        self.alpha = alpha
        self._final = final
        self._confidence_head = confidence_head
        self.amateur_rows = [0] * len(self.rows)
        self.notes: dict[Hashable, Any] = {}

    @cached_property
    def normed(self) -> Tensor:
        """The state behind its translator, if there is one, and the final norm, not scaled, [n, D]."""
        return self.unembed.normalise(self.hidden, self.layer)

    def normed_of(self, index: list[int]) -> Tensor:
        """That of some of the exit's rows; the others' is not worked out for it."""
        if "normed" in self.__dict__:
            return self.normed[index]
        return self.unembed.normalise(self.hidden[index], self.layer)

    def take_translated(self) -> list[tuple[int, list[int]]]:
        """Layers and batch rows whose states were translated for this exit, its own and earlier ones', since it was
        asked last."""
        own = "normed" in self.__dict__ and self.layer in self.unembed.translated
        below = [] if self._earlier is None else self._earlier.take_translated()
        return [*below, (self.layer, self.rows)] if own else below

    @cached_property
    def logits(self) -> Tensor:
        """Raw logits over the surviving rows in float32, [n, V] or [n, K]; -inf where pruning dropped a token."""
        if self.survivors is None:
            return self.unembed.logits(self.normed).float()
        return self.survivors.logits(self.unembed, self.normed, self.rows)

    @property
    def has_logits(self) -> bool:
        """Whether a measure has asked for them."""
        return "logits" in self.__dict__

    @cached_property
    def ids(self) -> Tensor | None:
        """Token of each column of `logits`, likeliest first at the exit that chose them, [n, K]; None: its number."""
        return None if self.survivors is None else self.survivors.ids_of(self.rows)

    @property
    def kept(self) -> list[int]:
        """Tokens that survive so far, by row: K, or V before anything is pruned."""
        if self.survivors is None:
            return [self.logits.shape[-1]] * len(self.rows)
        return [self.survivors.kept[row] for row in self.rows]

    @property
    def multiplied(self) -> list[int]:
        """Rows of the head multiplied for `logits`, by row."""
        if self.survivors is None:
            return [self.logits.shape[-1]] * len(self.rows)
        return [self.survivors.multiplied[row] for row in self.rows]

    @cached_property
    def probabilities(self) -> Tensor:
        """p_l over the surviving rows, [n, V] or [n, K]."""
        return self.logits.softmax(-1)

    @cached_property
    def first_two(self) -> tuple[Tensor, Tensor]:
        """The two highest logits and their columns, [n, 2] each."""
        values, columns = self.logits.topk(2, dim=-1)
        return values, columns

    @cached_property
    def top2(self) -> Tensor:
        """The two highest probabilities, [n, 2]."""
        return self.probabilities.gather(1, self.first_two[1])

    @cached_property
    def partition(self) -> Tensor:
        """What turns logits into log p_l, see `log_probabilities`, [n, 2]."""
        return torch.cat([self.first_two[0][:, :1], self.top2[:, :1].log()], 1)

    @property
    def log_p(self) -> Tensor:
        """log p_l over the surviving rows, [n, V] or [n, K]."""
        return log_probabilities(self.logits, self.partition)

    @cached_property
    def likeliest(self) -> Tensor:
        """The likeliest token, the lowest id on a tie, [n]."""
        return argmax_token(self.logits, self.ids)

    @property
    def final(self) -> Tensor:
        """The full model's likeliest token, [n]; for measures that look ahead alone."""
        assert self._final is not None, "a measure that looks ahead says so in its row of the table"
        return self._final

    @property
    def confidence_head(self) -> Callable[[Tensor], Tensor]:
        """The trained confidence classifier of the model (`cm_head`).

        Raises:
            ValueError: The checkpoint has none.
        """
        if self._confidence_head is None:
            raise ValueError("This model has no cm_head: train one with --train_meta_cm_head True.")
        return self._confidence_head

    # ------------------------------------------------------------------------------------------------- plausible tokens
    @cached_property
    def floor(self) -> Tensor:
        """The lowest logit of a plausible token, [n, 1]: V_head = {v : p(v) >= alpha * max p} (arXiv:2210.15097)."""
        return plausible_floor(self.first_two[0][:, :1], self.alpha)

    @cached_property
    def summary(self) -> Tensor:
        """p(first), p(second) and whether V_head has several members, [n, 3], on the host: one transfer."""
        second_too = self.first_two[0][:, 1:] >= self.floor
        return torch.cat([self.top2, second_too.float()], 1).cpu()

    @property
    def sizes(self) -> list[int]:
        """Members of V_head, by row."""
        sizes = [1] * len(self.rows)
        if self.members is not None:
            for i, size in zip(self.members.index, self.members.sizes, strict=True):
                sizes[i] = size
        return sizes

    @cached_property
    def members(self) -> Members | None:
        """V_head of the rows where it has several members, or None where no row has."""
        index = self.summary[:, 2].nonzero().flatten().tolist()
        if not index:
            return None
        everyone = len(index) == len(self.rows)
        logits, floor = (self.logits, self.floor) if everyone else (self.logits[index], self.floor[index])
        columns, valid = plausible_columns(logits, floor)
        where = (torch.tensor(index, device=columns.device)[:, None], columns)
        log_p = log_probabilities(self.logits[where], self.partition[index])
        return Members(
            index=index,
            rows=[self.rows[i] for i in index],
            sizes=valid.sum(-1).tolist(),
            columns=columns,
            tokens=columns if self.ids is None else self.ids[where],
            valid=valid,
            p=self.probabilities[where].masked_fill_(~valid, 0),
            log_p=log_p.masked_fill_(~valid, -torch.inf),
        )

    # --------------------------------------------------------------------------------------------------- earlier layers
    @property
    def earlier(self) -> EarlierLayers:
        """What earlier layers left of these tokens."""
        assert self._earlier is not None, "a measure that contrasts needs the layers below"
        return self._earlier

    def amateur_logits(self, layers: Sequence[int], members: Members) -> Tensor:
        """Logits of earlier layers on the members of V_head, [s, J, m]; of no meaning beyond a row's own members."""
        width = members.tokens.shape[1]
        if self.ids is not None and width > SURVIVING_ABOVE * self.ids.shape[1]:
            columns = members.columns[:, None].expand(-1, len(layers), -1)
            return self.surviving_logits(layers, members.index).gather(2, columns)
        most = WHOLE_ABOVE * self.unembed.vocabulary_size
        wide = [row for row, size in zip(members.rows, members.sizes, strict=True) if size > most]
        self._spend(wide, self.earlier.multiply_whole(layers, wide))
        logits, spent = self.earlier.on_tokens(layers, members.rows, members.tokens, members.sizes)
        self._spend(members.rows, spent)
        return logits

    def surviving_logits(self, layers: Sequence[int], index: list[int]) -> Tensor:
        """Logits of earlier layers over the surviving rows, [s, J, V] or [s, J, K], of the exit's rows `index`."""
        rows = [self.rows[i] for i in index]
        if self.survivors is not None and self.ids is not None:
            self._spend(rows, [len(layers) * self.survivors.multiplied[row] for row in rows])
            return self.survivors.logits(self.unembed, self.earlier.normed(layers, rows), rows)
        self._spend(rows, self.earlier.multiply_whole(layers, rows))
        logits = self.earlier.whole(layers, rows)
        penalty = None if self.survivors is None else self.survivors.penalty_of(rows)
        return logits if penalty is None else logits + penalty[:, None]

    def partitions(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """`partition` of earlier layers, [s, J, 2]: over what survived at an exit tried; of the others over the whole
        vocabulary, or over what survives at the first exit where that is known before."""
        untried = [layer for layer in layers if layer not in self.earlier.tried]
        self._spend(rows, self.earlier.see_partitions(untried, rows))
        return self.earlier.partitions(layers, rows)

    def remember(self) -> None:
        """Leave what this exit has said to the exits that come."""
        logits = self.logits if self.ids is None else None
        self.earlier.remember(self.layer, self.rows, self.normed, self.partition, logits)

    def _spend(self, rows: list[int], counts: list[int]) -> None:
        for row, count in zip(rows, counts, strict=True):
            self.amateur_rows[self.rows.index(row)] += count


@dataclass(frozen=True)
class Members:
    """V_head of s rows, m members at most; the places beyond a row's own members are not `valid`.

    Attributes:
        index: The rows, counted within the exit.
        rows: The rows, counted within the batch.
        sizes: Members of each.
        columns: Where they stand among the exit's logits, [s, m].
        tokens: Their ids, [s, m].
        valid: [s, m].
        p, log_p: What the exit's own p_l says of them, 0 and -inf where not valid, [s, m].
    """

    index: list[int]
    rows: list[int]
    sizes: list[int]
    columns: Tensor
    tokens: Tensor
    valid: Tensor
    p: Tensor
    log_p: Tensor
