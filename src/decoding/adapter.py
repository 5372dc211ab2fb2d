"""The contract between the decode loop and a model: what an adapter is. The loop knows no architecture.

Shapes, in all of `decoding` and `models`: B rows of the batch, N rows of a block, width slots of each of them, P slots
with a row of `hidden` each, D model width, V vocabulary, K rows of the head, J layers, L decoder layers. Layers count
from 1; layer 0 is the embedding, so h^l is the residual stream after l layers. Everything a method returns is on
`device`; hidden states and logits have the model's dtype, and only the loop widens logits to float32.

An adapter lives for one generate call. It reads the model's parameters, keeps no second copy of them, and never
writes to what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from decoding.blocks import AttentionBias, Block
from decoding.flops import Cost


class HeadRows(NamedTuple):
    """Copied rows of the head: K of each of n batch rows, or K that all of them have in common.

    Attributes:
        weight: [n, K, D], or [K, D] in common.
        bias: What each row of the head adds to its logit, [n, K] or [K]; None where the head has none.
    """

    weight: Tensor
    bias: Tensor | None

    @property
    def common(self) -> bool:
        """Whether they are all batch rows'."""
        return self.weight.dim() == 2

    def of(self, places: list[int]) -> HeadRows:
        """Those of the batch rows at `places`."""
        if self.common:
            return self
        return HeadRows(self.weight[places], None if self.bias is None else self.bias[places])

    def take(self, places: list[int], columns: Tensor) -> HeadRows:
        """Some of the rows copied once more: of the batch rows at `places` [m] those of `columns` [m, K]."""
        if self.common:
            return HeadRows(F.embedding(columns, self.weight), None if self.bias is None else self.bias[columns])
        rows, held, width = self.weight.shape
        index = columns + torch.tensor([place * held for place in places], device=columns.device)[:, None]
        bias = None if self.bias is None else self.bias.flatten()[index]
        return HeadRows(F.embedding(index, self.weight.view(rows * held, width)), bias)


class Unembedding(Protocol):
    """From hidden states to logits: an exit's translator where it has one (`models.translators`), the final norm, then
    scale, head and the head's bias."""

    @property
    def vocabulary_size(self) -> int:
        """V, rows of the head; a model may have more of them than its tokenizer has tokens."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the head, and of the logits."""

    @property
    def device(self) -> torch.device:
        """Where the head is."""

    @property
    def translated(self) -> Set[int]:
        """The layers that have a translator; the last is none of them."""

    def normalise(self, hidden: Tensor, layer: int) -> Tensor:
        """x^l of h^l [..., D]: translated where `layer` has a translator, and final-normed, not scaled, [..., D]."""

    def normalise_each(self, states: Tensor, layers: Sequence[int]) -> Tensor:
        """The same of states [n, J, D] of several layers [J], each translated by its own."""

    def logits(self, normed: Tensor) -> Tensor:
        """Logits [..., V] of final-normed states [..., D]."""

    def rows(self, ids: Tensor) -> HeadRows:
        """A copy of the head's rows `ids` [n, K] of n batch rows, or [K] in common."""

    def logits_on(self, rows: HeadRows, normed: Tensor) -> Tensor:
        """Logits [n, J, K] of final-normed states [n, J, D] on copied rows of the head, n times K or in common."""


class KeyValues(Protocol):
    """Keys and values of the slots so far, as `run_layer` uses them."""

    def store(self, layer: int, block: Block, keys: Tensor, values: Tensor) -> None:
        """Write the block's keys and values, [N, kv_heads, width, head_dim] each, rotated where positions are."""

    def attend(self, layer: int, query: Tensor, block: Block, scale: float, bias: Tensor | None) -> Tensor:
        """Attention of the block over all slots stored at `layer`, [N, heads, width, head_dim] like `query`.

        Args:
            scale: What products of queries and keys are multiplied by.
            bias: Added to them, broadcastable to [B, heads, width, keys].
        """


class DecoderAdapter(Protocol):
    """What a model gives the decode loop.

    Attributes:
        num_layers: Decoder layers L.
        kv_heads, head_dim, kv_dtype: Of the buffers of keys and values, [B, kv_heads, slots, head_dim].
        device: Where they are, and everything else.
        unembed: What turns hidden states into logits.
    """

    num_layers: int
    kv_heads: int
    head_dim: int
    kv_dtype: torch.dtype
    device: torch.device
    unembed: Unembedding

    @property
    def confidence_head(self) -> Callable[[Tensor], Tensor] | None:
        """The trained classifier of the measure `meta`: final-normed states [n, D] to two logits, the second for
        "agrees with the last layer", [n, 2]; None where the model has none."""

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """h^0 of the block's tokens [N, width], with their positions where the model embeds these: [N * width, D]."""

    def attention_bias(self, slot: int, keys: int) -> AttentionBias:
        """What is added to the attention scores of one slot, the same in every row, over the first `keys` slots.

        Returns:
            [B or 1, heads or 1, 1, keys], the lowest finite number for what is hidden (padding, slots to come); None
            where nothing is added.
        """

    def attention_bias_at(self, slots: Tensor, keys: int, ends: Tensor | None = None) -> AttentionBias:
        """The same of `slots` [B or 1, width] of each row, which see one another: [B or 1, heads or 1, width, keys].

        Args:
            ends: The last slot that each of a row's may see, [B or 1, 1]; None where each sees those before it alone.
        """

    def run_layer(self, layer: int, hidden: Tensor, states: KeyValues, block: Block) -> Tensor:
        """h^layer from h^(layer - 1), [N * width, D] both; stores the layer's keys and values on the way."""

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values that a skipped layer would have stored, [P, kv_heads, head_dim] each.

        Args:
            hidden: The states with which the tokens left, [P, D].
            rows, slots: Where they belong, [P] each; rotary keys take each slot's own position.
        """

    def cost(self) -> Cost:
        """Sizes of the model and of the call for the FLOP counter; what a policy adds to them is the loop's."""
