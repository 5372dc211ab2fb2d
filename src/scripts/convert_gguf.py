r"""Save a GGUF checkpoint as safetensors, its weights widened to a dtype, with tokenizer and chat template.

    python src/scripts/convert_gguf.py --model_name_or_path model.gguf --out models/mine
    python src/scripts/convert_gguf.py --model_name_or_path models/theirs --gguf_file model.Q4_K_M.gguf \
        --out models/mine

The folder is there when all of it is, or not at all.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from jobs.converting import convert
from util import DecoderArguments, groups
from util.additional_args import flag
from util.arguments import build, choice_problems
from util.checks import raise_together
from util.files import folder_problem
from util.folders import whole_folder
from util.gguf import is_gguf
from util.parser import ArgumentParser
from util.terminal import terminal

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class ConvertArguments:
    """Where the checkpoint goes, and in which numbers."""

    _argument_group_name = groups.OUTPUT

    out: str | None = flag(None, "Folder of the new checkpoint, which is not there yet.")
    dtype: str = flag("float32", f"Of the weights: {', '.join(DTYPES)}.")

    def __post_init__(self) -> None:
        problems = choice_problems(self, "dtype", DTYPES)
        if self.out is None:
            problems.append("There is nowhere to write to: give --out FOLDER.")
        elif problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        raise_together(problems)


def main(argv: list[str] | None = None) -> None:
    classes = (DecoderArguments, ConvertArguments)
    parser = ArgumentParser(classes, __doc__)
    transformers_logging.set_verbosity_error()
    try:
        model_args, args = build(classes, parser.given(sys.argv[1:] if argv is None else list(argv)))
        name = model_args.model_name_or_path
        if not is_gguf(name):
            raise ValueError(f"{name} is no GGUF file: give one with --model_name_or_path, or --gguf_file.")
        with whole_folder(args.out) as temporary:
            size = convert(model_args, getattr(torch, args.dtype), temporary / "made")
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{Path(name).name} is in {args.out}: {size / 2**20:.0f} MB of weights in {args.dtype}.")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
