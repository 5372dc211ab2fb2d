"""What generate.py does: prompts in, text out, under any policy or strategy."""

from __future__ import annotations

import copy
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import TextStreamer, set_seed
from transformers.utils import logging as transformers_logging

from decoding.policy import Policy
from decoding.strategies import Strategy
from jobs.loading import (
    check_policy,
    fit_embeddings,
    load_config,
    load_model,
    load_tokenizer,
    model_settings,
    prompt_ids,
)
from jobs.memory import Rows
from jobs.output_lines import OutputLines
from models import deploying_class
from models.adjacent import move_all_together
from tasks.readers import read_records
from training.evaluation import padded, restore_threshold
from training.reporting import only_our_bars, progress
from util import AdditionalArguments, ModelArguments, update_autoconfig
from util.generate_args import GenerateArguments, PromptArguments
from util.terminal import shows_colours

# What a line of the output file names -> the field of `Continuation` it holds.
LINE = {"prompt": "prompt", "continuation": "text", "tokens": "tokens", "exit_layers": "exit_layers"}
LINE |= {"premature_layers": "premature_layers", "layers_run": "passes", "drafted": "drafted", "accepted": "accepted"}
LINE |= {"undrafted": "undrafted"}

# Colours of a terminal's 256, from shallow to deep.
SHADES = (33, 39, 44, 48, 118, 190, 220, 214, 208, 196)
# Between the seeds of neighbouring prompts: small seeds of a user stay apart.
SEEDS_APART = 1_000_003


