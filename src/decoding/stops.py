"""Texts that end an answer: when a row stops, and what of its text is the answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList


class Until(StoppingCriteria):
    """Ends a row once one of the texts occurs behind the prompt, of `start` slots."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[str], start: int):
        self.tokenizer, self.ends, self.start = tokenizer, ends, start
        self.window = 2 + max(len(end.encode()) for end in ends)  # a token is a byte at least

    def __call__(self, input_ids, scores, **kwargs) -> Tensor:
        last = input_ids[:, max(self.start, input_ids.shape[1] - self.window) :]
        texts = self.tokenizer.batch_decode(last, skip_special_tokens=True)
        return torch.tensor([any(end in text for end in self.ends) for text in texts], device=input_ids.device)


def stopping(tokenizer: PreTrainedTokenizerBase, ends: Sequence[str], start: int) -> StoppingCriteriaList:
    """What `generate` is given so that rows end once one of the texts occurs behind a prompt of `start` slots; nothing
    where there are none."""
    return StoppingCriteriaList([Until(tokenizer, ends, start)] if ends else [])


def before(text: str, ends: Sequence[str]) -> str:
    """The text before the first of the ends."""
    for end in ends:
        text = text.split(end)[0]
    return text


def ends_of(given: str | Sequence[str]) -> list[str]:
    r"""The texts that a command line gives, one or several, with the line breaks and tabs it writes as \n and \t."""
    texts = [given] if isinstance(given, str) else given
    return [text.replace("\\n", "\n").replace("\\t", "\t") for text in texts]
