r"""Build a small German-to-English T5 from nothing: tokenizer, model and `meta` confidence head.

    python src/scripts/build_translation.py --exits trained --threads 2 --train_file multi30k/train.jsonl \
        --validation_file multi30k/validation.jsonl --test_file multi30k/test.jsonl --out save/t5_translation_trained
    python src/scripts/build_translation.py --exits untrained --limit 300 --steps 20 --meta_steps 5 \
        --train_file multi30k/train.jsonl --validation_file multi30k/validation.jsonl --out save/t5_translation_few

The data are Multi30k's (Elliott et al. 2016), in files of `translation` records or with a column per language. Both
variants begin with the same weights and see the same sentences; they differ in the loss: cross entropy of the last
layer, and with --exits trained half of one exit's, drawn anew at every step. How many steps fit into --hours of
free processors is measured before the first, and the learning rate falls to 0 at the last. Every exit is scored on
validation sentences now and then. A run that is killed continues where it last saved, by the same command.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import argparse
import copy
import platform
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import GenerationConfig, T5Config

from decoding.policy import Policy
from decoding.ranges import COUNT, FROM_TWO, NATURAL, POSITIVE, SHARE, Range
from models import DeployT5ForConditionalGeneration
from models.fast_dropout import use_fast_dropout
from scripts import build_assets
from scripts.build_assets import META_LEARNING_RATE, VOCABULARY, Cycle, Progress, collate, make_tokenizer, store
from tasks import Task, features, find_task, load_examples
from tasks.translation import language_pair
from training.evaluation import DecodingData, DecodingOptions, evaluate
from util import TranslationArguments, groups
from util.commands import CommandParser, output_folder
from util.files import read_json, write_json, write_text
from util.runs import digest
from util.terminal import terminal

EXIT_WEIGHT = {"trained": 0.5, "untrained": 0.0}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
HEAD_WIDTH = 32
WIDTH = Range(f"multiples of {HEAD_WIDTH}", lambda value: value > 0 and value % HEAD_WIDTH == 0, int)
MOST_TOKENS = 64  # of a sentence in training and of a translation
HELD_OUT = 1000  # pairs at most, and a tenth of all, that the `meta` head alone is trained on
DECODED_TOGETHER = 100
SMALLEST = 1e-3  # root mean square that a step is relative to
AVERAGED = 0.999  # decay of the moving average of weights
WARM_UP = 400  # steps at most, and a tenth of all
MEASURED = 8  # steps
TRAINED_SHARE = 0.88  # of --hours; the rest is for scores, the `meta` head and what else there is
SAVE_EVERY = 300  # seconds
REPORT_EVERY = 60
# Flags that make another training, so that a run continues under them alone.
SETTINGS = ("exits", "limit", "tokens", "dropout", "smoothing", "learning_rate", "seed", "width", "encoder_layers")
SETTINGS += ("decoder_layers", "meta_steps", "eval_epochs", "eval_samples", "steps", "hours", "dtype")
FILES = {"train": "train_file", "validation": "validation_file", "test": "test_file"}
PLAN, BODY_STATE, META_STATE = "plan.json", "body.pt", "meta.pt"
CARD = "README.md"
Pairs = list[tuple[list[int], list[int]]]


# ---------------------------------------------------------------------------------------------------------------- data
class Texts:
    """The splits whose files were given.

    Attributes:
        task: Multi30k's, with the languages that the columns name.
        examples: Split -> its pairs, see `tasks.loading`.
    """

    def __init__(self, arguments: argparse.Namespace):
        files = {flag: getattr(arguments, flag) for flag in FILES.values()}
        limits = ("max_train_samples", "max_eval_samples", "max_predict_samples")
        self.data_args = TranslationArguments(
            dataset_name="multi30k", **files, **dict.fromkeys(limits, arguments.limit), max_target_length=MOST_TOKENS
        )
        self.task: Task = find_task("translation", self.data_args)
        self.examples: dict[str, Dataset] = {
            split: load_examples(self.task, self.data_args, split) for split, flag in FILES.items() if files[flag]
        }

    def decoding_data(self, split: str, tokenizer, most: int | None = None) -> DecodingData:
        """A split, or its first `most` sentences, ready to be translated."""
        examples = self.examples[split]
        examples = examples.select(range(min(most or len(examples), len(examples))))
        return DecodingData(self.task, examples, features(self.task, examples, tokenizer, self.data_args))

    def describe(self) -> dict[str, dict]:
        """Split -> name of its file, number of pairs, and what stands for its content."""
        return {
            split: {
                "file": Path(getattr(self.data_args, FILES[split])).name,
                "pairs": len(examples),
                "digest": digest([examples["source"][:], examples["target"][:]]),
            }
            for split, examples in self.examples.items()
        }


def encode(tokenizer, examples: Dataset) -> Pairs:
    """Token ids of sources and targets, each with its end."""
    cut = {"truncation": True, "max_length": MOST_TOKENS}
    columns = (tokenizer(examples[name][:], **cut).input_ids for name in ("source", "target"))
    return list(zip(*columns, strict=True))


def split_pairs(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Those that the model is trained on, and the last ones, which its `meta` head is: on sentences that it was trained
    on its layers agree more often."""
    held_out = min(HELD_OUT, len(pairs) // 10)
    return pairs[: len(pairs) - held_out], pairs[len(pairs) - held_out :]


def epoch_batches(pairs: Pairs, tokens: int, seed: int) -> list[list[int]]:
    """Places of the pairs of each batch of an epoch: pairs of like lengths, of which it draws which meet, so many that
    sources and targets have about `tokens` tokens, padding counted; in an order that was drawn."""
    rng = random.Random(seed)
    order = sorted(range(len(pairs)), key=lambda place: (len(pairs[place][1]), len(pairs[place][0]), rng.random()))
    found: list[list[int]] = [[]]
    widths = [0, 0]
    for place in order:
        wider = [max(width, len(side)) for width, side in zip(widths, pairs[place], strict=True)]
        if found[-1] and sum(wider) * (len(found[-1]) + 1) > tokens:
            found.append([])
            wider = [len(side) for side in pairs[place]]
        found[-1].append(place)
        widths = wider
    rng.shuffle(found)
    return found


def batches(pairs: Pairs, tokens: int, seed: int, first_step: int = 0) -> Iterator[dict[str, Tensor]]:
    """The endless stream of training batches from `first_step` on; an epoch depends on seed and number alone."""
    epoch, skip = 0, first_step
    while True:
        planned = epoch_batches(pairs, tokens, digest_seed(seed, epoch))
        for places in planned[skip:]:
            yield collate([pairs[place] for place in places])
        epoch, skip = epoch + 1, max(0, skip - len(planned))


def digest_seed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(digest(list(numbers)), 16)


# --------------------------------------------------------------------------------------------------------------- model
def make_config(arguments: argparse.Namespace) -> T5Config:
    """The small T5 1.0: tied embeddings; nothing in it asks for training."""
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=arguments.width,
        d_kv=HEAD_WIDTH,
        d_ff=4 * arguments.width,
        num_heads=arguments.width // HEAD_WIDTH,
        num_layers=arguments.encoder_layers,
        num_decoder_layers=arguments.decoder_layers,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )


def make_body(arguments: argparse.Namespace) -> DeployT5ForConditionalGeneration:
    """The model that is trained, from the same weights under every loss."""
    torch.manual_seed(arguments.seed)
    config = make_config(arguments)
    config.dropout_rate = arguments.dropout
    config.intermediate_loss_fn = "one_exit"
    config.one_exit_weight = EXIT_WEIGHT[arguments.exits]
    config.one_exit_smoothing = arguments.smoothing
    config.one_exit_seed = arguments.seed
    model = DeployT5ForConditionalGeneration(config).train()
    use_fast_dropout(model)
    return model


def make_optimizer(model) -> torch.optim.Optimizer:
    """AdamW with a group per tensor, so that each has a learning rate of its own."""
    groups = [{"params": [each]} for each in model.parameters()]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


@torch.no_grad()
def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """A step relative to the root mean square of a tensor, as Adafactor's is (arXiv:1804.04235): a T5's embeddings
    begin with 1, its queries with 0.01, and under one rate for both the former hardly learn."""
    tensors = [group["params"][0] for group in optimizer.param_groups]
    for group, tensor, norm in zip(optimizer.param_groups, tensors, torch._foreach_norm(tensors), strict=True):
        group["lr"] = rate * max(SMALLEST, float(norm) / tensor.numel() ** 0.5)


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Up to the peak in a straight line, and from there down to 0 (arXiv:2502.15938)."""
    warm_up = max(1, min(WARM_UP, steps // 10))
    return peak * min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))


# ---------------------------------------------------------------------------------------------------------------- plan
def plan_of(arguments: argparse.Namespace, texts: Texts, work: Path, pairs: Pairs) -> dict:
    """What a training holds to from its first start to its last: steps, dtype, and its settings.

    Raises:
        ValueError: The folder holds a training of other settings or data.
    """
    settings = {name: getattr(arguments, name) for name in SETTINGS} | {"data": texts.describe()}
    path = work / PLAN
    if path.is_file():
        held = read_json(path)
        other = [name for name, value in settings.items() if held["settings"].get(name) != value]
        if other:
            flags = ", ".join("the files" if name == "data" else f"--{name}" for name in other)
            raise ValueError(f"{work} holds a training that differs in {flags}: give the same, or another --out.")
        return held
    dtypes = DTYPES if arguments.dtype == "auto" else [arguments.dtype]
    measures = arguments.steps is None or len(dtypes) > 1
    seconds = {name: seconds_per_step(arguments, pairs, DTYPES[name]) if measures else 0.0 for name in dtypes}
    dtype = min(seconds, key=seconds.get)
    steps = arguments.steps or max(1, int(arguments.hours * 3600 * TRAINED_SHARE / seconds[dtype]))
    plan = {"steps": steps, "dtype": dtype, "seconds_per_step": seconds, "settings": settings}
    write_json(path, plan)
    told = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
    print(f"{steps} steps in {dtype}" + (f"; a step takes {told}" if measures else ""), flush=True)
    return plan


def seconds_per_step(arguments: argparse.Namespace, pairs: Pairs, dtype: torch.dtype) -> float:
    """Of a training that is thrown away, after a first step, where the processors have nothing else to do: counted is
    processor time, which other work on the machine does not change much."""
    model = make_body(arguments)
    optimizer, stream = make_optimizer(model), batches(pairs, arguments.tokens, arguments.seed)
    times = []
    for step in range(MEASURED + 1):
        build_assets.train_step(model, optimizer, next(stream) | {"step": step, "steps": MEASURED + 1}, dtype)
        times.append(time.process_time())
    return (times[-1] - times[0]) / MEASURED / arguments.threads


# ------------------------------------------------------------------------------------------------------------ training
class Training:
    """The body's training, from where it was saved last to its end.

    Attributes:
        model: As it is trained.
        average: The moving average of its weights, which is what is scored.
        kept: Beside, the average that scored best so far, and its step.
        history: What was measured, a row per evaluation.
    """

    def __init__(self, arguments: argparse.Namespace, plan: dict, pairs: Pairs, work: Path):
        self.arguments, self.plan, self.pairs = arguments, plan, pairs
        self.model = make_body(arguments)
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = make_optimizer(self.model)
        self.progress = Progress(work / BODY_STATE)
        self.progress.load()
        self.progress.restore(self.model, self.optimizer)
        held = self.progress.state or {"average": self.average.state_dict(), "kept": None, "history": []}
        self.average.load_state_dict(held["average"])
        self.kept, self.history = held["kept"], held["history"]
        self.progress.state = None
        self.evaluated_every = arguments.eval_epochs * len(epoch_batches(pairs, arguments.tokens, arguments.seed))

    def run(self, tokenizer, data: DecodingData) -> None:
        """Take the steps that are left, and score every exit on `data` now and then."""
        progress, steps, dtype = self.progress, self.plan["steps"], DTYPES[self.plan["dtype"]]
        stream = batches(self.pairs, self.arguments.tokens, self.arguments.seed, progress.step)
        started, losses = time.monotonic() - progress.seconds, []
        reported = saved = time.monotonic()
        while progress.step < steps:
            step = progress.step
            torch.manual_seed(digest_seed(self.arguments.seed, step))  # dropout of a step, also after a kill
            set_learning_rate(self.optimizer, learning_rate(self.arguments.learning_rate, step, steps))
            batch = next(stream) | {"step": step, "steps": steps}
            losses.append(build_assets.train_step(self.model, self.optimizer, batch, dtype))
            self._follow(step)
            progress.step, progress.seconds = step + 1, time.monotonic() - started
            due = progress.step % self.evaluated_every == 0 and progress.step < steps
            if due or progress.step == steps or time.monotonic() - reported > REPORT_EVERY:
                self._report(losses, time.monotonic() - reported)
                reported, losses = time.monotonic(), []
            if due:
                self._evaluate(tokenizer, data)
                progress.seconds, reported = time.monotonic() - started, time.monotonic()
            if due or progress.step == steps or time.monotonic() - saved > SAVE_EVERY:
                self._save()
                saved = time.monotonic()

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Moves the average; while there are few steps, it is that of most of them."""
        decay = min(AVERAGED, (step + 1) / (step + 10))
        torch._foreach_lerp_([*self.average.parameters()], [*self.model.parameters()], 1 - decay)

    def _report(self, losses: Sequence[Tensor], seconds: float) -> None:
        mean, rate, minutes = torch.stack([*losses]).mean(), len(losses) / seconds, self.progress.seconds / 60
        if not mean.isfinite():
            raise ValueError(f"The loss is {mean} at step {self.progress.step}: take a smaller --learning_rate.")
        line = f"step {self.progress.step}/{self.plan['steps']} loss {mean:.4f} {rate:.2f} steps/s {minutes:.1f} min"
        print(line, flush=True)

    def _evaluate(self, tokenizer, data: DecodingData) -> None:
        scores, _ = score_exits(self.average, tokenizer, data)
        self.history.append({"step": self.progress.step, "minutes": self.progress.seconds / 60, "bleu": scores})
        print("  BLEU by layer: " + ", ".join(f"{layer}: {score:.2f}" for layer, score in scores.items()), flush=True)
        full = list(scores.values())[-1]
        if self.kept is None or full > self.kept["bleu"]:
            weights = copy.deepcopy(self.average.state_dict())
            self.kept = {"bleu": full, "step": self.progress.step, "weights": weights}

    def _save(self) -> None:
        more = {"average": self.average.state_dict(), "kept": self.kept, "history": self.history}
        self.progress.save(self.model, self.optimizer, **more)

    def best(self, tokenizer, data: DecodingData) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The weights that translate `data` best at full depth: the last, their average, or the best average seen on
        the way; and what each scored."""
        found = {"average": self.average.state_dict(), "last": self.model.state_dict()}
        if self.kept is not None:
            found[f"average of step {self.kept['step']}"] = self.kept["weights"]
        scores, trial = {}, make_body(self.arguments).eval()
        for name, weights in found.items():
            trial.load_state_dict(weights)
            scores[name] = score_exits(trial, tokenizer, data, [trial.num_exit_layers])[0][str(trial.num_exit_layers)]
        return found[max(scores, key=scores.get)], scores


def train_meta_head(
    arguments: argparse.Namespace, weights: Mapping[str, Tensor], pairs: Pairs, work: Path
) -> DeployT5ForConditionalGeneration:
    """The model of these weights with a `meta` head trained on it; nothing else changes."""
    torch.manual_seed(arguments.seed + 1)
    config = make_config(arguments)
    config.train_meta_cm_head = True
    model = DeployT5ForConditionalGeneration(config).train()
    model.load_state_dict(weights, strict=False)
    progress = Progress(work / META_STATE)
    progress.load()
    stream = batches(pairs, arguments.tokens, arguments.seed + 1, progress.step)
    build_assets.train(model, (Cycle(arguments.meta_steps, META_LEARNING_RATE),), stream, progress)
    return model


# -------------------------------------------------------------------------------------------------------------- scores
def score_exits(
    model, tokenizer, data: DecodingData, layers: Sequence[int] | None = None
) -> tuple[dict[str, float], str]:
    """BLEU by exit layer, every one where none are named, the last being full depth; and sacreBLEU's signature."""
    generation: GenerationConfig = copy.deepcopy(model.generation_config)
    generation.update(max_length=MOST_TOKENS)
    last, scores, signature = model.num_exit_layers, {}, ""
    for layer in layers or range(1, last + 1):
        policy = Policy() if layer == last else Policy(static_exit=layer)
        options = DecodingOptions(generation, policy, batch_size=DECODED_TOGETHER, keep_traces=False, bar=False)
        metrics = evaluate(model, tokenizer, data, options).metrics
        scores[str(layer)], signature = metrics["eval_bleu"], metrics["eval_bleu_signature"]
    return scores, signature