@dataclass(frozen=True)
class Continuation:
    """What became of a prompt.

    Attributes:
        text: The new tokens, without special ones.
        tokens: Their ids, end-of-sequence included.
        exit_layers: Layers each ran before it was emitted; None where a strategy ran all of them.
        premature_layers: The layer each was contrasted with; None where none was.
        passes: Layers run in all, those of rejected drafts too; None where a strategy ran all of them.
        drafted, accepted: Tokens that were verified, and those of them that stood; None where none was.
        undrafted: Tokens that ran at full depth because drafts did not pay; None where none was drafted.
        prompt_tokens: The prompt's ids.
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


class Generator:
    """A model with its tokenizer that continues prompts. What cannot be used is refused while it is made."""

    def __init__(self, model_args: ModelArguments, args: GenerateArguments, additional_args: AdditionalArguments):
        self.args = args
        self.model_args = model_args
        transformers_logging.set_verbosity_error()
        only_our_bars()
        config = load_config(model_args, encoder=None)
        update_autoconfig(config, additional_args, max_answer_length=args.max_new_tokens)
        self.policy = additional_args.policy(args.max_new_tokens)
        depth = deploying_class(config).adapter_class.count_layers(config)
        self.policy.check(depth)
        self.strategy = self._strategy(config, depth)
        self.tokenizer = load_tokenizer(model_args)
        check_policy(self.policy, config, self.tokenizer)
        self.device = args.torch_device
        self.model = load_model(model_args, config, args.torch_dtype, device=self.device, rows=self._together()).eval()
        fit_embeddings(self.model, self.tokenizer, model_args.model_name_or_path, training=False)
        move_all_together(self.model)

    def _strategy(self, config, depth: int) -> Strategy | None:
        strategy = self.args.strategy_of(depth, bool(config.tie_word_embeddings))
        if strategy is not None and self.policy.exits:
            raise ValueError(f"--strategy {self.args.strategy} runs every layer: drop the flags of early exit.")
        return strategy

    def under(self, args: GenerateArguments) -> Generator:
        """The same model at full depth with other arguments, of which those that it was loaded by do not count."""
        other = copy.copy(self)
        other.args, other.policy = args, Policy()
        other.strategy = other._strategy(self.model.config, self.model.num_exit_layers)
        return other

    def _together(self) -> Rows:
        """What is computed together, by the longest of the prompts that are known."""
        longest = max(read_prompts(self.args), key=len, default="")
        size = 1 if self.args.prompt_file is None else self.args.batch_size
        beams = 1 if self.strategy is None else self.strategy.beams
        tokens = len(self.tokenizer(longest, verbose=False)["input_ids"])
        return Rows(size * beams, tokens + self.args.max_new_tokens)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.args.strategy == "sample"

    def settings(self) -> dict:
        """Everything that shapes a continuation, beside its prompt."""
        args = self.args
        settings = model_settings(self.model_args, self.model) | {
            "policy": self.policy.describe(),
            "strategy": [args.strategy, self.strategy and asdict(self.strategy)],
            "lengths": [args.max_new_tokens, args.repetition_penalty],
            "numbers": [args.dtype, self.device.type],
        }
        if self.samples:
            settings["drawn"] = [args.seed, args.temperature, args.top_k, args.top_p]
        if self.samples or self.policy.adapts:
            settings["batch_size"] = args.batch_size
        return settings

    def say(self) -> str:
        """What tokens are read from, in words."""
        if self.strategy is None:
            return self.policy.explain(self.model.num_exit_layers)
        contrasted = f", contrasted with layer {', '.join(map(str, self.strategy.amateurs))}" * bool(self.strategy.rule)
        beams = f", {self.strategy.beams} beams" * (self.strategy.beams > 1)
        top = self.strategy.expert or self.model.num_exit_layers
        return f"{self.args.strategy}: layer {top}{contrasted}{beams}"

    def run(
        self, prompts: list[str], strategy: Strategy | None, sample: bool, policy: Policy, stream: bool = False
    ) -> list[Continuation]:
        """Continue some prompts together.

        Args:
            stream: Write the tokens of a single prompt to the terminal as they come.
        """
        ids = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        decoder = not self.model.config.is_encoder_decoder
        inputs = padded(ids, self.tokenizer.pad_token_id, None, left=decoder)
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        drawn = {"temperature": self.args.temperature, "top_k": self.args.top_k, "top_p": self.args.top_p}
        sequences, trace = self.model.generate(
            **inputs,
            max_new_tokens=self.args.max_new_tokens,
            repetition_penalty=self.args.repetition_penalty,
            do_sample=sample,
            num_beams=1,
            **(drawn if sample else {}),
            policy=policy,
            strategy=strategy,
            streamer=self._streamer() if stream else None,
            return_trace=True,
        )
        start = inputs["input_ids"].shape[1] if decoder else 1
        answers = sequences[:, start:].tolist()
        found = []
        for row, (prompt, own, answer) in enumerate(zip(prompts, ids, answers, strict=True)):
            told = self._told(strategy, trace, row, answer)
            tokens = answer[: told.pop("length")]
            found.append(Continuation(prompt, self._text(own, tokens), tokens, prompt_tokens=own, **told))
        return found

    def _told(self, strategy: Strategy | None, trace, row: int, answer: list[int]) -> dict:
        """What the trace says of a row's answer: its length, and fields of `Continuation`."""
        if strategy is not None:
            length = self._length(answer)
            layers = trace.premature_layers[row, :length].tolist()
            return {"length": length, "exit_layers": None, "premature_layers": layers if strategy.rule else None}
        length = int(trace.lengths[row])
        verified = ("drafted", "accepted", "undrafted") if trace.counts["drafted"][row] else ()
        counts = {name: int(trace.counts[name][row]) for name in verified}
        layers = trace.exit_layers[row, :length].tolist()
        return {"length": length, "exit_layers": layers, "passes": int(trace.passes[row]), **counts}

    def _text(self, prompt: list[int], answer: list[int]) -> str:
        """New tokens as they read behind their prompt: some tokenizers begin no text with a space."""
        if self.model.config.is_encoder_decoder:
            return self.tokenizer.decode(answer, skip_special_tokens=True)
        before = self.tokenizer.decode(prompt, skip_special_tokens=True)
        return self.tokenizer.decode([*prompt, *answer], skip_special_tokens=True)[len(before) :]

    def shown(self, found: Continuation, text: str) -> str:
        """The prompt, and a text behind it; on a line of its own where it is an answer and no continuation."""
        return f"{found.prompt}\n{text}" if self.model.config.is_encoder_decoder else found.prompt + text

    def recalled(self, row: dict) -> Continuation:
        """The continuation of a line of the output file."""
        held = {field: row[name] for name, field in LINE.items() if name in row}
        return Continuation(prompt_tokens=prompt_ids(self.tokenizer, row["prompt"]), **{"exit_layers": None, **held})

    def _length(self, answer: list[int]) -> int:
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        return next((place + 1 for place, token in enumerate(answer) if token in ends), len(answer))

    def _streamer(self) -> TextStreamer:
        answers = self.model.config.is_encoder_decoder  # whose prompt is not among the tokens that come
        return TextStreamer(self.tokenizer, skip_prompt=answers, skip_special_tokens=True)

    def coloured(self, found: Continuation) -> str:
        """The continuation, each token in the shade of its exit layer; without colours, the layer behind it."""
        depth, last = self.model.num_exit_layers, len(found.tokens) - 1
        pieces, text = [], ""
        for place, layer in enumerate(found.exit_layers):
            longer = self._text(found.prompt_tokens, found.tokens[: place + 1])
            if longer.endswith("\ufffd") and place < last:
                continue  # part of a character, shown with the token that completes it
            pieces.append(painted(longer[len(text) :], layer, depth))
            text = longer
        return "".join(pieces)


