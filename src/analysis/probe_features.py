"""What a model offers a probe of a statement: the state or the logits of layers at its last token, and two numbers that
need no probe. One pass over the model gives all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from jobs.fitting import Part, batches, longest_first
from jobs.reading import answer_row
from tasks.features import shared_length, special_ids
from tasks.statements import Statement
from training.positions import HELD, Positions, labelled_positions

# What follows a statement: what the model itself says to it.
ASKED, WORDS = " True or false? Answer:", (" True", " False")
FEATURES = ("hidden", "logits")


class Question(NamedTuple):
    """What follows a statement.

    Attributes:
        tokens: Of ASKED, and of what both WORDS begin with.
        words: The first token by which each of the WORDS differs from the other; None where the tokenizer has no two.
    """

    tokens: list[int]
    words: tuple[int, int] | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Question:
        """As a tokenizer writes it."""
        one, other = tokenizer([ASKED + word for word in WORDS], add_special_tokens=False, verbose=False)["input_ids"]
        start = shared_length(one, other)
        if start in (len(one), len(other)):
            return cls(one[: start or 1], None)
        return cls(one[:start], (one[start], other[start]))


class HashedLogits:
    """Log-probabilities [n, V] as F features [n, F]: each token is added to one of F sums, with a sign, both drawn once
    (feature hashing, arXiv:0902.2206). Inner products stay what they were in expectation, and memory stays n times F.

    Args:
        vocabulary: V.
        size: F.
    """

    def __init__(self, vocabulary: int, size: int):
        drawn = torch.Generator().manual_seed(0)
        self.size, self.places = size, torch.randint(size, (vocabulary,), generator=drawn)
        self.signs = 2.0 * torch.randint(2, (vocabulary,), generator=drawn) - 1

    def __call__(self, logits: Tensor) -> Tensor:
        """Of logits, which a constant in all of them does not change."""
        log_p = logits.float().log_softmax(-1)
        places, signs = self.places.to(log_p.device), self.signs.to(log_p.device)
        return log_p.new_zeros(len(log_p), self.size).index_add_(1, places, log_p * signs)


@dataclass
class Evidence:
    """What N statements offer.

    Attributes:
        features: Of J layers at the last token, [N, J, F] in float32.
        token_log_p: Mean log-probability of the statement's tokens by the last layer, in nats, [N].
        answer: Log-probability of True less that of False as the next token behind ASKED, [N]; nan where the tokenizer
            has no such words.
    """

    features: Tensor
    token_log_p: Tensor
    answer: Tensor

    @classmethod
    def empty(cls, count: int, layers: int, size: int) -> Evidence:
        """Of nothing read yet."""
        return cls(torch.zeros(count, layers, size), torch.zeros(count), torch.full((count,), torch.nan))


def statement_rows(
    statements: Sequence[Statement], tokenizer: PreTrainedTokenizerBase, question: Question, encoder_decoder: bool
) -> Dataset:
    """A row per statement: input_ids and labels as for training, its `place`, and how many positions of it `count`.

    A decoder reads the statement and what follows it; an encoder-decoder's encoder reads the statement, and its decoder
    the same as a decoder does.
    """
    before, after = special_ids(tokenizer)
    texts = [each.text for each in statements]
    rows = []
    for place, ids in enumerate(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]):
        said = [*ids, *question.tokens, (question.words or question.tokens)[0]]
        row = answer_row([*before, *ids, *after] if encoder_decoder else before, said, encoder_decoder)
        first_is_given = not encoder_decoder and not before
        rows.append(row | {"place": place, "count": len(said) - first_is_given})
    return Dataset.from_list(rows)


class Reader:
    """Reads statements.

    Args:
        kind: Of FEATURES: h^l as a layer left it, or the logits of its exit, hashed.
        size: Of hashed logits.
    """

    def __init__(self, model, question: Question, layers: Sequence[int], kind: str, size: int):
        self.model, self.question, self.layers = model, question, layers
        self.unembed = model.unembed()
        self.hashed = HashedLogits(self.unembed.vocabulary_size, size) if kind == "logits" else None
        self.size = self.unembed.width if self.hashed is None else size

    @torch.no_grad()
    def read(self, rows: Dataset, batch_size: int, part: Part, label: str) -> Evidence:
        """The evidence in the order of the statements. It goes on where it was killed, and is kept in `part`."""
        held = part.read()
        found = Evidence(**held["evidence"]) if held else Evidence.empty(len(rows), len(self.layers), self.size)
        for some, read in batches(longest_first(rows), held.get("read", 0), batch_size, label):
            self._batch(some, batch_size, found)
            part.write_sometimes({"read": read, "evidence": vars(found)})
        if held.get("read") != len(rows):
            part.write({"read": len(rows), "evidence": vars(found)})
        return found

    def _batch(self, some: Dataset, batch_size: int, found: Evidence) -> None:
        places, counts = torch.tensor(some["place"]), torch.tensor(some["count"])
        first, seen, asked = counts.cumsum(0) - counts, 0, len(self.question.tokens)
        for piece in labelled_positions(self.model, some, batch_size, held=HELD // 4):
            rows = piece.rows.cpu()
            to_end = counts[rows] - 1 - (torch.arange(seen, seen + len(rows)) - first[rows])  # 0 for the last one
            seen += len(rows)
            at = to_end == asked
            found.features[places[rows[at]]] = self._features(piece, at).cpu()
            self._probabilities(piece, to_end, places[rows], counts[rows] - 1 - asked, found)

    def _features(self, piece: Positions, at: Tensor) -> Tensor:
        """[n, J, F] of the positions that are a statement's last token."""
        states, depth = piece.states, len(piece.states.normed)
        at = at.to(piece.labels.device)
        if self.hashed is not None:
            found = [self.hashed(self.unembed.logits(states.normed[layer - 1][at])) for layer in self.layers]
        else:
            found = [(states.last if layer == depth else states.hidden[layer - 1])[at] for layer in self.layers]
        return torch.stack(found, 1).float()

    def _probabilities(self, piece: Positions, to_end: Tensor, places: Tensor, tokens: Tensor, found: Evidence) -> None:
        """What needs no probe: token_log_p, of which so many tokens are predicted, and answer."""
        asked = len(self.question.tokens)
        wanted = (to_end > asked) | (to_end == 0)
        on_device = wanted.to(piece.labels.device)
        log_p = self.unembed.logits(piece.states.normed[-1][on_device]).float().log_softmax(-1)
        own = log_p.gather(1, piece.labels[on_device, None])[:, 0].cpu()
        to_end, places, tokens, log_p = to_end[wanted], places[wanted], tokens[wanted], log_p.cpu()
        inside = to_end > 0
        found.token_log_p.index_add_(0, places[inside], own[inside] / tokens[inside])
        if self.question.words is not None:
            true, false = log_p[~inside][:, list(self.question.words)].unbind(1)
            found.answer[places[~inside]] = true - false
