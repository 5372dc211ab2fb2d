"""Verification: which of the tokens that left early, the draft, the full model accepts.

When a token runs all layers, pending slots run them with it, and each yields the logits that the full model would have
read its token from. A kind of verification is one function, from these to the first token that is rejected, and one row
of `VERIFICATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Draft(NamedTuple):
    """Tokens of one row that left early, and what the full model says at their positions.

    Attributes:
        tokens: [w].
        deep: The full model's scores at each of these positions, processed as for emission, [w, V].
        drawn_from: The probabilities each token was drawn from, [w, V]; None where the likeliest was taken.
    """

    tokens: Tensor
    deep: Tensor
    drawn_from: Tensor | None = None


class Verdict(NamedTuple):
    """How many tokens of a draft are accepted, and the token in the place of the first rejected one, or None."""

    accepted: int
    replacement: int | None = None


@dataclass(frozen=True)
class Verification:
    """One row of the table.

    Attributes:
        verify: (draft, threshold) to the verdict.
        exact: Whether no token may be returned unverified.
    """

    verify: Callable[[Draft, float], Verdict]
    exact: bool = False


def _first_rejected(rejected: Tensor, replacements: Tensor) -> Verdict:
    """The verdict of a flag per token, [w], and what would replace each, [w]."""
    places = rejected.nonzero()
    if not len(places):
        return Verdict(len(rejected))
    place = int(places[0])
    return Verdict(place, int(replacements[place]))


def rollback(draft: Draft, threshold: float) -> Verdict:
    """The first token whose cross entropy under the full model is above the threshold is replaced by the full model's
    likeliest (BiLD's rule, arXiv:2302.07863, as in FREE's code)."""
    entropy = -draft.deep.log_softmax(-1).gather(1, draft.tokens[:, None])[:, 0]
    return _first_rejected(entropy > threshold, draft.deep.argmax(-1))


def exact(draft: Draft, threshold: float) -> Verdict:
    """The first token that the full model would not have emitted is replaced by the one it would.

    Drawn tokens are kept with probability min(1, p / q), and replaced by a draw from norm(max(p - q, 0)), which leaves
    the full model's distribution p (speculative sampling, arXiv:2211.17192).
    """
    if draft.drawn_from is None:
        likeliest = draft.deep.argmax(-1)
        return _first_rejected(likeliest != draft.tokens, likeliest)
    p, q = draft.deep.softmax(-1), draft.drawn_from
    of_token = draft.tokens[:, None]
    kept = torch.rand(len(p), device=p.device) * q.gather(1, of_token)[:, 0] < p.gather(1, of_token)[:, 0]
    places = (~kept).nonzero()
    if not len(places):
        return Verdict(len(p))
    place = int(places[0])
    rest = (p[place] - q[place]).clamp_min(0)
    rest = rest if bool(rest.sum() > 0) else p[place]  # equal but for rounding
    return Verdict(place, int(torch.multinomial(rest, 1)))


VERIFICATIONS: dict[str, Verification | None] = {
    "none": None,
    "rollback": Verification(rollback),
    "exact": Verification(exact, exact=True),
}
