"""Ways to multiply a few rows of states with a weight: a function and a row of `WAYS` each.

They give the same numbers but for rounding, and which of them is fast is the processor's affair: at so few rows a
product takes as long as its weight takes to be read, and the library reads some weights with one core, or copies them
first. No way copies a weight or changes how it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# (states [n, K], what is added to the product: [n, M], a bias [M], or None) to [n, M], row by row in memory.
Multiply = Callable[[Tensor, Tensor | None], Tensor]

# Columns of a piece, so that it stays in a processor's cache while several rows meet it.
PIECE = 1024
# Bytes of the pieces in which weights are multiplied in other ways than the library's, so that they can be measured in
# no time: a way that is fast with a small weight may be slow with a large one.
LARGEST = 10 * 2**20
# Parts of a weight that is multiplied from the other side, where there are more of them than threads.
MANY_PARTS = 16


class Way(NamedTuple):
    """A way to multiply.

    Attributes:
        bind: From a matrix [K, M], a view of a weight, to what multiplies with it; it may hold views of it.
        fits: Whether it can multiply so many rows with a matrix.
    """

    bind: Callable[[Tensor], Multiply]
    fits: Callable[[Tensor, int], bool] = lambda matrix, rows: True


def library(matrix: Tensor) -> Multiply:
    """The library's own product, which is `F.linear`'s."""

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        return states.mm(matrix) if added is None else torch.addmm(added, states, matrix)

    return multiply


def pieces(matrix: Tensor) -> Multiply:
    """The library's, a piece of the columns after the other: several rows meet each while it is in the cache."""
    parts = matrix.split(PIECE, 1)

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        product = torch.cat([states.mm(part) for part in parts], 1)
        return product if added is None else added + product

    return multiply


def other_side(matrix: Tensor) -> Multiply:
    """The weight times the states as columns."""
    weight = matrix.t()

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        return _as_rows(weight.mm(_columns(states)), added)

    return multiply


def padded(matrix: Tensor) -> Multiply:
    """The same with a column of zeros more, where the columns are odd in number."""
    weight = matrix.t()

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        rows = len(states)
        return _as_rows(weight.mm(F.pad(states, (0, 0, 0, rows % 2)).t())[:, :rows], added)

    return multiply


