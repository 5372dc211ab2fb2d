"""What trains the exits of any deployed model: losses over layers, and a `meta` confidence head."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers.utils import logging

from losses.exits import loss_over_layers, loss_row, settings_of
from losses.layers import Layers, LayerStates
from losses.meta_head import meta_head_loss
from losses.translators import divergence_to_last
from models.hugging_face import LibraryModel
from models.layer_dropout import LayerDropout
from models.lora import has_lora, save_lora
from models.norms import Norm, norm_of
from models.translators import MODULE, ExitTranslators
from models.unembed import Unembed
from util.files import permit

logger = logging.get_logger(__name__)

# Flag -> the module that is trained under it, everything else frozen.
TRAINED_ALONE = {"train_meta_cm_head": "cm_head", "train_exit_translators": MODULE}
# Weights that checkpoints of the FREE code base carry and nothing here reads.
FOREIGN_KEYS = (r"layer_transformation", r"decoder\.lm_head")


def wants_cm_head(config) -> bool:
    """Whether a model of this config has the confidence head of the `meta` measure."""
    measures = (getattr(config, "exit_conf_type", None), getattr(config, "shallow2deep_conf_type", None))
    flags = (getattr(config, "train_meta_cm_head", None), getattr(config, "has_cm_head", None))
    return "meta" in measures or any(flags)


def make_cm_head(width: int) -> nn.Sequential:
    """The confidence head: final-normed, unscaled state [.., D] -> two logits [.., 2], the second for "agrees"."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


