r"""Run the grid of the experiments on the embedded model, and draw every figure, without a download.

    python src/scripts/local_grid.py --out save/grid
    python src/scripts/local_grid.py --settings facts_trained --methods full softmax --layers 2 4 --examples 10 \
        --out save/grid_small

Settings are the models on the tasks, methods the policies of experiments/methods.txt, each at every first exit. A
run is an ordinary evaluation; what is complete is not repeated, so a grid that was killed goes on where it was. One
thread is used unless OMP_NUM_THREADS says otherwise: the model is so small that a second one only waits. Instead,
--processes evaluate settings side by side; seconds are measured afterwards, in this process alone.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import argparse
import logging
import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import torch

from analysis.figures import draw_all
from decoding.ranges import COUNT, NATURAL
from jobs.experiments import (
    exit_flag,
    layers_of,
    pick,
    policy_arguments,
    read_methods,
    read_settings,
    refuse_layers,
)
from jobs.job import Job
from jobs.speed import Clock, Speeds
from util import groups
from util.commands import CommandParser, output_folder
from util.terminal import terminal

LOCAL = ["facts_untrained", "facts_trained", "dialogues_untrained", "dialogues_trained"]
VIEWS = ["--plotting_logits", "True", "--render_jsds", "True"]
# A run of early exits whose layers are looked at too, beside the full model.
VIEWED = "JSD"
# Flags of the run scripts that hold for all settings where they are given.
OF_JOBS = ("exit_translators", "validation_file")


def points(methods: dict[str, list[str]], num_layers: int, wanted: list[int] | None) -> list[list[str]]:
    """The flags of every run of a setting: the full model and one method with views, static exits, the methods."""
    runs = [[*methods["full"], *VIEWS]] if "full" in methods else []
    if "full" in methods:
        runs += [["--static_exit_layer", str(layer)] for layer in range(1, num_layers)]
    for name, flags in methods.items():
        layers = [layer for layer in layers_of(flags, num_layers) if layer is None or not wanted or layer in wanted]
        for layer in layers:
            if layer is not None:
                viewed = VIEWS if name == VIEWED and layer == max(1, num_layers // 4) else []
                runs.append([*flags, exit_flag(flags), str(layer), *viewed])
    return runs


def of_jobs(arguments: argparse.Namespace) -> list[str]:
    """The flags of `OF_JOBS` that were given, with their values."""
    given = {name: getattr(arguments, name) for name in OF_JOBS}
    return [word for name, value in given.items() if value for word in (f"--{name}", value)]


def run_setting(name: str, setting, methods: dict, arguments: argparse.Namespace, clock: Clock) -> None:
    """All runs of a setting, and the seconds of its policies against each other."""
    out = arguments.out / name
    shared = ["--do_eval", "--output_dir", str(out), "--max_eval_samples", str(arguments.examples)]
    job = Job(setting.kind, *setting.arguments(*shared, *of_jobs(arguments)))
    logging.getLogger("training").setLevel(logging.WARNING)  # a line per run says enough
    runs = points(methods, job.trainer.model.num_exit_layers, arguments.layers)
    policies = []
    for index, words in enumerate(runs, start=1):
        flags = policy_arguments(setting, words)
        policies.append(job.policy_of(flags))
        # Rows of the head are copied at batch 1, and an adaptive threshold is fitted batch by batch; nothing else that
        # a run reports depends on its batch.
        alone = policies[-1].prunes or policies[-1].adapts
        batch = None if alone else arguments.batch_size
        with redirect_stdout(StringIO()):  # hundreds of tables; the files hold them
            metrics = job.evaluate(flags, batch)
        depth = metrics["eval_block_avg"]
        print(f"{clock}  {name} {index}/{len(runs)}: {job.policy.name}: mean exit {depth:.2f}", flush=True)
    if arguments.speed_examples and not arguments.evaluate_only:
        Speeds(job, out / "speed.json", arguments.speed_examples, arguments.repetitions).of(policies)


def run_beside(arguments: argparse.Namespace, names: list[str]) -> None:
    """Evaluate the settings, in processes beside each other that write the same files as this one would.

    Raises:
        ValueError: One of them failed; it said why.
    """
    options = ["--out", arguments.out, "--examples", arguments.examples, "--batch_size", arguments.batch_size]
    options += ["--evaluate-only", *of_jobs(arguments)]
    for name in ("methods", "layers"):
        if getattr(arguments, name):
            options += [f"--{name}", *getattr(arguments, name)]
    command = [sys.executable, __file__, *map(str, options), "--processes", "1", "--settings"]
    shares = [names[first :: arguments.processes] for first in range(arguments.processes)]
    running = [subprocess.Popen([*command, *share]) for share in shares if share]
    try:
        failed = [process for process in running if process.wait()]
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C, or a scheduler's signal
        for process in running:
            process.terminate()
        raise
    if any(process.returncode == 128 + signal.SIGPIPE for process in failed):
        raise BrokenPipeError  # nobody reads what this one says either
    if failed:
        raise ValueError("A process of the grid failed; what it had finished is kept, and the same command goes on.")


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    runs, timing = parser.add_argument_group(groups.RUN), parser.add_argument_group(groups.TIMING)
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_folder, default="save/grid", help="folder of the runs")
    runs.add_argument("--settings", nargs="+", default=LOCAL, help="lines of experiments/settings.txt")
    runs.add_argument("--methods", nargs="+", help="lines of experiments/methods.txt; all where not given")
    runs.add_argument("--layers", nargs="+", type=int, help="first layers with an exit; all where not given")
    runs.add_argument("--examples", type=COUNT, default=100, help="of each task; 500 are there")
    runs.add_argument("--exit_translators", "--exit-translators", help="file of translators, of the settings' model")
    runs.add_argument("--validation_file", "--validation-file", help="examples in the place of the settings' own")
    runs.add_argument("--batch_size", "--batch-size", type=COUNT, default=8, help="of runs that do not depend on it")
    timing.add_argument("--speed-examples", type=NATURAL, default=4, help="timed in turn at batch 1; 0 times nothing")
    timing.add_argument("--repetitions", type=COUNT, default=3, help="of the timing")
    runs.add_argument("--processes", type=COUNT, default=min(2, os.cpu_count() or 1), help="that evaluate settings")
    runs.add_argument("--evaluate-only", action="store_true", help="neither seconds nor figures")
    output.add_argument("--figures", type=output_folder, help="folder of the figures; OUT/figures where not given")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    clock = Clock()
    try:
        settings = pick(arguments.settings, read_settings(), "setting")
        methods = pick(arguments.methods, read_methods(), "method")
        refuse_layers(arguments.layers, settings, methods)
        if arguments.processes > 1 and len(settings) > 1:
            run_beside(arguments, list(settings))
        for name, setting in settings.items():
            run_setting(name, setting, methods, arguments, clock)
        if arguments.evaluate_only:
            return
        figures = arguments.figures or arguments.out / "figures"
        drawn = draw_all(arguments.out, figures)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{clock}  {len(drawn)} figures and tables in {figures}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
