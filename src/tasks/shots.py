"""Examples that are shown with their answers in front of the one that is asked."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from datasets import Dataset

Example = Mapping[str, Any]


class Shots:
    """The first `count` of the examples of a pool, drawn by a seed, that are not the one that is asked.

    So all are shown the same, but for those that are among them. An example is itself wherever it says the same,
    whatever its id, case and white space, also where files share rows or repeat one.

    Args:
        pool: Examples of the train split, of which none is shown twice.
        unanswered: Whether those without an answer are shown.

    Raises:
        ValueError: There are fewer.
    """

    def __init__(self, pool: Dataset, count: int, seed: int, unanswered: bool = False):
        self.count, self.unanswered = count, unanswered
        self._drawn: dict[tuple[str, ...], Example] = {}
        for index in random.Random(seed).sample(range(len(pool)), len(pool)):
            if len(self._drawn) > count:
                break
            example = pool[index]
            if unanswered or example["target"].strip():
                self._drawn.setdefault(said(example), example)
        if len(self._drawn) < count:
            raise self._too_few(len(self._drawn), "")

    def beside(self, example: Example) -> list[Example]:
        """Those that are shown in front of an example."""
        own = said(example)
        others = [shot for key, shot in self._drawn.items() if key != own][: self.count]
        if len(others) < self.count:
            raise self._too_few(len(others), f" beside example {example['id']!r}")
        return others

    def _too_few(self, there: int, where: str) -> ValueError:
        kind = "different examples" if self.unanswered else "different examples with an answer"
        return ValueError(
            f"--n_shot {self.count} needs as many {kind}, and the train split has {there}{where}: "
            "lower it, or give more."
        )


def said(example: Example) -> tuple[str, ...]:
    """What an example asks, without case and white space."""
    return tuple(" ".join(example[name].split()).casefold() for name in ("question", "source"))
