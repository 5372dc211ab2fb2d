"""The grid of the experiments on the embedded model, and every figure, in one process and without a download.

    python src/scripts/local_grid.py --out save/grid

Settings are the models on the tasks, methods the policies of experiments/methods.txt, each at every exit_min_layer. A
run is an ordinary evaluation; what is complete is not repeated, so a grid that was killed goes on where it was. One
thread is used unless OMP_NUM_THREADS says otherwise: the model is so small that a second one only waits.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.figures import draw_all
from jobs.experiments import layers_of, pick, policy_arguments, read_methods, read_settings
from jobs.job import Job
from jobs.speed import Clock, seconds_per_token
from training.reporting import describe
from util.files import read_json, write_json

LOCAL = ["facts_untrained", "facts_trained", "dialogues_untrained", "dialogues_trained"]
VIEWS = ["--plotting_logits", "True", "--render_jsds", "True"]
# A run of early exits whose layers are looked at too, beside the full model.
VIEWED = "JSD"
# Examples decoded together in runs without pruning.
BATCH = 8


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
                runs.append([*flags, "--exit_min_layer", str(layer), *viewed])
    return runs


def run_setting(name: str, setting, methods: dict, arguments: argparse.Namespace, clock: Clock) -> None:
    """All runs of a setting, and the seconds of its policies against each other."""
    out = arguments.out / name
    shared = ["--do_eval", "--output_dir", str(out), "--max_eval_samples", str(arguments.examples)]
    job = Job(setting.kind, *setting.arguments(*shared))
    logging.getLogger("training").setLevel(logging.WARNING)  # a line per run says enough
    runs = points(methods, job.trainer.model.num_exit_layers, arguments.layers)
    policies = []
    for index, flags in enumerate(runs, start=1):
        policies.append(policy_arguments(setting, flags))
        # Rows of the head are copied at batch 1; nothing else that a run reports depends on its batch.
        batch = None if policies[-1].type_vocab_reduct else BATCH
        with redirect_stdout(StringIO()):  # hundreds of tables; the files hold them
            metrics = job.evaluate(policies[-1], batch)
        depth = metrics["eval_block_avg"]
        print(f"{clock}  {name} {index}/{len(runs)}: {describe(job.policy)}: mean exit {depth:.2f}", flush=True)
    measure_speed(job, policies, out / "speed.json", arguments)


def measure_speed(job: Job, policies: list, path: Path, arguments: argparse.Namespace) -> None:
    """speed.json of a setting, unless it is there for the same policies and sizes."""
    if not arguments.speed_examples:
        return
    settings = {"examples": arguments.speed_examples, "repetitions": arguments.repetitions, "batch": 1}
    held = read_json(path) if path.is_file() else {}
    if held.get("settings") == settings and len(held["policies"]) == len(policies):
        return
    limit = getattr(job.data_args, job.task.kind.target_limit)
    found = seconds_per_token(job.trainer, policies, arguments.speed_examples, arguments.repetitions, limit)
    model = {"task": job.task.name, "model": Path(job.model_args.model_name_or_path).name}
    write_json(path, {"settings": settings, **model, "policies": found})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("save/grid"))
    parser.add_argument("--settings", nargs="+", default=LOCAL, help="lines of experiments/settings.txt")
    parser.add_argument("--methods", nargs="+", help="lines of experiments/methods.txt; all where not given")
    parser.add_argument("--layers", nargs="+", type=int, help="values of exit_min_layer; all where not given")
    parser.add_argument("--examples", type=int, default=100, help="of each task; 500 are there")
    parser.add_argument("--speed-examples", type=int, default=4, help="timed in turn at batch 1; 0 times nothing")
    parser.add_argument("--repetitions", type=int, default=3, help="of the timing")
    parser.add_argument("--figures", type=Path, help="folder of the figures; OUT/figures where not given")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    clock = Clock()
    try:
        settings = pick(arguments.settings, read_settings(), "setting")
        methods = pick(arguments.methods, read_methods(), "method")
        for name, setting in settings.items():
            run_setting(name, setting, methods, arguments, clock)
        figures = arguments.figures or arguments.out / "figures"
        drawn = draw_all(arguments.out, figures)
    except ValueError as error:
        parser.error(str(error))
    print(f"{clock}  {len(drawn)} figures and tables in {figures}")


if __name__ == "__main__":
    main()
