"""Exit translators: an affine map per layer that makes what a layer left speak the last layer's language.

x^l = final_norm(h^l + A_l h^l + b_l) at an exit below the last layer (tuned lens, arXiv:2303.08112); the last layer has
none, so the full model stays what it is, and a layer without one is read as it is. They lie in a checkpoint beside its
weights (`exit_translators.<l>.weight` and `.bias`), or alone in a file that names the model it was made for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from util.files import permit, replacing

# Name of the module in a model, and what its weights' names begin with in a checkpoint and in a file.
MODULE = "exit_translators"
# What a file says it is; another number where its fields are others.
KIND = "exit translators 1"
# Modules that a model has beside the library's weights.
BESIDE = (MODULE, "cm_head", "layer_transformation")
# Two values of one weight differ by at most so much, relative and absolute, through rounding to bfloat16 or float16.
ROUNDING, SMALLEST = 2**-7, 1e-6


class ExitTranslators(nn.ModuleDict):
    """The translators of some layers: layer -> Linear, of which the weight [D, D] is A_l and the bias [D] is
    b_l; zeros, which change nothing, until they are set.

    Args:
        width: D.
        layers: From 1 to L - 1.
    """

    def __init__(self, width: int, layers: Iterable[int]):
        super().__init__({str(layer): nn.Linear(width, width) for layer in sorted({*layers})})
        self.reset()

    @classmethod
    def of(cls, found: Mapping[int, tuple[Tensor, Tensor]]) -> ExitTranslators:
        """Of layer -> A_l [D, D] and b_l [D], in their dtype, on their device."""
        weight = next(iter(found.values()))[0]
        made = cls(weight.shape[0], found).to(weight.device, weight.dtype)
        with torch.no_grad():
            for layer, (matrix, bias) in found.items():
                made.get_parameter(f"{layer}.weight").copy_(matrix)
                made.get_parameter(f"{layer}.bias").copy_(bias)
        return made

    def reset(self) -> None:
        """Back to zeros."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def layers(self) -> tuple[int, ...]:
        """Those that have a translator, lowest first."""
        return tuple(sorted(map(int, self)))

    def forward(self, hidden: Tensor, layer: int) -> Tensor:
        """h^l + A_l h^l + b_l of states [..., D]; h^l of a layer without a translator."""
        return hidden + self[str(layer)](hidden) if str(layer) in self else hidden


def attach_translators(model: Any, translators: ExitTranslators) -> None:
    """Let a model's exits use translators, in the place of any they had; its checkpoints hold them from then on.

    Args:
        model: An `EarlyExitGeneration`.
        translators: Moved to the model's dtype and device.
    """
    head = model.get_output_embeddings().weight
    setattr(model, MODULE, translators.to(head.device, head.dtype).train(model.training))
    model.config.translated_layers = list(translators.layers)


def prepare_translators(model: Any) -> None:
    """Make a model's exits ready to be trained alone: with the translators that it has, or with new ones, which change
    nothing yet, of every layer below the last.

    Raises:
        ValueError: It has one layer, so there is no exit below its last.
    """
    depth = len(model.decoder_layers)
    if depth < 2:
        raise ValueError("--train_exit_translators: this model has one layer, so there is no exit below its last.")
    if getattr(model, MODULE, None) is None:
        attach_translators(model, ExitTranslators(model.config.hidden_size, range(1, depth)))
    model.freeze_for_training()


