"""Low-rank adapters (LoRA, arXiv:2106.09685) by peft, inside of the model itself: trained, saved and loaded alone, and
merged into its weights where it decodes. The weights they are added to keep their bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from models.translators import MODULE, ExitTranslators, attach_translators

logger = logging.getLogger(__name__)

# What peft calls the adapters of a model that has one set of them.
NAME = "default"
# What peft puts before the names of weights in a file.
PREFIX = "base_model.model."


def has_lora(model: nn.Module) -> bool:
    """Whether a model carries adapters beside its weights."""
    return bool(getattr(model, "peft_config", None))


def targets(model: Any) -> list[str]:
    """Names of the modules that an adapter can be added to: linear layers.

    A head tied to the embeddings is left out, since these would change with it, and so is what is trained whole.
    """
    tied = model.get_input_embeddings().weight
    linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    own = [name for name in linear if name.split(".")[0] not in model.trained_whole]
    return [name for name in own if model.get_submodule(name).weight is not tied]


def _chosen(model: Any, names: Iterable[str]) -> tuple[list[str], list[nn.Module]]:
    """Those of `names` that modules of a model end with, and these modules; a warning for the other names.

    Raises:
        ValueError: No module ends with any.
    """
    held = targets(model)
    modules = {name: [module for module in held if f".{module}".endswith(f".{name}")] for name in names}
    unknown = ", ".join(name for name, found in modules.items() if not found)
    known = [name for name, found in modules.items() if found]
    if not known:
        valid = ", ".join(dict.fromkeys(name.split(".")[-1] for name in held))
        raise ValueError(f"--lora_target_modules {unknown}: valid are {valid} in a {model.config.model_type}.")
    if unknown:
        logger.warning("No linear layer of a %s is called %s: no adapter there.", model.config.model_type, unknown)
    return known, [model.get_submodule(module) for name in known for module in modules[name]]


def add_lora(model: Any, base: str, rank: int, alpha: float, dropout: float, names: Iterable[str] | None) -> None:
    """New adapters in a model, which change nothing yet; all else is frozen but for what a loss trains beside.

    Args:
        base: Name of the model, which a checkpoint of the adapters tells.
        alpha: What the update is multiplied by, over the rank.
        dropout: Share of an adapter's input that is left out in training.
        names: Of linear layers, by their end, such as q_proj; `model.lora_targets` where None.

    Raises:
        ValueError: No module has such a name.
    """
    from peft import LoraConfig

    known, modules = _chosen(model, model.lora_targets if names is None else names)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] # peft says int, and divides by the rank
        lora_dropout=dropout,
        target_modules=known,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules),
    )
    _inject(model, config, base)


def load_lora(model: Any, held: Any, weights: dict[str, Tensor], base: str) -> None:
    """Adapters of a checkpoint in a model that has none.

    Args:
        held: Their peft config.
        weights: As they were saved, see `restore_lora`.

    Raises:
        ValueError: They are other modules' than the model has.
    """
    held.modules_to_save, held.inference_mode = None, False
    beside = [name.split(".") for name in (name.removeprefix(PREFIX) for name in weights)]
    translated = {int(layer) for module, layer, *_ in beside if module == MODULE}
    if translated:
        attach_translators(model, ExitTranslators(model.config.hidden_size, translated))
    _inject(model, held, base)
    restore_lora(model, weights)


def _inject(model: Any, config: Any, base: str) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model, NAME)
    config.base_model_name_or_path = base
    config.modules_to_save = list(model.trained_whole) or None
    model.freeze_for_training()


def saved_lora(model: Any, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What a checkpoint of adapters holds: them, and the modules that are trained whole.

    Args:
        state: The model's state_dict; its own where None.
    """
    from peft import get_peft_model_state_dict

    state = model.state_dict() if state is None else state
    adapters = get_peft_model_state_dict(model, state, NAME, save_embedding_layers=False)
    return adapters | {name: value for name, value in state.items() if name.split(".")[0] in model.trained_whole}


def save_lora(model: Any, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
    """Adapters alone in a folder, in peft's form: their config and their weights.

    Args:
        state: As of `saved_lora`.
    """
    model.peft_config[NAME].save_pretrained(str(folder))
    weights = {f"{PREFIX}{name}": weight.contiguous() for name, weight in saved_lora(model, state).items()}
    save_file(weights, Path(folder) / ADAPTER_SAFE_WEIGHTS_NAME, metadata={"format": "pt"})


def restore_lora(model: Any, weights: dict[str, Tensor]) -> None:
    """Weights of a checkpoint, into the adapters that a model has; what is trained whole and not in it stays.

    Args:
        weights: Name -> weight, as `saved_lora` gives them, or with peft's prefix.

    Raises:
        ValueError: Adapters are missing, or of another shape.
    """
    from peft import set_peft_model_state_dict

    named = {name.removeprefix(PREFIX): weight for name, weight in weights.items()}
    own = saved_lora(model)
    whole = {name for name in own if name.split(".")[0] in model.trained_whole}
    missing = [name for name in own if name not in named and name not in whole]
    unequal = [name for name in own if name in named and named[name].shape != own[name].shape]
    if missing or unequal:
        raise ValueError(f"the adapters do not fit this {model.config.model_type}: {(missing + unequal)[0]} differs")
    set_peft_model_state_dict(model, {name: weight for name, weight in named.items() if name not in whole}, NAME)
    model.load_state_dict({name: named[name] for name in whole if name in named}, strict=False)


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    """Name and module of every layer with an adapter."""
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


@contextmanager
def merged_lora(model: nn.Module) -> Iterator[None]:
    """The adapters' updates added to a model's weights for a while; then every weight is what it was, byte for byte.

    A model without adapters, or whose adapters are merged already, stays as it is.
    """
    layers = [module for _, module in _adapted(model) if not module.merged] if has_lora(model) else []
    plain = [(parameter, parameter.data) for layer in layers for parameter in layer.get_base_layer().parameters()]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.merge(safe_merge=True)  # which puts a new tensor in the weight's place
        yield
    finally:
        for parameter, data in plain:
            parameter.data = data
        for layer in layers:
            layer.merged_adapters.clear()


@torch.no_grad()
def merge_lora(model: Any) -> None:
    """Add the adapters' updates to the weights for good; the model is a plain one then."""
    for name, module in _adapted(model):
        module.merge()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.get_base_layer())
    del model.peft_config
