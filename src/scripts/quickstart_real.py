"""Show what early exit does to a real language model: a question's lens, and questions under every kind of policy.

    python src/scripts/quickstart_real.py
    python src/scripts/quickstart_real.py --questions 4 --new-tokens 12 --out save/quickstart_few

`bash src/scripts/quickstart.sh --real` fetches the model first.

Every question is answered under all policies in turn, at batch 1, in this one process. What a policy says is compared
with full depth, place by place; what parts once seldom meets again, so that share is of the whole answer.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from analysis import prompt_lens
from decoding import naming
from decoding.policy import Policy
from decoding.ranges import COUNT
from jobs.loading import as_prompt, load_for_decoding
from scripts.real_model import MODEL
from util import AdditionalArguments, DecoderArguments, groups
from util.commands import CommandParser, output_folder
from util.files import write_json, write_text
from util.terminal import terminal

QUESTIONS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Name three fruits that are red.",
    "How many legs does a spider have?",
    "Who wrote Romeo and Juliet?",
    "What does a thermometer measure?",
    "Write one sentence about the sea.",
    "Which planet is closest to the sun?",
    "How do I boil an egg?",
    "What is the opposite of cold?",
    "Explain what a computer is to a child.",
    "Translate 'good morning' into French.",
    "What is 7 plus 5?",
    "Why do birds fly south in winter?",
    "Give me a short recipe for pancakes.",
    "What is photosynthesis?",
    "List the days of the week.",
    "What should I pack for a trip to the mountains?",
    "Who was the first person on the moon?",
    "Finish the sentence: Once upon a time there was",
)
LENS = "Question: What is the capital of France?\nAnswer: The capital of France is"
HEADER = ("policy", "equal to full depth", "layers", "layers run", "GFLOPs", "tokens/s")


@dataclass
class Totals:
    """Sums over the answers under a policy."""

    tokens: int = 0
    layers: float = 0
    passes: int = 0
    flops: float = 0
    seconds: float = 0
    answers: list[list[int]] = field(default_factory=list)

    def add(self, answer: list[int], trace, seconds: float) -> None:
        """One answer more, with its trace of one row."""
        self.tokens += len(answer)
        self.layers += float(trace.exit_layers.sum())
        self.passes += int(trace.passes[0])
        self.flops += sum(float(part[0]) for part in trace.flops().values())
        self.seconds += seconds
        self.answers.append(answer)

    def row(self, full: Totals) -> dict[str, float]:
        """Means per token, and the share of full depth's tokens that are said in their places."""
        pairs = zip(self.answers, full.answers, strict=True)
        equal = sum(a == b for own, wanted in pairs for a, b in zip(own, wanted, strict=False))
        return {
            "equal": equal / full.tokens,
            "layers": self.layers / self.tokens,
            "layers_run": self.passes / self.tokens,
            "gflops": self.flops / self.tokens / 1e9,
            "tokens_per_second": self.tokens / self.seconds,
        }


def policies(depth: int, new_tokens: int) -> list[Policy]:
    """Full depth, static exits, CALM, CALM with a pruned head, and drafts that are verified; exits from two thirds of
    the depth, drafts from five sixths."""
    late = 2 * depth // 3
    calm = {"use_early_exit": True, "exit_conf_type": "softmax", "exit_conf_threshold": 0.9, "exit_min_layer": late}
    drafts = {"use_shallow_deep": True, "shallow_exit_layer": 5 * depth // 6, "shallow2deep_conf_threshold": 0.5}
    flags = [{}, {"static_exit_layer": late}, calm, calm | {"type_vocab_reduct": "fixed"}]
    flags += [drafts | {"lossless": True, "num_speculations": 4}]
    return [AdditionalArguments(**each).policy(new_tokens) for each in flags]


def measure(model, tokenizer: PreTrainedTokenizerBase, chosen: list[Policy], questions: int, new_tokens: int) -> dict:
    """Label of each policy -> its numbers, the first policy's being those that the others are compared with."""
    totals = [Totals() for _ in chosen]
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "return_trace": True}
    for number, question in enumerate(QUESTIONS[:questions]):
        inputs = dict(tokenizer(as_prompt(tokenizer, question), return_tensors="pt"))
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        if number == 0:  # memory is taken, and weights are read from the disk, in the first call
            model.generate(**inputs, policy=Policy(), **settings)
        for policy, total in zip(chosen, totals, strict=True):
            started = time.perf_counter()
            sequences, trace = model.generate(**inputs, policy=policy, **settings)
            seconds = time.perf_counter() - started
            total.add(sequences[0, inputs["input_ids"].shape[1] :].tolist(), trace, seconds)
        print(f"{number + 1:>2} of {questions}: {question}", flush=True)
    return {naming.label(each.describe()): total.row(totals[0]) for each, total in zip(chosen, totals, strict=True)}


def table(rows: dict[str, dict[str, float]]) -> str:
    """The numbers of each policy, a line each."""
    lines = [HEADER]
    for name, row in rows.items():
        numbers = (f"{row['equal']:.1%}", *(f"{row[key]:.2f}" for key in ("layers", "layers_run", "gflops")))
        lines.append((name, *numbers, f"{row['tokens_per_second']:.1f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    model, run = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.RUN)
    output = parser.add_argument_group(groups.OUTPUT)
    model.add_argument("--model", default=str(MODEL), help="a folder or a name on the hub; the one of real_model.sh")
    output.add_argument("--out", type=output_folder, default="save/quickstart_real", help="folder of table and lens")
    run.add_argument("--questions", type=COUNT, default=len(QUESTIONS), help=f"{len(QUESTIONS)} are there")
    run.add_argument("--new-tokens", type=COUNT, default=20, help="of each answer at most")
    arguments = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    try:
        model_args = DecoderArguments(model_name_or_path=arguments.model)
        with redirect_stdout(StringIO()):  # the picture says it shorter
            prompt_lens.main(["--model_name_or_path", arguments.model, "-p", LENS, "--out", str(arguments.out)])
        print(f"What every layer would say: {arguments.out / 'prompt_lens.png'}\n", flush=True)
        model, tokenizer = load_for_decoding(model_args, torch.float32, encoder=False)
        chosen = policies(model.num_exit_layers, arguments.new_tokens)
        questions = min(arguments.questions, len(QUESTIONS))
        rows = measure(model, tokenizer, chosen, questions, arguments.new_tokens)
        write_json(arguments.out / "table.json", rows)
        write_text(arguments.out / "table.txt", table(rows) + "\n")
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(
        f"\n{table(rows)}\n\nBy token, of {model.num_exit_layers} layers: those before it was said, and all that ran;"
    )
    print("FLOPs and seconds hold the prompt.")
    print(f"Table:   {arguments.out / 'table.txt'}\nPicture: {arguments.out / 'prompt_lens.png'}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
