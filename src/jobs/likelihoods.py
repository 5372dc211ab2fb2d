"""Log-likelihoods of answers under strategies: the scores of `decoding.strategies`, teacher-forced, whole answers at
once, all strategies from one pass over the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from decoding.strategies import Strategy, read_logits
from losses.layers import IGNORED_LABEL, LayerStates
from training.evaluation import padded

# What a token counts that a strategy finds implausible, as in DoLa's code: worse than any other, yet to be summed.
IMPLAUSIBLE = -1000.0
# So many logits are computed at once, of all layers together. With more a CPU is slower: what strategies make of them
# is memory that the system clears each time.
AT_ONCE = 2**23


class Pair(NamedTuple):
    """Token ids of a context and of what continues it."""

    context: list[int]
    answer: list[int]


class Likelihood(NamedTuple):
    """Of an answer: the sum of its tokens' scores, how many they are, and whether each is the one of highest score;
    None where nobody looked."""

    total: float
    tokens: int
    greedy: bool | None = None

    @property
    def mean(self) -> float:
        """By token."""
        return self.total / self.tokens


def encode_pair(tokenizer: PreTrainedTokenizerBase, context: str, answer: str, apart: bool) -> Pair:
    """Tokens of a text and of its continuation, parted where lm-evaluation-harness parts them: what the tokens of both
    together have beyond those of the context, whose spaces at the end go with the answer.

    Args:
        apart: Whether an encoder reads the context.

    Raises:
        ValueError: The answer has no token.
    """
    if apart:
        pair = Pair(tokenizer(context)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"])
    else:
        kept = context.rstrip()
        before = tokenizer(kept, verbose=False)["input_ids"]
        whole = tokenizer(context + answer, verbose=False)["input_ids"]
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        pair = Pair(before or [start], whole[len(before) :])
    if not pair.answer:
        raise ValueError(f"The answer {answer!r} has no token of its own: expected a text.")
    return pair


class Likelihoods:
    """A model that scores answers under several strategies.

    Args:
        model: Deployed, in evaluation mode.
        longest: Tokens of context and answer together; of longer ones the last count. None for any number.
        batch_size: Answers that are read together.
    """

    def __init__(self, model, tokenizer: PreTrainedTokenizerBase, batch_size: int, longest: int | None = None):
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.longest = longest or getattr(model.config, "max_position_embeddings", None)
        self.unembed = model.unembed()
        self._prefix = Prefix(model)

    def of(
        self, context: str, answers: Sequence[str], strategies: Mapping[str, Strategy | None], distribution: bool
    ) -> dict[str, list[Likelihood]]:
        """The likelihood of each answer under each strategy, None for the model's own log-probabilities.

        Args:
            distribution: Make a strategy's scores a distribution over tokens (DoLa's `post_softmax`); otherwise they
                are summed as they are.
        """
        apart = self.model.config.is_encoder_decoder
        pairs = [encode_pair(self.tokenizer, context, answer, apart) for answer in answers]
        return self.of_pairs(pairs, strategies, distribution)

    @torch.no_grad()
    def of_pairs(
        self, pairs: Sequence[Pair], strategies: Mapping[str, Strategy | None], distribution: bool = False
    ) -> dict[str, list[Likelihood]]:
        """The same of tokens."""
        read = self._read_source if self.model.config.is_encoder_decoder else self._read
        plain = {name: strategy or Strategy("plain") for name, strategy in strategies.items()}
        found: dict[str, list[Likelihood]] = {name: [] for name in plain}
        for start in range(0, len(pairs), self.batch_size):
            some = pairs[start : start + self.batch_size]
            states, labels, rows = read(some)
            counts = rows.bincount(minlength=len(some)).tolist()
            for name, (scores, likeliest) in self._scores(plain, states, labels, distribution).items():
                totals = torch.zeros(len(some), dtype=torch.float64, device=scores.device)
                totals.index_add_(0, rows, scores.double())
                others = rows[~likeliest].bincount(minlength=len(some))
                found[name] += map(Likelihood, totals.tolist(), counts, (others == 0).tolist())
        return found

    def _scores(
        self, strategies: Mapping[str, Strategy], states: LayerStates, labels: Tensor, distribution: bool
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Of the tokens [n] that follow states [n, D]: what each strategy gives each, [n], and whether it gives none
        more, [n]. Layers that several read are read once."""
        wanted = {name: each.readings(self.model.num_exit_layers) for name, each in strategies.items()}
        readings = list(dict.fromkeys(each for held in wanted.values() for each in held))
        places = {name: [readings.index(each) for each in held] for name, held in wanted.items()}
        at_once = max(1, AT_ONCE // (self.unembed.vocabulary_size * len(readings)))
        pieces: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in strategies}
        for start in range(0, max(1, len(labels)), at_once):  # once too where answers have no token
            some = slice(start, start + at_once)
            logits = read_logits(self.unembed, readings, _by_layer(states.at(some)))
            for name, strategy in strategies.items():
                scores = strategy.contrast(logits[places[name]]).scores
                scores = scores.log_softmax(-1) if distribution else scores
                own = scores.gather(1, labels[some, None])[:, 0].clamp_min(IMPLAUSIBLE)
                pieces[name].append((own, scores.argmax(-1) == labels[some]))
        return {name: tuple(map(torch.cat, zip(*each, strict=True))) for name, each in pieces.items()}

    def _read(self, pairs: Sequence[Pair]) -> tuple[LayerStates, Tensor, Tensor]:
        """States [n, D] that answers' tokens follow, these tokens [n], and the pair each is of; what all rows begin
        with is read once."""
        rows = [[*pair.context, *pair.answer] for pair in pairs]
        rows = rows if self.longest is None else [row[-(self.longest + 1) :] for row in rows]
        answers = [min(len(pair.answer), len(row) - 1) for pair, row in zip(pairs, rows, strict=True)]
        before = [len(row) - 1 - count for row, count in zip(rows, answers, strict=True)]
        shared = max(0, min(common(rows), *before, max(map(len, rows)) - 2))  # something is left to read
        inputs = padded([row[shared:-1] for row in rows], self.tokenizer.pad_token_id or 0, None, left=False)
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        seen = inputs["attention_mask"].new_ones(len(rows), shared)
        inputs["attention_mask"] = torch.cat([seen, inputs["attention_mask"]], 1)
        labels = torch.full_like(inputs["input_ids"], IGNORED_LABEL)
        for index, (row, count, start) in enumerate(zip(rows, answers, before, strict=True)):
            labels[index, start - shared : len(row) - 1 - shared] = torch.tensor(row[len(row) - count :])
        if shared:
            inputs["past_key_values"] = self._prefix.of(rows[0][:shared], len(rows))
        return _labelled(self.model.layer_states(**inputs), labels)

    def _read_source(self, pairs: Sequence[Pair]) -> tuple[LayerStates, Tensor, Tensor]:
        """The same where an encoder reads the context."""
        pad = self.tokenizer.pad_token_id or 0
        inputs = padded([pair.context for pair in pairs], pad, None, left=False)
        answers = padded([pair.answer for pair in pairs], pad, None, left=False)
        labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, IGNORED_LABEL)
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return _labelled(*self.model.teacher_forced(labels=labels.to(self.model.device), **inputs))


