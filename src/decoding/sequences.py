"""The tokens of a decode call: what each row has, which rows still run, and what is kept of every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from decoding.logits import argmax_token


class Streamer(Protocol):
    """Gets tokens as they are accepted; Hugging Face's streamers are of this kind.

    One that has a method `draft` too is told of drafts: after every step it gets the tokens [B, n] behind the accepted
    ones, shorter rows padded, which a verification may yet replace. What was put behind a draft is its verdict.
    """

    def put(self, value: Tensor) -> None:
        """The next token of every row, [B]."""

    def end(self) -> None:
        """No token comes any more."""


@dataclass
class Decoding:
    """How tokens are chosen and when a row ends; the Hugging Face objects of a generate call.

    Attributes:
        max_length: Longest sequence, prompt included.
        process: Logits processors, (ids [B, t], scores [B, V]) to scores, or None where there are none.
        stop: Stopping criteria, (ids [B, t], scores) to done [B].
        pad_token_id: Written after a row's end.
        prompts: Of each batch row the token ids it was given, without padding; empty where they are not known.
        ends: Token ids that end a text.
        sample: Draw from the processed distribution instead of taking its argmax.
        streamer: Gets accepted tokens, position by position, or None.
        keep_scores, keep_logits, keep_logprobs: Collect per position what their names say.
        keep_states: Keep the states of every layer in the trace.
    """

    max_length: int
    stop: Callable[[Tensor, tuple | None], Tensor]
    process: Callable[[Tensor, Tensor], Tensor] | None = None
    pad_token_id: int = 0
    prompts: Sequence[Tensor] = ()
    ends: Sequence[int] = ()
    sample: bool = False
    streamer: Streamer | None = None
    keep_scores: bool = False
    keep_logits: bool = False
    keep_logprobs: bool = False
    keep_states: bool = False

    @property
    def reads_scores(self) -> bool:
        """Whether anything looks at a step's scores of the whole vocabulary beside the choice of its tokens."""
        return self.process is not None or self.keep_scores or self.keep_logits or self.keep_logprobs


