"""The decode loop. It reads like the algorithm: run a layer, unembed the kept rows, measure, compare, prune, leave.

The loop knows no architecture. A model gives it one adapter object:

- `num_layers`, and `vocabulary_size`, `kv_heads`, `head_dim`, `kv_dtype`, `device` for the buffers,
- `embed(tokens, block)`: h^0 of the block's tokens [N, width], flat: [N * width, D],
- `attention_bias(start, width, states)`: what is added to the attention scores of the whole batch, or None,
- `run_layer(layer, hidden, states, block)`: one layer for the block, [N * width, D],
- `project_kv(layer, hidden, rows, slots)`: what a skipped layer would have stored, [P, heads, head_dim] twice,
- `normalise(hidden)` and `head(normed)`: final norm; scale and head. `head_rows(ids)` copies rows of the head and
  `head_on(rows, normed)` multiplies copied ones,
- `confidence_head`: the model's `cm_head`; `cost(measure)`: sizes for the FLOP counter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decoding.exits import ExitState
from decoding.logits import argmax_token
from decoding.past import Past
from decoding.policy import Policy
from decoding.pruning import VOCABULARIES, Budget, Survivors, prune
from decoding.states import COMPACT_AT, SKIPPED_STATES, Block, States
from decoding.trace import ExitTrace, Recorder


@dataclass
class Decoding:
    """How tokens are chosen and when a row ends; the Hugging Face objects of a generate call.

    Attributes:
        max_length: Longest sequence, prompt included.
        process: Logits processors, (ids [B, t], scores [B, V]) to scores, or None where there are none.
        stop: Stopping criteria, (ids [B, t], scores) to done [B].
        pad_token_id: Written after a row's end.
        sample: Draw from the processed distribution instead of taking its argmax.
        streamer: Gets each step's tokens, or None.
        keep_scores, keep_logits, keep_logprobs: Collect per step what their names say.
        keep_states: Keep the states of every layer in the trace.
    """

    max_length: int
    stop: Callable[[Tensor, tuple | None], Tensor]
    process: Callable[[Tensor, Tensor], Tensor] | None = None
    pad_token_id: int = 0
    sample: bool = False
    streamer: object | None = None
    keep_scores: bool = False
    keep_logits: bool = False
    keep_logprobs: bool = False
    keep_states: bool = False

    @property
    def reads_scores(self) -> bool:
        """Whether anything looks at a step's scores of the whole vocabulary beside the choice of its tokens."""
        return self.process is not None or self.keep_scores or self.keep_logits or self.keep_logprobs


@dataclass
class Emission:
    """Logits of the rows that have left in this step, exit by exit, over the tokens that were in hand there."""

    batch: int
    vocabulary: int
    groups: list[tuple[list[int], Tensor, Tensor | None]] = field(default_factory=list)

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
    """What a decode call returns: ids [B, t] with the prompt, its trace, and per-step scores where asked for."""

    sequences: Tensor
    trace: ExitTrace
    scores: tuple[Tensor, ...] = ()
    logits: tuple[Tensor, ...] = ()


@dataclass
class Call:
    """What the functions of one decode call share."""

    adapter: object
    policy: Policy
    states: States
    past: Past
    recorder: Recorder
    budget: Budget | None = None

    @property
    def batch(self) -> int:
        return self.recorder.batch

    def aside(self, policy: Policy) -> Call:
        """The same tokens and states under another policy, recorded nowhere that counts."""
        recorder = Recorder(self.batch, self.adapter.num_layers)
        recorder.begin_step(1.0)
        return Call(self.adapter, policy, self.states, self.past, recorder)


