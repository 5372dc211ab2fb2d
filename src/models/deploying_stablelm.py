"""StableLM with early exits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import StableLmForCausalLM

from models.decoder_only import ParallelBlocks, SeparateWeights
from models.deploying import EarlyExitGeneration
from models.deploying_llama import LlamaAdapter
from models.modeling_causal import CausalMixin
from models.products import Beside, Linear


@dataclass(frozen=True)
class NormPerHead:
    """A norm of mean and variance for each head, [heads, 1, head_dim], without bias."""

    weight: Tensor
    eps: float

    @classmethod
    def of(cls, module: Any) -> NormPerHead:
        """Of the library's list of norms; one matrix of theirs per call."""
        return cls(torch.stack([norm.weight for norm in module.norms])[:, None], module.norms[0].eps)

    def __call__(self, states: Tensor) -> Tensor:
        """Queries or keys [N, heads, width, head_dim] normed."""
        return F.layer_norm(states, states.shape[-1:], eps=self.eps) * self.weight


class StableLmAdapter(ParallelBlocks[SeparateWeights], LlamaAdapter):
    """How a token passes a StableLM: norms of mean and variance, part of each head rotated; both blocks may read the
    layer's input, and each head may have a norm of its own."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        self.parallel = model.config.use_parallel_residual
        super().__init__(model, prompt, model_kwargs, capacity)

    def layer_weights(self, layer: Any) -> SeparateWeights:
        attention, dense, norm = layer.self_attn, layer.mlp, self.unembed.norm
        return SeparateWeights(
            attention_norm=norm.of(layer.input_layernorm),
            qkv=Beside.of(attention.q_proj, attention.k_proj, attention.v_proj),
            q_norm=NormPerHead.of(attention.q_layernorm) if attention.qk_layernorm else None,
            k_norm=NormPerHead.of(attention.k_layernorm) if attention.qk_layernorm else None,
            attention_out=Linear.of(attention.o_proj),
            feed_forward_norm=norm.of(layer.input_layernorm if self.parallel else layer.post_attention_layernorm),
            up=Beside.of(dense.gate_proj, dense.up_proj),
            down=Linear.of(dense.down_proj),
            activation=dense.act_fn,
        )


class DeployStableLmForCausalLM(EarlyExitGeneration, CausalMixin, StableLmForCausalLM):
    """StableLM with early exits."""

    adapter_class = StableLmAdapter
    final_norm = "model.norm"
