"""The form of a task's examples: what a model reads and learns of them, and how its answer is read.

One object per way: from source to target, of models with an encoder; from prompt to answer, of those without;
beginnings that are continued, of language modeling. Whoever decodes or trains asks it, and knows no other difference.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from decoding.stops import before
from losses.layers import IGNORED_LABEL
from tasks.features import Feature, features, train_features, warn_truncated
from tasks.language_modeling import LANGUAGE_MODELING, beginnings, blocks
from tasks.metrics import METRICS
from tasks.prompts import PromptWriter
from tasks.shots import Example, Shots
from tasks.task import Task
from tasks.templates import read_template

logger = logging.getLogger(__name__)


# Spaces, marks and quotes around a word.
AROUND = re.compile(r"^[\W_]+|[\W_]+$")


@dataclass(frozen=True)
class Reading:
    """How an answer is read from what a model wrote.

    Attributes:
        stop: Texts that end an answer, which they are no part of.
        verbatim: The answer keeps the white space around it, as code has to.
        silence: What a model says that has no answer; read as an empty one.
    """

    stop: tuple[str, ...] = ()
    verbatim: bool = False
    silence: str = ""

    def answer(self, written: str) -> str:
        """The answer in a text."""
        text = before(written, self.stop)
        silent = self.silence and AROUND.sub("", text).casefold() == self.silence
        return "" if silent else text if self.verbatim else text.strip()

    def answers(
        self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
    ) -> list[str]:
        """The answers in the tokens that were written behind prompts."""
        if not self.verbatim:
            return [self.answer(text) for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
        exactly = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        # Behind its prompt, since some tokenizers leave out a space that a text begins with.
        whole = [[*prompt, *ids] for prompt, ids in zip(prompts, written, strict=True)]
        heads, texts = (tokenizer.batch_decode(rows, **exactly) for rows in (prompts, whole))
        return [self.answer(text[len(head) :]) for head, text in zip(heads, texts, strict=True)]


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

    def bound(self) -> dict[str, Any]:
        """What bounds an answer, as settings of `generate`."""
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

    def bound(self) -> dict[str, Any]:
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


# What a checkpoint made for conversations has in its generation_config.json would give other answers at every run.
GREEDY = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
# Flags of prompts -> the value that asks for nothing.
PROMPT_FLAGS = {
    "template": None,
    "apply_chat_template": False,
    "n_shot": None,
    "stop": None,
    "max_prompt_length": None,
}


class PromptToAnswer(Form):
    """A prompt asks for the answer, which is written and learned behind it.

    Args:
        pool: Gives the examples of the train split, which are loaded where some are shown.
        seed: Of the draw of those that are shown.
    """

    called = "models without an encoder"

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        data_args: Any,
        limits: Limits,
        pool: Callable[[], Dataset],
        seed: int,
    ):
        super().__init__(task, tokenizer, data_args, limits)
        kind, words = task.kind, task.kind.words(task, data_args)
        template = kind.unanswerable if METRICS[task.metric].unanswerable and kind.unanswerable else kind.template
        if data_args.template is not None:
            given = read_template(data_args.template, kind.fields, words, template.verbatim)
            template = replace(given, silence=template.silence)
        chat = data_args.apply_chat_template
        self.writer = PromptWriter(tokenizer, template, kind.fields, words, chat)
        stop = data_args.stop
        stop = tuple(stop) if stop is not None else () if chat else kind.stop
        self.reading = Reading(stop, template.verbatim, template.silence)
        self.room = self._room(limits.answer, limits.flag)
        self._pool, self._seed = pool, seed
        needed = len(tokenizer(template.silence, add_special_tokens=False)["input_ids"]) if template.silence else 0
        if needed > limits.answer:
            logger.warning(
                "'%s', which a question without an answer is answered with, has %d tokens, and --%s is %d: raise it.",
                *(template.silence, needed, limits.flag, limits.answer),
            )
        if getattr(data_args, "source_prefix", None):
            logger.warning("--source_prefix has no effect: what a model without an encoder is told is in --template.")

    @property
    def input_limit(self) -> int | None:
        return None if self.data_args.max_prompt_length is None else self.room

    def inputs(self, examples: Dataset) -> tuple[Dataset, list[Feature]]:
        found, cut = [], 0
        for example in examples:
            _, prompt = self.writer.fitted(self._beside(example), example, self.room)
            found.append(Feature(example["id"], 0, prompt.ids))
            cut += prompt.cut
        self._warn_cut(cut, len(found), self.room)
        return examples, found

    def rows(self, examples: Dataset) -> Dataset:
        limit = getattr(self.data_args, self.task.kind.target_limit)
        room = self._room(limit, self.task.kind.target_limit)
        made, cut, cut_answers = [], 0, 0
        for example in examples:
            shown, prompt = self.writer.fitted(self._beside(example), example, room)
            answer, was_cut = self.writer.labels(shown, prompt, limit)
            labels = [IGNORED_LABEL] * len(prompt.ids) + answer
            ids = [*prompt.ids, *answer]
            made.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
            cut, cut_answers = cut + prompt.cut, cut_answers + was_cut
        self._warn_cut(cut, len(made), room)
        warn_truncated(cut_answers, len(made), "targets", self.task.kind.target_limit, self.data_args)
        return Dataset.from_list(made)

    def bound(self) -> dict[str, Any]:
        return super().bound() | GREEDY

    def settings(self) -> dict[str, Any]:
        template = self.writer.template
        asked = {"template": template.example, "chat_template": self.writer.chat}
        asked |= {"silence": template.silence} if template.silence else {}
        return {"prompts": asked | {"n_shot": self.data_args.n_shot or 0, "stop": list(self.reading.stop)}}

    @cached_property
    def _shots(self) -> Shots | None:
        count = self.data_args.n_shot
        return Shots(self._pool(), count, self._seed, bool(self.writer.template.silence)) if count else None

    def _beside(self, example: Example) -> list[Example]:
        return [] if self._shots is None else self._shots.beside(example)

    def _room(self, answer: int, flag: str) -> int | None:
        """Tokens of a prompt at most, in front of an answer of so many."""
        longest, asked = self.limits.model, self.data_args.max_prompt_length
        if longest is None:
            return asked
        if longest <= answer:
            raise ValueError(f"--{flag} {answer} leaves no room for a prompt in {longest} tokens: lower it.")
        return longest - answer if asked is None else min(asked, longest - answer)

    def _warn_cut(self, count: int, total: int, room: int | None) -> None:
        if count:
            logger.warning(
                "%d of %d prompts are longer than the %d tokens there is room for: long texts were cut from the left",
                *(count, total, room),
            )


def form_of(
    task: Task,
    encoder: bool,
    tokenizer: PreTrainedTokenizerBase,
    data_args: Any,
    limits: Limits,
    pool: Callable[[], Dataset],
    seed: int,
) -> Form:
    """The form of a task's examples for a model with or without an encoder.

    Args:
        pool, seed: See `PromptToAnswer`.

    Raises:
        ValueError: The data arguments do not fit the model.
    """
    if task.kind is LANGUAGE_MODELING:
        return Continuation(task, tokenizer, data_args, limits)
    if not encoder:
        return PromptToAnswer(task, tokenizer, data_args, limits, pool, seed)
    given = [f"--{name}" for name, off in PROMPT_FLAGS.items() if getattr(data_args, name) != off]
    if given:
        raise ValueError(
            f"{', '.join(given)}: prompts are for models without an encoder, such as gpt2 or llama, and this one "
            "has an encoder, which reads the task's own input: leave them out."
        )
    return SourceToTarget(task, tokenizer, data_args, limits)
