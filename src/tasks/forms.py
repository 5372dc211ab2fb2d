"""The form of a task's examples: what a model reads and learns of them, and how its answer is read.

One object per way: from source to target, of models with an encoder; beginnings that are continued, of language
modeling. Whoever decodes or trains asks it, and knows no other difference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from decoding.stops import before
from tasks.features import Feature, features, train_features
from tasks.language_modeling import LANGUAGE_MODELING, beginnings, blocks
from tasks.task import Task


@dataclass(frozen=True)
class Reading:
    """How an answer is read from what a model wrote.

    Attributes:
        stop: Texts that end an answer, which they are no part of.
    """

    stop: tuple[str, ...] = ()

    def answer(self, written: str) -> str:
        """The answer in a text."""
        return before(written, self.stop).strip()


class Limits(NamedTuple):
    """What bounds a text.

    Attributes:
        answer: Tokens of an answer in evaluation, by the flag `flag`.
        model: Tokens of the longest text the model was made for; None where there is no longest.
    """

    answer: int
    flag: str
    model: int | None


class Form(ABC):
    """Of one task, tokenizer and model.

    Attributes:
        reading: How answers are read.
        measures_texts: Whether the perplexity of what is learned is measured beside.
        smooths_labels: Whether labels may be smoothed in training.
        called: What a message calls it.
    """

    called: ClassVar[str]
    measures_texts: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = False
    reading = Reading()

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase, data_args: Any, limits: Limits):
        self.task, self.tokenizer, self.data_args, self.limits = task, tokenizer, data_args, limits

    @property
    def input_limit(self) -> int | None:
        """Tokens of an input at most; None where there is no such number."""
        return getattr(self.data_args, self.task.kind.source_limit)

    @abstractmethod
    def inputs(self, examples: Dataset) -> tuple[Dataset, list[Feature]]:
        """The examples that can be decoded, and what is decoded, in their order."""

    @abstractmethod
    def rows(self, examples: Dataset) -> Dataset:
        """Columns input_ids, attention_mask and labels for the Trainer, not padded."""

    def bound(self) -> dict[str, int]:
        """What bounds an answer, as an argument of `generate`."""
        return {"max_new_tokens": self.limits.answer}

    def settings(self) -> dict[str, Any]:
        """What shapes the answers beside the inputs, the data arguments and what bounds an answer."""
        return {}


class SourceToTarget(Form):
    """An encoder reads prompt and source, the decoder writes the answer."""

    called = "models with an encoder"
    smooths_labels = True

    def inputs(self, examples: Dataset) -> tuple[Dataset, list[Feature]]:
        return examples, features(self.task, examples, self.tokenizer, self.data_args)

    def rows(self, examples: Dataset) -> Dataset:
        return train_features(self.task, examples, self.tokenizer, self.data_args)

    def bound(self) -> dict[str, int]:
        return {"max_length": self.limits.answer}  # with the start token


class Continuation(Form):
    """Texts are learned in blocks, and their beginnings are continued."""

    called = "language modeling"
    measures_texts = True

    def inputs(self, examples: Dataset) -> tuple[Dataset, list[Feature]]:
        answer, flag, model = self.limits
        return beginnings(examples, self.tokenizer, self.data_args.prompt_length, answer, model, flag)

    def rows(self, examples: Dataset) -> Dataset:
        return blocks(examples, self.tokenizer, self.data_args.block_size)


def form_of(task: Task, encoder: bool, tokenizer: PreTrainedTokenizerBase, data_args: Any, limits: Limits) -> Form:
    """The form of a task's examples for a model with or without an encoder.

    Raises:
        ValueError: The data arguments do not fit the model.
    """
    form = Continuation if task.kind is LANGUAGE_MODELING else SourceToTarget
    return form(task, tokenizer, data_args, limits)
