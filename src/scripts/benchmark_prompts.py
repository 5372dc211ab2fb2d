"""The benchmark on real prompts: policies of a checkpoint against Hugging Face's generate, against full depth, and
against the products of the weights that each of them read."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin
from transformers.pytorch_utils import Conv1D

from analysis.tables import HELD_AGAINST
from decoding import naming
from decoding.policy import Policy
from decoding.trace import ExitTrace
from jobs.experiments import named
from jobs.generating import read_prompts
from jobs.loading import check_policy, load_for_decoding, prompt_ids
from models.translators import MODULE
from scripts.quickstart_real import policies as usual_policies
from training.evaluation import padded
from util import ModelArguments
from util.generate_args import GenerateArguments

LIBRARY = "hf generate"
# Of T5's layers, what the source meets once, and no token.
ONCE = ("EncDecAttention.k", "EncDecAttention.v")


class Reads(NamedTuple):
    """Layers, whole heads and exit translators whose weights were read one after the other, behind the prompt."""

    layers: int
    heads: int
    translators: int = 0

    @classmethod
    def of(cls, trace: ExitTrace, vocabulary: int) -> Reads:
        """Those of a trace's row that read most; slots that pass a layer together read it once."""
        depth = trace.cost.num_layers
        rows, translators = trace.rows[..., : depth - 1].sum((1, 2)), trace.translated.sum((1, 2))
        for each in trace.wasted:
            rows[each["row"]] += each["rows"][: depth - 1].sum()
            translators[each["row"]] += each["translated"].sum()
        heads = rows / vocabulary + (trace.exit_layers == depth).sum(1)
        first = int(trace.cost.prefilled)  # its token comes from the prompt
        layers = trace.counts["layers_in_turn"] - first * depth
        return cls(int(layers.max()), round(float(heads.max())) - first, int(translators.max()))


class Weights:
    """The matrices [in, out] that a model's tokens are multiplied with: of each decoder layer, the head, and the exits'
    translators."""

    def __init__(self, model) -> None:
        depth = model.num_exit_layers
        stacks = (module for module in model.get_decoder().modules() if isinstance(module, nn.ModuleList))
        self.layers = [list(_matrices(layer)) for layer in next(stack for stack in stacks if len(stack) == depth)]
        self.head: Tensor = model.get_output_embeddings().weight.t()
        self.translators = list(_matrices(getattr(model, MODULE, nn.ModuleDict())))

    def multiply(self, reads: Reads, batch: int, prompt: int) -> None:
        """A state of each row of a batch with what was read; those of `prompt` tokens with all layers, once, before."""
        depth, states = len(self.layers), self._states(batch)
        if prompt:
            self._pass(range(depth), self._states(batch * prompt))
            states[self.head.shape[0]].mm(self.head)
        for head in range(reads.heads):
            first, end = (number * reads.layers // reads.heads for number in (head, head + 1))
            self._pass(range(first, end), states)
            states[self.head.shape[0]].mm(self.head)
        for number in range(reads.translators):
            states[self.head.shape[0]].mm(self.translators[number % len(self.translators)])

    def _states(self, rows: int) -> dict[int, Tensor]:
        """Width -> states [rows, width]."""
        widths = {matrix.shape[0] for matrix in (*self.layers[0], self.head)}
        return {width: self.head.new_zeros(rows, width) for width in widths}

    def _pass(self, numbers: range, states: dict[int, Tensor]) -> None:
        for number in numbers:
            for matrix in self.layers[number % len(self.layers)]:
                states[matrix.shape[0]].mm(matrix)


def _matrices(layer: nn.Module):
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith(ONCE):
            yield module.weight.t()
        elif isinstance(module, Conv1D):
            yield module.weight


def usual(depth: int, new_tokens: int) -> dict[str, Policy]:
    """Name -> policy of those that a real model is shown under."""
    return {naming.label(policy.describe()): policy for policy in usual_policies(depth, new_tokens)}


@dataclass
class Timed:
    """A contender over all prompts.

    Attributes:
        seconds: Of each repetition.
        answers: New tokens of each prompt, end-of-sequence included.
        layers: Sum over these of the layers each ran before it was said.
        drafted, accepted: Tokens of verified drafts, and those of them that stood.
    """

    seconds: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    layers: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens(self) -> int:
        """Of all answers."""
        return sum(map(len, self.answers))

    def count(self, trace: ExitTrace) -> None:
        """Add what a trace counts."""
        self.layers += int(trace.exit_layers.sum())
        self.drafted += int(trace.counts["drafted"].sum())
        self.accepted += int(trace.counts["accepted"].sum())

    def times_as_fast(self, other: Timed) -> dict[str, float]:
        """By token, repetition by repetition: median, lowest and highest."""
        share = self.tokens / other.tokens
        ratios = [share * b / a for a, b in zip(self.seconds, other.seconds, strict=True)]
        return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}

    def equal(self, other: Timed) -> float:
        """Share of the other's tokens that are said in their places."""
        pairs = zip(self.answers, other.answers, strict=True)
        return sum(a == b for own, wanted in pairs for a, b in zip(own, wanted, strict=False)) / other.tokens


