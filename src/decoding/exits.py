"""What an exit offers a measure: its logits, the states behind it, and what earlier layers of the same token said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

# An amateur's logits on a plausible set above this share of the vocabulary come from one product with the whole head.
WHOLE_ABOVE = 1 / 8
# The same for the rows of the head that pruning has copied, which lie side by side and need not be gathered.
IN_HAND_ABOVE = 1 / 4
# Plausible tokens are looked for among this many likeliest ones first.
FEW = 16


class ExitState:
    """What one exit offers a measure. Everything is computed when a measure first asks for it.

    Attributes:
        layer: Number of layers the rows have run, 1-based.
        hidden: h^l, the residual stream after `layer` layers, [n, D].
        previous: h^(l-1), [n, D].
        rows: Batch rows, [n].
        survivors: Rows of the head that pruning left, or None for all of them.
        past: What earlier layers left of these tokens, for measures that contrast.
        alpha: V_head are the tokens of at least alpha times the highest probability.
        final: The token the last layer says, [n], for the oracle alone; otherwise None.
        amateur_rows: Rows of the head multiplied for earlier layers' logits, by row.
    """

    def __init__(
        self,
        adapter,
        layer: int,
        hidden: Tensor,
        previous: Tensor,
        survivors=None,
        *,
        rows: list[int] | None = None,
        past: Past | None = None,
        alpha: float = 0.1,
        final: Tensor | None = None,
    ):
        self.adapter = adapter
        self.layer = layer
        self.hidden = hidden
        self.previous = previous
        self.survivors = survivors
        self.rows = list(range(hidden.shape[0])) if rows is None else rows
        self.past = past
        self.alpha = alpha
        self.final = final
        self.amateur_rows = [0] * len(self.rows)
        self.notes: dict = {}  # what a measure worked out here and may be asked for again

    @cached_property
    def normed(self) -> Tensor:
        """The state behind the final norm, not scaled, [n, D]."""
        return self.adapter.normalise(self.hidden)

    @cached_property
    def logits(self) -> Tensor:
        """Raw logits over the rows in hand in float32, [n, V] or [n, K]; -inf where pruning dropped a token."""
        if self.survivors is None:
            return self.adapter.head(self.normed).float()
        return self.survivors.logits(self.adapter, self.normed, self.rows)

    @property
    def has_logits(self) -> bool:
        return "logits" in self.__dict__

    @cached_property
    def ids(self) -> Tensor | None:
        """Token of each column of `logits`, likeliest first at the exit that chose them, [n, K]; None: its number."""
        return None if self.survivors is None else self.survivors.ids_of(self.rows)

    @property
    def kept(self) -> list[int]:
        """Tokens still in the running, by row: K, or V before anything is pruned."""
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
        """p_l over the rows in hand, [n, V] or [n, K]."""
        return self.logits.softmax(-1)

    @cached_property
    def first_two(self) -> tuple[Tensor, Tensor]:
        """The two highest logits and their columns, [n, 2] each."""
        return tuple(self.logits.topk(2, dim=-1))

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
        """log p_l over the rows in hand, [n, V] or [n, K]."""
        return log_probabilities(self.logits, self.partition)

    @cached_property
    def likeliest(self) -> Tensor:
        """The likeliest token, the lowest id on a tie, [n]."""
        return argmax_token(self.logits, self.ids)

    @property
    def confidence_head(self) -> torch.nn.Module:
        """The trained confidence classifier of the model (`cm_head`).

        Raises:
            ValueError: The checkpoint has none.
        """
        return self.adapter.confidence_head

    # ------------------------------------------------------------------------------------------------- plausible tokens
    @cached_property
    def floor(self) -> Tensor:
        """The lowest logit of a plausible token, [n, 1]: V_head = {v : p(v) >= alpha * max p} (arXiv:2210.15097)."""
        highest, lowest = self.first_two[0][:, :1], torch.finfo(torch.float32).min
        if self.alpha == 0:
            return torch.full_like(highest, lowest)
        return (highest + math.log(self.alpha)).clamp_min(lowest)

    @cached_property
    def summary(self) -> Tensor:
        """p(first), p(second) and whether V_head has several members, [n, 3], on the host: one transfer."""
        several = self.first_two[0][:, 1:] >= self.floor
        return torch.cat([self.top2, several.float()], 1).cpu()

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

    # --------------------------------------------------------------------------------------------------------- amateurs
    def amateur(self, layers: Sequence[int], members: Members) -> Tensor:
        """Logits of earlier layers on the members of V_head, [s, J, m]; of no meaning beyond a row's own members."""
        width = members.tokens.shape[1]
        if self.ids is not None and width > IN_HAND_ABOVE * self.ids.shape[1]:
            columns = members.columns[:, None].expand(-1, len(layers), -1)
            return self.earlier(layers, members.index).gather(2, columns)
        if width > WHOLE_ABOVE * self.adapter.vocabulary_size:
            self._spend(members.rows, self.past.multiply_whole(layers, members.rows))
        logits, spent = self.past.on_tokens(layers, members.rows, members.tokens, members.sizes)
        self._spend(members.rows, spent)
        return logits

    def earlier(self, layers: Sequence[int], index: list[int]) -> Tensor:
        """Logits of earlier layers over the rows in hand, [s, J, V] or [s, J, K], of the exit's rows `index`."""
        rows = [self.rows[i] for i in index]
        if self.ids is None:
            self._spend(rows, self.past.multiply_whole(layers, rows))
            logits = self.past.whole(layers, rows)
            penalty = None if self.survivors is None else self.survivors.penalty_of(rows)
            return logits if penalty is None else logits + penalty[:, None]
        self._spend(rows, [len(layers) * self.survivors.multiplied[row] for row in rows])
        return self.survivors.logits(self.adapter, self.past.normed(layers, rows), rows)

    def partitions(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """`partition` of earlier layers, [s, J, 2]: over the whole vocabulary, or what survived at an exit tried."""
        untried = [layer for layer in layers if layer not in self.past.tried]
        self._spend(rows, self.past.multiply_whole(untried, rows))
        return self.past.partitions(layers, rows)

    def _spend(self, rows: list[int], counts: list[int]) -> None:
        for row, count in zip(rows, counts, strict=True):
            self.amateur_rows[self.rows.index(row)] += count


class Members(NamedTuple):
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


class Past:
    """The layers below, of the tokens that are on their way up: their states, and logits that were computed.

    One per decode call; `begin` forgets the token before. Whole logits lie in one matrix, [L + 1, B, V], so that a
    measure takes any number of layers at once.
    """

    def __init__(self, adapter, batch: int):
        self.adapter = adapter
        self.batch = batch
        self.sheet: Tensor | None = None
        self.partition: Tensor | None = None
        self.begin()

    def begin(self) -> None:
        """Start with the next token."""
        self.states: list[tuple[list[int], Tensor]] = []
        self.known: dict[int, set[int]] = {}  # layer -> batch rows whose whole logits are in the sheet
        self.tried: set[int] = set()

    def ran(self, rows: list[int], hidden: Tensor) -> None:
        """The next layer, from 0, has left the states [N, D] of batch rows [N]."""
        self.states.append((rows, hidden))

    def at(self, layer: int, rows: list[int]) -> Tensor:
        """h^layer of batch rows, [n, D]."""
        held, hidden = self.states[layer]
        return hidden if held == rows else hidden[[held.index(row) for row in rows]]

    def normed(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """Final-normed, unscaled states of several layers, [n, J, D]."""
        states = torch.stack([self.at(layer, rows) for layer in layers], 1)
        return self.adapter.normalise(states.flatten(0, 1)).view(states.shape)

    def remember(self, exit: ExitState) -> None:
        """Keep what turns an exit's logits into probabilities, and the logits where they are the whole head's."""
        self.tried.add(exit.layer)
        self._keep([exit.layer], exit.rows, exit.partition[:, None], exit.logits if exit.ids is None else None)

    def multiply_whole(self, layers: Sequence[int], rows: list[int]) -> list[int]:
        """See to it that the whole logits of `layers` are there; how many rows of the head that took, by row.

        What is missing meets the head in one product for all layers.
        """
        size = self.adapter.vocabulary_size
        spent = [0] * len(rows)
        for index, missing, _ in self._by_missing(layers, rows):
            if not missing:
                continue
            group = [rows[i] for i in index]
            absent = [layers[j] for j in missing]
            normed = self.normed(absent, group)  # [g, J, D]
            logits = self.adapter.head(normed.flatten(0, 1)).float().view(*normed.shape[:2], size)
            self._keep(absent, group, partition_of(logits), logits)
            for i in index:
                spent[i] = size * len(absent)
        return spent

    def whole(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """Whole logits that are there, [n, J, V]."""
        return self.sheet[self._index(layers), self._index(rows)[:, None]]

    def partitions(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """What turns logits into log p, [n, J, 2], for layers whose whole logits are there and exits tried."""
        return self.partition[self._index(layers), self._index(rows)[:, None]]

    def on_tokens(
        self, layers: Sequence[int], rows: list[int], tokens: Tensor, sizes: list[int]
    ) -> tuple[Tensor, list[int]]:
        """Logits of `layers` on some tokens of each row, [n, J, m], and how many rows of the head that took, by row.

        Read from whole logits where these are there already; otherwise the tokens' rows of the head are multiplied.

        Args:
            tokens: Their ids, [n, m].
            sizes: How many of them count, by row.
        """
        found = torch.empty(len(rows), len(layers), tokens.shape[1], device=tokens.device)
        spent = [0] * len(rows)
        for index, missing, present in self._by_missing(layers, rows):
            group, wanted = [rows[i] for i in index], tokens if len(index) == len(rows) else tokens[index]
            place = self._index(index)[:, None]
            if present:
                known = self._index([layers[j] for j in present])
                where = (known[None, :, None], self._index(group)[:, None, None], wanted[:, None, :])
                found[place, self._index(present)] = self.sheet[where]
            if missing:
                normed = self.normed([layers[j] for j in missing], group)
                multiplied = self.adapter.head_on(self.adapter.head_rows(wanted), normed).float()
                found[place, self._index(missing)] = multiplied
                for i in index:
                    spent[i] = sizes[i] * len(missing)
        return found, spent

    def _by_missing(self, layers: Sequence[int], rows: list[int]) -> list[tuple[list[int], list[int], list[int]]]:
        """Rows that lack the whole logits of the same layers: their places, places of layers they lack and have."""
        groups: dict[tuple[bool, ...], list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(tuple(row in self.known.get(layer, ()) for layer in layers), []).append(i)
        return [
            (index, [j for j, there in enumerate(known) if not there], [j for j, there in enumerate(known) if there])
            for known, index in groups.items()
        ]

    def _keep(self, layers: Sequence[int], rows: list[int], partition: Tensor, logits: Tensor | None) -> None:
        """Partitions [n, J, 2], and whole logits [n, J, V] or [n, V] where there are any."""
        if self.partition is None:
            depth = self.adapter.num_layers + 1
            self.partition = torch.empty(depth, self.batch, 2, device=partition.device)
        if logits is not None and self.sheet is None:
            depth = self.adapter.num_layers + 1
            self.sheet = torch.empty(depth, self.batch, self.adapter.vocabulary_size, device=logits.device)
        for held, values in ((self.partition, partition), (self.sheet, logits)):
            if values is None:
                continue
            values = values.view(len(rows), len(layers), -1)
            if len(layers) == 1 and len(rows) == self.batch:  # the plain case, in one copy
                held[layers[0]].copy_(values[:, 0])
            else:
                held[self._index(layers), self._index(rows)[:, None]] = values
        if logits is not None:
            for layer in layers:
                self.known.setdefault(layer, set()).update(rows)

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), device=self.adapter.device)


def plausible_columns(logits: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Columns whose logit reaches the floor, and which of them count, [n, m] each.

    Args:
        logits: [n, C].
        floor: [n, 1].
    """
    values, columns = logits.topk(min(FEW, logits.shape[1]), dim=-1)
    valid = values >= floor
    width = int(valid.sum(-1).max())
    if width < FEW:
        return columns[:, :width], valid[:, :width]
    plausible = logits >= floor
    row, column = plausible.nonzero().unbind(1)  # row by row, columns rising
    counts = plausible.sum(-1)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    columns = row.new_zeros(len(logits), int(counts.max()))
    columns[row, place] = column
    return columns, torch.arange(columns.shape[1], device=row.device) < counts[:, None]


def partition_of(logits: Tensor) -> Tensor:
    """The highest logit and the log-probability of its token, [.., 2]."""
    return torch.stack([logits.amax(-1), logits.softmax(-1).amax(-1).log()], -1)


def log_probabilities(logits: Tensor, partition: Tensor) -> Tensor:
    """log p of logits [.., C], given the partition [.., 2] of their distribution.

    Relative to the likeliest token, so that a probability near 1 keeps its digits.
    """
    return (logits - partition[..., :1]) + partition[..., 1:]


def argmax_token(logits: Tensor, ids: Tensor | None) -> Tensor:
    """The likeliest token of each row, the lowest id on a tie, [n].

    Args:
        logits: [n, V], or [n, K] over the tokens `ids` [n, K].
    """
    if ids is None:
        return logits.argmax(-1)
    return torch.where(logits == logits.amax(-1, keepdim=True), ids, torch.iinfo(ids.dtype).max).amin(-1)
