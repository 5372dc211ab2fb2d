"""What is told of continuations: how deep tokens went, how fast they came, and what they were contrasted with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from util.terminal import shows_colours

# Colours of a terminal's 256, from shallow to deep.
SHADES = (33, 39, 44, 48, 118, 190, 220, 214, 208, 196)


@dataclass(frozen=True)
class Continuation:
    """What became of a prompt.

    Attributes:
        text: The new tokens, without special ones and without the text that ended them.
        tokens: Their ids, end-of-sequence included.
        exit_layers: Layers each ran before it was emitted; None where a strategy ran all of them.
        premature_layers: The layer each was contrasted with; None where none was.
        passes: Layers run in all, those of rejected drafts too; None where a strategy ran all of them.
        drafted, accepted: Tokens that were verified, and those of them that stood; None where none was.
        undrafted: Tokens that ran at full depth because drafts did not pay; None where none was drafted.
        prompt_tokens: The prompt's ids.
        seconds: Its share of the time that its batch took; None where it was read from a file.
    """

    prompt: str
    text: str
    tokens: list[int]
    exit_layers: list[int] | None
    prompt_tokens: list[int]
    premature_layers: list[int] | None = None
    passes: int | None = None
    drafted: int | None = None
    accepted: int | None = None
    undrafted: int | None = None
    seconds: float | None = field(default=None, compare=False)


def measured(found: Sequence[Continuation], depth: int) -> str:
    """Tokens, their time where it was taken, and how deep they went, in words."""
    timed = [each for each in found if each.seconds]
    tokens, seconds = sum(len(each.tokens) for each in timed), sum(each.seconds or 0.0 for each in timed)
    speed = f"{counted(tokens, 'token')} in {seconds:.2f} s, {tokens / seconds:.1f} tokens/s; " if timed else ""
    return speed + depth_of(found, depth) + contrasted(found)


def compared(found: Sequence[Continuation], plain: Sequence[Continuation], name: str) -> str:
    """How fast the same prompts were continued plainly at full depth, which is called `name`, and whether alike."""
    tokens, seconds = sum(len(each.tokens) for each in plain), sum(each.seconds or 0.0 for each in plain)
    own = sum(len(each.tokens) for each in found) / max(1e-9, sum(each.seconds or 0.0 for each in found))
    speed = tokens / max(1e-9, seconds)
    told = f"{name}: {counted(tokens, 'token')} in {seconds:.2f} s, {speed:.1f} tokens/s"
    return f"{told}; the above is {own / speed:.2f} times as fast; {_difference(found, plain)}"


def _difference(found: Sequence[Continuation], plain: Sequence[Continuation]) -> str:
    differ = [(one, other) for one, other in zip(found, plain, strict=True) if one.tokens != other.tokens]
    if not differ:
        return "the same tokens"
    if len(found) > 1:
        return f"{len(differ)} of {len(found)} continuations differ"
    ((one, other),) = differ
    pairs = enumerate(zip(one.tokens, other.tokens, strict=False), 1)
    place = next((place for place, (mine, theirs) in pairs if mine != theirs), None)
    return f"token {place} is the first that differs" if place else "one of them goes on"


def depth_of(found: Sequence[Continuation], depth: int) -> str:
    """How deep tokens went, in words: where drafts were verified, how many layers they left after and how many ran."""
    layers = [layer for each in found for layer in (each.exit_layers or [depth] * len(each.tokens))]
    mean = sum(layers) / max(1, len(layers))
    drafted = sum(each.drafted or 0 for each in found)
    if not drafted:
        return f"{mean:.2f} of {depth} layers on average"
    stood = sum(each.accepted or 0 for each in found) / drafted
    run = sum(each.passes or 0 for each in found) / max(1, len(layers))
    return (
        f"emitted after {mean:.2f} of {depth} layers on average, {run:.2f} layers run per token with verification, "
        f"{stood:.0%} of {drafted} drafted tokens accepted{_undrafted(found, len(layers))}"
    )


def _undrafted(found: Sequence[Continuation], tokens: int) -> str:
    """What became of tokens that were not drafted because drafts did not pay."""
    share = sum(each.undrafted or 0 for each in found) / tokens
    return f"; {share:.0%} of the tokens not drafted, since drafts did not pay" if share else ""


def contrasted(found: Sequence[Continuation]) -> str:
    """How often each layer was contrasted with, in words; nothing where none was."""
    counts = Counter(layer for each in found for layer in (each.premature_layers or ()))
    told = ", ".join(f"{layer} ({counted(counts[layer], 'token')})" for layer in sorted(counts))
    return f"; contrasted with layer {told}" if told else ""


def counted(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}" + "s" * (number != 1)


def legend(depth: int, found: Sequence[Continuation]) -> str:
    """The shades of all layers, and how deep tokens went."""
    layers = [layer for each in found for layer in (each.exit_layers or ())]
    shades = " ".join(painted(str(layer), layer, depth) for layer in range(1, depth + 1))
    return f"layers: {shades}; {len(layers)} tokens, {depth_of(found, depth)}"


def painted(text: str, layer: int, depth: int) -> str:
    """A piece of text in the shade of a layer; without colours, the layer behind it."""
    if not text:
        return ""
    if not shows_colours():
        return f"{text}[{layer}]"
    return f"\033[38;5;{shade(layer, depth)}m{text}\033[0m"


def shade(layer: int, depth: int) -> int:
    """The colour, of a terminal's 256, of a layer from 1 to `depth`."""
    return SHADES[round((layer - 1) / max(1, depth - 1) * (len(SHADES) - 1))]
