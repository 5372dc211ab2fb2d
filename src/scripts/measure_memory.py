r"""Measure the peak memory of one training step under every loss, each in a process of its own.

    python src/scripts/measure_memory.py --out save/memory
    python src/scripts/measure_memory.py --losses weighted_ce --layers 4 --width 64 --out save/memory_small

A T5 with random weights takes one step: forward, backward, and SGD, which holds nothing of its own. Counted is what the
process holds at its peak beyond what it held before the model was there: weights, gradients, activations. The plain
step, which the others are compared with, has the library's loss of the last layer. "translators" is the step that
trains exit translators of all layers, and nothing else.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import argparse
import subprocess
import sys

import torch
from transformers import T5Config

from analysis.loss_figures import PLAIN
from analysis.tables import Table
from decoding.ranges import COUNT, FROM_TWO
from losses.exits import LOSSES
from models.modeling_t5 import EarlyExitT5ForConditionalGeneration
from models.translators import prepare_translators
from scripts.benchmark_decoding import peak_while
from util import groups
from util.commands import CommandParser, output_folder
from util.files import write_json, write_text
from util.terminal import terminal

HEAD_WIDTH = 64
TRANSLATORS = "translators"
TRAINED = (*LOSSES, TRANSLATORS)
SIZES = ("layers", "vocabulary", "width", "rows", "source", "target")


def make_model(sizes: argparse.Namespace, loss: str) -> EarlyExitT5ForConditionalGeneration:
    """A T5 of these sizes, whose shallow exit, for losses that train one, is at a quarter of its depth."""
    config = T5Config(
        vocab_size=sizes.vocabulary,
        d_model=sizes.width,
        d_ff=4 * sizes.width,
        d_kv=HEAD_WIDTH,
        num_heads=max(1, sizes.width // HEAD_WIDTH),
        num_layers=sizes.layers,
        decoder_start_token_id=0,
    )
    config.intermediate_loss_fn = loss if loss in LOSSES else None
    config.train_exit_translators = loss == TRANSLATORS
    config.shallow_exit_layer = max(1, sizes.layers // 4)
    model = EarlyExitT5ForConditionalGeneration(config)
    if loss == TRANSLATORS:
        prepare_translators(model)
    return model.train()


def take_step(sizes: argparse.Namespace, loss: str) -> None:
    """Make the model and a batch, every label of which counts, and take one step."""
    torch.manual_seed(0)
    model = make_model(sizes, loss)
    source, target = (
        torch.randint(1, sizes.vocabulary, (sizes.rows, length)) for length in (sizes.source, sizes.target)
    )
    model(input_ids=source, labels=target).loss.backward()
    torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3).step()


def peak_of_step(sizes: argparse.Namespace, loss: str) -> float:
    """Of the model and one step, in MiB, in this process."""
    before = peak_while(lambda: None)
    return peak_while(lambda: take_step(sizes, loss)) - before


def peak_alone(sizes: argparse.Namespace, loss: str) -> float:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", loss]
    command += [word for name in SIZES for word in (f"--{name}", str(getattr(sizes, name)))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def as_table(sizes: argparse.Namespace, peaks: dict[str, float]) -> Table:
    """Table 10: the peak of each loss, and how many times the plain step's it is."""
    rows = [[loss, f"{peak:.0f}", f"{peak / peaks[PLAIN]:.2f}"] for loss, peak in peaks.items()]
    labels = sizes.rows * sizes.target
    title = (
        f"Table 10. Peak memory of a training step: {sizes.layers} layers of width {sizes.width}, V = "
        f"{sizes.vocabulary}, {labels} labels"
    )
    note = "MiB: weights, gradients and activations in float32, of the process that takes the step.\n"
    return Table(title, ["loss", "MiB", "times the plain step's"], rows, [], note)


def make_parser() -> CommandParser:
    """The flags."""
    parser = CommandParser(__doc__)
    model, data = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.DATA)
    measured, output = parser.add_argument_group(groups.MEASUREMENT), parser.add_argument_group(groups.OUTPUT)
    model.add_argument("--layers", type=FROM_TWO, default=12, help="of the encoder and of the decoder")
    model.add_argument("--vocabulary", type=COUNT, default=32128, help="rows of the head")
    model.add_argument("--width", type=COUNT, default=512, help="of the model; a head has 64 of it")
    data.add_argument("--rows", type=COUNT, default=8, help="of the batch")
    data.add_argument("--source", type=COUNT, default=64, help="tokens of input per row")
    data.add_argument("--target", type=COUNT, default=128, help="labels per row")
    names = ", ".join(TRAINED)
    measured.add_argument("--losses", nargs="+", choices=TRAINED, metavar="LOSS", default=TRAINED, help=f"of {names}")
    measured.add_argument("--peak-of", choices=[PLAIN, *TRAINED], help=argparse.SUPPRESS)
    output.add_argument("--out", type=output_folder, default="save/memory", help="folder of the table")
    return parser


def main(argv: list[str] | None = None) -> None:
    sizes = make_parser().parse_args(argv)
    if sizes.peak_of:
        print(peak_of_step(sizes, sizes.peak_of))
        return
    peaks: dict[str, float] = {}
    for loss in (PLAIN, *sizes.losses):
        peaks[loss] = peak_alone(sizes, loss)
        print(f"{loss:<24}{peaks[loss]:>8.0f} MiB{peaks[loss] / peaks[PLAIN]:>7.2f} times the plain step's", flush=True)
    table = as_table(sizes, peaks)
    write_text(sizes.out / "table_10.txt", table.text())
    write_json(sizes.out / "table_10.json", table.data())


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
