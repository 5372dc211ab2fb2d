"""The training side of the T5 family: the Hugging Face models with losses on intermediate exits and a `meta` head."""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import logging

from training.losses import intermediate_loss, meta_head_loss

logger = logging.get_logger(__name__)

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


class EarlyExitMixin:
    """What the T5 models have in common beyond the library's: losses over layers and the `meta` head.

    Config attributes read: intermediate_loss_fn (a key of INTERMEDIATE_LOSSES), train_meta_cm_head,
    and those of `wants_cm_head`. Without them forward is the library's.
    """

    # The loss is a mean over labels and knows no num_items_in_batch; the Trainer would multiply it by the number of
    # accumulation steps and of processes.
    accepts_loss_kwargs = False

    def __init__(self, config):
        super().__init__(config)
        # On the instance, since the class attribute is shared with the library.
        self._keys_to_ignore_on_load_unexpected = {*(self._keys_to_ignore_on_load_unexpected or ()), *FOREIGN_KEYS}
        if not wants_cm_head(config):
            self._keys_to_ignore_on_load_unexpected.add(r"cm_head")
            return
        self.cm_head = make_cm_head(config.d_model)
        # Heads were also saved without biases; absent means 0, which is what `_init_weights` puts there.
        self._keys_to_ignore_on_load_missing = {
            *(self._keys_to_ignore_on_load_missing or ()),
            r"cm_head\.\d\.bias",
        }
        self.post_init()
        if self._trains_meta_head:
            self.freeze_all_but_cm_head()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """The library's; in a model that trains its `meta` head nothing else is trainable, as after construction."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model._trains_meta_head:
            model.freeze_all_but_cm_head()
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
                nn.init.normal_(linear.weight, std=self.config.d_model**-0.5)
                nn.init.zeros_(linear.bias)

    def freeze_all_but_cm_head(self) -> None:
        """Leave only the `meta` head trainable."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("cm_head."))

    @property
    def output_scale(self) -> float:
        """What a final-normed state is multiplied by before the head."""
        return self.config.d_model**-0.5 if getattr(self.config, "scale_decoder_outputs", False) else 1.0

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
        encoder_outputs=None,
        past_key_values=None,
        inputs_embeds=None,
        decoder_inputs_embeds=None,
        labels=None,
        use_cache=None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """The library's forward, but with `labels` the loss is the one the config asks for.

        The output then carries the loss and, in evaluation mode, the last layer's logits [B, T, V].
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_outputs": encoder_outputs,
            "inputs_embeds": inputs_embeds,
            "decoder_inputs_embeds": decoder_inputs_embeds,
        }
        loss_of_layers = self._loss_of_layers() if labels is not None else None
        if loss_of_layers is None:
            rest = {"past_key_values": past_key_values, "labels": labels, "use_cache": use_cache}
            return super().forward(**inputs, **rest, **kwargs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._trains_meta_head):
            normed = self._normed_states(inputs, labels)
        loss = loss_of_layers(normed, labels.to(normed[-1].device))
        logits = None if self.training else self.lm_head(normed[-1] * self.output_scale)
        return Seq2SeqLMOutput(loss=loss, logits=logits)

    @property
    def _trains_meta_head(self) -> bool:
        return bool(getattr(self.config, "train_meta_cm_head", None))

    def _loss_of_layers(self) -> Callable[[list[Tensor], Tensor], Tensor] | None:
        """(final-normed states of all layers, labels) -> loss, or None where the config asks for the plain loss."""
        if self._trains_meta_head:
            return lambda normed, labels: meta_head_loss(
                self.cm_head, normed, labels, head=self.lm_head, scale=self.output_scale
            )
        name = getattr(self.config, "intermediate_loss_fn", None)
        if name is None:
            return None
        return lambda normed, labels: intermediate_loss(
            name, [hidden * self.output_scale for hidden in normed], labels, self.lm_head
        )

    def _normed_states(self, inputs: dict, labels: Tensor) -> list[Tensor]:
        """Final-normed, unscaled states after each decoder layer, first to last, each [B, T, D]."""
        if inputs["decoder_input_ids"] is None and inputs["decoder_inputs_embeds"] is None:
            inputs = inputs | {"decoder_input_ids": self._shift_right(labels)}
        encoder_outputs = inputs["encoder_outputs"]
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                inputs_embeds=inputs["inputs_embeds"],
            )
        decoded = self.decoder(
            input_ids=inputs["decoder_input_ids"],
            attention_mask=inputs["decoder_attention_mask"],
            inputs_embeds=inputs["decoder_inputs_embeds"],
            encoder_hidden_states=encoder_outputs[0],
            encoder_attention_mask=inputs["attention_mask"],
            use_cache=False,
            output_hidden_states=True,
        )
        # The embedding comes first; the last entry is already normed by the stack.
        below = [self.decoder.dropout(self.decoder.final_layer_norm(hidden)) for hidden in decoded.hidden_states[1:-1]]
        return [*below, decoded.last_hidden_state]


class EarlyExitT5ForConditionalGeneration(EarlyExitMixin, T5ForConditionalGeneration):
    """T5 (1.0, 1.1, flan) with losses on intermediate exits."""


class EarlyExitMT5ForConditionalGeneration(EarlyExitMixin, MT5ForConditionalGeneration):
    """mT5 with losses on intermediate exits."""
