"""The decode loop. It reads like the algorithm: run a layer, unembed the kept rows, measure, compare, prune, leave.

The loop knows no architecture. A model gives it one adapter object:

- `num_layers`, and `vocabulary_size`, `kv_heads`, `head_dim`, `kv_dtype`, `device` for the buffers,
- `embed(tokens, block)`: h^0 of the block's tokens [N, width], flat: [N * width, D],
- `attention_bias(start, width, states)`: what is added to the attention scores of the whole batch, or None,
- `run_layer(layer, hidden, states, block)`: one layer for the block, [N * width, D],
- `project_kv(layer, hidden, rows, slots)`: what a skipped layer would have stored, [P, heads, head_dim] twice,
- `normalise(hidden)` and `head(normed, ids=None)`: final norm; scale and head, optionally on some rows only,
- `confidence_head`: the model's `cm_head`; `cost(measure)`: sizes for the FLOP counter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decoding.confidence import ExitState
from decoding.policy import Policy
from decoding.pruning import VOCABULARIES
from decoding.states import COMPACT_AT, SKIPPED_STATES, Block
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


@dataclass
class Emission:
    """Logits of the rows that have left in this step, exit by exit."""

    batch: int
    vocabulary: int
    groups: list[tuple[list[int], Tensor, Tensor | None]] = field(default_factory=list)

    def add(self, rows: list[int], logits: Tensor, ids: Tensor | None = None) -> None:
        """Rows leave with `logits` [n, K] over the token `ids` [n, K], or over the whole vocabulary."""
        self.groups.append((rows, logits, ids))

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
    states = SKIPPED_STATES["copy"](
        batch,
        adapter.num_layers,
        adapter.kv_heads,
        adapter.head_dim,
        decoding.max_length,
        adapter.kv_dtype,
        adapter.device,
    )
    recorder = Recorder(batch, adapter.num_layers)
    ids = prompt.new_full((batch, decoding.max_length), decoding.pad_token_id)
    ids[:, :length] = prompt
    scores, logits, logprobs = [], [], []
    running = list(range(batch))
    max_new_tokens = decoding.max_length - length
    for position in range(1, max_new_tokens + 1):
        threshold = policy.threshold_at(position, max_new_tokens)
        recorder.begin_step(threshold)
        if position == 1 and prefill:
            raw = run_prompt(adapter, states, prompt, recorder)
        else:
            raw = run_token(adapter, states, policy, threshold, ids[:, length - 1], length - 1, running, recorder)
        processed = decoding.process(ids[:, :length], raw.clone()) if decoding.process else raw
        tokens = _choose(processed, decoding.sample)
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
    trace = recorder.finish(adapter.cost(policy), kept_logprobs, {"decoder_forward": time.perf_counter() - started})
    return Result(ids[:, :length], trace, tuple(scores), tuple(logits))


def run_prompt(adapter, states, prompt: Tensor, recorder: Recorder) -> Tensor:
    """Run the whole prompt [B, P] at full depth; the logits of its last position, [B, V]."""
    batch, width = prompt.shape
    everyone = list(range(batch))
    block = Block(everyone, None, everyone, 0, width, adapter.attention_bias(0, width, states))
    hidden = adapter.embed(prompt, block)
    for layer in range(1, adapter.num_layers + 1):
        hidden = states.pass_layer(adapter, layer, hidden, block)
    recorder.multiplied(everyone, adapter.num_layers, adapter.vocabulary_size)
    recorder.left(everyone, adapter.num_layers)
    return adapter.head(adapter.normalise(hidden.view(batch, width, -1)[:, -1])).float()


def run_token(
    adapter,
    states,
    policy: Policy,
    threshold: float,
    tokens: Tensor,
    slot: int,
    running: list[int],
    recorder: Recorder,
) -> Tensor:
    """Run one token per running row until each has left; the logits they left with, [B, V].

    Args:
        threshold: What a confidence must exceed.
        tokens: The last token of every batch row, [B].
        slot: Where its keys and values go.
        running: Batch rows that have not ended.
    """
    block = _begin(tokens, slot, running, adapter.attention_bias(slot, 1, states))
    hidden = adapter.embed(tokens[:, None] if block.index is None else tokens[block.index, None], block)
    exits = policy.exit_layers(adapter.num_layers)
    survivors = None
    emission = Emission(tokens.shape[0], adapter.vocabulary_size)
    last = policy.static_exit or adapter.num_layers
    for layer in range(1, last + 1):
        previous = hidden
        hidden = states.pass_layer(adapter, layer, hidden, block)
        if layer not in exits:
            continue
        exit = ExitState(adapter, layer, block.take(hidden), block.take(previous), survivors)
        confidences = policy.measure.compute(exit).clamp(max=1).tolist()  # the only transfer of this exit
        rows = block.live_rows
        recorder.tried(rows, layer, confidences)
        if exit.has_logits:
            recorder.multiplied(rows, layer, exit.logits.shape[-1])
        survivors = VOCABULARIES[policy.vocabulary](exit)
        leaving = [i for i, confidence in enumerate(confidences) if confidence > threshold]
        if not leaving:
            continue
        _leave(adapter, states, exit, [rows[i] for i in leaving], leaving, slot, emission, recorder)
        if len(leaving) == len(rows):
            return emission.logits()
        block, hidden = block.without(leaving, hidden)
        if survivors is not None:
            survivors = survivors[[i for i in range(len(rows)) if i not in set(leaving)]]
    rows = block.live_rows
    final = block.take(hidden)
    if last < adapter.num_layers:
        states.leave(rows, slot, final)
    recorder.multiplied(rows, last, adapter.vocabulary_size)
    recorder.left(rows, last)
    emission.add(rows, adapter.head(adapter.normalise(final)).float())
    return emission.logits()


def _begin(tokens: Tensor, slot: int, running: list[int], bias: Tensor | None) -> Block:
    """The block of the running rows; rows that have ended are carried until dropping them pays."""
    batch = tokens.shape[0]
    if len(running) > (1 - COMPACT_AT) * batch:
        return Block(list(range(batch)), None, running, slot, 1, bias)
    return Block(running, torch.tensor(running, device=tokens.device), list(range(len(running))), slot, 1, bias)


def _leave(adapter, states, exit: ExitState, rows, leaving, slot, emission: Emission, recorder: Recorder) -> None:
    """Rows leave at this exit: keep the state they leave with, and read their token from the exit's own logits."""
    everyone = len(leaving) == exit.hidden.shape[0]
    states.leave(rows, slot, exit.hidden if everyone else exit.hidden[leaving])
    recorder.left(rows, exit.layer)
    if exit.has_logits:
        logits = exit.logits if everyone else exit.logits[leaving]
        ids = exit.ids if everyone or exit.ids is None else exit.ids[leaving]
        emission.add(rows, logits, ids)
        return
    recorder.multiplied(rows, exit.layer, adapter.vocabulary_size)
    emission.add(rows, adapter.head(exit.normed if everyone else exit.normed[leaving]).float())


def _choose(scores: Tensor, sample: bool) -> Tensor:
    """Next token of every row, [B]: drawn from the scores' distribution, or the likeliest, lowest id first."""
    if sample:
        return torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
    return scores.argmax(-1)
