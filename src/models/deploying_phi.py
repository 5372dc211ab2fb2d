"""Phi (1, 1.5 and 2) with early exits."""

from __future__ import annotations

from typing import Any

from transformers import PhiForCausalLM

from models.decoder_only import ParallelBlocks, SeparateWeights
from models.deploying import EarlyExitGeneration
from models.deploying_llama import LlamaAdapter
from models.modeling_causal import CausalMixin
from models.products import Beside, Linear


class PhiAdapter(ParallelBlocks[SeparateWeights], LlamaAdapter):
    """How a token passes a Phi: one norm for both blocks, which read the layer's input; no gate; part of each head is
    rotated."""

    parallel = True

    def layer_weights(self, layer: Any) -> SeparateWeights:
        attention, norm = layer.self_attn, self.unembed.norm
        return SeparateWeights(
            attention_norm=norm.of(layer.input_layernorm),
            qkv=Beside.of(attention.q_proj, attention.k_proj, attention.v_proj),
            q_norm=norm.of(attention.q_layernorm) if attention.qk_layernorm else None,
            k_norm=norm.of(attention.k_layernorm) if attention.qk_layernorm else None,
            attention_out=Linear.of(attention.dense),
            feed_forward_norm=norm.of(layer.input_layernorm),
            up=Beside.of(layer.mlp.fc1),
            down=Linear.of(layer.mlp.fc2),
            activation=layer.mlp.activation_fn,
        )


class DeployPhiForCausalLM(EarlyExitGeneration, CausalMixin, PhiForCausalLM):
    """Phi with early exits."""

    adapter_class = PhiAdapter
    final_norm = "model.final_layernorm"
