"""The training side of decoder-only models: the Hugging Face models with losses on intermediate exits."""

from collections.abc import Sequence

from torch import Tensor
from transformers import GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from losses.layers import IGNORED_LABEL, LayerStates
from models.exit_training import ExitTraining


def labels_ahead(labels: Tensor) -> Tensor:
    """The label that each position predicts, [B, T]: that of the next one; the last predicts none that counts."""
    ahead = labels.new_full(labels.shape, IGNORED_LABEL)
    ahead[:, :-1] = labels[:, 1:]
    return ahead


class CausalMixin(ExitTraining):
    """What decoder-only models have in common beyond the library's, see `ExitTraining`."""

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        step=0,
        steps=None,
        **kwargs,
    ):
        """The library's forward, but with `labels` the loss is the one the config asks for.

        Labels stand at their own position, as for the library: that of position t is predicted at t - 1. The output
        then carries the loss and, in evaluation mode, the last layer's logits [B, T, V]. A loss may depend on the
        optimiser steps done, `step`, of all `steps`.

        The library's generate looks for names among these arguments, and passes no positions where it finds none.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        inputs |= {"inputs_embeds": inputs_embeds}
        if labels is None or not self.trains_exits:
            rest = {"past_key_values": past_key_values, "use_cache": use_cache, "logits_to_keep": logits_to_keep}
            return super().forward(**inputs, **rest, labels=labels, **kwargs)
        loss, logits = self.layers_loss(lambda: self.layer_states(**inputs), labels_ahead(labels), step, steps)
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    def teacher_forced(self, labels: Tensor, **inputs) -> tuple[LayerStates, Tensor]:
        return self.layer_states(**inputs), labels_ahead(labels)

    def normed_states(self, **inputs) -> Sequence[Tensor]:
        """Final-normed states after each layer, first to last, [B, T, D] each."""
        return self.layer_states(**inputs).normed

    def layer_states(self, **inputs) -> LayerStates:
        """States after each layer, [B, T, D] each."""
        with self.watching_last() as last:
            found = self.base_model(**inputs, use_cache=False, output_hidden_states=True)
        norm = self.get_submodule(self.final_norm)
        # The embedding comes first; the last entry is already normed.
        embedded, *below = found.hidden_states[:-1]
        normed = [norm(self.translated(hidden, layer)) for layer, hidden in enumerate(below, 1)]
        return LayerStates(below, [*normed, found.last_hidden_state], embedded, *last)


class EarlyExitGPT2LMHeadModel(CausalMixin, GPT2LMHeadModel):
    """GPT-2 with losses on intermediate exits."""

    final_norm = "transformer.ln_f"
    lora_targets = ("c_attn",)
