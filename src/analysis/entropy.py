r"""Measure how undecided each layer is while it reads right and wrong answers: the entropy of its next token.

    python src/analysis/entropy.py --model_name_or_path models/smollm2-135m-instruct --data TruthfulQA.csv \
        --out save/entropy
    python src/analysis/entropy.py --limit 30 --layers 2,4,8 --out save/entropy_stories

Of every question of TruthfulQA (arXiv:2109.07958), or of a file with its columns, each reference answer is read behind
the question, in the tokenizer's chat template where it has one; an encoder-decoder reads the question and is made to
say the answer. Every layer is read as an exit is: translated where it has a translator, final-normed, by the model's
own head. An answer's number is the mean over its tokens, a question's the mean over its right, or its wrong, answers;
intervals are over questions. Without --data questions are invented, in the words of the embedded model's stories.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from analysis import intervals
from analysis.drawing import Drawing
from analysis.tables import Table
from analysis.truth_figures import paint_categories, paint_entropy
from decoding.ranges import COUNT, layers_named
from jobs.fitting import Part, batches, longest_first, rows_digest
from jobs.loading import (
    as_prompt,
    load_config,
    load_model,
    load_tokenizer,
    model_settings,
    prompt_ids,
    refuse_long_rows,
)
from jobs.reading import answer_row, parted_ids, spread
from tasks.truthful import ANSWERS, Question, invented_questions, read_questions
from training.positions import HELD, labelled_positions
from training.reporting import only_our_bars
from util import DecoderArguments, groups
from util.additional_args import flag
from util.arguments import build
from util.checks import raise_together
from util.compute_args import ComputeArguments
from util.files import folder_problem, jsonl, write_json, write_text
from util.parser import ArgumentParser
from util.ranges import range_problems
from util.terminal import terminal

# Where there is no chat template.
PLAIN = "Q: {question}\nA:"
INVENTED = 120
# So many tensors as large as the logits are held at once.
COPIES = 4
# Numbers of a layer -> what they are called.
MEASURED = {"entropy": "entropy", "log_p": "log p"}


@dataclass
class EntropyArguments(ComputeArguments):
    """What is read, how much of it, and where the numbers go."""

    _argument_group_name = groups.DATA

    data: str | None = flag(
        None,
        "Questions with right and wrong answers: TruthfulQA.csv, or a file with its columns. Where not given "
        f"{INVENTED} invented ones.",
    )
    limit: int | None = flag(None, "Questions read at most, spread evenly over the file.")
    layers: str = flag("all", "Layers that are looked at: all, or such as 1,8.", group=groups.MEASUREMENT)
    batch_size: int = flag(8, "Answers that are read together.", group=groups.RUN)
    out: str = flag("save/entropy", "Folder of figures, tables and numbers.", group=groups.OUTPUT)

    def __post_init__(self) -> None:
        problems = range_problems(self, limit=COUNT)
        problems += self.compute_problems()
        if problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        raise_together(problems)

    def questions(self) -> list[Question]:
        """Those asked for."""
        found = invented_questions(INVENTED) if self.data is None else read_questions(self.data)
        return [found[place] for place in spread(len(found), self.limit)]


# ---------------------------------------------------------------------------------------------------------------- data
def answer_rows(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, encoder_decoder: bool) -> Dataset:
    """A row per answer: input_ids and labels as for training, its `question` by number, whether it is `correct`, and
    its own `place`. An answer without a token has no row."""
    rows = []
    for number, question in enumerate(questions):
        for kind in ANSWERS:
            for answer in getattr(question, kind):
                prompt, ids = _ids(tokenizer, question.question, answer, encoder_decoder)
                told = {"question": number, "correct": kind == "correct", "place": len(rows)}
                rows += [answer_row(prompt, ids, encoder_decoder) | told] if ids else []
    return Dataset.from_list(rows)


def _ids(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, encoder_decoder: bool
) -> tuple[list[int], list[int]]:
    """Of the prompt and of the answer."""
    templated = tokenizer.chat_template is not None
    if encoder_decoder:
        ids = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
        return prompt_ids(tokenizer, as_prompt(tokenizer, question)), ids
    prompt = as_prompt(tokenizer, question) if templated else PLAIN.format(question=question)
    return parted_ids(tokenizer, prompt, answer if templated else f" {answer}")


# -------------------------------------------------------------------------------------------------------------- numbers
@torch.no_grad()
def answer_values(model, rows: Dataset, layers: Sequence[int], batch_size: int, part: Part) -> Tensor:
    """Of each answer at each layer the mean over its tokens of the entropy of the next token and of the token's own
    log-probability, both in nats, [A, J, 2] in float64. It goes on where it was killed."""
    unembed, held = model.unembed(), part.read()
    values = held.get("values", torch.zeros(len(rows), len(layers), 2, dtype=torch.float64))
    tokens = torch.tensor([sum(label >= 0 for label in labels) for labels in rows["labels"]])
    for some, read in batches(longest_first(rows), held.get("read", 0), batch_size, "Reading"):
        places = torch.tensor(some["place"])
        for piece in labelled_positions(model, some, batch_size, held=HELD // COPIES):
            found = [token_values(unembed.logits(piece.states.normed[layer - 1]), piece.labels) for layer in layers]
            values.index_add_(0, places[piece.rows.cpu()], torch.stack(found, 1).double().cpu())
        part.write_sometimes({"values": values, "read": read})
    part.write({"values": values, "read": len(rows)})
    return values / tokens[:, None, None]


def token_values(logits: Tensor, labels: Tensor) -> Tensor:
    """Of n positions the entropy of the next token and the log-probability of a token [n], in nats, [n, 2]."""
    logits = logits.float()
    p, (highest, likeliest) = logits.softmax(-1), logits.max(-1)
    # log of the sum of exp of all logits, of which the likeliest token's probability is never small. With it no other
    # logarithm of V numbers is taken: -sum p log p = log_sum - sum p logits.
    log_sum = highest - p.gather(1, likeliest[:, None])[:, 0].log()
    expected = torch.einsum("nv,nv->n", p, logits)
    return torch.stack([(log_sum - expected).clamp_min(0), logits.gather(1, labels[:, None])[:, 0] - log_sum], -1)


def question_values(values: Tensor, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the questions that have right and wrong answers, [Q], and the means over these, [Q, 2, J, 2], right
    ones first."""
    numbers, correct = np.array(rows["question"]), np.array(rows["correct"])
    kept = [number for number in np.unique(numbers) if len(set(correct[numbers == number])) == 2]
    means = [
        [values[torch.from_numpy((numbers == number) & (correct == right))].mean(0).numpy() for right in (True, False)]
        for number in kept
    ]
    return np.array(kept), np.array(means)


