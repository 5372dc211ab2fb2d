"""OPT with early exits."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from decoding.flops import Cost
from decoding.policy import Policy
from decoding.states import Block
from models.decoder_only import LayerNormAdapter, Linear
from models.deploying import EarlyExitGeneration
from models.modeling_causal import EarlyExitOPTForCausalLM


class OPTLayerWeights(NamedTuple):
    """The parameters of one layer themselves, no copies."""

    attention_norm: Linear
    q: Linear
    k: Linear
    v: Linear
    attention_out: Linear
    feed_forward_norm: Linear
    inner: Linear
    outer: Linear
    activation: nn.Module


class OPTAdapter(LayerNormAdapter):
    """How a token passes an OPT of any size but 350m, whose norms and widths are others."""

    def __init__(self, model, prompt: Tensor, model_kwargs: dict, capacity: int):
        super().__init__(model, prompt, model_kwargs, capacity)
        config, decoder = model.config, model.model.decoder
        self.refuse_more_than(config.max_position_embeddings)
        self.heads = self.kv_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // self.heads
        self.layers = [None, *map(_layer_weights, decoder.layers)]
        self.eps = decoder.final_layer_norm.eps
        self.final_norm = Linear.stored(decoder.final_layer_norm)
        self.scales = [self.head_dim**-0.5] * (self.num_layers + 1)

    def embed(self, tokens: Tensor, block: Block) -> Tensor:
        """Token plus learned position embedding, whose table begins two rows late, [N * width, D]."""
        decoder = self.model.model.decoder
        hidden = F.embedding(tokens, decoder.embed_tokens.weight)
        positions = self.positions(block) + decoder.embed_positions.offset
        return (hidden + F.embedding(positions, decoder.embed_positions.weight)).flatten(0, 1)

    def project(self, weights: OPTLayerWeights, hidden: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.norm(hidden, weights.attention_norm)
        return tuple(self.split(linear(normed, block), block.width) for linear in (weights.q, weights.k, weights.v))

    def project_kv(self, layer: int, hidden: Tensor, rows: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values a skipped layer would have stored for states [P, D]: [P, heads, head_dim] each."""
        weights = self.layers[layer]
        normed = self.norm(hidden, weights.attention_norm)
        shape = (len(hidden), self.kv_heads, self.head_dim)
        return tuple(F.linear(normed, each.weight.t(), each.bias).view(shape) for each in (weights.k, weights.v))

    def cost(self, policy: Policy) -> Cost:
        """Sizes for the FLOP counter."""
        config = self.model.config
        return self.cost_of(policy, config.hidden_size, 2 * config.hidden_size * config.ffn_dim)


class DeployOPTForCausalLM(EarlyExitGeneration, EarlyExitOPTForCausalLM):
    """OPT with early exits.

    Raises:
        ValueError: It is built as OPT-350m is.
    """

    adapter_class = OPTAdapter

    def __init__(self, config):
        super().__init__(config)
        self.refuse_unsupported()

    def refuse_unsupported(self) -> None:
        if self.model.decoder.final_layer_norm is None or self.model.decoder.project_out is not None:
            raise ValueError(
                "This OPT has no final norm before its head, or projects before it, as OPT-350m does: early-exit "
                "decoding supports the other sizes."
            )


def _layer_weights(layer: nn.Module) -> OPTLayerWeights:
    attention = layer.self_attn
    return OPTLayerWeights(
        Linear.stored(layer.self_attn_layer_norm),
        *(Linear.of(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
        Linear.stored(layer.final_layer_norm),
        Linear.of(layer.fc1),
        Linear.of(layer.fc2),
        layer.activation_fn,
    )
