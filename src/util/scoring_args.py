"""How a strategy scores answers that are given, beside how it generates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from decoding.strategies import Strategy
from util.additional_args import flag
from util.generate_args import StrategyArguments


@dataclass
class ScoringArguments(StrategyArguments):
    """A strategy, and what of it counts for log-likelihoods alone; a part of other arguments."""

    likelihood_alpha: float = flag(
        0.0,
        "Of log-likelihoods: tokens below so many times the highest probability count -1000 (relative_top in DoLa's "
        "code). 0 leaves every token its score, as that code does there; --alpha is that of generation.",
    )

    def scoring(self, strategy: Strategy) -> Strategy:
        """A strategy as it scores what is given."""
        return replace(strategy, alpha=self.likelihood_alpha, beams=1)