def summary(means: np.ndarray, layers: Sequence[int]) -> list[dict]:
    """Of every layer `entropy` and `log_p`: of `correct` answers, of `incorrect` ones, and their `difference`, these
    less those, each a `value` with an `interval` over questions, which pairs both answers of one.

    Args:
        means: Of `question_values`, [Q, 2, J, 2].
    """
    return [
        {"layer": layer} | {name: _of_layer(means[:, :, place, which]) for which, name in enumerate(MEASURED)}
        for place, layer in enumerate(layers)
    ]


def _of_layer(pairs: np.ndarray) -> dict[str, dict]:
    right, wrong = pairs.T
    columns = {"correct": right, "incorrect": wrong, "difference": wrong - right}
    return {name: {"value": float(each.mean()), "interval": intervals.of_mean(each)} for name, each in columns.items()}


def by_category(names: Sequence[str], means: np.ndarray, layers: Sequence[int]) -> list[dict]:
    """The same of the questions of each category, with their number n; categories of many questions first."""
    names = np.array(names)
    counts = {name: int((names == name).sum()) for name in sorted(set(names.tolist()))}
    return [
        {"category": name, "n": count, "layers": summary(means[names == name], layers)}
        for name, count in sorted(counts.items(), key=lambda each: -each[1])
    ]


# --------------------------------------------------------------------------------------------------------------- output
NOTE = (
    "Entropy of a layer's next token and log-probability of the answer's own, in nats, mean over the tokens of an\n"
    "answer. difference: wrong less right answers, paired by question, with 95% bootstrap intervals over questions;\n"
    "above 0 a layer is less decided while it reads a wrong answer.\n"
)


def table(title: str, layers: Sequence[dict]) -> Table:
    """A row per layer."""
    head = ["layer"]
    for name in MEASURED.values():
        head += [f"{name} right", f"{name} wrong", f"{name} difference", f"95% interval of {name}"]
    rows = [[str(each["layer"]), *(cell for name in MEASURED for cell in _cells(each[name]))] for each in layers]
    return Table(title, head, rows, [], NOTE)


