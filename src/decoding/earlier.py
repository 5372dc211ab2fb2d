"""What the layers below an exit have left of the tokens that are on their way up: states, and logits computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from decoding.adapter import Unembedding
from decoding.logits import partition_of
from decoding.survivors import Survivors


class EarlierLayers:
    """The layers below, of the tokens that are on their way up: their states, and logits that were computed.

    One per decode call; `begin` forgets the token before. Whole logits lie in one tensor, by layer, so that a measure
    takes any number of layers at once.

    Args:
        first: The survivors at the first exit where they were chosen before it: layers below are asked on no others.

    Attributes:
        logits_by_layer: [L + 1, B, V], of no meaning where they are not `known`; made at first use.
        partition_by_layer: What turns each layer's logits into probabilities, [L + 1, B, 2]; made at first use.
        normed_by_layer: States of layers with a translator, translated and final-normed, [L + 1, B, D]; made at first
            use, since each is worked out once.
        known: Layer -> batch rows whose whole logits are there.
        seen: Layer -> batch rows whose translated states are there.
        asked: Layer -> batch rows whose partition over the first survivors is there.
        tried: Layers whose exits were tried.
    """

    def __init__(self, unembed: Unembedding, num_layers: int, batch: int, first: Survivors | None = None):
        self.unembed = unembed
        self.first = first
        self.depth = num_layers + 1
        self.batch = batch
        self.logits_by_layer: Tensor | None = None
        self.partition_by_layer: Tensor | None = None
        self.normed_by_layer: Tensor | None = None
        self.begin()

    def begin(self) -> None:
        """Start with the next token."""
        self.states: list[tuple[list[int], Tensor]] = []
        self.known: dict[int, set[int]] = {}
        self.asked: dict[int, set[int]] = {}
        self.seen: dict[int, set[int]] = {}
        self.tried: set[int] = set()
        self._translated: list[tuple[int, list[int]]] = []

    def ran(self, rows: list[int], hidden: Tensor) -> None:
        """The next layer, from 0, has left the states [N, D] of batch rows [N]."""
        self.states.append((rows, hidden))

    def at(self, layer: int, rows: list[int]) -> Tensor:
        """h^layer of batch rows, [n, D]."""
        held, hidden = self.states[layer]
        return hidden if held == rows else hidden[[held.index(row) for row in rows]]

    def normed(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """Final-normed, unscaled states of several layers, each translated where its layer has a translator,
        [n, J, D]."""
        if self.unembed.translated.isdisjoint(layers):
            return self._worked_out(layers, rows)
        for index, missing, _ in self._by_missing(layers, rows, self.seen):
            if missing:
                group, absent = [rows[i] for i in index], [layers[j] for j in missing]
                self._keep_normed(absent, group, self._worked_out(absent, group))
                self._translated += [(layer, group) for layer in absent if layer in self.unembed.translated]
        return self._held(self.normed_by_layer, layers, rows)

    def take_translated(self) -> list[tuple[int, list[int]]]:
        """Layers and batch rows whose states were translated since this was asked last."""
        taken, self._translated = self._translated, []
        return taken

    def remember(self, layer: int, rows: list[int], normed: Tensor, partition: Tensor, logits: Tensor | None) -> None:
        """Keep what an exit tried has said, for later exits.

        Args:
            normed: The state it read, [n, D].
            partition: What turns its logits into probabilities, [n, 2].
            logits: Its logits where they are the whole head's, [n, V].
        """
        self.tried.add(layer)
        if layer in self.unembed.translated:
            self._keep_normed([layer], rows, normed)
        self._keep([layer], rows, partition[:, None], logits)

    def see_partitions(self, layers: Sequence[int], rows: list[int]) -> list[int]:
        """See to it that the partitions of `layers` are there, over the first survivors where there are such, else over
        the whole vocabulary; how many rows of the head that took, by row."""
        if self.first is None:
            return self.multiply_whole(layers, rows)
        spent = [0] * len(rows)
        for index, missing, _ in self._by_missing(layers, rows, self.asked):
            if not missing:
                continue
            group, absent = [rows[i] for i in index], [layers[j] for j in missing]
            logits = self.first.logits(self.unembed, self.normed(absent, group), group)  # [g, J, K]
            self._keep(absent, group, partition_of(logits), None)
            for layer in absent:
                self.asked.setdefault(layer, set()).update(group)
            for i in index:
                spent[i] = self.first.multiplied[rows[i]] * len(absent)
        return spent

    def multiply_whole(self, layers: Sequence[int], rows: list[int]) -> list[int]:
        """See to it that the whole logits of `layers` are there; how many rows of the head that took, by row.

        What is missing meets the head in one product for all layers.
        """
        size = self.unembed.vocabulary_size
        spent = [0] * len(rows)
        for index, missing, _ in self._by_missing(layers, rows, self.known):
            if not missing:
                continue
            group = [rows[i] for i in index]
            absent = [layers[j] for j in missing]
            normed = self.normed(absent, group)  # [g, J, D]
            logits = self.unembed.logits(normed).float()
            self._keep(absent, group, partition_of(logits), logits)
            for i in index:
                spent[i] = size * len(absent)
        return spent

    def whole(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """Whole logits that are there, [n, J, V]."""
        return self._held(self.logits_by_layer, layers, rows)

    def partitions(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """What turns logits into log p, [n, J, 2], for layers whose whole logits are there and exits tried."""
        return self._held(self.partition_by_layer, layers, rows)

    def on_tokens(
        self, layers: Sequence[int], rows: list[int], tokens: Tensor, sizes: list[int]
    ) -> tuple[Tensor, list[int]]:
        """Logits of `layers` on some tokens of each row, [n, J, m], and how many rows of the head that took, by row.

        Read from whole logits where these are there already; otherwise the tokens' rows of the head are multiplied.

        Args:
            tokens: Their ids, [n, m].
            sizes: How many of them count, by row.
        """
        found = torch.zeros(len(rows), len(layers), tokens.shape[1], device=tokens.device)
        spent = [0] * len(rows)
        for index, missing, present in self._by_missing(layers, rows, self.known):
            group, width = [rows[i] for i in index], max(sizes[i] for i in index)
            wanted = (tokens if len(index) == len(rows) else tokens[index])[:, :width]
            place = self._index(index)[:, None]
            if present:
                known = self._index([layers[j] for j in present])
                where = (known[None, :, None], self._index(group)[:, None, None], wanted[:, None, :])
                assert self.logits_by_layer is not None, "some are known"
                found[place, self._index(present), :width] = self.logits_by_layer[where]
            if missing:
                normed = self.normed([layers[j] for j in missing], group)
                multiplied = self.unembed.logits_on(self.unembed.rows(wanted), normed).float()
                found[place, self._index(missing), :width] = multiplied
                for i in index:
                    spent[i] = sizes[i] * len(missing)
        return found, spent

    def _by_missing(
        self, layers: Sequence[int], rows: list[int], held: Mapping[int, set[int]]
    ) -> list[tuple[list[int], list[int], list[int]]]:
        """Rows that lack the same layers of what is held: their places, places of layers they lack and have."""
        groups: dict[tuple[bool, ...], list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(tuple(row in held.get(layer, ()) for layer in layers), []).append(i)
        return [
            (index, [j for j, there in enumerate(known) if not there], [j for j, there in enumerate(known) if there])
            for known, index in groups.items()
        ]

    def _worked_out(self, layers: Sequence[int], rows: list[int]) -> Tensor:
        """`normed`, whether or not it is there already."""
        return self.unembed.normalise_each(torch.stack([self.at(layer, rows) for layer in layers], 1), layers)

    def _keep_normed(self, layers: Sequence[int], rows: list[int], normed: Tensor) -> None:
        """States [n, J, D], or [n, D] of one layer, as exits read them."""
        if self.normed_by_layer is None:
            self.normed_by_layer = normed.new_empty(self.depth, self.batch, normed.shape[-1])
        self._set(self.normed_by_layer, layers, rows, normed)
        for layer in layers:
            self.seen.setdefault(layer, set()).update(rows)

    def _keep(self, layers: Sequence[int], rows: list[int], partition: Tensor, logits: Tensor | None) -> None:
        """Partitions [n, J, 2], and whole logits [n, J, V] or [n, V] where there are any."""
        if self.partition_by_layer is None:
            self.partition_by_layer = torch.empty(self.depth, self.batch, 2, device=partition.device)
        self._set(self.partition_by_layer, layers, rows, partition)
        if logits is None:
            return
        if self.logits_by_layer is None:
            size = self.unembed.vocabulary_size
            self.logits_by_layer = torch.empty(self.depth, self.batch, size, device=logits.device)
        self._set(self.logits_by_layer, layers, rows, logits)
        for layer in layers:
            self.known.setdefault(layer, set()).update(rows)

    def _set(self, held: Tensor, layers: Sequence[int], rows: list[int], values: Tensor) -> None:
        values = values.view(len(rows), len(layers), -1)
        if len(layers) == 1 and len(rows) == self.batch:  # the plain case, in one copy
            held[layers[0]].copy_(values[:, 0])
        else:
            held[self._index(layers), self._index(rows)[:, None]] = values

    def _held(self, held: Tensor | None, layers: Sequence[int], rows: list[int]) -> Tensor:
        assert held is not None, "nothing is known of any layer"
        return held[self._index(layers), self._index(rows)[:, None]]

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(list(numbers), device=self.unembed.device)
