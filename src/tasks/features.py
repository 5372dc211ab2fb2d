"""Token ids for decoding and for training, the same way for every kind of task.

The law of windows: an input that fits is tokenised whole, so its ids are the tokenizer's own for `prompt + source`. A
longer one of a windowed kind becomes several inputs, each with the prompt in front; in the others it is truncated.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tasks.task import Task

logger = logging.getLogger(__name__)

BATCH = 1000


@dataclass(frozen=True)
class Feature:
    """One input of the model: a window of an example, special tokens included, not padded."""

    example_id: str
    window: int
    input_ids: list[int]


@dataclass(frozen=True)
class _Encoded:
    """The windows of one example, and whether something of its prompt or source is in none of them."""

    windows: list[list[int]]
    truncated: bool


class Encoder:
    """Turns prompt and source into windows of at most `limit` tokens.

    Args:
        tokenizer: slow or fast.
        limit: tokens of one input, special tokens included.
        overlap: tokens of the source that neighbouring windows share (the tokenizers' `stride`); None: truncate.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, overlap: int | None):
        self.tokenizer = tokenizer
        self.overlap = overlap
        self.before, self.after = special_ids(tokenizer)
        self.room = limit - len(self.before) - len(self.after)

    def encode(self, prompts: Sequence[str], sources: Sequence[str]) -> list[_Encoded]:
        """The windows of each example of a batch."""
        whole = self.plain_ids([prompt + source for prompt, source in zip(prompts, sources, strict=True)])
        return [self._windows(prompt, ids) for prompt, ids in zip(prompts, whole, strict=True)]

    def plain_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids without special tokens."""
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def complete(self, ids: list[int]) -> list[int]:
        """Ids with the special tokens around them."""
        return [*self.before, *ids, *self.after]

    def _windows(self, prompt: str, ids: list[int]) -> _Encoded:
        if len(ids) <= self.room:
            return _Encoded([self.complete(ids)], truncated=False)
        if self.overlap is None:
            return _Encoded([self.complete(ids[: self.room])], truncated=True)
        head = shared_length(self.plain_ids([prompt])[0], ids)
        repeated = self._repeated(prompt, ids[:head])
        pieces = overlapping(ids[head:], self.room - len(repeated), self.overlap)
        return _Encoded([self.complete(repeated + piece) for piece in pieces], truncated=len(repeated) < head)

    def _repeated(self, prompt: str, head: list[int]) -> list[int]:
        """The ids of the prompt; shortened before its last word where it leaves the source less than a quarter."""
        longest = self.room - math.ceil(self.room / 4)
        if len(head) <= longest:
            return head
        body = prompt.rstrip()[: -len(prompt.split()[-1])]
        last_word = head[shared_length(self.plain_ids([body])[0], head) :][-longest // 2 :]
        return head[: longest - len(last_word)] + last_word


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text, such as ([], [eos]) for T5."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise ValueError(f"the special tokens of {type(tokenizer).__name__} are neither before nor after the text")


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def overlapping(ids: list[int], size: int, overlap: int) -> list[list[int]]:
    """`ids` cut into pieces of `size` of which neighbours share `overlap` (half a piece where that is no progress).

    Every id is in a piece, every piece but the last is full, and there is no piece without an id of its own.
    """
    step = size - (overlap if overlap < size else size // 2)
    count = 1 + max(0, math.ceil((len(ids) - size) / step))
    return [ids[i * step : i * step + size] for i in range(count)]


def features(task: Task, examples: Dataset, tokenizer: PreTrainedTokenizerBase, data_args: Any) -> list[Feature]:
    """The inputs to decode, in the order of the examples; a windowed kind may have several per example.

    One warning counts the inputs that were truncated.
    """
    encoder = _encoder(task, tokenizer, data_args)
    found, truncated = [], 0
    for batch in examples.select_columns(["id", "prompt", "source"]).iter(BATCH):
        for example_id, encoded in zip(batch["id"], encoder.encode(batch["prompt"], batch["source"]), strict=True):
            found += [Feature(example_id, i, ids) for i, ids in enumerate(encoded.windows)]
            truncated += encoded.truncated
    warn_truncated(truncated, len(examples), "inputs", task.kind.source_limit, data_args)
    if len(found) > len(examples):
        logger.info(
            "%d examples became %d windows of at most --%s tokens", len(examples), len(found), task.kind.source_limit
        )
    return found


def train_features(task: Task, examples: Dataset, tokenizer: PreTrainedTokenizerBase, data_args: Any) -> Dataset:
    """Columns input_ids, attention_mask and labels for the Trainer, not padded.

    The target is the first reference. Of a long input the windows that show the target are kept (all of them for an
    empty target), or the first where none does. Two warnings count truncated inputs and truncated targets.
    """
    encoded = examples.map(
        _TrainEncoder(_encoder(task, tokenizer, data_args), getattr(data_args, task.kind.target_limit)),
        batched=True,
        batch_size=BATCH,
        remove_columns=examples.column_names,
        num_proc=data_args.preprocessing_num_workers,
        load_from_cache_file=not data_args.overwrite_cache,
        desc="Tokenising",
    )
    warn_truncated(sum(encoded["source_truncated"]), len(examples), "inputs", task.kind.source_limit, data_args)
    warn_truncated(sum(encoded["target_truncated"]), len(examples), "targets", task.kind.target_limit, data_args)
    return encoded.remove_columns(["source_truncated", "target_truncated"])


class _TrainEncoder:
    """One batch of examples -> one batch of training features; an object because `map` sends it to workers."""

    def __init__(self, encoder: Encoder, target_limit: int):
        self.encoder = encoder
        self.target_limit = target_limit

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        labels = self._labels(batch["target"])
        columns = {
            name: [] for name in ("input_ids", "attention_mask", "labels", "source_truncated", "target_truncated")
        }
        inputs = self.encoder.encode(batch["prompt"], batch["source"])
        for encoded, (label, cut) in zip(inputs, labels, strict=True):
            for i, ids in enumerate(self._showing(label, encoded.windows)):
                row = (ids, [1] * len(ids), label, encoded.truncated and i == 0, cut and i == 0)
                for name, value in zip(columns, row, strict=True):
                    columns[name].append(value)
        return columns

    def _labels(self, targets: list[str]) -> list[tuple[list[int], bool]]:
        tokenizer = self.encoder.tokenizer
        whole = tokenizer(text_target=targets, verbose=False)["input_ids"]
        cut = tokenizer(text_target=targets, max_length=self.target_limit, truncation=True, verbose=False)["input_ids"]
        return [(short, len(short) < len(full)) for full, short in zip(whole, cut, strict=True)]

    def _showing(self, label: list[int], windows: list[list[int]]) -> list[list[int]]:
        if len(windows) == 1:
            return windows
        # as text without spaces, because a word has other ids after a quotation mark than after a space
        target = self._squeezed(label)
        return [ids for ids in windows if target in self._squeezed(ids)] or windows[:1]

    def _squeezed(self, ids: list[int]) -> str:
        return "".join(self.encoder.tokenizer.decode(ids, skip_special_tokens=True).split())


def _encoder(task: Task, tokenizer: PreTrainedTokenizerBase, data_args: Any) -> Encoder:
    limit = getattr(data_args, task.kind.source_limit)
    encoder = Encoder(tokenizer, limit, data_args.doc_stride if task.kind.windowed else None)
    if encoder.room < 2:
        least = limit + 2 - encoder.room
        raise ValueError(f"--{task.kind.source_limit} {limit} leaves no room for text: valid are {least} and above")
    return encoder


def warn_truncated(count: int, total: int, what: str, flag: str, data_args: Any) -> None:
    """A warning with the number of what was cut at the limit that a flag set, where there is any."""
    if count:
        limit = getattr(data_args, flag)
        logger.warning("%d of %d %s are longer than --%s %d tokens and were truncated", count, total, what, flag, limit)


def best_window(
    mean_logprobs: Sequence[float], texts: Sequence[str] | None = None, null_score_diff_threshold: float = 0.0
) -> int:
    """Index of the window whose answer is taken: the one of highest mean log-probability, the first on a tie.

    Args:
        mean_logprobs: per window, the mean log-probability of its generated tokens; nan loses.
        texts: per window, its answer; needed for SQuAD v2, where an empty answer is "no answer".
        null_score_diff_threshold: taken off the score of empty answers, so that "no answer" has to be better than the
            best answer by more than this (only with `texts`).
    """
    texts = texts or ["."] * len(mean_logprobs)
    scores = [
        -math.inf if math.isnan(score) else score - null_score_diff_threshold * (not text.strip())
        for score, text in zip(mean_logprobs, texts, strict=True)
    ]
    return scores.index(max(scores))