class Sequences:
    """Tokens per row. Rows have the same length until verification rolls some of them back.

    Attributes:
        ids: [B, max_length], the prompt first.
        lengths: Tokens of each row, the prompt's included.
        running: Rows that have not ended.
    """

    def __init__(self, prompt: Tensor, decoding: Decoding):
        self.batch, self.prompt = prompt.shape
        self.decoding = decoding
        self.ids = prompt.new_full((self.batch, decoding.max_length), decoding.pad_token_id)
        self.ids[:, : self.prompt] = prompt
        self.lengths = [self.prompt] * self.batch
        self.running = list(range(self.batch)) if self.prompt < decoding.max_length else []
        self.scores = PerPosition(decoding.keep_scores)
        self.logits = PerPosition(decoding.keep_logits)
        self.logprobs = PerPosition(decoding.keep_logprobs)
        self._streamed = self.prompt
        self._tell_drafts = getattr(decoding.streamer, "draft", None)

    @property
    def common_length(self) -> int | None:
        """The length of all running rows, or None where they differ."""
        lengths = {self.lengths[row] for row in self.running}
        return lengths.pop() if len(lengths) == 1 else None

    def last_tokens(self) -> Tensor:
        """The token every row goes on from, [B]."""
        length = self.common_length
        if length is not None:
            return self.ids[:, length - 1]
        return self.ids[range(self.batch), [length - 1 for length in self.lengths]]

    def processed(self, places: Sequence[tuple[int, int]], logits: Tensor) -> Tensor:
        """What logits processors make of the logits [n, V] of (row, tokens before it), each behind its own prefix.

        Processors see the whole batch, since some know its rows by their number.
        """
        process = self.decoding.process
        if process is None:
            return logits
        if len(places) == self.batch and places == [(row, places[0][1]) for row in range(self.batch)]:
            return process(self.ids[:, : places[0][1]], logits.clone())
        found = torch.empty_like(logits)
        for length in sorted({length for _, length in places}):
            index = [i for i, place in enumerate(places) if place[1] == length]
            rows = [places[i][0] for i in index]
            whole_batch = logits.new_zeros(self.batch, logits.shape[1])
            whole_batch[rows] = logits[index]
            found[index] = process(self.ids[:, :length], whole_batch)[rows]
        return found

    def append(self, tokens: Tensor) -> None:
        """The next token of every running row, of [B]."""
        length = self.common_length
        if length is not None and len(self.running) == self.batch:
            self.ids[:, length] = tokens
        else:
            self.ids[self.running, [self.lengths[row] for row in self.running]] = tokens[self.running]
        for row in self.running:
            self.lengths[row] += 1

    def replace(self, row: int, length: int, token: int) -> None:
        """Cut a row down to `length` tokens and put another one behind them."""
        self.ids[row, length:] = self.decoding.pad_token_id
        self.ids[row, length] = token
        self.lengths[row] = length + 1

    def keep(self, places: Sequence[tuple[int, int]], raw: Tensor, processed: Tensor, tokens: Tensor) -> None:
        """Keep what was asked for of tokens [n], each behind (row, tokens before it).

        Args:
            raw, processed: The logits they were read from, [n, V], before and after the processors.
        """
        positions = [(row, length - self.prompt) for row, length in places]
        self.scores.put(positions, processed, self.batch)
        self.logits.put(positions, raw, self.batch)
        if self.logprobs.wanted:
            self.logprobs.put(positions, raw.log_softmax(-1).gather(1, tokens[:, None])[:, 0], self.batch)

    def stopped(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows that a stopping criterion ends, or that are full."""
        ended = []
        for length in sorted({self.lengths[row] for row in rows}):
            done = self.decoding.stop(self.ids[:, :length], tuple(self.scores.held)).tolist()
            full = length >= self.decoding.max_length
            ended += [row for row in rows if self.lengths[row] == length and (full or done[row])]
        return ended

    def stream(self, accepted: Callable[[int], int]) -> None:
        """Give the streamer what is accepted.

        Args:
            accepted: Row to the number of its first tokens that no verification can roll back.
        """
        if self.decoding.streamer is None:
            return
        running = set(self.running)
        longest = max(self.lengths)
        end = min([accepted(row) for row in running], default=longest)
        while self._streamed < end:
            self.decoding.streamer.put(self.ids[:, self._streamed].cpu())
            self._streamed += 1
        if self._tell_drafts is not None:
            self._tell_drafts(self.ids[:, end:longest].cpu())


class PerPosition:
    """Values per position, [B, ...] each, where they are wanted."""

    def __init__(self, wanted: bool):
        self.wanted = wanted
        self.held: list[Tensor] = []

    def put(self, places: Sequence[tuple[int, int]], values: Tensor, batch: int) -> None:
        """Set values [n, ...] at (row, position)."""
        if not self.wanted:
            return
        positions = {position for _, position in places}
        if len(places) == batch and positions == {len(self.held)}:  # the plain case
            self.held.append(values)
            return
        for position in sorted(positions):
            while position >= len(self.held):
                self.held.append(values.new_zeros(batch, *values.shape[1:]))
            index = [i for i, place in enumerate(places) if place[1] == position]
            self.held[position][[places[i][0] for i in index]] = values[index]

    def cut(self, length: int) -> list[Tensor]:
        """Those of the first positions."""
        return self.held[:length]


def choose(scores: Tensor, ids: Tensor | None, sample: bool) -> Tensor:
    """Next token of every row, [n]: drawn from the scores' distribution, or the likeliest, lowest id first.

    Args:
        scores: [n, V], or [n, K] over the tokens `ids` [n, K].
    """
    if not sample:
        return argmax_token(scores, ids)
    drawn = torch.multinomial(scores.softmax(-1), num_samples=1)
    return (drawn if ids is None else ids.gather(1, drawn)).squeeze(1)
