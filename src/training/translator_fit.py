"""Exit translators in closed form (Din et al., arXiv:2303.09435): ridge regression from what a layer leaves to what the
last one does, both before the final norm.

Of every layer the means of h^l and h^L and the centred Gram matrices of both are added up in float64, position by
position; memory is 2 D^2 numbers a layer, however long the text. Sums know no order, so batches of any size, in any
order, and parts that were added up apart give the same map up to rounding.

A few positions, the first of a text in most models, have states hundreds of times as long as all others, and would be
all that a sum of squares sees. Left out of a layer's fit is where h^l or h^L is longer than `TOO_LONG` times the median
of its layer. The median is not known before all positions were seen, and depends on them; so lengths are limited by
numbers that are given, see `training.translators.length_limits`, which do not depend on an order either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

# Added to the diagonal of h^l's Gram matrix, in parts of its mean.
RIDGE = 1e-3
# Times the median length.
TOO_LONG = 10.0


class TranslatorFit:
    """What ridge regression has to know of the positions seen so far, of some layers.

    Args:
        layers: Those below the last that are fitted.
        width: D.
        limits: The greatest length that counts, of h^l of each of `layers` and then of h^L; None where any does.
        device: Of the sums; that of the states.

    Attributes:
        counts: Positions that count, by layer, [layers].
        left_out: Positions that were too long, by layer, [layers].
    """

    def __init__(
        self,
        layers: Sequence[int],
        width: int,
        limits: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ):
        self.layers = tuple(layers)
        self.width = width
        self.limits = limits
        sums = {"dtype": torch.float64, "device": device}
        self.counts = torch.zeros(len(self.layers), dtype=torch.long)
        self.left_out = torch.zeros(len(self.layers), dtype=torch.long)
        self.means = torch.zeros(len(self.layers), 2 * width, **sums)  # of h^l, then of h^L
        self.grams = torch.zeros(len(self.layers), width, 2 * width, **sums)  # of h^l with h^l, then with h^L

    @torch.no_grad()
    def add(self, hidden: Sequence[Tensor], last: Tensor) -> None:
        """Count some positions.

        Args:
            hidden: h^l of each of `layers`, in their order, [n, D] each.
            last: h^L, [n, D].
        """
        last = last.double()
        for place, (_, state) in enumerate(zip(self.layers, hidden, strict=True)):
            both = torch.cat([state.double(), last], 1)  # [n, 2 D]
            if self.limits is not None:
                counts = both[:, : self.width].norm(dim=1) <= self.limits[place]
                counts &= last.norm(dim=1) <= self.limits[-1]
                self.left_out[place] += int((~counts).sum())
                both = both[counts]
            if len(both):
                mean = both.mean(0)
                both -= mean
                self.grams[place].addmm_(both[:, : self.width].T, both)
                self._move(place, len(both), mean)

    @torch.no_grad()
    def merge(self, other: TranslatorFit) -> None:
        """Count the positions that another one of the same layers and limits has counted."""
        self.left_out += other.left_out
        for place in range(len(self.layers)):
            if other.counts[place]:
                self.grams[place] += other.grams[place]
                self._move(place, int(other.counts[place]), other.means[place])

    def _move(self, place: int, count: int, mean: Tensor) -> None:
        """Let `count` positions of this mean, whose own centred Gram matrix was added, share a mean with the others
        (Chan, Golub and LeVeque, 1983)."""
        before = int(self.counts[place])
        away = mean - self.means[place]
        self.grams[place].addr_(away[: self.width], away, alpha=before * count / (before + count))
        self.means[place] += away * (count / (before + count))
        self.counts[place] += count

    def solve(self, ridge: float = RIDGE) -> dict[int, tuple[Tensor, Tensor]]:
        """Layer -> A_l [D, D] and b_l [D], float64: h^l + A_l h^l + b_l is the least squares guess at h^L. Without
        positions both are zeros; they are finite however few positions there were.

        Args:
            ridge: In parts of the mean of the diagonal.
        """
        return {layer: self._solve(place, ridge) for place, layer in enumerate(self.layers)}

    def _solve(self, place: int, ridge: float) -> tuple[Tensor, Tensor]:
        own, cross = self.grams[place].split(self.width, 1)
        mean, mean_last = self.means[place].split(self.width)
        identity = torch.eye(self.width, dtype=own.dtype, device=own.device)
        if not self.counts[place]:
            return torch.zeros_like(identity), torch.zeros_like(mean)
        added = ridge * own.diagonal().mean()
        # Where all positions are one and the same state there is nothing but the constant to fit.
        slope = torch.cholesky_solve(cross, torch.linalg.cholesky(own + added * identity)).T if added > 0 else 0 * own
        return slope - identity, mean_last - slope @ mean

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {name: getattr(self, name) for name in ("counts", "left_out", "means", "grams")}

    def load_state_dict(self, held: Mapping[str, Any]) -> None:
        """Go on where another one of the same layers and limits was."""
        for name, value in held.items():
            getattr(self, name).copy_(value)