# ---------------------------------------------------------------------------------------------------------------- card
def card(built: Mapping[str, Any]) -> str:
    """The README of a checkpoint, every number of it from what was measured."""
    plan, scores = built["plan"], built["scores"]
    settings, data, weight = plan["settings"], plan["settings"]["data"], EXIT_WEIGHT[plan["settings"]["exits"]]
    exits = "with trained exits" if weight else "whose exits are untrained"
    loss = "cross entropy of the last decoder layer"
    loss += f" plus {weight} times that of one exit below it, drawn anew at every step (`one_exit`)" if weight else ""
    files = ", ".join(f"{each['pairs']:,} pairs of `{each['file']}` ({split})" for split, each in data.items())
    tried = ", ".join(f"{name} {score:.2f}" for name, score in built["candidates"].items())
    layers = scores["validation"]
    rows = [f"| {layer} | " + " | ".join(f"{each[layer]:.2f}" for each in scores.values()) + " |" for layer in layers]
    threads = "one thread" if built["threads"] == 1 else f"{built['threads']} threads"
    heads = " | ".join(f"{split} ({data[split]['pairs']:,})" for split in scores)
    parts = [
        f"# A small T5 that translates {built['pair']}, {exits}",
        f"Width {settings['width']}, {settings['encoder_layers']} encoder and {settings['decoder_layers']} decoder "
        f"layers, {built['weights']:,} weights, tied embeddings, a byte-level BPE of {built['vocabulary']:,} tokens of "
        "its own, trained from nothing. Stored in float16, loaded as float32, with a confidence head (`cm_head`) for "
        "the `meta` measure. Inputs have no prefix.",
        "## Data and licence",
        f"Multi30k (Elliott, Frank, Sima'an and Specia 2016, https://aclanthology.org/W16-3210): {files}. The data are "
        "for non-commercial research, and so are these weights; they are on the hub as `bentrevett/multi30k` and no "
        "part of this repository.",
        "## Training",
        f"{plan['steps']:,} steps of AdamW on about {settings['tokens']:,} tokens, {built['epochs']:.1f} epochs, in "
        f"{built['minutes']:.0f} minutes ({threads}, {plan['dtype']}, {built['processor']}); loss: "
        f"{loss}, labels smoothed by {settings['smoothing']}, dropout {settings['dropout']}, learning rate up to "
        f"{settings['learning_rate']:g} of each tensor's root mean square and down to 0. The `meta` head had "
        f"{settings['meta_steps']} steps more, on {built['held_out']:,} pairs that were held out. BLEU of the "
        f"validation split at full depth: {tried}; "
        "the best is here.",
        "## Scores",
        "BLEU by exit layer of the checkpoint as it is stored, greedy; the last is full depth. sacreBLEU's signature: "
        f"`{built['signature']}`",
        "\n".join([f"| layer | {heads} |", "|---|" + "---|" * len(scores), *rows]),
        "`build.json` holds these numbers, and those of every evaluation on the way.",
    ]
    return "\n\n".join(part if part.startswith(("#", "|")) else fill(part, 120) for part in parts) + "\n"


