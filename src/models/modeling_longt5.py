"""The training side of LongT5: the Hugging Face model with losses on intermediate exits and a `meta` head."""

from transformers import LongT5ForConditionalGeneration

from models.modeling_t5 import EarlyExitMixin


class EarlyExitLongT5ForConditionalGeneration(EarlyExitMixin, LongT5ForConditionalGeneration):
    """LongT5 with losses on intermediate exits."""
