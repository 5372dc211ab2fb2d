"""What is kept of every input that was decoded, and the depths and FLOPs these records come to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from decoding.policy import Policy
from decoding.trace import PER_LAYER, ExitTrace
from tasks import Feature

# Of `ExitTrace.counts`, what is kept of an input.
KEPT_COUNTS = ("layers_in_turn", "run_deep", "synchronizations", "drafted", "accepted", "undrafted", "stops")


@dataclass(frozen=True)
class Decoded:
    """The answer to one input, and what it cost.

    Attributes:
        id, window: of the `Feature`.
        text: the answer, without special tokens.
        length: tokens generated, end-of-sequence included.
        score: mean log-probability of these, nan unless an answer has to be chosen among windows.
        exit_layers: layers run for each token; empty where the library's own search ran.
        flops: part -> floating point operations.
        counts: what happened at the exits tried and behind them, see `exit_counts`.
        reference_flops: what the reference counts for confidences, D^2 per row, see `reference_rows`.
    """

    id: str
    window: int
    text: str
    length: int
    score: float | None
    exit_layers: list[int] = field(default_factory=list)
    flops: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reference_flops: float = 0.0


def exit_cost(trace: ExitTrace, row: int, flops: dict[str, np.ndarray], policy: Policy) -> dict:
    """The fields of `Decoded` that say where the tokens of a row of the trace left, and what that cost."""
    length = int(trace.lengths[row])
    return {
        "exit_layers": trace.exit_layers[row, :length].tolist(),
        "flops": {part: float(rows[row]) for part, rows in flops.items()},
        "counts": exit_counts(trace, row),
        "reference_flops": float(trace.cost.width**2 * reference_rows(trace, row, policy)),
    }


def exit_counts(trace: ExitTrace, row: int) -> dict[str, int]:
    """Sums over the exits tried by a row's tokens.

    first, later: how many exits were their token's first one, how many not. rows_*: rows of the head multiplied there;
    kept_*: surviving tokens there; amateur_rows: rows multiplied for earlier layers' logits. compared: exits at
    which a contrastive measure had a V_head, single: those where it had one member; taken, taken_single: the same of
    the exits by which a token left. passes: layers run in all, of pending and of wasted slots too; shallow: tokens that
    left early; rolled_back: tokens that verification threw away, layers_rolled_back: the layers they had left from; the
    rest is `ExitTrace.counts`.
    """
    length = int(trace.lengths[row])
    discarded = [layer for index, _, layer in trace.discarded if index == row]
    kept, rows, members = (getattr(trace, name)[row, :length] for name in ("kept", "rows", "members"))
    tried = ~np.isnan(trace.confidences[row, :length])  # [T, L]
    first = tried & (tried.cumsum(1) == 1)
    later = tried & ~first
    taken = np.zeros_like(tried)
    taken[np.arange(length), trace.exit_layers[row, :length] - 1] = True
    return {
        "first": int(first.sum()),
        "rows_first": int(rows[first].sum()),
        "later": int(later.sum()),
        "rows_later": int(rows[later].sum()),
        "kept_later": int(kept[later].sum()),
        "amateur_rows": int(trace.amateur_rows[row, :length].sum()),
        "compared": int((members > 0).sum()),
        "single": int((members == 1).sum()),
        "taken": int((taken & (members > 0)).sum()),
        "taken_single": int((taken & (members == 1)).sum()),
        "passes": int(trace.passes[row]),
        "shallow": int((trace.exit_layers[row, :length] < trace.cost.num_layers).sum()),
        "rolled_back": len(discarded),
        "layers_rolled_back": sum(discarded),
        **{name: int(trace.counts[name][row]) for name in KEPT_COUNTS},
    }


def reference_rows(trace: ExitTrace, row: int, policy: Policy) -> int:
    """Rows of the head the reference counts: the surviving ones at every exit tried; under pruning at all but the first
    of a token, where it multiplies the whole head as well, which pruning from the first exit on does not."""
    if not trace.cost.reads_logits:
        return 0
    kept = trace.kept[row, : int(trace.lengths[row])]
    counted = kept > 0
    if policy.prunes and policy.first is None:
        counted &= counted.cumsum(1) > 1
    return int(kept[counted].sum())


def trace_row(feature: Feature, tokens: list[int], trace: ExitTrace, row: int) -> dict:
    """A line of traces.jsonl.gz: lists with an item per token; those of a token have an item per layer it ran.

    A confidence is null where no exit was tried, and where none ever was there is no threshold. Counts (see
    `ExitTrace`) that are 0 throughout are left out, but for `rows`.
    """
    layers = trace.exit_layers[row, : len(tokens)].tolist()
    line = {"id": feature.example_id, "window": feature.window, "tokens": tokens, "exit_layers": layers}
    for name in PER_LAYER:
        values = [getattr(trace, name)[row, index, :layer] for index, layer in enumerate(layers)]
        if name == "confidences":
            line[name] = [[None if np.isnan(c) else round(float(c), 6) for c in each] for each in values]
        elif name == "rows" or any(each.any() for each in values):
            line[name] = [each.tolist() for each in values]
    if any(c is not None for each in line["confidences"] for c in each):
        line["threshold"] = [round(float(each), 6) for each in trace.threshold[row, : len(tokens)]]
    return line


def token_texts(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text before it, so that together they are the text, special tokens and spaces
    included. A token that ends within a character adds nothing: the one that completes it adds the whole."""
    texts: list[str] = []
    start, read, known = 0, 0, ""
    for end in range(1, len(tokens) + 1):
        longer = tokenizer.decode(tokens[start:end], clean_up_tokenization_spaces=False)
        if longer.endswith("\ufffd") and end < len(tokens):
            texts.append("")
            continue
        texts.append(longer[len(known) :])
        # From here on the tokens just read are enough of a beginning: some tokenizers start no text with a space.
        start, read = read, end
        known = tokenizer.decode(tokens[start:read], clean_up_tokenization_spaces=False)
    return texts


