r"""Sweep the lossless decoder over the layer of its exit and the length of its drafts: speed, acceptance, the figure.

    python src/scripts/sweep_drafts.py --out save/drafts
    python src/scripts/sweep_drafts.py --settings facts_trained --layers 2 4 --drafts 4 --examples 10 \
        --speed-examples 2 --repetitions 1 --out save/drafts_small

Every point is an ordinary evaluation run, and is timed at batch 1 in turn with the full model. It is written when it is
done, so a sweep that was killed goes on where it was; the figure and the table are drawn from the files after every
point. One thread is used on a CPU unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import argparse
import logging
import os
import statistics
from contextlib import redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path

import torch

from analysis.figures import read_all
from analysis.speed_figures import draft_sweep
from analysis.tables import draft_lengths
from decoding.ranges import COUNT, SHARE
from jobs.experiments import pick, policy_arguments, read_methods, read_settings, refuse_layers
from jobs.job import Job
from jobs.speed import Clock, Speeds
from util import AdditionalArguments, groups
from util.commands import CommandParser, output_folder
from util.files import write_json, write_text
from util.terminal import terminal

LOCAL = ["facts_trained", "dialogues_trained"]


def sweep_setting(name: str, setting, method: list[str], arguments: argparse.Namespace, clock: Clock) -> None:
    """Every point of a setting."""
    out = arguments.out / name
    shared = ["--do_eval", "--output_dir", str(out), "--per_device_eval_batch_size", "1"]
    job = Job(setting.kind, *setting.arguments(*shared, "--max_eval_samples", str(arguments.examples)))
    logging.getLogger("training").setLevel(logging.WARNING)  # a line per point says enough
    depth = job.trainer.model.num_exit_layers
    speeds = Speeds(job, out / "speed.json", arguments.speed_examples, arguments.repetitions)
    quietly(job, policy_arguments(setting, []))
    for layer, drafted in product(arguments.layers or range(1, depth), arguments.drafts):
        # What drafts cost is what the sweep is about: they are drafted where they do not pay, too.
        point = ["--shallow_exit_layer", str(layer), "--num_speculations", str(drafted), "--draft_always", "True"]
        flags = policy_arguments(setting, [*method, *point])
        metrics = quietly(job, flags)
        (row,) = speeds.of([job.policy])
        fast = 1 / statistics.median(row["relative"])
        draw(arguments.out)
        stood = f"{metrics.get('eval_acceptance_rate', 0):.0%} stood" if "eval_acceptance_rate" in metrics else "-"
        print(f"{clock}  {name}: layer {layer}, {drafted} drafted: {stood}, {fast:.2f} times as fast", flush=True)


def quietly(job: Job, flags: AdditionalArguments) -> dict:
    """The metrics of a run without its table; the files hold it."""
    with redirect_stdout(StringIO()):
        return job.evaluate(flags)


def draw(out: Path) -> None:
    """figure_21 and table_8 of the points so far, where there are two draft lengths to compare."""
    runs = read_all(out)
    drawing, table = draft_sweep(runs), draft_lengths(runs)
    if drawing is not None:
        drawing.save(out, "figure_21")
        write_text(out / "table_8.txt", table.text())
        write_json(out / "table_8.json", table.data())


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    runs, timing = parser.add_argument_group(groups.RUN), parser.add_argument_group(groups.TIMING)
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_folder, default="save/drafts", help="folder of runs, table and figure")
    runs.add_argument("--settings", nargs="+", default=LOCAL, help="lines of experiments/settings.txt")
    runs.add_argument("--threshold", type=SHARE, help="of the drafts' confidence; results go to OUT_THRESHOLD")
    runs.add_argument("--layers", nargs="+", type=int, help="of the exit; all where not given")
    runs.add_argument(
        "--drafts",
        nargs="+",
        type=COUNT,
        default=[1, 2, 4, 8, 16],
        help="most tokens pending",
    )
    runs.add_argument("--examples", type=COUNT, default=100, help="of each task")
    timing.add_argument("--speed-examples", type=COUNT, default=16, help="timed in turn with the full model at batch 1")
    timing.add_argument("--repetitions", type=COUNT, default=5, help="of the timing")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    clock = Clock()
    try:
        settings = pick(arguments.settings, read_settings(), "setting")
        method = read_methods()["lossless"]
        refuse_layers(arguments.layers, settings, {"lossless": method})
        if arguments.threshold is not None:
            method = [*method, "--shallow2deep_conf_threshold", str(arguments.threshold)]
            arguments.out = arguments.out.with_name(f"{arguments.out.name}_{arguments.threshold:g}")
        for name, setting in settings.items():
            sweep_setting(name, setting, method, arguments, clock)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{clock}  figure_21.png and table_8.txt in {arguments.out}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