def fingerprint(model: Any) -> dict:
    """What stands for a model and its weights, whatever their dtype: its type, and of every matrix of it the shape and
    one value. Another model has other values, and so has one that was trained further.

    Adapters that are not merged, a confidence head and translators do not count.
    """
    held = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "lora_" not in name and name.split(".")[0] not in BESIDE:
            held[name.replace(".base_layer.", ".")] = parameter
    names = sorted(held)
    values = [held[name].detach().flatten()[held[name].numel() // 2].float() for name in names]
    return {
        "model_type": model.config.model_type,
        "shapes": [list(held[name].shape) for name in names],
        "values": [float(f"{value:.5g}") for value in torch.stack(values).tolist()],
    }


def same_model(one: Mapping, other: Mapping) -> bool:
    """Whether two fingerprints are one model's, but for the rounding of its weights to another dtype."""
    if any(one[name] != other[name] for name in ("model_type", "shapes")):
        return False
    values, others = (torch.tensor(each["values"], dtype=torch.float64) for each in (one, other))
    return torch.allclose(values, others, rtol=ROUNDING, atol=SMALLEST)


def save_translators(path: str | os.PathLike, translators: ExitTranslators, model: Any) -> None:
    """Write translators alone to a safetensors file, whole or not at all, in the dtype they have.

    Args:
        model: An `EarlyExitGeneration`, which they were made for and which the file names.

    Raises:
        ValueError: They do not fit the model, or are not finite.
    """
    weights = {f"{MODULE}.{name}": value.contiguous().cpu() for name, value in translators.state_dict().items()}
    _refuse_unfit(os.fspath(path), weights, model)
    held = {
        "format": "pt",
        "kind": KIND,
        "num_layers": str(model.num_exit_layers),
        "width": str(model.config.hidden_size),
        "model": Path(model.config.name_or_path or model.config.model_type).name,
        "fingerprint": json.dumps(fingerprint(model)),
    }
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata=held)
        permit(temporary)


def load_translators(path: str | os.PathLike, model: Any) -> ExitTranslators:
    """The translators of a file, in the file's dtype, on the CPU.

    Args:
        model: An `EarlyExitGeneration`, that they are to be used with.

    Raises:
        ValueError: The file is torn or none of translators, or is of another model, width or depth, or holds numbers
            that are not finite; in one sentence.
    """
    name = os.fspath(path)
    held, weights = _read(name)
    own = {"num_layers": model.num_exit_layers, "width": model.config.hidden_size}
    for key, what in (("width", "states of width {}"), ("num_layers", "a model of {} layers")):
        if held.get(key) != str(own[key]):
            raise ValueError(
                f"--exit_translators {name} is for {what.format(held.get(key))}, and this model has {own[key]}: give "
                "one that was made for it."
            )
    try:
        same = same_model(json.loads(held["fingerprint"]), fingerprint(model))
    except (ValueError, KeyError, TypeError, RuntimeError):
        raise ValueError(f"--exit_translators {name} does not say which model it was made for.") from None
    if not same:
        raise ValueError(
            f"--exit_translators {name} was made for {held.get('model')}, whose weights are not this model's: fit one "
            "for it with src/scripts/fit_translators.py."
        )
    _refuse_unfit(name, weights, model)
    layers = {int(key.split(".")[1]) for key in weights}
    return ExitTranslators.of(
        {layer: (weights[f"{MODULE}.{layer}.weight"], weights[f"{MODULE}.{layer}.bias"]) for layer in layers}
    )


def _read(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file of translators."""
    try:
        with safe_open(name, framework="pt") as file:
            held = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    except Exception as error:  # of safetensors, which share no type with the operating system's
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise ValueError(f"--exit_translators {name} cannot be read: {reason}.") from None
    if held.get("kind") != KIND or not weights:
        raise ValueError(
            f"--exit_translators {name} holds no exit translators: valid is a file that "
            "src/scripts/fit_translators.py has made."
        )
    return held, weights


def _refuse_unfit(name: str, weights: Mapping[str, Tensor], model: Any) -> None:
    """Refuse weights that are not a matrix and a bias of some layers below the last, or are not finite."""
    width, depth = model.config.hidden_size, model.num_exit_layers
    valid = {
        f"{MODULE}.{layer}.{part}": shape
        for layer in range(1, depth)
        for part, shape in (("weight", (width, width)), ("bias", (width,)))
    }
    other = {"weight": "bias", "bias": "weight"}
    for key, value in weights.items():
        layer, _, part = key.rpartition(".")
        if valid.get(key) != tuple(value.shape) or f"{layer}.{other[part]}" not in weights:
            raise ValueError(
                f"Exit translators {name}: {key} is {list(value.shape)}; valid are a weight {[width, width]} and a "
                f"bias {[width]} of layers 1 to {depth - 1}."
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"Exit translators {name}: {key} holds numbers that are not finite.")
