"""Measure what pruning the vocabulary saves a real model that asks at every layer, in seconds and FLOPs per token.

    python src/scripts/measure_pruning.py --out save/pruning_real
    python src/scripts/measure_pruning.py --model models/gemma3-270m --questions 10 --tokens 16 --out save/pruning_gemma

`bash src/scripts/real_model.sh` fetches the model. An exit stands after every layer and none is ever taken, so every
policy writes the same tokens as full depth, and what differs is the price of asking. Questions are answered at batch 1
under all policies in turn, in one process; seconds are the median of the repetitions of a question, ratios are of their
sums, with intervals over questions. Then rows of the head are copied and multiplied, ever more of them, beside the
whole head, which says from where on copying would not pay.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from analysis import intervals
from analysis.tables import Table
from decoding.policy import Policy
from decoding.ranges import COUNT
from jobs.loading import as_prompt, load_for_decoding
from scripts.benchmark_decoding import crossing
from scripts.quickstart_real import QUESTIONS
from scripts.real_model import MODEL
from training.records import exit_counts
from util import DecoderArguments, groups
from util.commands import CommandParser, output_folder
from util.files import write_json, write_text
from util.terminal import terminal

ASKED = {"confidence": "softmax", "threshold": 1.0, "first_exit": 1}
POLICIES = {
    "full depth": Policy(),
    "softmax at every layer": Policy(**ASKED),
    "+ fixed": Policy(**ASKED, vocabulary="fixed"),
    "+ decaying": Policy(**ASKED, vocabulary="decaying"),
    "+ adaptive": Policy(**ASKED, vocabulary="adaptive"),
}
FULL, WHOLE = list(POLICIES)[:2]


@dataclass
class Spent:
    """What answers cost under a policy, an item per question."""

    seconds: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    rows: list[float] = field(default_factory=list)  # of the head multiplied at an exit after a token's first
    answers: list[list[int]] = field(default_factory=list)

    def add(self, answer: list[int], trace, seconds: list[float]) -> None:
        """One question more, with its trace of one row."""
        counts = exit_counts(trace, 0)
        self.seconds.append(statistics.median(seconds))
        self.flops.append(sum(float(part[0]) for part in trace.flops().values()))
        self.tokens.append(len(answer))
        self.rows.append(counts["rows_later"] / max(1, counts["later"]))
        self.answers.append(answer)


def measure(model, tokenizer, questions: int, new_tokens: int, repetitions: int) -> dict[str, Spent]:
    """Policy -> what it spent, all of them in turn, question by question."""
    spent = {name: Spent() for name in POLICIES}
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "return_trace": True}
    for number, question in enumerate(QUESTIONS[:questions]):
        encoded = tokenizer(as_prompt(tokenizer, question), return_tensors="pt")
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        seconds: dict[str, list[float]] = {name: [] for name in POLICIES}
        found = {}
        for repetition in range(repetitions + (number == 0)):  # the first of all reads weights from the disk
            for name, policy in POLICIES.items():
                started = time.perf_counter()
                found[name] = model.generate(**inputs, policy=policy, **settings)
                if number or repetition:
                    seconds[name].append(time.perf_counter() - started)
        for name, (sequences, trace) in found.items():
            spent[name].add(sequences[0, encoded["input_ids"].shape[1] :].tolist(), trace, seconds[name])
        print(f"{number + 1:>2} of {questions}: {question}", flush=True)
    return spent


def table(spent: dict[str, Spent], title: str, vocabulary: int) -> Table:
    """A row per policy: FLOPs and seconds per token, and seconds beside full depth and beside asking the whole head."""
    head = ["policy", "GFLOPs/token", "ms/token", "seconds / full", "95% interval", "seconds / unpruned", "interval"]
    rows = []
    for name, each in spent.items():
        tokens = sum(each.tokens)
        cells = [f"{sum(each.flops) / tokens / 1e9:.3f}", f"{1000 * sum(each.seconds) / tokens:.1f}"]
        for other in (FULL, WHOLE):
            low, high = intervals.of_ratio(each.seconds, spent[other].seconds)
            cells += [f"{sum(each.seconds) / sum(spent[other].seconds):.2f}", f"{low:.2f} to {high:.2f}"]
        rows.append([name, *cells, f"{statistics.fmean(each.rows) / vocabulary:.4f}"])
    note = "rows/V: rows of the head multiplied at an exit after a token's first. FLOPs and seconds hold the prompt.\n"
    return Table(title, [*head, "rows/V"], rows, [], note)


def main(argv: list[str] | None = None) -> dict[str, Spent]:
    parser = CommandParser(__doc__)
    model, run = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.RUN)
    output = parser.add_argument_group(groups.OUTPUT)
    model.add_argument("--model", default=str(MODEL), help="a folder or a name on the hub; the one of real_model.sh")
    run.add_argument("--questions", type=COUNT, default=len(QUESTIONS), help=f"{len(QUESTIONS)} are there")
    run.add_argument("--tokens", type=COUNT, default=16, help="of each answer at most")
    run.add_argument("--repetitions", type=COUNT, default=3, help="of each question")
    output.add_argument("--out", type=output_folder, default="save/pruning_real", help="folder of the table")
    arguments = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    try:
        model_args = DecoderArguments(model_name_or_path=arguments.model)
        model, tokenizer = load_for_decoding(model_args, torch.float32, encoder=False)
        questions = min(arguments.questions, len(QUESTIONS))
        spent = measure(model, tokenizer, questions, arguments.tokens, arguments.repetitions)
        pays = {batch: crossing(model, batch, arguments.repetitions) for batch in (1, 8)}
        vocabulary = model.unembed().vocabulary_size
        title = f"Pruning of {Path(arguments.model).name}, {questions} questions, {torch.get_num_threads()} threads"
        found = table(spent, title, vocabulary)
        write_text(arguments.out / "pruning.txt", found.text())
        write_json(arguments.out / "pruning.json", found.data() | {"copying_pays_up_to": pays})
    except (ValueError, OSError) as error:
        parser.refuse(error)
    same = all(each.answers == spent[FULL].answers for each in spent.values())
    print(f"\n{found.text()}\nAll answers are those of full depth: {'yes' if same else 'NO'}.")
    for batch, share in pays.items():
        told = f"{share['median']:.4g} ({share['min']:.4g} to {share['max']:.4g})"
        print(f"Copying rows for one product pays up to rows * k / V of {told} at batch {batch}.")
    print(f"Table: {arguments.out / 'pruning.txt'}")
    return spent


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