class PromptBenchmark:
    """A checkpoint, prompts and policies, to be timed. What cannot be used is refused while it is made.

    Args:
        policies: Flags of each policy, as one text; of none the usual ones are taken. Full depth is always among them.
        translators: A file of exit translators of the model.

    Raises:
        ValueError: One sentence on what is wrong with the model, the prompts or a policy.
    """

    def __init__(
        self,
        name: str,
        prompt_file: str,
        policies: Sequence[str],
        new_tokens: int,
        dtype: str,
        device: str,
        translators: str | None = None,
    ):
        model_args = ModelArguments(model_name_or_path=name, exit_translators=translators)
        self.new_tokens = new_tokens
        prompts = read_prompts(GenerateArguments(prompt_file=prompt_file))
        self.model, self.tokenizer = load_for_decoding(model_args, getattr(torch, dtype), device)
        self.prompts = [prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        depth = self.model.num_exit_layers
        self.policies = named(policies, depth, new_tokens) if policies else usual(depth, new_tokens)
        for policy in self.policies.values():
            check_policy(policy, self.model.config, self.tokenizer)

    def report(self, batch: int, repetitions: int) -> dict[str, dict]:
        """Policy -> its numbers, of prompts decoded so many together: how many times as fast it is, the share of the
        library's tokens that it says, layers by token, the share of drafted tokens that stood (None without drafts) and
        milliseconds by token."""
        found, bounds = self._measure(batch, repetitions)
        library, full = found[LIBRARY], found[naming.label(Policy().describe())]
        rows = {}
        for name in self.policies:
            own, bound = found[name], Timed(bounds[name], found[name].answers)
            others = dict(zip(HELD_AGAINST, (library, full, bound), strict=True))
            rows[name] = {key: own.times_as_fast(other) for key, other in others.items()} | {
                "equal": own.equal(library),
                "layers": own.layers / own.tokens,
                "accepted": own.accepted / own.drafted if own.drafted else None,
                "milliseconds_per_token": 1000 * min(own.seconds) / own.tokens,
            }
        return rows

    def _measure(self, batch: int, repetitions: int) -> tuple[dict[str, Timed], dict[str, list[float]]]:
        """Everything over all prompts, on each batch in turn, there and back; and the seconds of each policy's bound. A
        round before them warms up, and tells what each policy says and reads."""
        runs: dict[str, Callable] = {LIBRARY: self._library}
        runs |= {name: self._ours(policy) for name, policy in self.policies.items()}
        found = {name: Timed(seconds=[0.0] * repetitions) for name in runs}
        bounds = {name: [0.0] * repetitions for name in self.policies}
        weights, vocabulary = Weights(self.model), self.model.unembed().vocabulary_size
        for start in range(0, len(self.prompts), batch):
            ids = self.prompts[start : start + batch]
            inputs = self._inputs(ids)
            turns: list[tuple[list[float], Callable[[], object]]] = []
            for name, run in runs.items():
                sequences, trace = run(inputs)
                found[name].answers += self._answers(sequences, inputs)
                turns.append((found[name].seconds, lambda run=run, inputs=inputs: run(inputs)))
                if trace is not None:
                    found[name].count(trace)
                    sizes = Reads.of(trace, vocabulary), len(ids), self._prefilled(inputs)
                    turns.append((bounds[name], lambda sizes=sizes: weights.multiply(*sizes)))
            for repetition in range(repetitions):
                for seconds, run in turns[:: -1 if repetition % 2 else 1]:
                    seconds[repetition] += _seconds(run)
        return found, bounds

    def _inputs(self, ids: Sequence[list[int]]) -> dict[str, Tensor]:
        decoder = not self.model.config.is_encoder_decoder
        inputs = padded(ids, self.tokenizer.pad_token_id, None, left=decoder)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}

    def _settings(self) -> dict:
        return {"max_new_tokens": self.new_tokens, "do_sample": False, "num_beams": 1}

    def _library(self, inputs: dict) -> tuple[list[list[int]], None]:
        if self.model.config.is_encoder_decoder:  # the library sizes the one it makes by the layers of the encoder
            inputs = {**inputs, "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}
        return GenerationMixin.generate(self.model, **inputs, **self._settings()).tolist(), None

    def _ours(self, policy: Policy) -> Callable:
        def run(inputs: dict[str, Tensor]) -> tuple[list[list[int]], ExitTrace]:
            self.model.threshold = None  # an adaptive one begins anew
            sequences, trace = self.model.generate(**inputs, **self._settings(), policy=policy, return_trace=True)
            return sequences.tolist(), trace

        return run

    def _prefilled(self, inputs: dict[str, Tensor]) -> int:
        """Tokens of a prompt that the layers meet before the first new one."""
        return 0 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]

    def _answers(self, sequences: list[list[int]], inputs: dict[str, Tensor]) -> list[list[int]]:
        """New tokens of each row, up to the first that ends it."""
        start = self._prefilled(inputs) or 1
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        answers = [sequence[start:] for sequence in sequences]
        return [row[: next((i for i, v in enumerate(row, 1) if v in ends), len(row))] for row in answers]


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def table(rows: dict[str, dict]) -> str:
    """The numbers of each policy, a line each."""
    lines = [["policy", *HELD_AGAINST.values(), "equal", "layers", "accepted", "ms/token"]]
    for name, row in rows.items():
        compared = [f"{row[key]['median']:.2f} ({row[key]['min']:.2f}-{row[key]['max']:.2f})" for key in HELD_AGAINST]
        accepted = "-" if row["accepted"] is None else f"{row['accepted']:.2f}"
        rest = [f"{row['equal']:.1%}", f"{row['layers']:.2f}", accepted, f"{row['milliseconds_per_token']:.1f}"]
        lines.append([name, *compared, *rest])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)


