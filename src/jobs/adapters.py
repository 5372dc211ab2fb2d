"""Checkpoints that hold adapters of low rank alone, as `--use_lora` and peft save them: which model they belong to."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, cached_file, find_adapter_config_file

from models.lora import add_lora, has_lora, load_lora
from util import AdditionalArguments, ModelArguments, TrainingArguments
from util.checks import raise_together
from util.files import read_json
from util.gguf import is_gguf
from util.packages import package_problems

logger = logging.getLogger(__name__)


class Adapters(NamedTuple):
    """A checkpoint of adapters.

    Attributes:
        name: Its folder, or name on the hub.
        base: The model they were trained on.
        whole: Modules it holds beside, which were trained whole.
        path: Its config, a file.
    """

    name: str
    base: str
    whole: tuple[str, ...]
    path: Path

    def base_arguments(self, model_args: ModelArguments) -> ModelArguments:
        """The same model arguments, of the model that they were trained on."""
        return replace(model_args, model_name_or_path=self.base, model_revision="main")

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer beside."""
        return (self.path.parent / "tokenizer_config.json").is_file()

    def load_into(self, model: Any, model_args: ModelArguments) -> None:
        """Add them to their model."""
        from peft import LoraConfig

        path = cached_file(self.name, ADAPTER_SAFE_WEIGHTS_NAME, **hub_options(model_args))
        load_lora(model, LoraConfig.from_pretrained(str(self.path.parent)), load_file(path), self.base)


def find_adapters(model_args: ModelArguments) -> Adapters | None:
    """What `--model_name_or_path` holds, where that is adapters alone.

    Raises:
        ValueError: They are of another kind, do not tell their model, or peft is not there.
    """
    name = model_args.model_name_or_path
    path = None if is_gguf(name) else find_adapter_config_file(name, **hub_options(model_args))
    if path is None:
        return None
    raise_together(package_problems(f"{name}, of adapters alone,", "peft", "give the model they are merged in"))
    held = read_json(path)
    base, kind = held.get("base_model_name_or_path"), held.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{name} holds adapters of the kind {kind}: valid is LORA.")
    if not base or base == name:
        raise ValueError(f"{name} holds adapters and does not tell of which model: valid is a name or a folder.")
    if Path(base).is_absolute() and not Path(base).exists():
        raise ValueError(f"{name} holds adapters of {base}, which is not there.")
    return Adapters(name, base, tuple(held.get("modules_to_save") or ()), Path(path))


def refuse_lora(model_args: ModelArguments, training_args: TrainingArguments, args: AdditionalArguments) -> None:
    """Refuse, with a ValueError, --use_lora where there are no adapters to decode with, or none could be saved."""
    if not args.use_lora:
        return
    name, out = model_args.model_name_or_path, Path(training_args.output_dir)
    if not training_args.do_train and find_adapters(model_args) is None:
        raise ValueError(f"--use_lora without --do_train needs a checkpoint of adapters, which {name} is not.")
    if training_args.do_train and Path(name).exists() and Path(name).resolve() == out.resolve():
        raise ValueError(f"--output_dir {out} holds the model that the adapters are of: give another folder.")


def prepare_lora(model: Any, model_args: ModelArguments, args: AdditionalArguments) -> None:
    """Adapters to be trained, in a model that was loaded: those of its checkpoint, or new ones as the flags have them.

    Raises:
        ValueError: No module has the name of a target.
    """
    if has_lora(model):
        logger.info("The adapters of %s are trained on, as they are.", model_args.model_name_or_path)
    else:
        given = model_args.model_name_or_path
        base = str(Path(given).resolve()) if Path(given).exists() else given
        add_lora(model, base, args.lora_rank, args.lora_alpha, args.lora_dropout, args.lora_target_modules)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("%d of %d weights are trained.", trained, sum(each.numel() for each in model.parameters()))


def hub_options(model_args: ModelArguments) -> dict[str, Any]:
    """What finds a file of a model on the hub beside its name."""
    return {"cache_dir": model_args.cache_dir, "revision": model_args.model_revision, "token": model_args.token}