@torch.inference_mode()
def decode(adapter, prompt: Tensor, policy: Policy, decoding: Decoding, prefill: bool) -> Result:
    """Generate until every row has ended.

    Args:
        adapter: The model's side, see above.
        prompt: Token ids the decoder starts from, [B, P]; left-padded where lengths differ.
        policy: When a token may leave.
        decoding: How tokens are chosen and when a row ends.
        prefill: Run the prompt at full depth and take the first token from it (decoder-only models). Otherwise the
            last prompt token, the lone decoder start token, is decoded like any other.
    """
    started = time.perf_counter()
    batch, length = prompt.shape
    call = begin_call(adapter, policy, decoding, batch)
    ids = prompt.new_full((batch, decoding.max_length), decoding.pad_token_id)
    ids[:, :length] = prompt
    scores, logits, logprobs = [], [], []
    running = list(range(batch))
    max_new_tokens = decoding.max_length - length
    for position in range(1, max_new_tokens + 1):
        threshold = policy.threshold_at(position, max_new_tokens)
        call.recorder.begin_step(threshold)
        if position == 1 and prefill:
            emission = run_prompt(call, prompt)
        else:
            emission = run_token(call, threshold, ids[:, length - 1], length - 1, running)
        if decoding.reads_scores:
            raw = emission.logits()
            processed = decoding.process(ids[:, :length], raw.clone()) if decoding.process else raw
            tokens = choose(processed, None, decoding.sample)
        else:
            tokens = emission.tokens(decoding.sample)
        ended = sorted(set(range(batch)) - set(running))
        if ended:
            tokens[ended] = decoding.pad_token_id
        ids[:, length] = tokens
        length += 1
        if decoding.keep_scores:
            scores.append(processed)
        if decoding.keep_logits:
            logits.append(raw)
        if decoding.keep_logprobs:
            logprobs.append(raw.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
        if decoding.streamer is not None:
            decoding.streamer.put(tokens.cpu())
        done = decoding.stop(ids[:, :length], tuple(scores)).tolist()
        running = [row for row in running if not done[row]]
        if not running:
            break
    if decoding.streamer is not None:
        decoding.streamer.end()
    kept_logprobs = torch.stack(logprobs, 1).cpu().numpy() if logprobs else None
    seconds = {"decoder_forward": time.perf_counter() - started}
    trace = call.recorder.finish(adapter.cost(policy), kept_logprobs, seconds)
    return Result(ids[:, :length], trace, tuple(scores), tuple(logits))


def begin_call(adapter, policy: Policy, decoding: Decoding, batch: int) -> Call:
    """Buffers and records of a call, empty."""
    states = SKIPPED_STATES["copy"](
        batch,
        adapter.num_layers,
        adapter.kv_heads,
        adapter.head_dim,
        decoding.max_length,
        adapter.kv_dtype,
        adapter.device,
    )
    recorder = Recorder(batch, adapter.num_layers, adapter.output_weight.shape[1] if decoding.keep_states else None)
    budget = policy.budget(adapter.num_layers, adapter.vocabulary_size) if policy.prunes else None
    return Call(adapter, policy, states, Past(adapter, batch), recorder, budget)


def run_prompt(call: Call, prompt: Tensor) -> Emission:
    """Run the whole prompt [B, P] at full depth; what its last position says."""
    adapter, recorder = call.adapter, call.recorder
    batch, width = prompt.shape
    everyone = list(range(batch))
    block = Block(everyone, None, everyone, 0, width, adapter.attention_bias(0, width, call.states))
    hidden = adapter.embed(prompt, block)
    for layer in range(adapter.num_layers + 1):
        if layer:
            hidden = call.states.pass_layer(adapter, layer, hidden, block)
        last = hidden.view(batch, width, -1)[:, -1]
        recorder.ran(block, layer, last)
    recorder.multiplied(everyone, adapter.num_layers, adapter.vocabulary_size)
    recorder.left(everyone, adapter.num_layers)
    emission = Emission(batch, adapter.vocabulary_size)
    emission.add(everyone, adapter.head(adapter.normalise(last)).float())
    return emission


def run_token(call: Call, threshold: float, tokens: Tensor, slot: int, running: list[int]) -> Emission:
    """Run one token per running row until each has left; what they left with.

    Args:
        threshold: What a confidence must exceed.
        tokens: The last token of every batch row, [B].
        slot: Where its keys and values go.
        running: Batch rows that have not ended.
    """
    adapter, policy, states, past, recorder = call.adapter, call.policy, call.states, call.past, call.recorder
    final = last_layers_word(call, tokens, slot, running) if policy.looks_ahead else None
    past.begin()
    block = _begin(tokens, slot, running, adapter.attention_bias(slot, 1, states))
    hidden = adapter.embed(tokens[:, None] if block.index is None else tokens[block.index, None], block)
    past.ran(block.rows, hidden)
    recorder.ran(block, 0, hidden)
    exits = policy.exit_layers(adapter.num_layers)
    survivors = None
    emission = Emission(tokens.shape[0], adapter.vocabulary_size)
    last = policy.static_exit or adapter.num_layers
    for layer in range(1, last + 1):
        hidden = states.pass_layer(adapter, layer, hidden, block)
        past.ran(block.rows, hidden)
        recorder.ran(block, layer, hidden)
        if layer not in exits:
            continue
        exit = _exit(call, layer, block.live_rows, survivors, final)
        confidences = policy.measure.compute(exit).clamp(max=1).tolist()
        if policy.measure.contrasts:
            exit.remember()
        recorder.tried(exit, confidences, exit.sizes if policy.measure.contrasts else None)
        leaving = [i for i, confidence in enumerate(confidences) if confidence > threshold]
        if leaving:
            _leave(call, exit, leaving, slot, emission)
        if len(leaving) == len(exit.rows):
            return emission
        if call.budget is not None and layer + 1 in exits:
            survivors = _prune(call, exit, confidences, leaving)
        if leaving:
            block, hidden = block.without(leaving, hidden)
    rows = block.live_rows
    final_state = block.take(hidden)
    if last < adapter.num_layers:
        states.leave(rows, slot, final_state)
    recorder.multiplied(rows, last, adapter.vocabulary_size)
    recorder.left(rows, last)
    emission.add(rows, adapter.head(adapter.normalise(final_state)).float())
    return emission


def last_layers_word(call: Call, tokens: Tensor, slot: int, running: list[int]) -> Tensor:
    """The likeliest token at the last layer, [B], as if it had not been looked at: nothing of it is kept or counted."""
    emission = run_token(call.aside(Policy()), 1.0, tokens, slot, running)
    call.states.rewind(slot)
    return emission.logits().argmax(-1)


def _begin(tokens: Tensor, slot: int, running: list[int], bias: Tensor | None) -> Block:
    """The block of the running rows; rows that have ended are carried until dropping them pays."""
    batch = tokens.shape[0]
    if len(running) > (1 - COMPACT_AT) * batch:
        return Block(list(range(batch)), None, running, slot, 1, bias)
    return Block(running, torch.tensor(running, device=tokens.device), list(range(len(running))), slot, 1, bias)


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


def _prune(call: Call, exit: ExitState, confidences: list[float], leaving: list[int]) -> Survivors | None:
    """The tokens that stay in the running at the next exit, for the rows that go there."""
    gone = set(leaving)
    staying = [i for i in range(len(exit.rows)) if i not in gone]
    schedule = VOCABULARIES[call.policy.vocabulary]
    return prune(call.adapter, exit, staying, schedule, call.budget, confidences, call.policy.copy_share)


def _leave(call: Call, exit: ExitState, leaving: list[int], slot: int, emission: Emission) -> None:
    """Rows leave at this exit: keep the state they leave with, and read their token from what the exit says."""
    everyone = len(leaving) == len(exit.rows)
    rows = exit.rows if everyone else [exit.rows[i] for i in leaving]
    call.states.leave(rows, slot, exit.hidden if everyone else exit.hidden[leaving])
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


def choose(scores: Tensor, ids: Tensor | None, sample: bool) -> Tensor:
    """Next token of every row, [n]: drawn from the scores' distribution, or the likeliest, lowest id first.

    Args:
        scores: [n, V], or [n, K] over the tokens `ids` [n, K].
    """
    if not sample:
        return argmax_token(scores, ids)
    drawn = torch.multinomial(scores.softmax(-1), num_samples=1)
    return (drawn if ids is None else ids.gather(1, drawn)).squeeze(1)