class ExitTraining(LibraryModel):
    """Mixin over a Hugging Face model class whose head is `lm_head`. A subclass writes `forward`, which with labels
    hands its layers' states to `layers_loss`.

    Attributes:
        final_norm: Name of the module that norms the last layer's states.

    Config attributes read: intermediate_loss_fn (a key of LOSSES, with what that loss reads), those of
    TRAINED_ALONE, translated_layers, and those of `wants_cm_head`. Without them forward is the library's.
    """

    # The loss is a mean over labels and knows no num_items_in_batch; the Trainer would multiply it by the number of
    # accumulation steps and of processes.
    accepts_loss_kwargs = False
    final_norm: str
    # What is trained with the loss beside the model, by name; None in a view of a model that another class made.
    loss_modules: tuple[str, ...] | None = None
    layer_dropout: LayerDropout | None = None
    # Of weights in the checkpoint that they came from, by name, where that is known.
    stored_dtypes: Mapping[str, torch.dtype] = MappingProxyType({})
    # Linear layers that get an adapter of low rank where none are named.
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    # The step of the last batch, and how many rows it had so far in this process: which rows layers are dropped for.
    _rows_of_step = (-1, 0)

    def __init__(self, config):
        super().__init__(config)
        # On the instance, since the class attribute is shared with the library.
        self._keys_to_ignore_on_load_unexpected = {*(self._keys_to_ignore_on_load_unexpected or ()), *FOREIGN_KEYS}
        self._keys_to_ignore_on_load_missing = {*(self._keys_to_ignore_on_load_missing or ())}
        self.loss_modules = self._add_loss_modules(config)
        if not wants_cm_head(config):
            self._keys_to_ignore_on_load_unexpected.add(r"cm_head")
        else:
            self.cm_head = make_cm_head(config.hidden_size)
            # Heads were also saved without biases; absent means 0, which is what `_init_weights` puts there.
            self._keys_to_ignore_on_load_missing.add(r"cm_head\.\d\.bias")
        translated = getattr(config, "translated_layers", None)
        if translated:
            self.add_module(MODULE, ExitTranslators(config.hidden_size, translated))
        if self.loss_modules or wants_cm_head(config) or translated:
            self.post_init()
        self._freeze_beside()

    def _add_loss_modules(self, config) -> tuple[str, ...]:
        """Add what is trained with the loss beside the model, new where a checkpoint lacks it; the names."""
        name = getattr(config, "intermediate_loss_fn", None)
        modules = {} if name is None else loss_row(name).modules(config)
        for own, module in modules.items():
            self.add_module(own, module)
            self._keys_to_ignore_on_load_missing.add(rf"^{own}\.")
        return tuple(modules)

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """The library's; in a model that trains one module alone nothing else is trainable, as after construction."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._freeze_beside()
        return loaded

    def _adjust_missing_and_unexpected_keys(self, loading_info) -> None:
        """Name in one line the keys that are dropped on purpose; the library drops them without a word."""
        foreign = [key for key in loading_info.unexpected_keys if re.search("|".join(FOREIGN_KEYS), key)]
        if foreign:
            logger.warning(f"Ignored weights of the checkpoint that nothing here reads: {', '.join(sorted(foreign))}.")
        super()._adjust_missing_and_unexpected_keys(loading_info)

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: the library skips part of its weight initialisation for classes it takes for custom code."""
        return False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "cm_head", None):
            for linear in (module[0], module[2]):
                nn.init.normal_(linear.weight, std=self.config.hidden_size**-0.5)
                nn.init.zeros_(linear.bias)
        elif isinstance(module, ExitTranslators):
            module.reset()

    @property
    def trained_alone(self) -> str | None:
        """The module that is trained with everything else frozen, by name; None where there is none."""
        wanted = [name for flag, name in TRAINED_ALONE.items() if getattr(self.config, flag, None)]
        return next((name for name in wanted if getattr(self, name, None) is not None), None)

    def _freeze_beside(self) -> None:
        """Leave only the module that is trained alone trainable, where there is one."""
        if self.trained_alone is not None:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name.startswith(f"{self.trained_alone}."))

    def train(self, mode: bool = True):
        """The library's; but a model whose translators learn what it says is itself as it will be in use, without
        dropout."""
        super().train(mode)
        if self.trained_alone == MODULE:
            for child in self.children():
                child.eval()
        return self

    @property
    def trained_whole(self) -> tuple[str, ...]:
        """Modules that are trained beside adapters, and saved with them: the loss's own, the confidence head and the
        exit translators."""
        own = [name for name in ("cm_head", MODULE) if getattr(self, name, None) is not None]
        return (*(self.loss_modules or ()), *own)

    def freeze_for_training(self) -> None:
        """Leave only adapters and the loss's own modules trainable, or only the module that is trained alone."""
        self._freeze_beside()
        for name in self.loss_modules or ():
            getattr(self, name).requires_grad_(True)

    def save_pretrained(self, save_directory, is_main_process: bool = True, state_dict=None, **kwargs) -> None:
        """The library's; of a model with adapters these alone are saved, see `models.lora`, and what was frozen is
        saved in the dtype of the checkpoint that it came from, with the same bytes."""
        if not has_lora(self):
            if self.stored_dtypes:
                state_dict = self._as_stored(self.state_dict() if state_dict is None else state_dict)
            super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        elif is_main_process:
            save_lora(self, save_directory, state_dict)
        if is_main_process:
            for weights in Path(save_directory).glob("*.safetensors"):
                permit(weights)

    def _as_stored(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same weights; those that are frozen in the dtype of `stored_dtypes`, where that changes no value. Tied
        weights stay one."""
        frozen = {name for name, each in self.named_parameters(remove_duplicate=False) if not each.requires_grad}
        cast: dict[int, Tensor] = {}
        for name in frozen & state.keys() & self.stored_dtypes.keys():
            value, stored = state[name], state[name].to(self.stored_dtypes[name])
            if torch.equal(stored.to(value.dtype), value):
                cast[value.data_ptr()] = stored
        return {name: cast.get(value.data_ptr(), value) if name in frozen else value for name, value in state.items()}

    @property
    def output_scale(self) -> float:
        """What a final-normed state is multiplied by before the head."""
        return 1.0

    def exit_norm(self) -> Norm:
        """The final norm, on the module's parameters."""
        return norm_of(self.get_submodule(self.final_norm))

    def unembed(self) -> Unembed:
        """What turns hidden states of any layer into logits, on this model's parameters."""
        return Unembed(self.exit_norm(), self.lm_head, self.output_scale, getattr(self, MODULE, None))

    def translated(self, hidden: Tensor, layer: int) -> Tensor:
        """What an exit after `layer` norms and reads of h^l [..., D]: itself, or what its translator makes of it."""
        translators: ExitTranslators | None = getattr(self, MODULE, None)
        return hidden if translators is None else translators(hidden, layer)

    @property
    def trains_exits(self) -> bool:
        """Whether the loss is one of ours."""
        return self.trained_alone is not None or getattr(self.config, "intermediate_loss_fn", None) is not None

    def layers_loss(
        self, states: Callable[[], LayerStates], labels: Tensor, step: int = 0, steps: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The loss that the config asks for, and in evaluation mode the last layer's logits [..., V].

        Args:
            states: Gives the states after each layer; called here, so that nothing of a frozen model is kept for a
                gradient.
            labels: The token at each of these positions, IGNORED_LABEL where none counts, [...].
            step, steps: Optimiser steps done, and in all.
        """
        self._drop_layers(labels.shape[0], step)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trained_alone is None):
            found = states()
        labels = labels.to(found.normed[-1].device)
        layers = Layers(found, labels, self.unembed(), self.config, self._modules_of_loss(), step, steps)
        return self._loss_of(layers), None if self.training else self.unembed()(found.normed[-1])

    def _loss_of(self, layers: Layers) -> Tensor:
        if self.trained_alone is None:
            return loss_over_layers(self.config.intermediate_loss_fn, layers)
        if self.trained_alone == MODULE:
            norm = self.get_submodule(self.final_norm)
            return divergence_to_last(
                layers, lambda hidden, layer: norm(self.translated(hidden, layer)), getattr(self, MODULE).layers
            )
        return meta_head_loss(self.cm_head, layers)

    def teacher_forced(self, labels: Tensor, **inputs) -> tuple[LayerStates, Tensor]:
        """States of every layer where a batch's labels are read, and the label that each position predicts, [B, T].

        Args:
            labels: As for training, [B, T]; IGNORED_LABEL where none counts.
            inputs: What `forward` takes beside.
        """
        raise NotImplementedError

    @contextmanager
    def watching_last(self) -> Iterator[list[Tensor]]:
        """Yields a list that gets h^L when the decoder runs inside, which the library hands out normed only."""
        last: list[Tensor] = []
        norm = self.get_submodule(self.final_norm)
        hook = norm.register_forward_pre_hook(lambda module, inputs: last.append(inputs[0]))
        try:
            yield last
        finally:
            hook.remove()

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The decoder's layers, first to last."""
        lists = (each for each in self.base_model.modules() if isinstance(each, nn.ModuleList))
        return next(each for each in lists if len(each) == self.config.num_hidden_layers)

    def _drop_layers(self, rows: int, step: int) -> None:
        """Draw which layers the coming batch leaves out, if the loss has it so and this is training."""
        name = getattr(self.config, "intermediate_loss_fn", None)
        row = None if name is None or self.trained_alone else loss_row(name)
        if row is None or row.drops is None or not self.training:
            if self.layer_dropout is not None:
                self.layer_dropout.dropped = None
            return
        layers = self.decoder_layers
        if self.layer_dropout is None:
            self.layer_dropout = LayerDropout(layers)
        before, seen = self._rows_of_step
        seen = seen if step == before else 0
        self._rows_of_step = step, seen + rows
        first = seen  # of these rows among those of the step, whose parts the processes take in turn
        if torch.distributed.is_initialized():
            first = seen * torch.distributed.get_world_size() + rows * torch.distributed.get_rank()
        dropped = row.drops(len(layers), first + rows, (step,), **settings_of(row, self.config))
        self.layer_dropout.dropped = dropped[:, first:]

    def _modules_of_loss(self) -> dict[str, nn.Module]:
        name = getattr(self.config, "intermediate_loss_fn", None)
        if self.loss_modules is None and name is not None and loss_row(name).modules(self.config):
            raise ValueError(
                f"The loss {name!r} trains modules of its own, which a model that deploy was given does not have: load "
                f"it with {type(self).__name__}.from_pretrained instead."
            )
        return {own: getattr(self, own) for own in self.loss_modules or ()}
