"""Say in one screen what this node has for runs, and try one tiny decode.

    python src/scripts/cluster/doctor.py
    python src/scripts/cluster/doctor.py --tokens 20

`sh src/scripts/cluster/doctor.sh` finds the Python first. It needs no network and writes nothing. The exit code is 1,
and the last lines say why, where something is in the way of a run.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import datasets
import nltk
import torch
from huggingface_hub import constants

from decoding.policy import Policy
from decoding.ranges import COUNT
from jobs.loading import load_config, load_model, load_tokenizer
from scripts.cluster.prefetch import SWITCHES
from util import DecoderArguments, groups
from util.arguments import EMBEDDED_DECODER
from util.commands import CommandParser
from util.files import folder_problem
from util.terminal import reason, terminal

PACKAGES = ("torch", "transformers", "datasets", "accelerate")
OPTIONAL = ("deepspeed", "peft", "evaluate", "wandb", "tensorboard", "gguf", "lm_eval", "bert-score")
GIB = 2**30


def packages(names: tuple[str, ...]) -> str:
    """Names with versions; a dash for what is not installed."""
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def gpus() -> list[str]:
    """A line for each GPU: name, free and whole memory, compute capability."""
    lines = []
    for index in range(torch.cuda.device_count()):
        held = torch.cuda.get_device_properties(index)
        free, whole = torch.cuda.mem_get_info(index)
        memory = f"{free / GIB:.0f} of {whole / GIB:.0f} GiB free"
        lines.append(f"{index}: {held.name}, {memory}, compute capability {held.major}.{held.minor}")
    return lines or ["none that torch sees"]


def memory() -> str:
    """Of the machine, in GiB."""
    pages = {name: os.sysconf(name) for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES")}
    free, whole = (pages[name] * os.sysconf("SC_PAGE_SIZE") / GIB for name in pages)
    return f"{free:.0f} of {whole:.0f} GiB free"


def caches() -> dict[str, Path]:
    """What a cache holds -> its folder."""
    return {
        "hub": Path(constants.HF_HUB_CACHE),
        "data sets": Path(datasets.config.HF_DATASETS_CACHE),
        "metrics": Path(constants.HF_HOME) / "metrics",
        "temporary": Path(tempfile.gettempdir()),
    }


def cache_line(folder: Path) -> str:
    """Where it is, whether it can be written, and the space that is left."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    state = "writable" if folder_problem(folder) is None else "NOT writable"
    state += "" if folder.exists() else ", not there yet"
    return f"{folder} ({state}, {shutil.disk_usage(existing).free / GIB:.0f} GiB left)"


def allocation() -> str:
    """What SLURM and launchers say of this process."""
    names = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_NNODES", "SLURM_RESTART_COUNT", "CUDA_VISIBLE_DEVICES")
    told = [f"{name}={os.environ[name]}" for name in (*names, "OMP_NUM_THREADS") if name in os.environ]
    return ", ".join(told) or "none of SLURM's"


def punkt() -> str:
    """Whether nltk has what splits sentences for ROUGE-Lsum."""
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
        return "there"
    except LookupError:
        return "- (a list of abbreviations stands in)"


def decode(tokens: int) -> str:
    """A few tokens of the model that comes with the repository, with exits, on the GPU where there is one."""
    os.environ.setdefault("EARLY_EXIT_PRODUCTS", "library")  # which measures, and keeps, nothing
    arguments = DecoderArguments(model_name_or_path=str(EMBEDDED_DECODER))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(arguments, load_config(arguments, encoder=None), torch.float32).to(device)
    tokenizer = load_tokenizer(arguments)
    prompt = tokenizer("Once upon a time", return_tensors="pt").to(device)
    started = time.perf_counter()
    policy = Policy(confidence="softmax", threshold=0.8)
    found, trace = model.generate(**prompt, policy=policy, max_new_tokens=tokens, return_trace=True)
    seconds, depth = time.perf_counter() - started, float(trace.exit_layers[trace.exit_layers > 0].mean())
    return f"{tokenizer.decode(found[0])!r} on {device}, {depth:.1f} layers a token, {seconds:.1f} s"


def report(tokens: int) -> tuple[list[str], list[str]]:
    """The lines of the screen, and what is in the way of a run."""
    problems = [problem for folder in caches().values() if (problem := folder_problem(folder))]
    cuda = torch.version.cuda
    if cuda and not torch.cuda.is_available():
        problems.append(
            f"torch is built for CUDA {cuda}, and sees no GPU: look at the driver and CUDA_VISIBLE_DEVICES."
        )
    wide = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    lines = [
        f"node       {platform.node()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, memory {memory()}",
        f"python     {platform.python_version()}, {sys.executable}",
        f"packages   {packages(PACKAGES)}",
        f"optional   {packages(OPTIONAL)}",
        f"CUDA       {cuda or '-'}, bfloat16 {'yes' if wide else 'no'}",
        *(f"GPU        {line}" for line in gpus()),
        *(f"cache      {name}: {cache_line(folder)}" for name, folder in caches().items()),
        f"nltk       punkt_tab {punkt()}",
        f"offline    {', '.join(f'{name}={os.environ.get(name, chr(45))}' for name in SWITCHES)}",
        f"job        {allocation()}",
    ]
    try:
        lines.append(f"decode     {decode(tokens)}")
    except (ValueError, OSError, RuntimeError) as error:
        lines.append("decode     failed")
        problems.append(f"The model that comes with the repository does not decode: {reason(error)}")
    return lines, problems


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 1 where something is in the way of a run."""
    parser = CommandParser(__doc__)
    group = parser.add_argument_group(groups.GENERATION)
    group.add_argument("--tokens", type=COUNT, default=8, help="that are decoded")
    lines, problems = report(parser.parse_args(argv).tokens)
    print("\n".join([*lines, *(f"PROBLEM    {problem}" for problem in problems)]))
    return 1 if problems else 0


def command() -> None:
    """The console command."""
    with terminal():
        sys.exit(main())


if __name__ == "__main__":
    command()
