"""Views of a run: what every layer says of every token, as lines of a file. They are worked out after a batch was
decoded, from states the trace kept, so that runs which ask for none are not slowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from statistics import fmean

import torch
from transformers import PreTrainedTokenizerBase

from decoding.adapter import Unembedding
from decoding.lens import contrast_view, layer_view, pairwise_divergence
from decoding.policy import Policy
from tasks import Task, score
from tasks.forms import Reading

DIGITS = 6


@dataclass(frozen=True)
class Lens:
    """What a view needs of the model that decoded."""

    unembed: Unembedding
    tokenizer: PreTrainedTokenizerBase
    policy: Policy
    reading: Reading = field(default_factory=Reading)

    def states(self, kept, row: int, step: int, layers: int) -> torch.Tensor:
        """h^0 to h^layers of a token, [layers + 1, D]."""
        states = torch.from_numpy(kept[row, step, : layers + 1])
        return states.to(self.unembed.device, self.unembed.dtype)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[e + 1, V] in float32 of h^0 to h^e of a token, [e + 1, D]."""
        return self.unembed.logits(self.unembed.normalise_each(states[None], range(len(states)))[0]).float()

    def texts(self, tokens: list[int]) -> list[str]:
        """Each token alone."""
        return [self.tokenizer.decode([token]) for token in tokens]


def layers_of_token(lens: Lens, states: torch.Tensor, token: int) -> dict:
    """`LayerView` of a token, and its likeliest tokens as texts."""
    view = layer_view(lens.logits(states), token)
    return asdict(view) | {"says": lens.texts(view.likeliest)}


def divergences_of_token(lens: Lens, states: torch.Tensor, token: int) -> dict:
    """Divergence of every pair of layers, and what a contrastive measure compares at the last."""
    contrast = contrast_view(lens.unembed, states, lens.policy.confidence, lens.policy.alpha)
    return {
        "divergence": pairwise_divergence(lens.logits(states)),
        "contrast": asdict(contrast) | {"texts": lens.texts(contrast.tokens)},
    }


# The file a view is kept in -> what it says of one token.
VIEWS: dict[str, Callable[[Lens, torch.Tensor, int], dict]] = {
    "layers": layers_of_token,
    "jsds": divergences_of_token,
}


@torch.inference_mode()
def view_row(name: str, lens: Lens, feature, tokens: list[int], trace, row: int) -> dict:
    """A line of a view: lists with an item per token; numbers of a token have an item per layer 0 to its exit layer."""
    layers = trace.exit_layers[row, : len(tokens)].tolist()
    views = [
        VIEWS[name](lens, lens.states(trace.states, row, step, layer), token)
        for step, (token, layer) in enumerate(zip(tokens, layers, strict=True))
    ]
    line = {"id": feature.example_id, "window": feature.window, "tokens": tokens, "texts": lens.texts(tokens)}
    line |= {"exit_layers": layers} | {key: [rounded(view[key]) for view in views] for key in (views or [{}])[0]}
    if name == "layers":
        line["readouts"] = readouts(lens, tokens, [view["likeliest"] for view in views])
    return line


def readouts(lens: Lens, tokens: list[int], likeliest: list[list[int]]) -> list[str]:
    """The answer each layer reads out along the decoded path, layer 0 first: its likeliest token at every position up
    to the first end of sequence; the token itself where it had left."""
    depth = max(map(len, likeliest), default=0)
    texts, tokenizer = [], lens.tokenizer
    for layer in range(depth):
        said = [each[layer] if layer < len(each) else token for token, each in zip(tokens, likeliest, strict=True)]
        if tokenizer.eos_token_id in said:
            said = said[: said.index(tokenizer.eos_token_id)]
        texts.append(lens.reading.answer(tokenizer.decode(said, skip_special_tokens=True)))
    return texts


def rounded(value):
    """The same with numbers to six digits behind the point."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value


@dataclass
class LayerSums:
    """Numbers of all tokens that ran a layer."""

    probability: list[float] = field(default_factory=list)
    gap: list[float] = field(default_factory=list)
    agrees: list[bool] = field(default_factory=list)


def summarise_layers(lines: Iterable[dict], chosen: set[tuple[str, int]], task: Task, examples) -> list[dict]:
    """Per layer, 0 first: tokens that ran it, mean probability and gap of its likeliest token, how often that is the
    token emitted, and the task's score of what it reads out along the decoded path.

    Args:
        chosen: (id, window) of the input whose answer was chosen for each example.
    """
    sums: list[LayerSums] = []
    answers: dict[str, list[str]] = {}
    for line in lines:
        for token, *view in zip(line["tokens"], line["likeliest"], line["probability"], line["gap"], strict=True):
            sums += [LayerSums() for _ in range(len(view[0]) - len(sums))]
            for layer, (likeliest, probability, gap) in enumerate(zip(*view, strict=True)):
                sums[layer].probability.append(probability)
                sums[layer].gap.append(gap)
                sums[layer].agrees.append(likeliest == token)
        if (line["id"], line["window"]) in chosen:
            answers[line["id"]] = line["readouts"]
    return [
        {
            "layer": layer,
            "tokens": len(each.gap),
            "probability": fmean(each.probability),
            "gap": fmean(each.gap),
            "accuracy": fmean(each.agrees),
            # an answer all of whose tokens had left says the same from there on
            "score": score(
                task, {name: texts[min(layer, len(texts) - 1)] for name, texts in answers.items()}, examples
            ),
        }
        for layer, each in enumerate(sums)
    ]
