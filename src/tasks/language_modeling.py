"""Language modeling: texts to learn, to measure the perplexity of, and whose beginnings are continued."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from losses.layers import IGNORED_LABEL
from tasks.columns import TEXTS, find, given
from tasks.features import Feature, special_ids
from tasks.metrics import rouge_tokenizer
from tasks.task import Kind, Parts, Sample, Task, text_of, text_or_null

logger = logging.getLogger(__name__)


def columns(task: Task, data_args: Any, sample: Sample) -> dict[str, str | None]:
    """The texts: by flag, else the data set's, else as `columns.find` tells them; prompts by flag only."""
    return find({"text": ("text", *TEXTS)}, given(task, data_args), sample)


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """A text, behind the prompt it answers where there is one."""
    text = values["text"] or ""
    return Parts(values["prompt"] or "", text, [text] if text.strip() else [])


LANGUAGE_MODELING = Kind(
    name="language_modeling",
    metric="rouge",
    source_limit="prompt_length",
    target_limit="max_continuation_length",
    windowed=False,
    drops_empty=True,
    flags={"prompt": "prompt_column", "text": "text_column"},
    reads={"prompt": text_of, "text": text_or_null},
    columns=columns,
    parts=parts,
    tokenizer=rouge_tokenizer,
    encoder=False,
)


def blocks(examples: Dataset, tokenizer: PreTrainedTokenizerBase, size: int, apart: bool = False) -> Dataset:
    """Columns input_ids and labels of what is learned and measured.

    Texts without prompts follow one another, each ended, and are cut into blocks of `size` tokens, the last one
    shorter. With prompts each is a row of its own, cut at `size`, and the prompt's labels do not count.

    Args:
        apart: Without prompts too, each text is a row of its own.
    """
    before, _ = special_ids(tokenizer)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    prompts, texts = (_ids(tokenizer, examples[name]) for name in ("prompt", "source"))
    if apart or any(prompts):
        rows = [
            ([*before, *prompt, *text, *end], [IGNORED_LABEL] * (len(before) + len(prompt)) + [*text, *end])
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        cut = sum(len(ids) > size for ids, _ in rows)
        if cut:
            logger.warning("%d of %d texts are longer than --block_size %d tokens and were cut", cut, len(rows), size)
        rows = [(ids[:size], labels[:size]) for ids, labels in rows]
        held = [(ids, labels) for ids, labels in rows if any(label != IGNORED_LABEL for label in labels[1:])]
        if len(held) < len(rows):
            lost = len(rows) - len(held)
            logger.warning(
                "%d of %d texts were left out: nothing is left to predict within --block_size %d", lost, len(rows), size
            )
        rows = held
    else:
        whole = list(chain.from_iterable([*before, *text, *end] for text in texts))
        pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
        rows = [(piece, piece) for piece in pieces if len(piece) > 1]
    if not rows:
        raise ValueError(f"No text has a token to predict within --block_size {size}: raise it.")
    made = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels} for ids, labels in rows]
    return Dataset.from_list(made)


def beginnings(
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    most: int,
    longest: int | None = None,
    flag: str = "val_max_continuation_length",
) -> tuple[Dataset, list[Feature]]:
    """The examples whose texts go on behind a prompt, with what comes there as their reference, and the prompts.

    A prompt is the example's own, or the first `length` tokens of its text; references have at most `most` tokens.
    Where prompt and answer may not take more than `longest` tokens together, a longer prompt is cut from the left;
    `flag` is the one that gave `most`, for a message.
    """
    before, _ = special_ids(tokenizer)
    room = None if longest is None else longest - most - len(before)
    if room is not None and room < 1:
        raise ValueError(f"--{flag} {most} leaves no room for a prompt in {longest} tokens: lower it.")
    kept, features, references = [], [], []
    cut = 0
    ids = zip(*(_ids(tokenizer, examples[name]) for name in ("prompt", "source")), strict=True)
    for index, (prompt, text) in enumerate(ids):
        prompt, rest = (prompt, text) if prompt else (text[:length], text[length:])
        if prompt and rest:
            kept.append(index)
            if room is not None and len(prompt) > room:
                prompt, cut = prompt[-room:], cut + 1
            features.append(Feature(examples[index]["id"], 0, [*before, *prompt]))
            references.append([tokenizer.decode(rest[:most], skip_special_tokens=True).strip()])
    if not kept:
        raise ValueError(f"No text is longer than --prompt_length {length} tokens, so there is nothing to continue.")
    if cut:
        logger.warning(
            "%d of %d prompts are longer than the %d tokens there is room for and were cut", cut, len(kept), room
        )
    if len(kept) < len(examples):
        logger.info("%d of %d texts are longer than their prompt and are continued", len(kept), len(examples))
    chosen = examples.select(kept).remove_columns("references").add_column("references", references)
    return chosen, features


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
