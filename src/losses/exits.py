"""Losses that train intermediate exits. One function and one row of `LOSSES` per loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from decoding.ranges import layers_named
from decoding.settings import Setting, refuse_misfits, values
from losses import layerskip, one_exit
from losses.cross_entropies import ce, shallowdeep_ce, weighted_ce
from losses.distillation import DISTILLATION_READS, DISTILLATIONS, transformation
from losses.layers import IGNORED_LABEL, Head, Layers, LayerStates

__all__ = ["IGNORED_LABEL", "LOSSES", "Head", "LayerStates", "Layers", "Loss", "loss_over_layers", "loss_row"]


def no_modules(config: Any) -> dict[str, nn.Module]:
    """Most losses train what the model has."""
    return {}


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    Attributes:
        compute: From the layers of a batch to a scalar in float32; its own settings come as further arguments, by
            their names.
        settings: Its own, beside the flags that all losses may read from the config.
        modules: From the config to modules that are trained with the model and saved with it, by name, such as a linear
            map on the student's side of a distillation; they begin as the library initialises such modules.
        drops: (L, rows, what draws are made from, **own settings) -> which decoder layers a training step leaves out
            for which rows of its batch, [L, rows], the same for a row however many come behind it; None where every
            layer runs.
        reads: Flags of the config that it reads beside its own settings.
        layers: Those of its settings that name layers: "all", or such as "1,8".
    """

    compute: Callable[..., Tensor]
    settings: tuple[Setting, ...] = ()
    modules: Callable[[Any], dict[str, nn.Module]] = no_modules
    drops: Callable[..., Tensor] | None = None
    reads: tuple[str, ...] = ()
    layers: tuple[Setting, ...] = ()

    def __post_init__(self):
        refuse_misfits(self.compute, 1, self.settings)


LOSSES: dict[str, Loss] = {
    "ce": Loss(ce),
    "weighted_ce": Loss(weighted_ce),
    "shallowdeep_ce": Loss(shallowdeep_ce, reads=("shallow_exit_layer",)),
    **{name: Loss(loss, modules=transformation, reads=DISTILLATION_READS) for name, loss in DISTILLATIONS.items()},
    "layerskip": Loss(
        layerskip.layerskip, layerskip.SETTINGS, drops=layerskip.dropped_layers, layers=(layerskip.EXITS,)
    ),
    "one_exit": Loss(one_exit.one_exit, one_exit.SETTINGS),
}


def own_settings() -> dict[str, Setting]:
    """Name -> every setting that a loss brings along."""
    return {setting.name: setting for row in LOSSES.values() for setting in row.settings}


def loss_row(name: str) -> Loss:
    """The row of that name.

    Raises:
        ValueError: There is none; the sentence lists those that there are.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown intermediate_loss_fn {name!r}; valid names are {', '.join(LOSSES)}")
    return LOSSES[name]


def layer_problems(name: str | None, given: Any, num_layers: int | None) -> list[str]:
    """A sentence for each flag that names layers for a loss and is missing, or names some that there are not.

    Args:
        given: Flags or a config, with an attribute of each flag.
        num_layers: Of the decoder; None where it is not known yet.
    """
    if name is None:
        return []
    row, problems = loss_row(name), []
    if "shallow_exit_layer" in row.reads:
        problems += _shallow_problems(name, getattr(given, "shallow_exit_layer", None), num_layers)
    for setting in row.layers:
        try:
            layers_named(settings_of(row, given)[setting.name], f"--{setting.name}", num_layers)
        except ValueError as error:
            problems.append(str(error))
    return problems


def _shallow_problems(name: str, shallow_exit_layer: int | None, num_layers: int | None) -> list[str]:
    valid = "layers below the last" if num_layers is None else f"1 to {num_layers - 1} for this decoder"
    if shallow_exit_layer is None:
        return [f"--intermediate_loss_fn {name} trains a shallow exit: give --shallow_exit_layer; valid are {valid}."]
    if num_layers is not None and not 1 <= shallow_exit_layer < num_layers:
        given = f"--shallow_exit_layer {shallow_exit_layer}"
        return [f"{given}: --intermediate_loss_fn {name} trains an exit there; valid are {valid}."]
    return []


def settings_of(row: Loss, config: Any) -> dict[str, Any]:
    """Name -> value of a loss's own settings, those of the config or their defaults."""
    return values(row.settings, {setting.name: getattr(config, setting.name, None) for setting in row.settings})


def loss_over_layers(name: str, layers: Layers) -> Tensor:
    """The loss of that name, a scalar in float32.

    Raises:
        ValueError: It trains an exit that the decoder does not have.
    """
    row = loss_row(name)
    problems = layer_problems(name, layers.config, layers.count)
    if problems:
        raise ValueError(" ".join(problems))
    found = row.compute(layers, **settings_of(row, layers.config))
    if not isinstance(found, Tensor) or found.dim():
        what = f"a tensor of shape {list(found.shape)}" if isinstance(found, Tensor) else repr(found)
        raise ValueError(f"The loss {name!r} returned {what}: valid is a scalar, a tensor of shape [].")
    return found