def checkpoint(arguments: argparse.Namespace) -> PromptBenchmark:
    """What the flags of the benchmark name, loaded.

    Raises:
        ValueError: It cannot be used.
    """
    return PromptBenchmark(
        arguments.model_name_or_path,
        arguments.prompt_file,
        arguments.policy or (),
        arguments.tokens,
        arguments.dtype,
        arguments.device,
        arguments.exit_translators,
    )


def report(arguments: argparse.Namespace) -> dict:
    """Time `arguments.checkpoint` at every batch size and print a table of each; what is written."""
    benchmark: PromptBenchmark = arguments.checkpoint
    name, count = Path(arguments.model_name_or_path).name, len(benchmark.prompts)
    found = {"model": name, "prompts": count, "new_tokens": arguments.tokens, "dtype": arguments.dtype}
    found |= {"repetitions": arguments.repetitions, "threads": torch.get_num_threads(), "torch": torch.__version__}
    found["batches"] = {}
    for batch in arguments.batch:
        found["batches"][str(batch)] = rows = benchmark.report(batch, arguments.repetitions)
        print(f"\n{name}, {arguments.dtype}, {count} prompts, batch {batch}: times as fast by token\n{table(rows)}")
    print(
        "\nMedian (lowest-highest) over repetitions. Equal: share of generate's tokens that are said in their places; "
        "accepted: share of drafted tokens that stood."
    )
    return found