def finish(arguments, texts: Texts, training: Training, tokenizer, model, candidates: dict, held_out: int) -> None:
    """Write the checkpoint, score what was written, and write its card."""
    config = make_config(arguments)
    config.has_cm_head, config.architectures = True, ["T5ForConditionalGeneration"]
    store(model, tokenizer, arguments.out, config, torch.float16)
    stored = DeployT5ForConditionalGeneration.from_pretrained(arguments.out, dtype=torch.float32).eval()
    scores, signature = {}, ""
    for split in ("validation", "test"):
        if split in texts.examples:
            scores[split], signature = score_exits(stored, tokenizer, texts.decoding_data(split, tokenizer))
    steps_of_epoch = len(epoch_batches(training.pairs, arguments.tokens, arguments.seed))
    built = {
        "plan": training.plan,
        "pair": "-".join(language_pair(texts.task, texts.data_args)),
        "weights": sum(each.numel() for each in stored.parameters()),
        "vocabulary": len(tokenizer),
        "epochs": training.plan["steps"] / steps_of_epoch,
        "minutes": training.progress.seconds / 60,
        "threads": arguments.threads,
        "processor": processor_name(),
        "held_out": held_out,
        "candidates": candidates,
        "scores": scores,
        "signature": signature,
        "history": training.history,
    }
    write_json(arguments.out / "build.json", built)
    write_text(arguments.out / CARD, card(built))


