"""LongT5 (arXiv:2112.07916) with early exits: its decoder is a T5's; its encoder sees a window, or that and summaries
of blocks."""

from __future__ import annotations

import numpy as np

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