def weight_parts(matrix: Tensor, parts: int | None = None) -> Multiply:
    """From the other side, a part of the weight's rows per thread, all in one `bmm`; what does not divide is last."""
    width, size = matrix.shape
    count = parts or _threads()
    whole = size - size % count
    weight = matrix.t()[:whole].view(count, whole // count, width)
    rest = matrix.t()[whole:] if whole < size else None

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        if len(states) == 1 and rest is None:  # in as few operations as it takes
            column = states.t().expand(count, -1, -1)
            if added is None:
                return torch.bmm(weight, column).view(1, size)
            return torch.baddbmm(added.reshape(count, -1, 1), weight, column).view(1, size)
        columns = _columns(states)  # [K, n]
        product = torch.bmm(weight, columns.expand(count, -1, -1)).view(whole, -1)
        if rest is not None:
            product = torch.cat([product, rest.mm(columns)])
        return _as_rows(product, added)

    return multiply


def state_parts(matrix: Tensor, parts: int | None = None) -> Multiply:
    """The states times a part of the columns per thread, all in one `bmm`; what does not divide comes last."""
    width, size = matrix.shape
    count = parts or _threads()
    whole = size - size % count
    columns = matrix[:, :whole].view(width, count, whole // count).transpose(0, 1)
    rest = matrix[:, whole:] if whole < size else None

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        product = torch.bmm(states.expand(count, -1, -1), columns)  # [count, n, M / count]
        product = product.transpose(0, 1).reshape(len(states), whole)
        if rest is not None:
            product = torch.cat([product, states.mm(rest)], 1)
        return product if added is None else added + product

    return multiply


def summed_parts(matrix: Tensor) -> Multiply:
    """A part of the weight's inputs per thread, and the sum of what they give; of a weight stored as [K, M] each thread
    then reads one stretch of memory."""
    width, size = matrix.shape
    count = _threads()
    parts = matrix.view(count, width // count, size)

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        product = torch.bmm(states.view(len(states), count, -1).transpose(0, 1), parts).sum(0)
        return product if added is None else added + product

    return multiply


def onednn(matrix: Tensor) -> Multiply:
    """oneDNN's product, which the library has for half precision and takes for float32 on some processors alone."""
    weight, linear = matrix.t(), torch.ops.mkldnn._linear_pointwise

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        states = states.to(weight.dtype)  # under autocast they are another's
        if added is not None and added.dim() == 1:
            return linear(states, weight, added, "none", [], "")
        product = linear(states, weight, None, "none", [], "")
        return product if added is None else added + product

    return multiply


def _has_onednn(matrix: Tensor, rows: int) -> bool:
    """Of the types that oneDNN multiplies everywhere, and where the weight lies as it reads it: others it copies."""
    kinds = [torch.float32]
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        kinds.append(torch.bfloat16)
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return available and matrix.dtype in kinds and matrix.t().is_contiguous()


def _is_large(matrix: Tensor, rows: int) -> bool:
    """Large enough for every part to have several rows."""
    return min(matrix.shape) >= 4 * MANY_PARTS


def _divides(matrix: Tensor, rows: int) -> bool:
    """Whether the inputs can be parted among the threads; float16 has no room for partial sums."""
    return (
        matrix.dtype != torch.float16
        and _is_large(matrix, rows)
        and matrix.shape[0] % _threads() == 0
        and matrix.stride(1) == 1
    )


WAYS: dict[str, Way] = {
    "library": Way(library),
    "pieces": Way(pieces, lambda matrix, rows: rows > 1 and matrix.shape[1] > PIECE),
    "other_side": Way(other_side),
    "padded": Way(padded, lambda matrix, rows: rows % 2 == 1),
    "weight_parts": Way(weight_parts, _is_large),
    "many_weight_parts": Way(partial(weight_parts, parts=MANY_PARTS), _is_large),
    "many_state_parts": Way(partial(state_parts, parts=MANY_PARTS), _is_large),
    "state_parts": Way(state_parts, _is_large),
    "summed_parts": Way(summed_parts, _divides),
    "onednn": Way(onednn, _has_onednn),
}
# Those that multiply a weight of any size as it is.
OF_ANY_SIZE = ("library", "pieces")


def bound(name: str, matrix: Tensor) -> Multiply:
    """The way of this name with a matrix [K, M]; in pieces of at most about `LARGEST` bytes, unless the library's."""
    parts = [matrix] if name in OF_ANY_SIZE else in_pieces(matrix, LARGEST)
    if len(parts) == 1:
        return WAYS[name].bind(matrix)
    ways = [WAYS[name].bind(part) for part in parts]

    def multiply(states: Tensor, added: Tensor | None = None) -> Tensor:
        product = torch.cat([way(states, None) for way in ways], 1)
        return product if added is None else added + product

    return multiply


def in_pieces(matrix: Tensor, size: int) -> Sequence[Tensor]:
    """Views [K, m] of a matrix [K, M], of at most about so many bytes and about equal."""
    return matrix.tensor_split(max(1, -(-matrix.numel() * matrix.element_size() // size)), 1)


def _threads() -> int:
    """Parts that keep all threads busy; one thread reads faster in two parts than in one, too."""
    return max(2, torch.get_num_threads())


def _columns(states: Tensor) -> Tensor:
    """States [n, K] as columns [K, n]; rows in one piece, since columns in one piece take the library four times as
    long."""
    return states.contiguous().t()


def _as_rows(product: Tensor, added: Tensor | None) -> Tensor:
    """A product [M, n] as rows [n, M], so that norms, softmax and the next product read them in one piece."""
    rows = product.t()
    return rows.contiguous() if added is None else torch.add(added, rows).contiguous()