def costs(windows: Sequence[Decoded]) -> dict:
    """What an example cost, for its line of predictions.jsonl; empty where the library's own search ran."""
    if not any(each.exit_layers for each in windows):
        return {}
    totals = _total_flops(windows)
    return {
        "tokens": sum(len(each.exit_layers) for each in windows),
        "layers": sum(sum(each.exit_layers) + each.counts["layers_rolled_back"] for each in windows),
        "flops_confidence": totals["confidence"],
        "flops_decoder": totals["decoder"],
    }


def exit_metrics(decoded: Sequence[Decoded], num_layers: int | None, samples: int) -> dict:
    """Depths and FLOPs over all inputs, windows included; empty where the library's own search ran."""
    exits = np.array([layer for each in decoded for layer in each.exit_layers])
    if not len(exits):
        return {}
    totals = _total_flops(decoded)
    counts = {name: sum(each.counts[name] for each in decoded) for name in decoded[0].counts}
    verified = {"acceptance_rate": counts["accepted"] / counts["drafted"]} if counts["drafted"] else {}
    if counts.get("undrafted"):  # of runs continued from before they were counted there are none
        verified |= {"undrafted_rate": counts["undrafted"] / len(exits), "draft_stops": counts["stops"]}
    deep = [counts[name] for name in ("run_deep", "synchronizations", "rolled_back")]
    return {
        "block_avg": float(exits.sum() + counts["layers_rolled_back"]) / len(exits),
        "block_num": [counts["shallow"], len(exits) - counts["shallow"], *deep],
        "layers_run": counts["passes"] / len(exits),
        "layers_in_turn": counts["layers_in_turn"] / len(exits),
        **verified,
        "exit_histogram": {str(layer): int((exits == layer).sum()) for layer in range(1, num_layers + 1)},
        "exit_counts": counts,
        **{f"flops_{part}_per_sample": value / samples for part, value in totals.items()},
        **{f"flops_total_{part}": value for part, value in totals.items()},
        "flops_confidence_reference": sum(each.reference_flops for each in decoded),
    }


def _total_flops(decoded: Sequence[Decoded]) -> dict[str, float]:
    """FLOPs by part, and of the decoder as a whole."""
    # A run that continues from before a part was counted has inputs without it.
    parts = dict.fromkeys(part for each in decoded for part in each.flops)
    totals = {part: sum(each.flops.get(part, 0.0) for each in decoded) for part in parts}
    return totals | {"decoder": sum(value for part, value in totals.items() if part != "encoder")}
