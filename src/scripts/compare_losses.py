r"""Train the small T5 anew under every loss, and compare what its exits score.

    python src/scripts/compare_losses.py --out save/losses
    python src/scripts/compare_losses.py --losses weighted_ce --layers 4 --steps 9 --examples 9 --out save/losses_few

Every training begins with the same weights and sees the same batches in the same order; they differ in the loss alone.
`plain` is the library's, of the last layer. Every exit is then scored on the same examples of both invented tasks, and
so is FREE at the shallow exit that some losses train. A run that is killed continues where
it last saved, losses can be added later, and the figure and the table are drawn from the files after every loss. One
thread is used unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import argparse
import logging
import os
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoTokenizer

from analysis.figures import read_all
from analysis.loss_figures import PLAIN, what_training_buys
from analysis.tables import what_losses_buy
from decoding.ranges import COUNT, FROM_TWO, NATURAL, POSITIVE
from jobs.experiments import policy_arguments, read_methods, read_settings
from jobs.job import Job
from jobs.speed import Clock
from losses.exits import LOSSES
from scripts.build_assets import BuildArguments, make_config, store, train_body
from util import groups
from util.arguments import EMBEDDED_MODEL
from util.commands import CommandParser, output_folder
from util.files import read_json, write_json, write_text
from util.terminal import terminal

SETTINGS = ("facts_trained", "dialogues_trained")
# What all trainings of a folder share.
SHARED = ("layers", "shallow_exit_layer", "steps", "batch", "learning_rate", "seed")
BATCH = 32  # examples decoded together


def train_model(loss: str, folder: Path, arguments: argparse.Namespace) -> None:
    """A checkpoint trained with that loss in the folder, unless it is there."""
    build = BuildArguments(
        exits="trained",  # the loss is given below
        out=str(folder),
        steps=arguments.steps,
        more_steps=0,
        short_steps=arguments.steps * 2 // 3 or 1,
        learning_rate=arguments.learning_rate,
        facts_per_batch=arguments.batch,
        dialogues_per_batch=max(1, arguments.batch // 2),
        encoder_layers=2,
        decoder_layers=arguments.layers,
        seed=arguments.seed,
    )
    work = Path(build.work_dir)
    if folder.exists() and not work.exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    name = None if loss == PLAIN else loss
    flags = {"intermediate_loss_fn": name, "shallow_exit_layer": arguments.shallow_exit_layer}
    model = train_body(build, tokenizer, **flags)
    stored = make_config(build)  # nothing in it asks for training
    stored.architectures = ["T5ForConditionalGeneration"]
    store(model, tokenizer, folder, stored)
    shutil.rmtree(work)


def evaluate_model(loss: str, folder: Path, arguments: argparse.Namespace, clock: Clock) -> None:
    """Score every exit of a model, and FREE at its shallow exit, on both tasks."""
    free = [*read_methods()["FREE"], "--shallow_exit_layer", str(arguments.shallow_exit_layer)]
    exits = [["--static_exit_layer", str(layer)] for layer in range(1, arguments.layers)]
    for name in SETTINGS:
        setting = read_settings()[name]
        flags = ["--model_name_or_path", folder, "--output_dir", arguments.out / loss / name, "--do_eval"]
        flags += ["--max_eval_samples", arguments.examples, "--per_device_eval_batch_size", BATCH]
        job = Job(setting.kind, *setting.arguments(*map(str, flags)))
        logging.getLogger("training").setLevel(logging.WARNING)  # a line per task says enough
        with redirect_stdout(StringIO()):  # so many tables; the files hold them
            for words in ([], *exits, free):
                job.evaluate(policy_arguments(setting, words))
        print(f"{clock}  {loss}: {name} is scored at every exit", flush=True)


def refuse_misfits(arguments: argparse.Namespace) -> None:
    """Refuses a shallow exit that is none, and a folder whose trainings differ from these in more than their loss;
    writes what they share.

    Raises:
        ValueError: The exit is not below the last layer, or the folder holds others.
    """
    if arguments.shallow_exit_layer >= arguments.layers:
        given = f"--shallow-exit-layer {arguments.shallow_exit_layer}"
        raise ValueError(
            f"{given}: valid are layers below the last, 1 to {arguments.layers - 1} of --layers {arguments.layers}."
        )
    path, shared = arguments.out / "settings.json", {name: getattr(arguments, name) for name in SHARED}
    held = read_json(path) if path.is_file() else shared
    other = [f"--{name.replace('_', '-')} {value}" for name, value in held.items() if shared.get(name) != value]
    if other:
        raise ValueError(f"{arguments.out} holds trainings with {' '.join(other)}: give these, or another --out.")
    write_json(path, shared)


def draw(out: Path) -> None:
    """figure_22 and table_9 of the losses so far."""
    runs = read_all(out)
    drawing, table = what_training_buys(runs), what_losses_buy(runs)
    if drawing is not None:
        drawing.save(out, "figure_22")
        write_text(out / "table_9.txt", table.text())
        write_json(out / "table_9.json", table.data())


def make_parser() -> CommandParser:
    """The flags."""
    parser = CommandParser(__doc__)
    training, data = parser.add_argument_group(groups.TRAINING), parser.add_argument_group(groups.DATA)
    model, output = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_folder, default="save/losses", help="folder of models, runs and figure")
    names = ", ".join(LOSSES)
    training.add_argument("--losses", nargs="+", choices=LOSSES, metavar="LOSS", default=[*LOSSES], help=f"of {names}")
    training.add_argument("--steps", type=COUNT, default=700, help="of the optimiser, of each training")
    training.add_argument("--learning-rate", type=POSITIVE, default=2e-3, help="peak of AdamW's")
    training.add_argument("--seed", type=NATURAL, default=0, help="of the initial weights")
    model.add_argument("--layers", type=FROM_TWO, default=6, help="of the decoder")
    training.add_argument("--shallow-exit-layer", type=COUNT, default=2, help="of FREE and the losses that train it")
    data.add_argument("--batch", type=COUNT, default=32, help="questions in a batch; half as many dialogues")
    data.add_argument("--examples", type=COUNT, default=500, help="of each task, to score exits by")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    clock = Clock()
    try:
        refuse_misfits(arguments)
        for loss in (PLAIN, *arguments.losses):
            folder = arguments.out / "models" / loss
            train_model(loss, folder, arguments)
            evaluate_model(loss, folder, arguments, clock)
            draw(arguments.out)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{clock}  figure_22.png and table_9.txt in {arguments.out}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
