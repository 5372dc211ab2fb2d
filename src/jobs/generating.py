"""What generate.py does: prompts in, text out, under any policy or strategy."""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging as transformers_logging

from decoding.policy import Policy
from decoding.stops import before, stopping
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
from jobs.streaming import AnswerStreamer, DraftStreamer
from jobs.telling import Continuation, compared, legend, measured, painted
from models import deploying_class
from models.adjacent import move_all_together
from tasks.chats import Turn, refuse_without_template, rendered
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

# Between the seeds of neighbouring prompts: small seeds of a user stay apart.
SEEDS_APART = 1_000_003


class Generator:
    """A model with its tokenizer that continues prompts. What cannot be used is refused while it is made.

    Args:
        prompts: Those that will be continued, which tell what memory is needed; where not given those of `args`.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        args: GenerateArguments,
        additional_args: AdditionalArguments,
        prompts: Sequence[str] | None = None,
    ):
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
        self._refuse_misfits()
        self.tokenizer = load_tokenizer(model_args)
        self.chats = self._chats()
        check_policy(self.policy, config, self.tokenizer)
        self.device = args.torch_device
        rows = self._together(read_prompts(args) if prompts is None else prompts)
        self.model = load_model(model_args, config, args.torch_dtype, device=self.device, rows=rows).eval()
        fit_embeddings(self.model, self.tokenizer, model_args.model_name_or_path, training=False)
        move_all_together(self.model)
        self.ends = self._ends()

    def _strategy(self, config, depth: int) -> Strategy | None:
        strategy = self.args.strategy_of(depth, bool(config.tie_word_embeddings))
        if strategy is not None and self.policy.exits:
            raise ValueError(f"--strategy {self.args.strategy} runs every layer: drop the flags of early exit.")
        if strategy is not None and self.args.do_sample and strategy.beams > 1:
            raise ValueError(
                f"--do_sample draws one continuation, but --strategy {self.args.strategy} has {strategy.beams} beams: "
                "give --beam_size 1."
            )
        return strategy

    def _refuse_misfits(self) -> None:
        """Refuse what is to be shown, with a ValueError, where there is none of it."""
        args = self.args
        if args.compare and args.strategy == "greedy" and not args.do_sample and not self.policy.exits:
            raise ValueError(
                "--compare shows greedy decoding at full depth beside another way: give --strategy, or flags of early "
                "exit."
            )
        if args.show_drafts and self.policy.verifies is None:
            raise ValueError("--show_drafts shows tokens that are yet to be verified: give --lossless True.")

    def _chats(self) -> bool:
        """Whether prompts are turns of the tokenizer's chat template.

        Raises:
            ValueError: They should be, but there is none.
        """
        asked, held = self.args.apply_chat_template, self.tokenizer.chat_template is not None
        if asked:
            refuse_without_template(self.tokenizer)
        return held and (self.args.converses if asked is None else asked)

    def _ends(self) -> list[int]:
        """The tokens that end an answer.

        Raises:
            ValueError: One that was given is none of the model's.
        """
        size = self.model.get_input_embeddings().num_embeddings
        wrong = [str(token) for token in self.args.stop_token_ids if not 0 <= token < size]
        if wrong:
            raise ValueError(f"--stop_token_ids {' '.join(wrong)}: valid are 0 to {size - 1} for this model.")
        held = self.model.generation_config.eos_token_id
        ends = [held] if isinstance(held, int) else list(held or ())
        turn = [self.tokenizer.eos_token_id] if self.chats and self.tokenizer.eos_token_id is not None else []
        return list(dict.fromkeys([*ends, *turn, *self.args.stop_token_ids]))

    def under(self, args: GenerateArguments) -> Generator:
        """The same model at full depth with other arguments, of which those that it was loaded by do not count."""
        other = copy.copy(self)
        other.args, other.policy = args, Policy()
        other.strategy = other._strategy(self.model.config, self.model.num_exit_layers)
        other.ends = other._ends()
        return other

    def _together(self, prompts: Sequence[str]) -> Rows:
        """What is computed together, by the longest of the prompts that are known."""
        longest = max(prompts, key=len, default=None)
        size = 1 if self.args.prompt_file is None else self.args.batch_size
        beams = 1 if self.strategy is None else self.strategy.beams
        tokens = 0 if longest is None else len(self.ids(longest))
        return Rows(size * beams, tokens + self.args.max_new_tokens)

    def called(self) -> tuple[str, str]:
        """What greedy decoding at full depth is called where the generator's own way stands beside, and that way."""
        if self.args.strategy == "greedy":
            return "full depth", "early exit" if self.policy.exits else "sample"
        return "greedy", self.args.strategy

    def warm_up(self, prompt: str) -> None:
        """Do once, before anything is timed, what only the first call does."""
        inputs = padded([self.ids(prompt)[:1]], self.tokenizer.pad_token_id, None, left=True)
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        self.model.generate(**inputs, max_new_tokens=1, policy=Policy())

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.args.samples

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
        # Not there where they are not asked for, so that files of earlier versions are gone on with.
        further = {"stop": args.stop, "stop_token_ids": args.stop_token_ids, "chats": self.chats}
        further["no_repeat_ngram_size"] = args.no_repeat_ngram_size
        return settings | {name: value for name, value in further.items() if value}

    def say(self) -> str:
        """What tokens are read from, in words."""
        drawn = ", drawn" * self.args.do_sample
        if self.strategy is None:
            return self.policy.explain(self.model.num_exit_layers) + drawn
        contrasted = f", contrasted with layer {', '.join(map(str, self.strategy.amateurs))}" * bool(self.strategy.rule)
        beams = f", {self.strategy.beams} beams" * (self.strategy.beams > 1)
        top = self.strategy.expert or self.model.num_exit_layers
        return f"{self.args.strategy}: layer {top}{contrasted}{beams}{drawn}"

    def run(
        self,
        prompts: list[str],
        strategy: Strategy | None,
        sample: bool,
        policy: Policy,
        stream: bool = False,
        earlier: Sequence[Turn] = (),
    ) -> list[Continuation]:
        """Continue some prompts together.

        Args:
            stream: Write the answer to a single prompt to the terminal as it comes.
            earlier: Turns of the conversation that the prompts go on.
        """
        ids = [self.ids(prompt, earlier) for prompt in prompts]
        decoder = not self.model.config.is_encoder_decoder
        inputs = padded(ids, self.tokenizer.pad_token_id, None, left=decoder)
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        start = inputs["input_ids"].shape[1] if decoder else 1
        chosen = self._chosen(sample) | {"policy": policy, "strategy": strategy}
        chosen["stopping_criteria"] = stopping(self.tokenizer, self.args.stop, start)
        began = time.perf_counter()
        streamer = self._streamer(prompts[0], ids[0]) if stream else None
        try:
            sequences, trace = self.model.generate(**inputs, **chosen, streamer=streamer, return_trace=True)
        finally:
            if streamer is not None:  # of an answer that is interrupted the line is ended too
                streamer.end()
        share = (time.perf_counter() - began) / len(prompts)
        answers = sequences[:, start:].tolist()
        found = []
        for row, (prompt, own, answer) in enumerate(zip(prompts, ids, answers, strict=True)):
            told = self._told(strategy, trace, row) | {"prompt_tokens": own, "seconds": share}
            tokens = answer[: int(trace.lengths[row])]
            found.append(Continuation(prompt, self._text(own, tokens), tokens, **told))
        return found

    def _chosen(self, sample: bool) -> dict[str, Any]:
        """How tokens are chosen and where an answer ends, as arguments of `generate`."""
        args = self.args
        chosen = {"max_new_tokens": args.max_new_tokens, "repetition_penalty": args.repetition_penalty}
        chosen |= {"do_sample": sample, "num_beams": 1}
        if sample:
            chosen |= {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
        if args.no_repeat_ngram_size:
            chosen["no_repeat_ngram_size"] = args.no_repeat_ngram_size
        if self.ends:
            chosen["eos_token_id"] = self.ends
        return chosen

    def ids(self, prompt: str, earlier: Sequence[Turn] = ()) -> list[int]:
        """A prompt's token ids: behind earlier turns, as the chat template has it, where that is applied."""
        if not self.chats:
            return prompt_ids(self.tokenizer, prompt)
        turns = [*earlier, {"role": "user", "content": prompt}]
        text = rendered(self.tokenizer, turns, advice="give --apply_chat_template False")
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _told(self, strategy: Strategy | None, trace, row: int) -> dict:
        """What the trace says of a row's answer, as fields of `Continuation`."""
        length = int(trace.lengths[row])
        if strategy is not None:
            layers = trace.premature_layers[row, :length].tolist()
            return {"exit_layers": None, "premature_layers": layers if strategy.rule else None}
        verified = ("drafted", "accepted", "undrafted") if trace.counts["drafted"][row] else ()
        counts = {name: int(trace.counts[name][row]) for name in verified}
        layers = trace.exit_layers[row, :length].tolist()
        return {"exit_layers": layers, "passes": int(trace.passes[row]), **counts}

    def _text(self, prompt: list[int], answer: list[int]) -> str:
        """New tokens as they read behind their prompt, without what ended them."""
        return before(self._reader(prompt)(answer), self.args.stop)

    def _reader(self, prompt: list[int]) -> Callable[[list[int]], str]:
        """Tokens behind a prompt to their text, without a token that ended them: some tokenizers begin no text with a
        space, so that it is read behind the prompt where it goes on from there."""
        told = [] if self.answers else prompt
        start = len(self.tokenizer.decode(told, skip_special_tokens=True))

        def read(answer: list[int]) -> str:
            kept = answer[:-1] if answer and answer[-1] in self.args.stop_token_ids else answer
            return self.tokenizer.decode([*told, *kept], skip_special_tokens=True)[start:]

        return read

    @property
    def answers(self) -> bool:
        """Whether what is written is an answer to a prompt, on a line of its own, and not its continuation."""
        return self.chats or self.model.config.is_encoder_decoder

    def beginning(self, prompt: str) -> str:
        """The prompt, up to where the first of the new tokens stands."""
        return f"{prompt}\n" if self.answers else prompt

    def recalled(self, row: dict) -> Continuation:
        """The continuation of a line of the output file."""
        held = {field: row[name] for name, field in LINE.items() if name in row}
        return Continuation(prompt_tokens=self.ids(row["prompt"]), **{"exit_layers": None, **held})

    def _streamer(self, prompt: str, ids: list[int]) -> AnswerStreamer:
        kind = DraftStreamer if self.args.show_drafts and shows_colours() else AnswerStreamer
        return kind(self._reader(ids), self.args.stop, self.beginning(prompt))

    def coloured(self, found: Continuation) -> str:
        """The continuation, each token in the shade of its exit layer; without colours, the layer behind it."""
        depth, last = self.model.num_exit_layers, len(found.tokens) - 1
        pieces, text, read = [], "", self._reader(found.prompt_tokens)
        for place, layer in enumerate(found.exit_layers):
            longer = before(read(found.tokens[: place + 1]), self.args.stop)
            if longer.endswith("\ufffd") and place < last:
                continue  # part of a character, shown with the token that completes it
            pieces.append(painted(longer[len(text) :], layer, depth))
            text = longer
        return "".join(pieces)


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
    prompts = read_prompts(args)
    generator = introduced(model_args, args, additional_args)
    size = 1 if args.prompt_file is None else args.batch_size
    if args.output_file is None:
        found = continue_all(generator, prompts, size, None)
    else:
        found = write_all(generator, prompts, size, args.output_file)
    if args.prompt_file is not None or len(found) > 1 or not all(each.seconds for each in found):
        print(measured(found, generator.model.num_exit_layers), file=sys.stderr)
    return found


def introduced(
    model_args: ModelArguments,
    args: GenerateArguments,
    additional_args: AdditionalArguments,
    more: Callable[[Generator], str] | None = None,
) -> Generator:
    """The generator of a command line, of which a line says what it is.

    Args:
        more: What that line says beside.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    generator = Generator(model_args, args, additional_args)
    told = f"{Path(model_args.model_name_or_path).name}, {generator.say()}"
    print(f"{told}. {more(generator)}" if more else told, file=sys.stderr)
    return generator


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
        batch = continued(generator, prompts[start : start + size], alone)
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


def continued(
    generator: Generator, prompts: list[str], alone: bool, echo: bool = True, earlier: Sequence[Turn] = ()
) -> list[Continuation]:
    """Continue some prompts and show them, a single one as it comes where nothing stands beside it.

    Args:
        alone: Whether it is a single one, of which it is told at once how long it took.
        echo: Show the prompt before its answer.
        earlier: Turns of the conversation that they go on.
    """
    args = generator.args
    one_path = generator.strategy is None or generator.strategy.beams == 1
    streams = alone and one_path and not args.show_exits and not args.compare
    if streams and (echo or not generator.answers):
        print(generator.beginning(prompts[0]), end="", flush=True)
    ways = generator.strategy, generator.samples, generator.policy
    if args.compare:
        generator.warm_up(prompts[0])
    found = generator.run(prompts, *ways, streams, earlier)
    plain = generator.run(prompts, None, False, Policy(), earlier=earlier) if args.compare else None
    if not streams:
        show(generator, found, plain or [None] * len(prompts), echo)
    if alone or plain:
        tell(generator, found, plain)
    return found


def tell(generator: Generator, found: list[Continuation], plain: list[Continuation] | None = None) -> None:
    """Say how deep tokens went and how fast they came, and how fast plainly at full depth."""
    print(measured(found, generator.model.num_exit_layers), file=sys.stderr)
    if plain:
        print(compared(found, plain, generator.called()[0]), file=sys.stderr)


def show(
    generator: Generator, found: list[Continuation], plain: Sequence[Continuation | None], echo: bool = True
) -> None:
    """Print continuations, with the plain greedy one beside where there is one, and colours where asked.

    Args:
        echo: Show prompts before their answers.
    """
    args = generator.args
    name, own = generator.called()
    for each, beside in zip(found, plain, strict=True):
        text = generator.coloured(each) if args.show_exits else each.text
        if beside is not None:
            print(f"{each.prompt}\n  {name}: {beside.text}\n  {own}: {text}\n", flush=True)
        else:
            start = generator.beginning(each.prompt) if echo or not generator.answers else ""
            print(start + text, flush=True)
    if args.show_exits and found:
        print(legend(generator.model.num_exit_layers, found), flush=True)


def line(found: Continuation, args: GenerateArguments) -> dict:
    """A line of the output file; what there was none of is left out."""
    held = {name: getattr(found, field) for name, field in LINE.items()}
    return {name: value for name, value in held.items() if value is not None} | {"strategy": args.strategy}
