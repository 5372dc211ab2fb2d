r"""Sweep the lossless decoder over the layer of its exit and the length of its drafts, and name what is fastest.

    python src/scripts/sweep_drafts.py --model_name_or_path models/smollm2-135m-instruct --prompt_file prompts.txt \
        --exit_layers 2:28:2 --num_speculations 2,4,8 --out save/drafts
    python src/scripts/sweep_drafts.py --model_name_or_path src/assets/t5_exits_trained --task summarization \
        --dataset_name invented_dialogues --source_prefix "summarize: " --examples 10 --exit_layers 2,4 --out save/small

At every point each prompt is decoded with verified drafts and at full depth in turn, at batch 1, and kept at once, so
that a sweep that was killed goes on where it was; points.csv, the table and the figure are written after each. With
--task, what is not listed below are flags of the task's run script. Without a model the embedded T5 is swept on the
tasks of --settings.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import argparse
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from analysis.draft_figures import draft_lengths, draft_sweep
from analysis.quantities import Quantity
from analysis.task_benchmark import Costs, with_interval
from decoding.ranges import COUNT, SHARE
from jobs.experiments import TASK_ARGUMENTS, Setting, named, pick, read_methods, read_settings
from jobs.in_turn import Prompts, Turns
from jobs.job import Job
from jobs.speed import Clock
from scripts.benchmark_task import refuse_set
from util import ModelArguments, groups
from util.commands import CommandParser, output_folder
from util.files import write_csv, write_json, write_text
from util.runs import slug
from util.terminal import terminal

LOCAL = ["facts_trained", "dialogues_trained"]
EXAMPLES = 20
# Flags of --prompt_file -> what holds where they are not given.
OF_PROMPTS = {"new_tokens": 64, "dtype": "float32", "device": "cpu"}


class Swept(NamedTuple):
    """What is swept: prompts, tokens of an answer at most, layers of the decoder."""

    prompts: Prompts
    longest: int
    depth: int


def numbers(text: str) -> list[int]:
    """Whole numbers from 1 on: 4, or 2,4,8, or 2:12:2 from 2 to 12 by 2; a step of 1 may be left out."""
    found: list[int] = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*\d+(:\d+){0,2}\s*", part):
            raise argparse.ArgumentTypeError(f"{text!r} is none of 4, or 2,4,8, or 2:12:2 (from 2 to 12 by 2)")
        first, last, step = [*map(int, part.split(":")), *([None, 1][part.count(":") :])][:3]
        last = first if last is None else last
        if not 1 <= first <= last or step < 1:
            raise argparse.ArgumentTypeError(f"{part.strip()!r} has no number from 1 on: give first:last:step")
        found += range(first, last + 1, step)
    return list(dict.fromkeys(found))


def of_task(setting: Setting, arguments: argparse.Namespace) -> Swept:
    """A model on the examples of a task."""
    own = ["--do_eval", "--output_dir", str(arguments.out), "--per_device_eval_batch_size", "1"]
    if arguments.examples is not None or "--max_eval_samples" not in setting.flags:
        own += ["--max_eval_samples", str(arguments.examples or EXAMPLES)]
    refuse_set(setting.flags)
    job = Job(setting.kind, *setting.arguments(*own))
    return Swept(Prompts.of_job(job), job.longest_answer, job.trainer.model.num_exit_layers)


def of_file(arguments: argparse.Namespace) -> Swept:
    """A model on the prompts of a file."""
    model = ModelArguments(model_name_or_path=arguments.model_name_or_path, exit_translators=arguments.exit_translators)
    sizes = (getattr(arguments, name) or default for name, default in OF_PROMPTS.items())
    prompts = Prompts.of_file(model, arguments.prompt_file, *sizes)
    longest = prompts.options.generation.max_new_tokens
    return Swept(prompts, longest, prompts.model.num_exit_layers)


def asked(arguments: argparse.Namespace, words: Sequence[str]) -> Iterator[Swept]:
    """What the flags name, one loaded when the one before it is done.

    Raises:
        ValueError: They contradict each other, or something cannot be used.
    """
    model = arguments.model_name_or_path
    if (model is None) != (arguments.task is None and arguments.prompt_file is None):
        raise ValueError("--model_name_or_path goes with --task or --prompt_file.")
    if arguments.task is not None and arguments.prompt_file is not None:
        raise ValueError("--task and --prompt_file are two kinds of prompts: give one of them.")
    idle = [f"--{name}" for name in OF_PROMPTS if getattr(arguments, name) is not None]
    if idle and arguments.prompt_file is None:
        raise ValueError(f"{', '.join(idle)}: of --prompt_file; a task has flags of its own for it.")
    if words and arguments.task is None:
        raise ValueError(f"{' '.join(words)}: such flags go with --task.")
    if arguments.prompt_file is not None:
        yield of_file(arguments)
    elif arguments.task is not None:
        translators = ["--exit_translators", arguments.exit_translators] if arguments.exit_translators else []
        flags = ["--model_name_or_path", model, *translators, *words]
        yield of_task(Setting(arguments.task, TASK_ARGUMENTS[arguments.task], flags), arguments)
    else:
        for setting in pick(arguments.settings, read_settings(), "setting").values():
            yield of_task(setting, arguments)


def flags_of(layer: int, drafted: int, threshold: float | None) -> list[str]:
    """The flags of a point, for any script that decodes."""
    level = [] if threshold is None else ["--shallow2deep_conf_threshold", f"{threshold:g}"]
    # What drafts cost is what the sweep is about: they are drafted where they do not pay, too.
    point = ["--shallow_exit_layer", str(layer), "--num_speculations", str(drafted), "--draft_always", "True"]
    return [*read_methods()["lossless"], *level, *point]


def sweep(swept: Swept, arguments: argparse.Namespace, found: list[dict], clock: Clock) -> None:
    """Every point of a model on a task, each put to `found` and written.

    Raises:
        ValueError: A layer is none of the decoder's exits.
    """
    prompts, depth = swept.prompts, swept.depth
    layers = arguments.exit_layers or range(1, depth)
    if wrong := [str(layer) for layer in layers if layer >= depth]:
        told = f"valid are 1 to {depth - 1} in {prompts.name[1]}, whose decoder has {depth} layers"
        raise ValueError(f"--exit_layers {' '.join(wrong)}: {told}.")
    turns = Turns(prompts, arguments.out / slug("-".join(prompts.name)) / "answers.jsonl")
    for layer, drafted in product(layers, arguments.num_speculations):
        text = shlex.join(flags_of(layer, drafted, arguments.threshold))
        policies = named([text], depth, swept.longest)
        for policy in policies.values():
            prompts.check(policy)
        (costs,) = (Costs.of(pairs, depth) for name, pairs in turns.decode(policies).items() if policies[name].exits)
        point = {"task": prompts.name[0], "model": prompts.name[1], "layer": layer, "drafts": drafted}
        found.append(point | costs.data() | {"flags": text})
        write(arguments.out, found)
        stood = "none was drafted" if costs.acceptance is None else f"{costs.acceptance:.0%} stood"
        print(f"{clock}  {told_of(found[-1])}: {stood}, {costs.speed.value:.2f} times as fast", flush=True)


def told_of(point: dict) -> str:
    """A point in words."""
    return f"{point['model']} on {point['task']}: layer {point['layer']}, {point['drafts']} drafted"


def write(out: Path, points: Sequence[dict]) -> None:
    """The points so far: points.csv, table_8, and figure_21 where there are two to compare."""
    write_csv(out / "points.csv", points)
    table, drawing = draft_lengths(points), draft_sweep(points)
    write_text(out / "table_8.txt", table.text())
    write_json(out / "table_8.json", table.data())
    if drawing is not None:
        drawing.save(out, "figure_21")
    else:  # one of another sweep
        for name in ("figure_21.png", "figure_21.json"):
            (out / name).unlink(missing_ok=True)


def best(points: Sequence[dict]) -> str:
    """The fastest point of every model on every task, and the flags for it."""
    groups_of: dict[tuple[str, str], list[dict]] = {}
    for point in points:
        groups_of.setdefault((point["task"], point["model"]), []).append(point)
    lines = []
    for some in groups_of.values():
        top = max(some, key=lambda point: point["speed"])
        quantity = Quantity(top["speed"], (top["speed_low"], top["speed_high"]))
        fast = f"{with_interval(quantity)} times as fast as full depth"
        pays = "" if top["speed"] > 1 else "; no point is faster than full depth, so drafts do not pay here"
        lines.append(f"Best, {told_of(top)}: {fast}{pays}\n  {top['flags']}")
    return "\n".join(lines)


def make_parser() -> CommandParser:
    """The flags of the script; those of a task's run script are left over."""
    parser = CommandParser(__doc__)
    model, data = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.DATA)
    run, output = parser.add_argument_group(groups.RUN), parser.add_argument_group(groups.OUTPUT)
    model.add_argument("--model_name_or_path", help="a checkpoint: a folder, a name on the hub, a GGUF file")
    model.add_argument("--exit_translators", help="file of its exits' translators")
    model.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of --prompt_file; float32 where not given"
    )
    model.add_argument("--device", help="of --prompt_file: cpu, where not given, cuda or cuda:1")
    data.add_argument("--task", choices=TASK_ARGUMENTS, help="kind of task, whose flags may follow")
    data.add_argument("--prompt_file", help="or prompts: .txt with one per line, or .jsonl, .json, .csv")
    data.add_argument("--new_tokens", type=COUNT, help="of an answer to --prompt_file at most; 64 where not given")
    data.add_argument("--settings", nargs="+", default=LOCAL, help="without a model: lines of experiments/settings.txt")
    data.add_argument("--examples", type=COUNT, help=f"of a task; --max_eval_samples, or {EXAMPLES}, where not given")
    run.add_argument("--exit_layers", "--layers", type=numbers, help="such as 2:12:2 or 2,4,8; all where not given")
    run.add_argument(
        "--num_speculations", "--drafts", type=numbers, default="1,2,4,8,16", help="tokens drafted at most, in this way"
    )
    run.add_argument("--threshold", type=SHARE, help="of the drafts' confidence; that of the method lossless")
    output.add_argument("--out", type=output_folder, default="save/drafts", help="folder of points, table and figure")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments, words = parser.parse_known_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    clock, found = Clock(), []
    try:
        for swept in asked(arguments, words):
            sweep(swept, arguments, found, clock)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    figure = " and figure_21.png" if len(found) > 1 else ""
    print(f"\n{best(found)}\n{clock}  points.csv, table_8.txt{figure} in {arguments.out}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