def painted(text: str, layer: int, depth: int) -> str:
    """A piece of text in the shade of a layer."""
    if not text:
        return ""
    if not shows_colours():
        return f"{text}[{layer}]"
    return f"\033[38;5;{shade(layer, depth)}m{text}\033[0m"


def shade(layer: int, depth: int) -> int:
    """The colour, of a terminal's 256, of a layer from 1 to `depth`."""
    return SHADES[round((layer - 1) / max(1, depth - 1) * (len(SHADES) - 1))]


def read_prompts(args: PromptArguments) -> list[str]:
    """Those of the command line, then those of the file.

    Raises:
        ValueError: The file is of no known kind, is empty, or has a record without a text as its 'prompt'.
    """
    prompts = [args.prompt] if isinstance(args.prompt, str) else list(args.prompt or ())
    if args.prompt_file is not None:
        path = Path(args.prompt_file)
        rows = read_records(path)
        column = "text" if path.suffix == ".txt" else "prompt"
        wrong = next((n for n, row in enumerate(rows, 1) if not isinstance(row.get(column), str)), None)
        if wrong:
            raise ValueError(f"{path}, record {wrong}: expected an object with a text as its 'prompt'.")
        prompts += [row[column] for row in rows]
    return prompts


def generate(
    model_args: ModelArguments, args: GenerateArguments, additional_args: AdditionalArguments
) -> list[Continuation]:
    """Continue every prompt, show it, and write it where asked; what was written there by the same command is kept."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    prompts = read_prompts(args)
    generator = Generator(model_args, args, additional_args)
    print(f"{Path(model_args.model_name_or_path).name}, {generator.say()}", file=sys.stderr)
    size = 1 if args.prompt_file is None else args.batch_size
    if args.output_file is None:
        found = continue_all(generator, prompts, size, None)
    else:
        found = write_all(generator, prompts, size, args.output_file)
    if generator.policy.exits:
        print(depth_of(found, generator.model.num_exit_layers), file=sys.stderr)
    return found


def write_all(generator: Generator, prompts: list[str], size: int, path: str) -> list[Continuation]:
    """Continue every prompt and write each batch once it is done; what the file has already is not done again."""
    output = OutputLines(path, prompts, generator.settings(), size)
    try:
        found = continue_all(generator, prompts, size, output)
    finally:
        output.close()
    print(f"{len(found)} continuations in {path}", file=sys.stderr)
    return found


def continue_all(generator: Generator, prompts: list[str], size: int, output: OutputLines | None) -> list[Continuation]:
    """Continue prompts in batches, each of which is drawn for by itself, and shown and written when it is done."""
    alone = generator.args.prompt_file is None
    found = recalled(generator, prompts, output) if output else []
    if alone:
        show(generator, found, [None] * len(found))
    learnt = [row["threshold"] for row in (output.rows if output else []) if "threshold" in row]
    threshold = restore_threshold(generator.model, generator.policy, learnt)
    for start in range(len(found), len(prompts), size):
        seed_batch(generator, start)
        seen = threshold.seen if threshold else 0
        batch = continued(generator, prompts[start : start + size], stream=alone)
        found += batch
        lines = [line(each, generator.args) for each in batch]
        if threshold:
            lines[-1]["threshold"] = threshold.state_dict(seen)
        if output:
            output.append(lines)
    return found


def recalled(generator: Generator, prompts: list[str], output: OutputLines) -> list[Continuation]:
    """The continuations that the output file has already, which is told."""
    found = [generator.recalled(row) for row in output.rows]
    if found:
        print(f"{len(found)} of {len(prompts)} continuations were in {output.path} already", file=sys.stderr)
    return found


def seed_batch(generator: Generator, start: int) -> None:
    """Another seed for every batch: what is drawn does not depend on where the command was interrupted."""
    set_seed((generator.args.seed + SEEDS_APART * start) % 2**32)


def write_all_quietly(generator: Generator, prompts: list[str], path: str | Path) -> list[Continuation]:
    """Continue every prompt by the policy or the strategy and write each batch once it is done, with a bar instead of
    what is written; what the file has already is not done again."""
    size = generator.args.batch_size
    output = OutputLines(path, prompts, generator.settings(), size)
    try:
        found = recalled(generator, prompts, output)
        with progress(len(prompts), "Answering") as advance:
            advance(len(found))
            for start in range(len(found), len(prompts), size):
                seed_batch(generator, start)
                some = prompts[start : start + size]
                batch = generator.run(some, generator.strategy, generator.samples, generator.policy)
                output.append([line(each, generator.args) for each in batch])
                found += batch
                advance(len(batch))
    finally:
        output.close()
    return found


def continued(generator: Generator, prompts: list[str], stream: bool) -> list[Continuation]:
    """Continue some prompts and show them, a single one as it comes where nothing stands beside it."""
    args, policy = generator.args, generator.policy
    one_path = generator.strategy is None or generator.strategy.beams == 1
    streams = stream and one_path and not args.show_exits and not args.compare
    if streams and generator.model.config.is_encoder_decoder:
        print(prompts[0], flush=True)
    found = generator.run(prompts, generator.strategy, generator.samples, policy, streams)
    plain = generator.run(prompts, None, False, Policy()) if args.compare else [None] * len(prompts)
    if not streams:
        show(generator, found, plain)
    return found


def show(generator: Generator, found: list[Continuation], plain: list[Continuation | None]) -> None:
    """Print continuations, with the plain greedy one beside where there is one, and colours where asked."""
    args = generator.args
    for each, beside in zip(found, plain, strict=True):
        if beside is not None:
            print(f"{each.prompt}\n  greedy: {beside.text}\n  {args.strategy}: {each.text}\n", flush=True)
        else:
            print(generator.shown(each, generator.coloured(each) if args.show_exits else each.text), flush=True)
    if args.show_exits and found:
        print(legend(generator.model.num_exit_layers, found), flush=True)


def legend(depth: int, found: list[Continuation]) -> str:
    """The shades of all layers, and how deep tokens went."""
    layers = [layer for each in found for layer in each.exit_layers]
    shades = " ".join(painted(str(layer), layer, depth) for layer in range(1, depth + 1))
    return f"layers: {shades}; {len(layers)} tokens, {depth_of(found, depth)}"


def depth_of(found: list[Continuation], depth: int) -> str:
    """How deep tokens went, in words: where drafts were verified, how many layers they left after and how many ran."""
    layers = [layer for each in found for layer in each.exit_layers]
    mean = sum(layers) / max(1, len(layers))
    drafted = sum(each.drafted or 0 for each in found)
    if not drafted:
        return f"{mean:.2f} of {depth} layers on average"
    stood = sum(each.accepted or 0 for each in found) / drafted
    run = sum(each.passes for each in found) / max(1, len(layers))
    return (
        f"emitted after {mean:.2f} of {depth} layers on average, {run:.2f} layers run per token with verification, "
        f"{stood:.0%} of {drafted} drafted tokens accepted{_undrafted(found, len(layers))}"
    )


def _undrafted(found: list[Continuation], tokens: int) -> str:
    """What became of tokens that were not drafted because drafts did not pay."""
    share = sum(each.undrafted or 0 for each in found) / tokens
    return f"; {share:.0%} of the tokens not drafted, since drafts did not pay" if share else ""


def line(found: Continuation, args: GenerateArguments) -> dict:
    """A line of the output file; what there was none of is left out."""
    held = {name: getattr(found, field) for name, field in LINE.items()}
    return {name: value for name, value in held.items() if value is not None} | {"strategy": args.strategy}