class Prefix:
    """Keys and values of the tokens that texts begin with, kept from one text to the next: a decoder-only model reads
    the examples before all questions once."""

    def __init__(self, model):
        self.model = model
        self.ids: list[int] = []
        self._held: list[tuple[Tensor, Tensor]] = []

    def of(self, ids: list[int], rows: int) -> DynamicCache:
        """A cache of these tokens for so many rows."""
        kept = common([ids, self.ids])
        if kept < len(ids):
            cache = self._cache(kept, 1) if kept else DynamicCache()
            rest = torch.tensor([ids[kept:]], device=self.model.device)
            mask = rest.new_ones(1, len(ids))
            self.model.base_model(input_ids=rest, attention_mask=mask, past_key_values=cache, use_cache=True)
            self._held, self.ids = [(layer.keys, layer.values) for layer in cache.layers], list(ids)
        return self._cache(len(ids), rows)

    def _cache(self, length: int, rows: int) -> DynamicCache:
        return DynamicCache(
            [tuple(part[:, :, :length].expand(rows, -1, -1, -1) for part in layer) for layer in self._held]
        )


def common(rows: Sequence[Sequence[int]]) -> int:
    """How many items all rows begin with alike."""
    first, last = min(rows), max(rows)
    return next((place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def side_by_side(pairs: Sequence[Pair]) -> list[int]:
    """Where they stand, in the order to read them: the longest first, which says at once whether memory is enough, and
    those of a context behind each other, which is then read once."""
    contexts = [tuple(pair.context) for pair in pairs]
    lengths = [len(pair.context) + len(pair.answer) for pair in pairs]
    longest: dict[tuple[int, ...], int] = defaultdict(int)
    for context, length in zip(contexts, lengths, strict=True):
        longest[context] = max(longest[context], length)
    return sorted(range(len(pairs)), key=lambda place: (-longest[contexts[place]], contexts[place], -lengths[place]))


def _labelled(states: LayerStates, labels: Tensor) -> tuple[LayerStates, Tensor, Tensor]:
    """Of states and labels [B, T] those whose label counts, and their rows."""
    where = (labels != IGNORED_LABEL).nonzero().unbind(1)
    return states.at(where), labels[where], where[0]


def _by_layer(states: LayerStates) -> dict[int, Tensor]:
    """Layer from 0, the embedding, to its states before the final norm."""
    return dict(enumerate([states.embedded, *states.hidden, states.last]))
