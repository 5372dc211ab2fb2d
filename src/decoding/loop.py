"""The decode loop, a ladder of functions: decode a prompt, a step, a token; verify, accept, emit.

The loop knows no architecture: a model gives it a `decoding.adapter.DecoderAdapter`. It has no branch per method: a
`decoding.policy.Policy` says which exits stand, what is measured there, and what becomes of the layers a token skipped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from decoding.acceptance import Acceptance, Result
from decoding.adapter import DecoderAdapter
from decoding.blocks import COMPACT_AT, Block, Span
from decoding.call import Call, begin_call
from decoding.emission import Emission
from decoding.exiting import Exits
from decoding.full_depth import read_full_depth
from decoding.policy import Policy
from decoding.prompts import prompt_pieces
from decoding.sequences import Decoding, Sequences
from decoding.thresholds import AdaptiveThreshold


@torch.inference_mode()
def decode(
    adapter: DecoderAdapter,
    prompt: Tensor,
    policy: Policy,
    decoding: Decoding,
    prefill: bool,
    estimator: AdaptiveThreshold | None = None,
) -> Result:
    """Generate until every row has ended.

    Args:
        adapter: The model's side of this call.
        prompt: Token ids the decoder starts from, [B, P]; left-padded where lengths differ.
        policy: When a token may leave.
        decoding: How tokens are chosen and when a row ends.
        prefill: Run the prompt at full depth and take the first token from it (decoder-only models). Otherwise the
            last prompt token, the lone decoder start token, is decoded like any other.
        estimator: Of a policy whose threshold adapts; it learns from what is decoded.
    """
    started = time.perf_counter()
    batch, length = prompt.shape
    call = begin_call(adapter, policy, decoding, batch, length, estimator)
    text = Sequences(prompt, decoding)
    acceptance = Acceptance(call, text)
    while text.running:
        thresholds = acceptance.begin_step()
        if prefill and text.lengths[text.running[0]] == text.prompt:
            emission = run_prompt(call, prompt)
        else:
            emission = run_token(call, thresholds, text.last_tokens(), text.lengths, text.running)
        tokens = acceptance.choose(emission)
        rejections = acceptance.verify(emission.verified)
        acceptance.accept(tokens, rejections)
        acceptance.emit()
    if decoding.streamer is not None:
        decoding.streamer.end()
    return acceptance.result(time.perf_counter() - started)


def run_prompt(call: Call, prompt: Tensor) -> Emission:
    """Run the whole prompt [B, P] at full depth, piece by piece; what its last position says."""
    adapter, recorder = call.adapter, call.recorder
    everyone = list(range(call.batch))
    for start, end in prompt_pieces(prompt.shape[1]):
        block = call.states.block_of([Span(row, start, end) for row in everyone])
        hidden = adapter.embed(prompt[:, start:end], block)
        recorder.ran(block, 0, hidden)
        for layer in range(1, adapter.num_layers + 1):
            hidden, block = call.states.pass_layer(layer, hidden, block)
            recorder.ran(block, layer, hidden)
    emission = Emission(call.batch, call.vocabulary)
    recorder.emitted(everyone, adapter.num_layers)
    _emit_current(call, block, hidden, adapter.num_layers, emission)
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
    adapter, policy, states, earlier, recorder = call.adapter, call.policy, call.states, call.earlier, call.recorder
    final = full_depth_argmax(call, tokens, lengths, running) if policy.looks_ahead else None
    exits = Exits(call, thresholds, Emission(call.batch, call.vocabulary), final)
    block = begin_block(call, lengths, running)
    hidden = adapter.embed(tokens[:, None] if block.index is None else tokens[block.index, None], block)
    earlier.begin()
    earlier.ran(block.rows, hidden)
    recorder.ran(block, 0, hidden)
    last = policy.static_exit or adapter.num_layers
    for layer in range(1, last + 1):
        hidden, block = states.pass_layer(layer, hidden, block)
        earlier.ran(block.rows, block.current(hidden))
        recorder.ran(block, layer, hidden)
        leaving = exits.try_exit(layer, block)
        if leaving:
            states.leave(block, leaving, hidden)
            if len(leaving) == len(block.live):
                return exits.emission
            block, hidden = block.without(leaving, hidden)
    _reach_last(call, block, hidden, last, exits.emission)
    return exits.emission


def full_depth_argmax(call: Call, tokens: Tensor, lengths: Sequence[int], running: list[int]) -> Tensor:
    """The full model's likeliest token, [B]. Nothing that it takes is kept or counted."""
    emission = run_token(call.unrecorded(Policy()), [1.0] * call.batch, tokens, lengths, running)
    for row in running:
        call.states.truncate(row, lengths[row] - 1)
    return emission.logits().argmax(-1)


def begin_block(call: Call, lengths: Sequence[int], running: list[int]) -> Block:
    """The block of the running rows' last tokens; rows that have ended are carried until dropping them pays."""
    states, slots = call.states, {lengths[row] - 1 for row in running}
    if len(slots) == 1 and len(running) > (1 - COMPACT_AT) * call.batch:
        slot = slots.pop()
        spans = [Span(row, slot, slot + 1) for row in range(call.batch)]
        return Block(spans, running, None, states.common_bias(slot, slot + 1))
    return states.block_of([Span(row, lengths[row] - 1, lengths[row]) for row in running])


def _reach_last(call: Call, block: Block, hidden: Tensor, last: int, emission: Emission) -> None:
    """Tokens that left at no exit have run the last layer, or a static exit's: they are emitted, and what ran the deep
    layers with them is verified."""
    if last < call.adapter.num_layers:
        call.states.leave(block, range(len(block.live)), hidden)
    call.recorder.emitted(block.live_rows, last)
    call.recorder.synchronised([(span.row, span.width - 1) for span in block.live_spans if span.width > 1])
    if call.policy.reads_full_depth:
        read_full_depth(call, block, hidden, emission, current=True)
    else:
        _emit_current(call, block, hidden, last, emission)


def _emit_current(call: Call, block: Block, hidden: Tensor, layer: int, emission: Emission) -> None:
    """Unembed the current tokens of a block that has run `layer` layers, with the whole head."""
    unembed = call.adapter.unembed
    call.recorder.multiplied(block.live_rows, layer, call.vocabulary, layer in unembed.translated)
    emission.add(block.live_rows, unembed.logits(unembed.normalise(block.live_current(hidden), layer)).float())