def processor_name() -> str:
    """As /proc/cpuinfo has it, where there is one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


# ------------------------------------------------------------------------------------------------------------- command
def build(arguments: argparse.Namespace) -> None:
    """Everything, from what an earlier start of the run left.

    Raises:
        ValueError: The data cannot be read, or the folder holds another training.
    """
    work = arguments.out.with_name(arguments.out.name + ".work")
    if (arguments.out / CARD).is_file():  # which is written last
        shutil.rmtree(work, ignore_errors=True)
        print(f"{arguments.out} was complete already.")
        return
    texts = Texts(arguments)
    train = texts.examples["train"]
    tokenizer = make_tokenizer(text for name in ("source", "target") for text in train[name][:])
    pairs, held_out = split_pairs(encode(tokenizer, train))
    training = Training(arguments, plan_of(arguments, texts, work, pairs), pairs, work)
    training.run(tokenizer, texts.decoding_data("validation", tokenizer, arguments.eval_samples))
    weights, candidates = training.best(tokenizer, texts.decoding_data("validation", tokenizer))
    model = train_meta_head(arguments, weights, held_out, work)
    finish(arguments, texts, training, tokenizer, model, candidates, len(held_out))
    shutil.rmtree(work)
    print(f"{arguments.out} is complete.")


def make_parser() -> CommandParser:
    parser = CommandParser(__doc__)
    output, data = parser.add_argument_group(groups.OUTPUT), parser.add_argument_group(groups.DATA)
    model, run = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.RUN)
    output.add_argument("--out", type=output_folder, required=True, help="folder of the checkpoint; state is beside it")
    data.add_argument("--train_file", required=True, help="pairs to train on")
    data.add_argument("--validation_file", required=True, help="pairs to score exits and choose weights by")
    data.add_argument("--test_file", help="pairs that are scored once, at the end")
    data.add_argument("--limit", type=FROM_TWO, help="pairs of each file at most, to try the command")
    data.add_argument("--tokens", type=COUNT, default=2200, help="of a batch, sources and targets with their padding")
    model.add_argument("--width", type=WIDTH, default=192, help="of a state")
    model.add_argument("--encoder_layers", type=COUNT, default=4, help="of the encoder")
    model.add_argument("--decoder_layers", type=FROM_TWO, default=8, help="of the decoder")
    run.add_argument(
        "--exits", choices=EXIT_WEIGHT, required=True, help="whether exits below the last layer are trained"
    )
    run.add_argument(
        "--hours", type=POSITIVE, default=2.5, help="that it takes on free processors; says how many steps"
    )
    run.add_argument("--steps", type=COUNT, help="of the optimizer, whatever time they take")
    run.add_argument("--meta_steps", type=COUNT, default=200, help="of the meta head")
    run.add_argument("--learning_rate", type=POSITIVE, default=2e-2, help="peak of AdamW's, relative to each tensor")
    run.add_argument("--dropout", type=SHARE, default=0.15, help="rate of dropout")
    run.add_argument("--smoothing", type=SHARE, default=0.1, help="share of a label that is spread over the vocabulary")
    run.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of matrix products; auto measures")
    run.add_argument("--eval_epochs", type=COUNT, default=2, help="epochs between two evaluations")
    run.add_argument("--eval_samples", type=COUNT, default=200, help="validation sentences of such an evaluation")
    run.add_argument("--seed", type=NATURAL, default=0, help="of weights, batches, dropout and draws of exits")
    run.add_argument("--threads", type=COUNT, default=1, help="of the CPU")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        build(arguments)
    except (ValueError, OSError) as error:
        parser.refuse(error)


if __name__ == "__main__":
    with terminal():
        main()
