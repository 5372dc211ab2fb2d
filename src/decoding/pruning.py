"""Vocabulary: which rows of the head are multiplied at the next exit.

A pruner maps the exit just tried to the token ids to keep, likeliest first, [B, K]; None keeps the whole vocabulary.
The next one only ever shrinks the set, because it sees no other rows.
"""

from collections.abc import Callable

from torch import Tensor

from decoding.confidence import ExitState


def keep_all(exit: ExitState) -> Tensor | None:
    """Keep every row that was in hand."""
    return exit.ids


VOCABULARIES: dict[str, Callable[[ExitState], Tensor | None]] = {"none": keep_all}
