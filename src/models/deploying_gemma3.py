"""Gemma 3 (text) with early exits."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Gemma3ForCausalLM

from decoding.blocks import Block
from models.decoder_only import Rotary, SeparateWeights
from models.deploying import EarlyExitGeneration
from models.deploying_llama import LlamaAdapter
from models.modeling_causal import CausalMixin
from models.norms import Norm, rms_norm
from models.products import Beside, Linear


class Gemma3Norm(NamedTuple):
    """The norm of Gemma: its parameter is what the weight has beyond 1, and in half precision all of it is taken in
    float32, the weight too.

    Attributes:
        weight: 1 + the parameter, made once per call, [D] or [head_dim]; in float32 at least.
        eps: A tensor without dimensions, of the weight's type.
    """

    weight: Tensor
    eps: Tensor

    @classmethod
    def first(cls, module: Any) -> Gemma3Norm:
        """Of a module of the library."""
        weight = 1 + at_least_float32(module.weight)
        return cls(weight, torch.tensor(module.eps, dtype=weight.dtype, device=weight.device))

    def __call__(self, hidden: Tensor) -> Tensor:
        return rms_norm(at_least_float32(hidden), self.weight, self.eps).to(hidden.dtype)

    def of(self, module: Any) -> Gemma3Norm:
        return Gemma3Norm(1 + at_least_float32(module.weight), self.eps)


class Gemma3Adapter(LlamaAdapter):
    """How a token passes a Gemma 3: norms before and behind both blocks and of queries and keys, an embedding that is
    scaled, and layers of a window whose rotary positions have another base than those that see all slots."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        self.embedding_scale = model.model.embed_tokens.embed_scale.to(self.unembed.dtype)

    def make_rotaries(self, module: Any) -> list[Rotary]:
        kinds = self.model.config.layer_types
        made = {kind: Rotary(module, self.capacity, self.unembed.weight, kind) for kind in set(kinds)}
        return [made[kind] for kind in kinds]

    def layer_weights(self, layer: Any) -> SeparateWeights:
        attention, dense, norm = layer.self_attn, layer.mlp, self.unembed.norm
        return SeparateWeights(
            attention_norm=norm.of(layer.input_layernorm),
            qkv=Beside.of(attention.q_proj, attention.k_proj, attention.v_proj),
            q_norm=norm.of(attention.q_norm),
            k_norm=norm.of(attention.k_norm),
            attention_out=Linear.of(attention.o_proj),
            attention_out_norm=norm.of(layer.post_attention_layernorm),
            feed_forward_norm=norm.of(layer.pre_feedforward_layernorm),
            up=Beside.of(dense.gate_proj, dense.up_proj),
            down=Linear.of(dense.down_proj),
            feed_forward_out_norm=norm.of(layer.post_feedforward_layernorm),
            activation=dense.act_fn,
        )

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        return super().embed(tokens, block) * self.embedding_scale

    def scale(self, layer: int) -> float:
        return self.model.config.query_pre_attn_scalar**-0.5


class DeployGemma3ForCausalLM(EarlyExitGeneration, CausalMixin, Gemma3ForCausalLM):
    """Gemma 3 with early exits, the text model alone.

    Raises:
        ValueError: It caps its logits, or its tokens see those that follow.
    """

    adapter_class = Gemma3Adapter
    final_norm = "model.norm"

    def __init__(self, config):
        super().__init__(config)
        self.refuse_unsupported()

    def refuse_unsupported(self) -> None:
        if self.config.final_logit_softcapping is not None:
            raise ValueError(
                f"This Gemma caps its logits (final_logit_softcapping {self.config.final_logit_softcapping}), which no "
                "checkpoint of Gemma 3 does: early-exit decoding supports those that do not."
            )
        if self.config.use_bidirectional_attention:
            raise ValueError(
                "This Gemma's tokens see those that follow (use_bidirectional_attention): a text can only be continued "
                "by one whose tokens do not."
            )

    def exit_norm(self) -> Norm:
        return Gemma3Norm.first(self.model.norm)


def at_least_float32(values: Tensor) -> Tensor:
    """The same, widened where they are in half precision."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
