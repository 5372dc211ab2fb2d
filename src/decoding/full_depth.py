"""Full depth: the full model's logits of slots that left early, once they have run the layers they skipped."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from decoding.blocks import Block, Span
from decoding.call import Call
from decoding.emission import Emission, VerifiedSlots


def read_full_depth(call: Call, block: Block, hidden: Tensor, emission: Emission, current: bool) -> None:
    """Unembed every slot of a block that has passed all layers, in one product: what was pending is verified, and the
    current tokens are emitted.

    Args:
        current: Whether the last slot of a row is that of its current token.
    """
    unembed, recorder = call.adapter.unembed, call.recorder
    items = block.items(range(len(block.live)))
    hidden = hidden if len(items) == len(hidden) else hidden[items]
    logits = unembed.logits(unembed.normalise(hidden, call.adapter.num_layers)).float()
    rows: list[int] = []
    lasts: list[int] = []  # of each row, among the block's slots
    first = 0
    for span in block.live_spans:
        recorder.multiplied_at(span.row, range(span.start, span.end), call.adapter.num_layers, call.vocabulary)
        pending = span.width - current
        if pending:
            emission.verified.append(VerifiedSlots(span.row, span.start, pending, logits[first : first + span.width]))
        first += span.width
        rows.append(span.row)
        lasts.append(first - 1)
    if current:
        emission.add(rows, logits if len(lasts) == len(logits) else logits[lasts])


def run_pending(call: Call, ends: Sequence[tuple[int, int]]) -> list[VerifiedSlots]:
    """Run the deep layers for the pending slots of some rows, without a current token.

    Args:
        ends: Row and the slot of its last token, which is not run.
    """
    states, recorder = call.states, call.recorder
    for row, slot in ends:
        recorder.ran_pending(row, sum(filled[row] < slot for filled in states.filled[1:]))
    assert states.left is not None, "nothing is pending"
    block, hidden = states.block_of([Span(row, slot, slot) for row, slot in ends]), states.left[0, :0]
    for layer in range(1, call.adapter.num_layers + 1):
        hidden, block = states.pass_layer(layer, hidden, block)
    recorder.synchronised([(span.row, span.width) for span in block.spans])
    emission = Emission(call.batch, call.vocabulary)
    read_full_depth(call, block, hidden, emission, current=False)
    return emission.verified
