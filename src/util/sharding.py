"""DeepSpeed: the configuration that a job or its launcher names, and what cannot be had with it."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from transformers.utils import strtobool

from util.files import read_json
from util.packages import package_problems

# What `accelerate launch` leaves in the environment.
ASKED, FILE, ON_CPU = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_CONFIG_FILE", "ACCELERATE_USE_CPU"
# Optimisers whose step looks at the rows and columns of a weight, or at the model's layers.
NEED_MATRICES = ("adafactor", "galore", "apollo", "lomo")
SHARE = "stage3_gather_16bit_weights_on_model_save"


def configuration(given: Any) -> str | dict | None:
    """The configuration in force: what --deepspeed gives, else the file that `accelerate launch` was given."""
    if given is None and _said(ASKED):
        return os.environ.get(FILE, "none")
    return given or None


def leave_out() -> None:
    """Have nothing find what the launcher said of DeepSpeed."""
    os.environ.pop(ASKED, None)


def take_cpu_from_launcher(args: Any) -> None:
    """Have `use_cpu` of `args` say what the launcher says: for accelerate its own mark would put DeepSpeed aside."""
    if _said(ON_CPU):
        args.use_cpu = True
        del os.environ[ON_CPU]


def connect_cpus(timeout: int) -> None:
    """Have the processes of a job on CPUs talk through gloo, for which DeepSpeed compiles nothing.

    accelerate would leave this to torch, of which ZeRO-3 does not know while a model is loaded; and DeepSpeed would
    first compile, with g++ and for a minute, a sum through shared memory that only its inference calls.

    Args:
        timeout: Seconds that one process waits for another.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, timeout=timedelta(seconds=timeout), verbose=False)


def stage_of(config: dict) -> int:
    """What ZeRO shares out among the processes: 1 the optimiser's state, 2 gradients too, 3 weights too; 0 nothing."""
    return config.get("zero_optimization", {}).get("stage", 0)


def configuration_problems(given: str | dict, args: Any, launched: bool) -> list[str]:
    """Sentences on a configuration that cannot be read, or be followed by a training of these TrainingArguments.

    Args:
        launched: Whether a launcher started the process.
    """
    problems = package_problems("--deepspeed", "deepspeed")
    if not launched:
        problems.append(
            "--deepspeed needs a launcher, for one process too: torchrun --nproc_per_node N, or accelerate launch."
        )
    try:
        config = given if isinstance(given, dict) else _read(given)
    except ValueError as error:
        return [*problems, str(error)]
    return [*problems, *_optimizer_problems(config, args), *_stage_problems(config, args)]


def _read(given: str) -> dict:
    if given == "none":
        raise ValueError(
            "The launcher's configuration asks for DeepSpeed and names no file of its settings: give it a "
            "deepspeed_config_file, such as src/scripts/cluster/zero2.json."
        )
    if not Path(given).is_file():
        raise ValueError(
            f"--deepspeed {given} is not there: valid is a JSON file, such as those in src/scripts/cluster."
        )
    try:
        config = read_json(given)
    except ValueError as error:
        raise ValueError(f"--deepspeed {given} is no JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ValueError(f"--deepspeed {given} holds no settings: valid is a JSON object.")
    return config


def _optimizer_problems(config: dict, args: Any) -> list[str]:
    if "optimizer" in config or stage_of(config) == 0:
        return []
    name, zero = str(getattr(args.optim, "value", args.optim)), config["zero_optimization"]
    if any(word in name for word in NEED_MATRICES):
        return [
            f"--optim {name} reads the rows and columns of a weight, and ZeRO gives an optimiser flat pieces of it: "
            "give --optim adamw_torch."
        ]
    offloads = zero.get("offload_optimizer", {}).get("device", "none") != "none"
    if offloads and config.get("zero_force_ds_cpu_optimizer", True):
        return [
            f"With offload_optimizer DeepSpeed takes no --optim {name} unless its configuration says "
            '"zero_force_ds_cpu_optimizer": false; with an "optimizer" of its own it compiles one.'
        ]
    return []


def _stage_problems(config: dict, args: Any) -> list[str]:
    if stage_of(config) < 3:
        return []
    problems = []
    evaluates = args.do_eval or args.eval_strategy not in (None, "no")
    if args.do_predict or (evaluates and args.predict_with_generate):
        problems.append(
            "Under ZeRO-3 no process has the weights that decoding reads: give --predict_with_generate False, or "
            "--do_train with --eval_strategy no, and evaluate what it saved in a command of its own, without DeepSpeed."
        )
    if not config["zero_optimization"].get(SHARE):
        problems.append(f'Under ZeRO-3 the model is saved whole where zero_optimization says "{SHARE}": true.')
    return problems


def _said(name: str) -> bool:
    return bool(strtobool(os.environ.get(name, "false")))
