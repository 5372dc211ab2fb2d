"""Draw what every layer would say behind a prompt: the probability of the final top tokens, and a table of the top k.

    python src/analysis/prompt_lens.py -p "Once upon a time" --tokens 3 --out save/lens
    python src/analysis/prompt_lens.py -p "In spring the" --top_k 3 --lens_final_norm False --out save/lens_raw

Layer 0 is the embedding. Every layer's state is translated where it has an exit translator, final-normed and read
through the model's own head.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from analysis.drawing import Drawing, as_label, finish, own_legend, panels
from analysis.style import nth, points
from decoding.policy import Policy
from decoding.ranges import COUNT
from jobs.loading import load_config, load_model, load_tokenizer
from util import DecoderArguments, groups
from util.additional_args import flag
from util.arguments import build
from util.checks import raise_together
from util.files import folder_problem, write_text
from util.parser import ArgumentParser
from util.ranges import range_problems
from util.terminal import terminal

# Characters of the prompt that stand in a title.
SHOWN = 80


@dataclass
class LensArguments:
    """What is looked at and where it goes."""

    _argument_group_name = groups.PROMPTS

    prompt: str | None = field(default=None, metadata={"help": "Text to continue.", "aliases": ["-p"]})
    tokens: int = flag(1, "How many of the full model's next tokens are looked at.")
    top_k: int = flag(5, "Tokens per layer.", "k", group=groups.OUTPUT)
    lens_final_norm: bool = flag(True, "Translate and norm an intermediate layer before the head, as an exit does.")
    out: str = flag("save/lens", "Folder of prompt_lens.png, .json and .txt.", group=groups.OUTPUT)

    def __post_init__(self) -> None:
        problems = range_problems(self, top_k=COUNT)
        if not self.prompt:
            problems.append("There is nothing to look at: give -p TEXT.")
        if problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        raise_together(problems)


@dataclass(frozen=True)
class Reading:
    """One position: what comes next, layer by layer from 0 to L.

    Attributes:
        text: The token the full model says.
        tokens, probabilities: Of every layer its k likeliest tokens' texts, and what it gives them, [L + 1][k].
        final: Texts of the last layer's k likeliest tokens.
        final_probabilities: What every layer gives these, [L + 1][k].
    """

    text: str
    tokens: list[list[str]]
    probabilities: list[list[float]]
    final: list[str]
    final_probabilities: list[list[float]]


@torch.no_grad()
def read(
    model, tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: int, top_k: int, final_norm: bool = True
) -> list[Reading]:
    """A reading for each of the next tokens, fewer where the model ends."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    found, trace = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=tokens,
        num_beams=1,
        do_sample=False,
        policy=Policy(),
        return_trace=True,
        return_states=True,
    )
    unembed, length = model.unembed(), int(trace.lengths[0])
    said = found[0, found.shape[1] - length :].tolist()
    return [
        _reading(unembed, tokenizer, torch.from_numpy(trace.states[0, step]), token, top_k, final_norm)
        for step, token in enumerate(said)
    ]


def _reading(unembed, tokenizer, states: torch.Tensor, token: int, top_k: int, final_norm: bool) -> Reading:
    states = states.to(unembed.weight)  # [L + 1, D]
    normed = unembed.normalise_each(states[None], range(len(states)))[0]
    if not final_norm:
        normed = torch.cat([states[:-1], normed[-1:]])
    p = unembed.logits(normed).float().softmax(-1)
    top = p.topk(top_k, dim=-1)
    final = top.indices[-1]
    return Reading(
        text=tokenizer.decode([token]),
        tokens=[[tokenizer.decode([each]) for each in row] for row in top.indices.tolist()],
        probabilities=top.values.tolist(),
        final=[tokenizer.decode([each]) for each in final.tolist()],
        final_probabilities=p[:, final].tolist(),
    )


def text_of(prompt: str, readings: Sequence[Reading]) -> str:
    """A table per position: a row per layer with its likeliest tokens, the last layer last."""
    blocks = [f"Prompt: {prompt!r}"]
    for reading in readings:
        cells = [
            [f"{text!r} {p:.3f}" for text, p in zip(texts, row, strict=True)]
            for texts, row in zip(reading.tokens, reading.probabilities, strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        rows = [
            f"{layer:>5}  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for layer, row in enumerate(cells)
        ]
        blocks.append("\n".join([f"Next: {reading.text!r}", "layer  likeliest tokens", *rows]))
    return "\n\n".join(blocks) + "\n"


def draw(prompt: str, readings: Sequence[Reading]) -> Drawing:
    """Probability of the final top tokens at every layer, a panel per position."""
    shown = prompt if len(prompt) <= SHOWN else f"... {prompt[-SHOWN:]}"
    title = f"Probability of the final top tokens at every layer behind: {as_label(shown)}"
    note = (
        "Where a line rises is the layer that settles on its token. Layer 0 is the embedding; every layer is read "
        "through the model's own head"
    )
    return Drawing(title, paint_readings, {"readings": [asdict(reading) for reading in readings]}, note)


def paint_readings(values: dict) -> Figure:
    """A panel per position, a line per token."""
    figure, axes = panels(len(values["readings"]), width=5.0)
    for panel, reading in zip(axes, values["readings"], strict=True):
        lines = zip(reading["final"], zip(*reading["final_probabilities"], strict=True), strict=True)
        for place, (text, probabilities) in enumerate(lines):
            panel.plot(range(len(probabilities)), probabilities, label=as_label(text), **points(nth(place)))
        panel.set_ylim(-0.02, 1.02)
        finish(panel, "layer", "probability", f"next: {as_label(reading['text'])}")
        own_legend(panel)
    return figure


def main(argv: list[str] | None = None) -> list[Reading]:
    parser = ArgumentParser((DecoderArguments, LensArguments), __doc__)
    try:
        given = parser.given(sys.argv[1:] if argv is None else list(argv))
        model_args, args = build((DecoderArguments, LensArguments), given)
        config = load_config(model_args, encoder=None)
        if args.top_k > config.vocab_size:
            raise ValueError(f"--top_k {args.top_k}: valid are 1 to {config.vocab_size}, the tokens of this model.")
        tokenizer = load_tokenizer(model_args)
        model = load_model(model_args, config, torch.float32).eval()
        readings = read(model, tokenizer, args.prompt, args.tokens, args.top_k, args.lens_final_norm)
        text = text_of(args.prompt, readings)
        write_text(Path(args.out) / "prompt_lens.txt", text)
        path = draw(args.prompt, readings).save(Path(args.out), "prompt_lens")
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(text)
    print(f"Picture: {path}")
    return readings


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
