"""Granite (3.x, dense) with early exits."""

from __future__ import annotations

from torch import Tensor
from transformers import GraniteForCausalLM

from decoding.blocks import Block
from models.deploying import EarlyExitGeneration
from models.deploying_llama import LlamaAdapter
from models.modeling_causal import CausalMixin
from models.norms import Norm
from models.products import Linear


class GraniteAdapter(LlamaAdapter):
    """How a token passes a Granite: a Llama whose embedding, attention scores and residual updates are multiplied."""

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        return super().embed(tokens, block) * self.model.config.embedding_multiplier

    def scale(self, layer: int) -> float:
        return self.model.config.attention_multiplier

    def add(self, hidden: Tensor, out: Linear, states: Tensor, norm: Norm | None = None) -> Tensor:
        return hidden + out(states) * self.model.config.residual_multiplier


class DeployGraniteForCausalLM(EarlyExitGeneration, CausalMixin, GraniteForCausalLM):
    """Granite with early exits."""

    adapter_class = GraniteAdapter
    final_norm = "model.norm"

    @property
    def output_scale(self) -> float:
        """Granite divides its logits."""
        return 1 / self.config.logits_scaling
