"""The training side of the T5 family: the Hugging Face models with losses on intermediate exits and a `meta` head."""

from collections import defaultdict

from torch import Tensor, nn
from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration
from transformers.modeling_outputs import Seq2SeqLMOutput

from losses.layers import LayerStates
from models.exit_training import ExitTraining


class EarlyExitMixin(ExitTraining):
    """What the T5 models have in common beyond the library's, see `ExitTraining`."""

    final_norm = "decoder.final_layer_norm"
    lora_targets = ("q", "v")

    @property
    def output_scale(self) -> float:
        """What a final-normed state is multiplied by before the head."""
        return self.config.d_model**-0.5 if getattr(self.config, "scale_decoder_outputs", False) else 1.0

    @property
    def decoder_layers(self) -> nn.ModuleList:
        return self.decoder.block

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
        step=0,
        steps=None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        """The library's forward, but with `labels` the loss is the one the config asks for.

        The output then carries the loss and, in evaluation mode, the last layer's logits [B, T, V]. A loss may depend
        on the optimiser steps done, `step`, of all `steps`.
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
        if labels is None or not self.trains_exits:
            rest = {"past_key_values": past_key_values, "labels": labels, "use_cache": use_cache}
            return super().forward(**inputs, **rest, **kwargs)
        loss, logits = self.layers_loss(lambda: self._layer_states(inputs, labels), labels, step, steps)
        return Seq2SeqLMOutput(loss=loss, logits=logits)

    def teacher_forced(self, labels: Tensor, **inputs) -> tuple[LayerStates, Tensor]:
        return self._layer_states(inputs, labels), labels

    def _layer_states(self, given: dict, labels: Tensor) -> LayerStates:
        """States after each decoder layer, [B, T, D] each."""
        inputs = defaultdict(lambda: None, given)
        if inputs["decoder_input_ids"] is None and inputs["decoder_inputs_embeds"] is None:
            inputs["decoder_input_ids"] = self._shift_right(labels)
        encoder_outputs = inputs["encoder_outputs"]
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                inputs_embeds=inputs["inputs_embeds"],
            )
        with self.watching_last() as last:
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
        embedded, *below = decoded.hidden_states[:-1]
        read = [self.translated(hidden, layer) for layer, hidden in enumerate(below, 1)]
        normed = [self.decoder.dropout(self.decoder.final_layer_norm(hidden)) for hidden in read]
        return LayerStates(below, [*normed, decoded.last_hidden_state], embedded, *last)


class EarlyExitT5ForConditionalGeneration(EarlyExitMixin, T5ForConditionalGeneration):
    """T5 (1.0, 1.1, flan) with losses on intermediate exits."""


class EarlyExitMT5ForConditionalGeneration(EarlyExitMixin, MT5ForConditionalGeneration):
    """mT5 with losses on intermediate exits."""
