"""Fetch what runs need into the cache, on a node with a network, and print what to export on those without.

    python src/scripts/cluster/prefetch.py --settings squad_finetuned iwslt_mt5 --metrics meteor > offline.sh
    python src/scripts/cluster/prefetch.py --models google-t5/t5-large --datasets samsum cnn_dailymail:3.0.0

Models with tokenizers and data sets are those of lines of experiments/settings.txt, and those that flags name; metrics
are names of the `evaluate` library. Files go to the cache folders of the libraries alone, HF_HOME or what stands in its
place, which compute nodes have to see too. Without a network it looks at what is there. What is missing is told in a
sentence each, and the exit code is then 1.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import nltk
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

from jobs.experiments import Setting, pick, read_settings
from jobs.loading import load_config, load_tokenizer, one_sentence
from tasks import KINDS, TASKS, Source, Task
from tasks.loading import fetch
from tasks.named_metrics import load_metric
from util import ModelArguments, groups
from util.commands import CommandParser
from util.files import folder_problem, read_json
from util.packages import package_problems
from util.terminal import reason, terminal

# Read when Python starts, by the hub's library and all that ask it, by datasets, by old code, by evaluate.
SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_EVALUATE_OFFLINE")
# Where the caches are, beside HF_HOME.
FOLDERS = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_METRICS_CACHE")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BESIDE = ["*.json", "*.model", "*.txt", "*.jinja"]


def home() -> Path:
    """The folder of all caches of the hub's libraries."""
    return Path(constants.HF_HOME)


def environment() -> dict[str, str]:
    """What compute nodes export."""
    folders = {name: os.environ[name] for name in FOLDERS if name in os.environ}
    held = {"HF_HOME": str(home()), **folders, "NLTK_DATA": str(nltk_folder())}
    return held | dict.fromkeys(SWITCHES, "1") | {"TOKENIZERS_PARALLELISM": "false"}


def nltk_folder() -> Path:
    """Where data of nltk, of which some metrics make use, are put."""
    return Path(os.environ.get("NLTK_DATA", "").split(os.pathsep)[0] or home() / "nltk_data")


# ------------------------------------------------------------------------------------------------------------- fetching
def fetch_model(name: str) -> None:
    """A model with its tokenizer, in the cache or in a folder.

    Raises:
        ValueError: something of it is missing.
    """
    if not Path(name).is_dir() and not constants.HF_HUB_OFFLINE:
        with one_sentence("it cannot be fetched"):
            files = HfApi().list_repo_files(name)
            kind = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "pytorch_model*.bin"
            snapshot_download(name, allow_patterns=[kind, *BESIDE])
    arguments = ModelArguments(model_name_or_path=name)
    load_config(arguments, encoder=None)
    load_tokenizer(arguments)
    if not Path(name).is_dir():
        _refuse_missing_weights(arguments.model_name_or_path)


def _refuse_missing_weights(name: str) -> None:
    def held(file: str) -> str | None:
        found = try_to_load_from_cache(name, file)
        return found if isinstance(found, str) else None

    index = next(filter(None, map(held, INDICES)), None)
    needed = sorted(set(read_json(index)["weight_map"].values())) if index else []
    missing = [file for file in needed if held(file) is None]
    if missing or (index is None and not any(map(held, WEIGHTS))):
        raise ValueError(f"its {missing[0] if missing else 'weights'} are not in the cache.")


def fetch_data(name: str, config: str | None, splits: list[str]) -> None:
    """Splits of a data set.

    Raises:
        ValueError: one is missing.
    """
    task = next((each for each in TASKS.values() if name in each.spellings()), None)
    for split in splits:
        fetch(task or Task(name, KINDS["summarization"], "rouge", sources=(Source(name),)), config, split)


def fetch_metric(asked: str) -> None:
    """A metric of the evaluate library, and what it reads of nltk.

    Raises:
        ValueError: it cannot be loaded.
    """
    problems = package_problems("--metrics", "evaluate")
    if problems:
        raise ValueError(problems[0])
    if not constants.HF_HUB_OFFLINE:
        nltk_folder().mkdir(parents=True, exist_ok=True)
    nltk.data.path.insert(0, str(nltk_folder()))
    load_metric(asked)


def needs(settings: dict[str, Setting], models: list[str], data: list[str]) -> tuple[list[str], list[tuple]]:
    """Names of models, and (name, configuration) of data sets, each once."""
    parted = [tuple(each.split(":", 1)) if ":" in each else (each, None) for each in data]
    for setting in settings.values():
        model, chosen, *_ = setting.arguments("--do_eval")
        models = [*models, model.model_name_or_path]
        parted.append((chosen.dataset_name, chosen.dataset_config_name))
    return list(dict.fromkeys(models)), list(dict.fromkeys(parted))


def fetch_all(wanted: list[tuple[str, Callable[[], None]]]) -> list[str]:
    """Fetch each of (what it is, how); a sentence for each that is missing then."""
    missing = []
    for what, how in wanted:
        try:
            how()
            print(f"{what}: there", file=sys.stderr, flush=True)
        except (ValueError, OSError) as error:
            missing.append(f"{what} is missing: {reason(error)}")
            print(missing[-1], file=sys.stderr, flush=True)
    return missing


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 1 where something is missing."""
    parser = CommandParser(__doc__)
    group, measured = parser.add_argument_group(groups.DATA), parser.add_argument_group(groups.MEASUREMENT)
    group.add_argument("--settings", nargs="+", default=[], help="lines of experiments/settings.txt, or all")
    group.add_argument("--models", nargs="+", default=[], help="names on the hub, with their tokenizers")
    told = "data sets by familiar name or hub id, with a configuration as in cnn_dailymail:3.0.0"
    group.add_argument("--datasets", nargs="+", default=[], help=told)
    splits = ("train", "validation", "test")
    group.add_argument("--splits", nargs="+", choices=splits, default=["validation"], help="of the data sets")
    measured.add_argument("--metrics", nargs="+", default=[], help="names of the evaluate library, or paths, which run")
    arguments = parser.parse_args(argv)
    datasets.disable_progress_bars()
    try:
        settings = read_settings()
        chosen = settings if arguments.settings == ["all"] else pick(arguments.settings, settings, "setting")
        models, data = needs(chosen if arguments.settings else {}, arguments.models, arguments.datasets)
        problem = folder_problem(home())
        if problem is not None:
            raise ValueError(problem)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    wanted = [(f"The model {name}", lambda name=name: fetch_model(name)) for name in models]
    wanted += [
        (f"The data set {name}", lambda name=name, config=config: fetch_data(name, config, arguments.splits))
        for name, config in data
    ]
    wanted += [(f"The metric {name}", lambda name=name: fetch_metric(name)) for name in arguments.metrics]
    missing = fetch_all(wanted)
    print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment().items()))
    return 1 if missing else 0


def command() -> None:
    """The console command."""
    with terminal():
        sys.exit(main())


if __name__ == "__main__":
    command()
