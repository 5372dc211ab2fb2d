"""Trainer flags of transformers 4.28 to 5.0 that the installed version no longer knows, and what each means now."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.trainer_utils import IntervalStrategy

from util.files import read_json
from util.groups import OLD_TRAINER

logger = logging.getLogger(__name__)


class Legacy(NamedTuple):
    """One old flag: its type, its help, the values that ask for nothing, and how any other value is honoured.

    `apply(args, value)` changes the modern fields of `args`; without it another value is refused with `help`.
    """

    type: type
    help: str
    off: tuple = ()
    apply: Callable[[Any, Any], None] | None = None


def _renamed(name: str) -> Callable[[Any, Any], None]:
    return lambda args, value: setattr(args, name, value)


def _entry(name: str, key: str) -> Callable[[Any, Any], None]:
    """Sets one key of a field that holds a dict, JSON text or the path of a JSON file."""

    def apply(args: Any, value: Any) -> None:
        held = getattr(args, name) or {}
        if isinstance(held, str):
            held = json.loads(held) if held.startswith("{") else read_json(held)
        setattr(args, name, {**held, key: value})

    return apply


def _warmup_ratio(args: Any, value: float) -> None:
    # Steps given beside the ratio count, as they always did; below 1 --warmup_steps is the ratio itself.
    args.warmup_steps = args.warmup_steps or min(value, 1 - 1e-9)


def _logging_dir(args: Any, value: str) -> None:
    os.environ["TENSORBOARD_LOGGING_DIR"] = value


def _mps(args: Any, value: bool) -> None:
    if not torch.backends.mps.is_available():
        raise ValueError("--use_mps_device True needs an Apple GPU, and this machine offers none.")


def _adafactor(args: Any, value: bool) -> None:
    args.optim = "adafactor"


def _group_by_length(args: Any, value: bool) -> None:
    args.train_sampling_strategy = "group_by_length"


def _inputs_for_metrics(args: Any, value: bool) -> None:
    args.include_for_metrics = [*args.include_for_metrics, "inputs"]


def _tokens_per_second(args: Any, value: bool) -> None:
    args.include_num_input_tokens_seen = "all"


def _tpu_metrics(args: Any, value: bool) -> None:
    held = args.debug if isinstance(args.debug, str) else " ".join(args.debug)
    args.debug = f"{held} tpu_metrics_debug"


def _dynamo(args: Any, value: str) -> None:
    args.torch_compile, args.torch_compile_backend = True, value


def _safetensors(args: Any, value: bool) -> None:
    # False was the default of 4.28, so a job may say it without wanting anything by it: no refusal.
    logger.warning("--save_safetensors False: checkpoints are always written as safetensors now.")


def _organization(args: Any, value: str) -> None:
    name = Path(args.hub_model_id or args.output_dir or "").name
    args.hub_model_id = f"{value}/{name}"


LEGACY = {
    "evaluation_strategy": Legacy(IntervalStrategy, "Old name of --eval_strategy.", (), _renamed("eval_strategy")),
    "per_gpu_train_batch_size": Legacy(
        int, "Old name of --per_device_train_batch_size.", (), _renamed("per_device_train_batch_size")
    ),
    "per_gpu_eval_batch_size": Legacy(
        int, "Old name of --per_device_eval_batch_size.", (), _renamed("per_device_eval_batch_size")
    ),
    "warmup_ratio": Legacy(
        float, "Warm-up as a share of all steps; now --warmup_steps below 1.", (0.0,), _warmup_ratio
    ),
    "logging_dir": Legacy(str, "Folder of TensorBoard's files; now TENSORBOARD_LOGGING_DIR.", (), _logging_dir),
    "no_cuda": Legacy(bool, "Old name of --use_cpu.", (False,), _renamed("use_cpu")),
    "use_mps_device": Legacy(bool, "Run on an Apple GPU, which is now chosen by itself.", (False,), _mps),
    "adafactor": Legacy(bool, "Old form of --optim adafactor.", (False,), _adafactor),
    "group_by_length": Legacy(
        bool, "Old form of --train_sampling_strategy group_by_length.", (False,), _group_by_length
    ),
    "include_inputs_for_metrics": Legacy(
        bool, "Old form of --include_for_metrics inputs.", (False,), _inputs_for_metrics
    ),
    "include_tokens_per_second": Legacy(
        bool,
        "Report training tokens per second; now --include_num_input_tokens_seen all.",
        (False,),
        _tokens_per_second,
    ),
    "tpu_metrics_debug": Legacy(bool, "Old form of --debug tpu_metrics_debug.", (False,), _tpu_metrics),
    "torchdynamo": Legacy(str, "Old form of --torch_compile_backend.", (), _dynamo),
    "xpu_backend": Legacy(str, "Old name of --ddp_backend.", (), _renamed("ddp_backend")),
    "push_to_hub_token": Legacy(str, "Old name of --hub_token.", (), _renamed("hub_token")),
    "push_to_hub_model_id": Legacy(str, "Old name of --hub_model_id.", (), _renamed("hub_model_id")),
    "push_to_hub_organization": Legacy(str, "Organization before the name in --hub_model_id.", (), _organization),
    "fsdp_min_num_params": Legacy(
        int, "Old form of min_num_params in --fsdp_config.", (0,), _entry("fsdp_config", "min_num_params")
    ),
    "fsdp_transformer_layer_cls_to_wrap": Legacy(
        str,
        "Old form of transformer_layer_cls_to_wrap in --fsdp_config.",
        (),
        _entry("fsdp_config", "transformer_layer_cls_to_wrap"),
    ),
    "dispatch_batches": Legacy(
        bool,
        "Old form of dispatch_batches in --accelerator_config.",
        (),
        _entry("accelerator_config", "dispatch_batches"),
    ),
    "split_batches": Legacy(
        bool, "Old form of split_batches in --accelerator_config.", (), _entry("accelerator_config", "split_batches")
    ),
    "save_safetensors": Legacy(bool, "Checkpoints are always written as safetensors.", (True,), _safetensors),
    "half_precision_backend": Legacy(
        str, "16-bit training is always PyTorch's own; apex is gone.", ("auto", "cuda_amp", "cpu_amp")
    ),
    "fp16_backend": Legacy(str, "16-bit training is always PyTorch's own; apex is gone.", ("auto", "amp", "cuda_amp")),
    "fp16_opt_level": Legacy(str, "It was a setting of apex, which is gone.", ("O1",)),
    "sharded_ddp": Legacy(str, "Fairscale is gone; --fsdp and --deepspeed shard a model.", ("",)),
    "jit_mode_eval": Legacy(bool, "TorchScript evaluation is gone; --torch_compile takes its place.", (False,)),
    "use_ipex": Legacy(bool, "Intel's extension is gone; PyTorch holds what it did.", (False,)),
    "past_index": Legacy(int, "Models that hand their past to the next batch are gone.", (-1,)),
    "use_legacy_prediction_loop": Legacy(bool, "There is one prediction loop.", (False,)),
    "mp_parameters": Legacy(str, "SageMaker's model parallelism is gone; --fsdp and --deepspeed remain.", ("",)),
    "ray_scope": Legacy(str, "It concerned hyperparameter search, which no script here does.", ("last",)),
    "tpu_num_cores": Legacy(int, "TPU processes are counted by their launcher.", ()),
    "tp_size": Legacy(int, "Tensor parallelism is set up by the launcher of the processes.", (0, 1)),
}

OPTIMIZERS = {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"}

LegacyTrainingArguments = make_dataclass(
    "LegacyTrainingArguments",
    [
        (name, row.type | None, field(default=None, metadata={"help": row.help.replace("%", "%%")}))
        for name, row in LEGACY.items()
    ],
    namespace={
        "__module__": __name__,
        "__doc__": "Old trainer flags, each None once it has been translated.",
        "_argument_group_name": OLD_TRAINER,
    },
)


def refused() -> list[str]:
    """The old flags that cannot be honoured, whatever their value asks for."""
    return [name for name, row in LEGACY.items() if row.apply is None]


def translate(args: Any) -> list[str]:
    """Moves the old flags of `args` to their modern fields; returns a sentence for each that cannot be honoured."""
    args.optim = OPTIMIZERS.get(args.optim, args.optim)
    problems = []
    for name, row in LEGACY.items():
        value = getattr(args, name)
        setattr(args, name, None)
        if value is None or value in row.off:
            continue
        problems += _honour(args, name, row, value)
    return problems


def _honour(args: Any, name: str, row: Legacy, value: Any) -> list[str]:
    if row.apply is None:
        valid = f"valid is {' or '.join(repr(each) for each in row.off)}" if row.off else "leave the flag out"
        return [f"--{name} {value} cannot be honoured: {row.help[:-1]}; {valid}."]
    try:
        row.apply(args, value)
    except ValueError as error:
        return [str(error)]
    return []