def category_table(title: str, categories: Sequence[dict], shown: Sequence[int]) -> Table:
    """A row per category: the difference in entropy at a few layers."""
    head = ["category", "n", *(cell for layer in shown for cell in (f"layer {layer}", f"95% interval of {layer}"))]
    rows = [
        [each["category"] or "-", str(each["n"])]
        + [cell for held in each["layers"] if held["layer"] in shown for cell in _cells(held["entropy"])[2:]]
        for each in categories
    ]
    note = "Entropy, wrong less right answers, in nats; n questions.\n"
    for layer in shown:
        held = [found for each in categories for found in each["layers"] if found["layer"] == layer]
        bounds = [found["entropy"]["difference"]["interval"] for found in held]
        above, below = sum(low > 0 for low, _ in bounds), sum(high < 0 for _, high in bounds)
        note += f"Layer {layer}: of {len(held)} categories the interval of {above} is above 0, of {below} below.\n"
    return Table(title, head, rows, [], note)


def _cells(found: dict) -> list[str]:
    low, high = found["difference"]["interval"]
    interval = f"{low:+.3f} to {high:+.3f}" if np.isfinite(low) else "-"
    values = [f"{found[name]['value']:.3f}" for name in ANSWERS]
    return [*values, f"{found['difference']['value']:+.3f}", interval]


def write(folder: Path, title: str, layers: list[dict], categories: list[dict], size: str) -> str:
    """All files but the questions', each whole; the first table."""
    depth = layers[-1]["layer"]
    shown = sorted({layers[(len(layers) - 1) // 2]["layer"], depth})
    found = {
        "entropy_table": table(f"{title}; {size}", layers),
        "categories": category_table(f"{title}, by category", categories, shown),
    }
    for name, each in found.items():
        write_text(folder / f"{name}.txt", each.text())
        write_json(folder / f"{name}.json", each.data())
    write_json(folder / "layers.json", {"layers": layers, "categories": categories})
    note = (
        "Every layer is read as an exit. Left: how undecided it is about the next token, and how likely it finds the "
        "answer's own. Right: wrong less right answers, paired by question; where the band leaves 0, right and wrong "
        "answers differ. Bars and bands are 95% bootstrap intervals over questions"
    )
    Drawing(title, paint_entropy, {"layers": layers}, note, [], f"n = {size}").save(folder, "entropy")
    note = (
        f"At layers {' and '.join(map(str, shown))}. Right of 0 the layer is less decided while it reads wrong "
        "answers. Bars are 95% bootstrap intervals over n questions, none where there is one alone"
    )
    values = {"categories": categories, "shown": shown}
    Drawing(f"{title}, by category", paint_categories, values, note, [], f"n = {size}").save(folder, "by_category")
    return found["entropy_table"].text()


def write_questions(
    folder: Path, questions: Sequence[Question], kept: np.ndarray, means: np.ndarray, layers: Sequence[int]
) -> None:
    """A line per question with its numbers at every layer."""
    lines = [
        {"question": questions[number].question, "category": questions[number].category, "layers": list(layers)}
        | {name: dict(zip(ANSWERS, each[:, :, which].tolist(), strict=True)) for which, name in enumerate(MEASURED)}
        for number, each in zip(kept.tolist(), means, strict=True)
    ]
    write_text(folder / "questions.jsonl", jsonl(lines).decode())


def main(argv: list[str] | None = None) -> list[dict]:
    """The numbers of every layer, see `summary`."""
    classes = (DecoderArguments, EntropyArguments)
    parser = ArgumentParser(classes, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    only_our_bars()
    try:
        model_args, args = build(classes, parser.given(sys.argv[1:] if argv is None else list(argv)))
        questions = args.questions()
        config = load_config(model_args, encoder=None)
        tokenizer = load_tokenizer(model_args)
        rows = answer_rows(questions, tokenizer, config.is_encoder_decoder)
        refuse_long_rows(config, rows, "An answer")
        model = load_model(model_args, config, args.torch_dtype, device=args.torch_device).eval()
        layers = layers_named(args.layers, "--layers", model.num_exit_layers)
        folder = Path(args.out)
        settings = model_settings(model_args, model) | {"layers": list(layers), "rows": rows_digest(rows)}
        settings["dtype"] = args.dtype
        values = answer_values(model, rows, layers, args.batch_size, Part(folder / "answers", settings))
        kept, means = question_values(values, rows)
        found = summary(means, layers)
        categories = by_category([questions[number].category for number in kept], means, layers)
        name = "invented questions" if args.data is None else Path(args.data).stem
        title = f"What {Path(model_args.model_name_or_path).name} makes of right and wrong answers to {name}"
        write_questions(folder, questions, kept, means, layers)
        text = write(folder, title, found, categories, f"{len(kept)} questions with {len(rows)} answers")
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{text}\nFigures and tables: {args.out}")
    return found


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
