"""LongT5 (arXiv:2112.07916) with early exits: its decoder is a T5's; its encoder sees a window, or that and summaries
of blocks."""

from __future__ import annotations

import numpy as np
import torch

from models.adapter import effective_mask
from models.deploying import EarlyExitGeneration
from models.deploying_t5 import T5Adapter
from models.modeling_longt5 import EarlyExitLongT5ForConditionalGeneration


class LongT5Adapter(T5Adapter):
    """How a token passes the decoder of a LongT5, and what its encoder costs."""

    def encoder_attention(self, lengths: np.ndarray) -> np.ndarray:
        """Each block of `local_radius` + 1 tokens, the last one filled up, sees itself, its two neighbours, and, under
        transient global attention, the sum of every `global_block_size` tokens, which has keys and values too."""
        config, inner = self.model.config, self.kv_heads * self.head_dim
        block = config.local_radius + 1
        queries = -(-lengths // block) * block
        summaries = lengths // config.global_block_size if config.encoder_attention_type == "transient-global" else 0
        summed = 2 * summaries * config.d_model * (lengths + 2 * inner)
        return 2 * 2 * inner * queries * (3 * block + summaries) + summed


class DeployLongT5ForConditionalGeneration(EarlyExitGeneration, EarlyExitLongT5ForConditionalGeneration):
    """LongT5 with early exits."""

    adapter_class = LongT5Adapter

    def _refuse_inputs(self, inputs, kwargs: dict) -> None:
        """Those of every model, and padding in float16: the library hides keys by a number that is infinite there, so
        that a token of padding, which sees none, becomes NaN, and after a layer all others with it."""
        super()._refuse_inputs(inputs, kwargs)
        if self.dtype == torch.float16 and effective_mask(kwargs.get("attention_mask")) is not None:
            raise ValueError(
                "LongT5's encoder in the library gives NaN for padded sources in float16: take bfloat16 or float32, or "
                "one source at a time."
            )
