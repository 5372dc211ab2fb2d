"""Texts, or a task's examples, as a model is made to read them under teacher forcing: flags, and rows of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from losses.layers import IGNORED_LABEL
from tasks import KINDS, TASKS, Task
from tasks.features import shared_length, special_ids
from tasks.forms import Limits, form_of
from tasks.language_modeling import blocks
from util import (
    LanguageModelingArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    TranslationArguments,
    groups,
)
from util.additional_args import flag
from util.arguments import choice_problems

DATA = {
    "language_modeling": LanguageModelingArguments,
    "question_answering": QuestionAnsweringArguments,
    "summarization": SummarizationArguments,
    "translation": TranslationArguments,
}
# Flags that are handed on to the data arguments of the kind, where it has them.
HANDED_ON = ("dataset_name", "dataset_config_name", "block_size", "source_prefix", "source_lang", "target_lang")
HANDED_ON += ("template", "apply_chat_template")


@dataclass
class ReadingArguments:
    """What is read; a script of its own says from which files, and how much of it."""

    _argument_group_name = groups.DATA

    dataset_name: str | None = flag(None, "A data set by its familiar name, its hub id or the folder it was saved in.")
    dataset_config_name: str | None = flag(None, "Configuration of the data set.")
    kind: str | None = flag(
        None, f"What the data are, where the name does not say: {', '.join(DATA)}; texts where not given."
    )
    source_prefix: str | None = flag(None, "Text before every input, such as 'summarize: ' for T5.")
    source_lang: str | None = flag(None, "Of translation: as run_translation.py has it.")
    target_lang: str | None = flag(None, "Of translation: as run_translation.py has it.")
    template: str | None = flag(None, "Without an encoder: file of the prompt, as run scripts have it.")
    apply_chat_template: bool = flag(
        False, "Without an encoder: put the prompt into the turns of the tokenizer's chat template."
    )
    block_size: int = flag(256, "Tokens of a text at most; a longer one is cut.")

    def reading_problems(self) -> list[str]:
        """A sentence on each of these that cannot be."""
        return choice_problems(self, "kind", tuple(DATA))

    @property
    def found_kind(self) -> str:
        """Key of KINDS: given, or that of a data set known by its name."""
        known = (task.kind.name for task in TASKS.values() if self.dataset_name in task.spellings())
        return self.kind or next((name for name in known if name in DATA), "language_modeling")

    def data_args_of(self, given: Mapping[str, Any]) -> Any:
        """Of the kind's run script, with more flags given, of which it takes those that it has."""
        data_class = DATA[self.found_kind]
        given = {name: getattr(self, name) for name in HANDED_ON} | dict(given)
        return data_class(**{name: value for name, value in given.items() if hasattr(data_class, name)})


def distinct(examples: Dataset) -> Dataset:
    """Each different example once, in their order."""
    different: dict[tuple, int] = {}
    for place, key in enumerate(zip(examples["prompt"], examples["source"], examples["target"], strict=True)):
        different.setdefault(key, place)
    return examples.select(list(different.values()))


def answer_row(prompt: Sequence[int], answer: Sequence[int], encoder_decoder: bool) -> dict[str, list[int]]:
    """A row as for training of an answer behind a prompt, which is read and does not count."""
    if encoder_decoder:
        ids, labels = [*prompt], [*answer]
    else:
        ids, labels = [*prompt, *answer], [IGNORED_LABEL] * len(prompt) + [*answer]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def parted_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, with what the tokenizer puts before a text, and those that a text behind it adds."""
    before, _ = special_ids(tokenizer)
    head, whole = tokenizer([prompt, prompt + text], add_special_tokens=False, verbose=False)["input_ids"]
    start = shared_length(head, whole)
    return [*before, *whole[:start]], whole[start:]


def spread(count: int, most: int | None) -> list[int]:
    """Places of `most` of so many things, spread evenly, or of all where these are no more: files go by topic."""
    taken = count if most is None else min(most, count)
    return [place * count // taken for place in range(taken)]


def rows_of(task: Task, examples: Dataset, tokenizer: PreTrainedTokenizerBase, data_args: Any, config: Any) -> Dataset:
    """Columns input_ids and labels as for training a model of this config: of texts one row each, of other examples
    their answers, behind their prompts where the model has no encoder.

    Raises:
        ValueError: The data arguments do not fit the model.
    """
    if task.kind is KINDS["language_modeling"]:
        return blocks(examples, tokenizer, data_args.block_size, apart=True)
    limit = task.kind.target_limit
    limits = Limits(getattr(data_args, limit), limit, getattr(config, "max_position_embeddings", None))
    what = (task, config.is_encoder_decoder, tokenizer, data_args, limits)
    return form_of(*what, pool=lambda: examples, seed=0).rows(examples)
