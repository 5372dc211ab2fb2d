"""What a kind of pruning is given: sizes of the model, numbers of the policy, and the tokens of a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

# The vocabulary at which k_min and k_max are 250 and 35000; below it they are scaled.
T5_VOCABULARY = 32128
K_MIN, K_MAX = 250, 35000


@dataclass(frozen=True)
class PruningSettings:
    """What the number of surviving rows depends on, in one model under one policy.

    Attributes:
        vocabulary: V.
        num_layers: L.
        first_exit: The first exit, where the head is multiplied whole unless the kind says which rows.
        k: How many survive, of the kinds that read it; None for the number that each has by itself.
        k_min, k_max: Of the formula; None for 250 and 35000, scaled where V is below T5's 32128.
        scale: Share of the vocabulary that adaptive pruning drops at confidence 1.
        cap: Whether adaptive pruning keeps no more than fixed pruning would.
    """

    vocabulary: int
    num_layers: int
    first_exit: int = 1
    k: int | None = None
    k_min: float | None = None
    k_max: float | None = None
    scale: float = 0.9
    cap: bool = False

    @property
    def lowest(self) -> float:
        return self._scaled(K_MIN) if self.k_min is None else self.k_min

    @property
    def highest(self) -> float:
        return self._scaled(K_MAX) if self.k_max is None else self.k_max

    def _scaled(self, size: int) -> float:
        return size * min(1.0, self.vocabulary / T5_VOCABULARY)


class Given(NamedTuple):
    """What a call knows of its tokens before it decodes one.

    Attributes:
        prompts: Of each batch row the token ids it was given, without padding: the encoder's, of a model that has one.
        ends: Token ids that end a text.
    """

    prompts: Sequence[Tensor]
    ends: Sequence[int] = ()
