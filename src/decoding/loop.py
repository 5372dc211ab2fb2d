"""The decode loop. It reads like the algorithm: run a layer, unembed the kept rows, measure, compare, prune, leave.

The loop knows no architecture. A model gives it one adapter object:

- `num_layers`, and `vocabulary_size`, `kv_heads`, `head_dim`, `kv_dtype`, `device` for the buffers,
- `embed(tokens, block)`: h^0 of the block's tokens [N, width], flat: [N * width, D],
- `attention_bias(slot, keys)`: what is added to the attention scores of one slot over the first `keys` slots, for the
  whole batch, or None; `attention_bias_at(slots, keys, ends)`: the same of several slots, per row, which see each
  other up to `ends` where that is given,
- `run_layer(layer, hidden, states, block)`: one layer for the block, [N * width, D],
- `project_kv(layer, hidden, rows, slots)`: what a skipped layer would have stored, [P, heads, head_dim] twice,
- `normalise(hidden)` and `head(normed, block)`: final norm; scale and head. `head_rows(ids)` copies rows of the head
  and `head_on(rows, normed)` multiplies copied ones,
- `confidence_head`: the model's `cm_head`; `cost(measure)`: sizes for the FLOP counter.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.exits import ExitState
from decoding.flops import pieces
from decoding.past import Past
from decoding.policy import Policy
from decoding.pruning import VOCABULARIES, Budget, Survivors, prune
from decoding.search import SearchTrace
from decoding.sequences import Decoding, Sequences, choose
from decoding.states import COMPACT_AT, SKIPPED_STATES, Block, Span, States
from decoding.thresholds import AdaptiveThreshold
from decoding.trace import ExitTrace, Recorder
from decoding.verification import Draft


class Caught(NamedTuple):
    """The full model's word on slots of a row that had waited for the deep layers.

    Attributes:
        start: The first of them.
        waited: How many they are.
        logits: [waited, V], and one more row where the current token ran with them.
    """

    row: int
    start: int
    waited: int
    logits: Tensor


@dataclass
class Emission:
    """Logits of the rows that have left in this step, exit by exit, over the tokens that were in hand there.

    Attributes:
        caught: What the full model says of slots that ran the deep layers with the current token of their row.
    """

    batch: int
    vocabulary: int
    groups: list[tuple[list[int], Tensor, Tensor | None]] = field(default_factory=list)
    caught: list[Caught] = field(default_factory=list)

    def add(self, rows: list[int], logits: Tensor, ids: Tensor | None = None) -> None:
        """Rows leave with `logits` [n, K] over the token `ids` [n, K], or over the whole vocabulary."""
        self.groups.append((rows, logits, ids))

    def tokens(self, sample: bool) -> Tensor:
        """The next token of every batch row, [B]; of no meaning for rows that had ended."""
        if len(self.groups) == 1 and len(self.groups[0][0]) == self.batch:
            return choose(*self.groups[0][1:], sample)
        tokens = torch.zeros(self.batch, dtype=torch.long, device=self.groups[0][1].device)
        for rows, logits, ids in self.groups:
            tokens[rows] = choose(logits, ids, sample)
        return tokens

    def logits(self) -> Tensor:
        """One distribution per batch row, [B, V] in float32; -inf for unseen tokens, zeros for rows that had ended."""
        rows, logits, ids = self.groups[0]
        if len(self.groups) == 1 and len(rows) == self.batch and ids is None:
            return logits
        merged = logits.new_zeros(self.batch, self.vocabulary)
        for rows, logits, ids in self.groups:
            if ids is not None:
                logits = logits.new_full((len(rows), self.vocabulary), -torch.inf).scatter_(1, ids, logits)
            merged[rows] = logits
        return merged


@dataclass
class Result:
    """What a decode call returns: ids [B, t] with the prompt, its trace (a search's own of a strategy), and per-step
    scores where asked for."""

    sequences: Tensor
    trace: ExitTrace | SearchTrace
    scores: tuple[Tensor, ...] = ()
    logits: tuple[Tensor, ...] = ()


@dataclass
class Call:
    """What the functions of one decode call share.

    Attributes:
        estimator: Of the adaptive threshold, or None.
        shallow: Of an adaptive threshold: row -> slot -> (confidence, likeliest token) at the exit that was tried.
    """

    adapter: object
    policy: Policy
    states: States
    past: Past
    recorder: Recorder
    budget: Budget | None = None
    estimator: AdaptiveThreshold | None = None
    shallow: list[dict[int, tuple[float, int]]] = field(default_factory=list)

    @property
    def batch(self) -> int:
        return self.recorder.batch

    def aside(self, policy: Policy) -> Call:
        """The same tokens and states under another policy, recorded nowhere that counts."""
        recorder = Recorder(self.batch, self.adapter.num_layers, prompt=1)
        recorder.begin_step([1.0] * self.batch, [0] * self.batch)
        return Call(self.adapter, policy, self.states, self.past, recorder)

    def may_leave(self, span: Span) -> bool:
        """Whether another slot of the row may wait for the deep layers."""
        return self.states.pending(span.row, span.end - 1) < self.policy.num_speculations


@torch.inference_mode()
def decode(
    adapter,
    prompt: Tensor,
    policy: Policy,
    decoding: Decoding,
    prefill: bool,
    estimator: AdaptiveThreshold | None = None,
) -> Result:
    """Generate until every row has ended.

    Args:
        adapter: The model's side, see above.
        prompt: Token ids the decoder starts from, [B, P]; left-padded where lengths differ.
        policy: When a token may leave.
        decoding: How tokens are chosen and when a row ends.
        prefill: Run the prompt at full depth and take the first token from it (decoder-only models). Otherwise the
            last prompt token, the lone decoder start token, is decoded like any other.
        estimator: Of a policy whose threshold adapts; it learns from what is decoded.
    """
    started = time.perf_counter()
    call = begin_call(adapter, policy, decoding, prompt.shape, estimator)
    text = Sequences(prompt, decoding)
    answer = Answer(call, text)
    while text.running:
        thresholds = answer.begin_step()
        if prefill and text.lengths[text.running[0]] == text.prompt:
            emission = run_prompt(call, prompt)
        else:
            emission = run_token(call, thresholds, text.last_tokens(), text.lengths, text.running)
        answer.take(emission)
    if decoding.streamer is not None:
        decoding.streamer.end()
    return answer.result(time.perf_counter() - started)


class Answer:
    """From what a step has emitted to the tokens of every row: chosen, verified, kept, and ended."""

    def __init__(self, call: Call, text: Sequences):
        self.call, self.text = call, text
        self.policy, self.decoding = call.policy, text.decoding
        self.verification = call.policy.verifies
        self.exact = self.verification is not None and self.verification.exact
        self.max_new_tokens = self.decoding.max_length - text.prompt
        self.draws = self.exact and self.decoding.sample
        self.drawn_from: list[dict[int, Tensor]] = [{} for _ in range(text.batch)]  # slot -> [V]

    def begin_step(self) -> list[float]:
        """The threshold of every row."""
        positions = [length - self.text.prompt for length in self.text.lengths]
        if self.call.estimator is not None:
            thresholds = [self.call.estimator.value] * len(positions)
        else:
            at = {p: self.policy.threshold_at(p + 1, self.max_new_tokens) for p in set(positions)}
            thresholds = [at[position] for position in positions]
        self.call.recorder.begin_step(thresholds, positions)
        return thresholds

    def take(self, emission: Emission) -> None:
        """Choose the token of every running row; where the full model has caught up, ask it first."""
        text, caught = self.text, emission.caught
        running = list(text.running)
        tokens = self._choose(emission)
        if caught and self.call.estimator is not None:
            self._observe(caught)
        verdicts = self._judge(caught) if self.verification is not None else {}
        text.append(tokens)
        for row, (length, token) in verdicts.items():
            self._take_back(row, length, token)
        stopped = text.stopped(running)
        if self.exact:
            stopped = self._settle(stopped)
        if stopped:
            text.running = [row for row in running if row not in set(stopped)]
        for row in running if self.draws else ():
            if not self.call.states.pending(row, text.lengths[row] - 1):
                self.drawn_from[row].clear()
        text.stream(self._standing)

    def result(self, seconds: float) -> Result:
        """What the call returns."""
        text, states = self.text, self.call.states
        answers = max(text.lengths) - text.prompt
        logprobs = text.logprobs.cut(answers)
        trace = self.call.recorder.finish(
            self.call.adapter.cost(self.policy),
            [length - text.prompt for length in text.lengths],
            torch.stack(logprobs, 1).cpu().numpy() if logprobs else None,
            {"decoder_forward": seconds},
            *((states.depths(answers, text.prompt - 1), states.masked) if self.policy.recomputes else ()),
        )
        ids = text.ids[:, : max(text.lengths)]
        return Result(ids, trace, tuple(text.scores.cut(answers)), tuple(text.logits.cut(answers)))

    def _choose(self, emission: Emission) -> Tensor:
        """The next token of every row, [B]; of no meaning for rows that had ended."""
        if not (self.decoding.reads_scores or self.draws):
            return emission.tokens(self.decoding.sample)
        text, raw = self.text, emission.logits()
        rows = text.running
        if self.verification is None:  # rows are of one length, and those that ended are carried
            rows, length = range(text.batch), text.common_length
            places = [(row, length) for row in rows]
        else:
            places = [(row, text.lengths[row]) for row in rows]
        index = list(rows)
        everyone = len(index) == text.batch
        raw = raw if everyone else raw[index]
        processed = text.processed(places, raw)
        chosen = choose(processed, None, self.decoding.sample)
        text.keep(places, raw, processed, chosen)
        if self.draws:
            for row, probabilities in zip(rows, processed.softmax(-1), strict=True):
                self.drawn_from[row][text.lengths[row] - 1] = probabilities
        if everyone:
            return chosen
        tokens = chosen.new_zeros(text.batch)
        tokens[index] = chosen
        return tokens

    def _judge(self, caught: Sequence[Caught]) -> dict[int, tuple[int, int]]:
        """Row -> (tokens that stand, the token behind them), of rows whose draft does not stand as a whole.

        A slot's token is the one behind it, so that of slot i stands behind i + 1 tokens.
        """
        found = {}
        for row, start, waited, logits in caught:
            slots, logits = range(start, start + waited), logits[:waited]
            places = [(row, slot + 1) for slot in slots]
            deep = self.text.processed(places, logits)
            tokens = self.text.ids[row, start + 1 : start + 1 + waited]
            drawn_from = None
            if self.draws:
                drawn_from = torch.stack([self.drawn_from[row].pop(slot) for slot in slots])
            verdict = self.verification.judge(Draft(tokens, deep, drawn_from), self.policy.rollback_threshold)
            accepted, token = verdict
            self.call.recorder.judged(row, len(tokens), accepted)
            if self.exact:
                stand = accepted + (token is not None)
                said = tokens[:accepted].tolist() + ([] if token is None else [token])
                said = torch.tensor(said, dtype=torch.long, device=tokens.device)
                self.text.keep(places[:stand], logits[:stand], deep[:stand], said)
            if token is not None:
                found[row] = (start + accepted + 1, token)
        return found

    def _take_back(self, row: int, length: int, token: int) -> None:
        """Of a row `length` tokens stand; another one goes behind them, from the last layer."""
        self.call.recorder.took_back(row, length - self.text.prompt)
        self.call.states.truncate(row, length)
        self.text.replace(row, length, token)
        self.drawn_from[row].clear()

    def _settle(self, stopped: list[int]) -> list[int]:
        """Ask the full model about what waits in rows that would end; those of them that do end."""
        states, text = self.call.states, self.text
        waiting = [row for row in stopped if states.pending(row, text.lengths[row] - 1)]
        if not waiting:
            return stopped
        verdicts = self._judge(catch_up(self.call, [(row, text.lengths[row] - 1) for row in waiting]))
        for row, (length, token) in verdicts.items():
            self._take_back(row, length, token)
        return [row for row in stopped if row not in verdicts] + text.stopped(list(verdicts))

    def _observe(self, caught: Sequence[Caught]) -> None:
        """Let the adaptive threshold see which shallow tokens the full model agrees with."""
        for row, start, _, logits in caught:
            seen = self.call.shallow[row]
            for slot, token in enumerate(logits.argmax(-1).tolist(), start):
                confidence, said = seen.pop(slot)
                self.call.estimator.observe([confidence], [said == token])

    def _standing(self, row: int) -> int:
        length = self.text.lengths[row]
        if self.verification is None:
            return length
        return min(length, self.call.states.filled[-1][row] + 1)


def begin_call(
    adapter, policy: Policy, decoding: Decoding, shape: tuple[int, int], estimator: AdaptiveThreshold | None = None
) -> Call:
    """Buffers and records of a call, empty, for a prompt of a shape (B, P)."""
    batch, prompt = shape
    states = SKIPPED_STATES[policy.skipped].of(adapter, batch, decoding.max_length)
    states.causal = policy.causal
    width = adapter.output_weight.shape[1] if decoding.keep_states else None
    recorder = Recorder(batch, adapter.num_layers, prompt, width)
    budget = policy.budget(adapter.num_layers, adapter.vocabulary_size) if policy.prunes else None
    shallow = [{} for _ in range(batch)]
    return Call(adapter, policy, states, Past(adapter, batch), recorder, budget, estimator, shallow)


def run_prompt(call: Call, prompt: Tensor) -> Emission:
    """Run the whole prompt [B, P] at full depth, piece by piece; what its last position says."""
    adapter, recorder = call.adapter, call.recorder
    batch, width = prompt.shape
    everyone = list(range(batch))
    for start, end in pieces(width):
        block = Block.of([Span(row, start, end) for row in everyone], batch, adapter, call.states)
        hidden = adapter.embed(prompt[:, start:end], block)
        recorder.ran(block, 0, hidden)
        for layer in range(1, adapter.num_layers + 1):
            hidden, block = call.states.pass_layer(adapter, layer, hidden, block)
            recorder.ran(block, layer, hidden)
    recorder.multiplied(everyone, adapter.num_layers, adapter.vocabulary_size)
    recorder.left(everyone, adapter.num_layers)
    emission = Emission(batch, adapter.vocabulary_size)
    emission.add(everyone, adapter.head(adapter.normalise(block.take(hidden))).float())
    return emission


def run_token(
    call: Call, thresholds: Sequence[float], tokens: Tensor, lengths: Sequence[int], running: list[int]
) -> Emission:
    """Run one token per running row until each has left; what they left with.

    Args:
        thresholds: What a confidence must exceed, by batch row.
        tokens: The last token of every batch row, [B].
        lengths: Tokens of every batch row; keys and values of the last one go to the slot before that number.
        running: Batch rows that have not ended.
    """
    adapter, policy, states, past, recorder = call.adapter, call.policy, call.states, call.past, call.recorder
    final = last_layers_word(call, tokens, lengths, running) if policy.looks_ahead else None
    past.begin()
    block = _begin(call, lengths, running)
    hidden = adapter.embed(tokens[:, None] if block.index is None else tokens[block.index, None], block)
    past.ran(block.rows, hidden)
    recorder.ran(block, 0, hidden)
    exits = policy.exit_layers(adapter.num_layers)
    survivors = None
    emission = Emission(tokens.shape[0], adapter.vocabulary_size)
    last = policy.static_exit or adapter.num_layers
    for layer in range(1, last + 1):
        hidden, block = states.pass_layer(adapter, layer, hidden, block)
        past.ran(block.rows, block.current(hidden))
        recorder.ran(block, layer, hidden)
        if layer not in exits:
            continue
        rows = block.live_rows
        everyone = range(len(rows))
        free = everyone
        if policy.num_speculations is not None:
            free = [i for i, span in enumerate(block.live_spans) if call.may_leave(span)]
        asked = free if call.estimator is None else everyone
        if not asked:
            continue
        exit = _exit(call, layer, rows if len(asked) == len(rows) else [rows[i] for i in asked], survivors, final)
        confidences = _measure(policy, exit)
        if policy.measure.contrasts:
            exit.remember()
        recorder.tried(exit, confidences, exit.sizes if policy.measure.contrasts else None)
        if call.estimator is not None:
            _note(call, block, exit, confidences)
        leaving = [i for i, row in enumerate(exit.rows) if confidences[i] > thresholds[row] and asked[i] in free]
        if leaving:
            _leave(call, exit, leaving, emission)
            states.leave(block, [asked[i] for i in leaving], hidden)
        if len(leaving) == len(block.live):
            return emission
        if call.budget is not None and layer + 1 in exits:
            survivors = _prune(call, exit, confidences, leaving)
        if leaving:
            block, hidden = block.without([asked[i] for i in leaving], hidden)
    if last < adapter.num_layers:
        states.leave(block, range(len(block.live)), hidden)
    recorder.left(block.live_rows, last)
    recorder.synchronised([(row, end - 1 - start) for row, start, end in block.live_spans if end - 1 > start])
    if policy.catches_up:
        _tell(call, block, hidden, emission, current=True)
        return emission
    recorder.multiplied(block.live_rows, last, adapter.vocabulary_size)
    emission.add(block.live_rows, adapter.head(adapter.normalise(block.take(hidden))).float())
    return emission


def _tell(call: Call, block: Block, hidden: Tensor, emission: Emission, current: bool) -> None:
    """Read the full model's word on every slot of a block that has passed all layers, in one product.

    Args:
        current: Whether the last slot of a row is that of its current token, which is emitted.
    """
    items = block.items(range(len(block.live)))
    hidden = hidden if len(items) == len(hidden) else hidden[items]
    logits = call.adapter.head(call.adapter.normalise(hidden), block).float()
    rows, lasts, place = [], [], 0
    for row, start, end in block.live_spans:
        call.recorder.multiplied_at(row, range(start, end), call.adapter.num_layers, call.adapter.vocabulary_size)
        waited = end - start - current
        if waited:
            emission.caught.append(Caught(row, start, waited, logits[place : place + end - start]))
        place += end - start
        rows.append(row)
        lasts.append(place - 1)
    if current:
        emission.add(rows, logits if len(lasts) == len(logits) else logits[lasts])


def catch_up(call: Call, ends: Sequence[tuple[int, int]]) -> list[Caught]:
    """Run the deep layers for the slots of some rows that wait; what the full model says of them.

    Args:
        ends: Row and the slot of its last token, which is not run.
    """
    for row, slot in ends:
        call.recorder.caught_up(row, sum(filled[row] < slot for filled in call.states.filled[1:]))
    hidden, block = call.states.catch_up(call.adapter, [Span(row, slot, slot) for row, slot in ends])
    call.recorder.synchronised([(row, end - start) for row, start, end in block.spans])
    emission = Emission(call.batch, call.adapter.vocabulary_size)
    _tell(call, block, hidden, emission, current=False)
    return emission.caught


def _note(call: Call, block: Block, exit: ExitState, confidences: list[float]) -> None:
    """Keep what a shallow exit said, for the adaptive threshold."""
    slots = {span.row: span.end - 1 for span in block.live_spans}
    for row, confidence, token in zip(exit.rows, confidences, exit.likeliest.tolist(), strict=True):
        call.shallow[row][slots[row]] = (confidence, token)


def last_layers_word(call: Call, tokens: Tensor, lengths: Sequence[int], running: list[int]) -> Tensor:
    """The likeliest token at the last layer, [B], as if it had not been looked at: nothing of it is kept or counted."""
    emission = run_token(call.aside(Policy()), [1.0] * call.batch, tokens, lengths, running)
    for row in running:
        call.states.truncate(row, lengths[row] - 1)
    return emission.logits().argmax(-1)


def _begin(call: Call, lengths: Sequence[int], running: list[int]) -> Block:
    """The block of the running rows' last tokens; rows that have ended are carried until dropping them pays."""
    batch, slots = call.batch, {lengths[row] - 1 for row in running}
    if len(slots) == 1 and len(running) > (1 - COMPACT_AT) * batch:
        slot = slots.pop()
        spans = [Span(row, slot, slot + 1) for row in range(batch)]
        bias = call.adapter.attention_bias(slot, call.states.key_length(slot + 1))
        return Block(spans, running, None, bias)
    return Block.of([Span(row, lengths[row] - 1, lengths[row]) for row in running], batch, call.adapter, call.states)


def _exit(call: Call, layer: int, rows: list[int], survivors: Survivors | None, final: Tensor | None) -> ExitState:
    """The exit after `layer`, for the batch rows that are still on their way."""
    past = call.past
    return ExitState(
        call.adapter,
        layer,
        past.at(layer, rows),
        past.at(layer - 1, rows),
        survivors,
        rows=rows,
        past=past,
        alpha=call.policy.alpha,
        final=None if final is None else final[rows],
    )


def _measure(policy: Policy, exit: ExitState) -> list[float]:
    """The confidence of every row at an exit, at most 1.

    Raises:
        ValueError: The measure returned something else than a number per row.
    """
    found = policy.measure.compute(exit)
    if not isinstance(found, Tensor) or found.shape != (len(exit.rows),):
        what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else f"{found!r}"
        raise ValueError(
            f"The measure {policy.confidence!r} returned {what} at layer {exit.layer}: valid is one number per row, "
            f"a tensor of shape [{len(exit.rows)}]."
        )
    values = found.clamp(max=1).tolist()
    if any(value != value for value in values):  # NaN stands in a trace for an exit that was not tried
        raise ValueError(f"The measure {policy.confidence!r} returned NaN at layer {exit.layer}: valid are numbers.")
    return values


def _prune(call: Call, exit: ExitState, confidences: list[float], leaving: list[int]) -> Survivors | None:
    """The tokens that stay in the running at the next exit, for the rows that go there."""
    gone = set(leaving)
    staying = [i for i in range(len(exit.rows)) if i not in gone]
    schedule = VOCABULARIES[call.policy.vocabulary]
    return prune(call.adapter, exit, staying, schedule, call.budget, confidences, call.policy.copy_share)


def _leave(call: Call, exit: ExitState, leaving: list[int], emission: Emission) -> None:
    """Rows leave at this exit: read their token from what the exit says."""
    everyone = len(leaving) == len(exit.rows)
    rows = exit.rows if everyone else [exit.rows[i] for i in leaving]
    call.recorder.left(rows, exit.layer)
    if exit.has_logits:
        logits = call.policy.measure.scores(exit) if call.policy.emits_contrast else exit.logits
        ids = exit.ids
        if not everyone:
            logits, ids = logits[leaving], None if ids is None else ids[leaving]
        emission.add(rows, logits, ids)
        return
    call.recorder.multiplied(rows, exit.layer, call.adapter.vocabulary_size)
    emission.add(rows, call.adapter.head(exit.normed if everyone else exit.normed[leaving]).float())
