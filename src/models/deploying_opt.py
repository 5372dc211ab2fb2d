"""OPT with early exits."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import OPTForCausalLM

from decoding.blocks import Block
from models.decoder_only import SeparateAdapter, SeparateWeights
from models.deploying import EarlyExitGeneration
from models.modeling_causal import CausalMixin
from models.norms import Norm
from models.products import Beside, Linear


class OPTAdapter(SeparateAdapter):
    """How a token passes an OPT of any size but 350m, whose norms and widths are others."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict[str, Any], capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config = model.config
        self.refuse_more_than(config.max_position_embeddings)
        self.heads = self.kv_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.layers = [_layer_weights(layer, self.unembed.norm) for layer in model.model.decoder.layers]

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token plus learned position embedding, whose table begins two rows late, [N * width, D]."""
        decoder = self.model.model.decoder
        hidden = F.embedding(tokens, decoder.embed_tokens.weight)
        positions = self.positions(block) + decoder.embed_positions.offset
        return (hidden + F.embedding(positions, decoder.embed_positions.weight)).flatten(0, 1)


class DeployOPTForCausalLM(EarlyExitGeneration, CausalMixin, OPTForCausalLM):
    """OPT with early exits.

    Raises:
        ValueError: It is built as OPT-350m is.
    """

    adapter_class = OPTAdapter
    final_norm = "model.decoder.final_layer_norm"

    def __init__(self, config):
        super().__init__(config)
        self.refuse_unsupported()

    def refuse_unsupported(self) -> None:
        if self.model.decoder.final_layer_norm is None or self.model.decoder.project_out is not None:
            raise ValueError(
                "This OPT has no final norm before its head, or projects before it, as OPT-350m does: early-exit "
                "decoding supports the other sizes."
            )


def _layer_weights(layer: Any, norm: Norm) -> SeparateWeights:
    attention = layer.self_attn
    return SeparateWeights(
        attention_norm=norm.of(layer.self_attn_layer_norm),
        qkv=Beside.of(attention.q_proj, attention.k_proj, attention.v_proj),
        attention_out=Linear.of(attention.out_proj),
        feed_forward_norm=norm.of(layer.final_layer_norm),
        up=Beside.of(layer.fc1),
        down=Linear.of(layer.fc2),
        activation=layer.activation_fn,
    )
