"""What fit_translators.py does: texts or a model's own answers in, exit translators and frequent tokens out."""

from __future__ import annotations

import hashlib
import logging
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from decoding.frequent import TokenCounts, vocabulary_digest
from jobs.reading import ReadingArguments, answer_row, distinct, rows_of
from jobs.telling import Continuation
from losses.layers import IGNORED_LABEL
from tasks import find_task, load_examples
from tasks.readers import read_records
from training.reporting import progress
from training.translator_fit import TranslatorFit
from training.translators import TranslatorTraining, add_texts, length_limits
from util.files import replacing

logger = logging.getLogger(__name__)

# Texts that are tokenised at first, where there are more; four times as many where their tokens do not suffice.
AT_FIRST = 2000
# One of so many texts is held out where no others are given, and so many at most.
HELD_OUT, MOST_HELD_OUT = 10, 100
# Positions whose median length says what is too long.
SAMPLED = 2000
# Seconds between two moments at which what was done so far is saved.
SAVED_EVERY = 30.0
# Characters of a text that say which it is.
BEGINNING = 40


# ---------------------------------------------------------------------------------------------------------------- rows
class Rows(NamedTuple):
    """Columns input_ids and labels: of what is fitted on, and of what is held out. Both are drawn by what texts say,
    so that neither depends on the order of files or of what is in them."""

    fitted: Dataset
    held_out: Dataset


def examples_of(
    args: ReadingArguments, files: Sequence[str], columns: Sequence[str], flag: str, source: dict
) -> tuple[Any, Any, Dataset]:
    """A task, its data arguments, and the different examples of all files, or of the data set where there are none.

    Args:
        columns: Of texts; of each file the first of them that it has.
        flag: The one that gave the files, for messages.
        source: Where the hub's data sets are kept and by which token they are read.
    """
    found = []
    for file in files or (None,):
        given = {"train_file": file, "text_column": column_of(file, columns)}
        try:
            data_args = args.data_args_of(given)
        except ValueError as error:
            raise ValueError(str(error).replace("--train_file", flag)) from None
        task = find_task(args.found_kind, data_args)
        found.append(load_examples(task, data_args, "train", **source))
    return task, data_args, drawn(distinct(concatenate_datasets(found)))


def column_of(file: str | None, columns: Sequence[str]) -> str | None:
    """The first of these columns that the file has; of a data set the first, and None where none are given.

    Raises:
        ValueError: The file has none of them.
    """
    if file is None or not columns:
        return columns[0] if columns else None
    there = read_records(file)[0] if Path(file).is_file() else {}
    if Path(file).suffix.lower() == ".txt" or not there:
        return None
    found = next((name for name in columns if name in there or name.split(".")[0] in there), None)
    if found is None:
        raise ValueError(f"--text_column {' '.join(columns)}: {file} has none of them, it has {', '.join(there)}.")
    return found


def drawn(examples: Dataset) -> Dataset:
    """Examples in an order that only what they say decides."""
    keys = zip(examples["prompt"], examples["source"], examples["target"], strict=True)
    return examples.select(_order([f"{prompt}\0{text}\0{answer}" for prompt, text, answer in keys]))


def _order(keys: Sequence[str]) -> list[int]:
    digests = [hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest() for key in keys]
    return sorted(range(len(keys)), key=digests.__getitem__)


def parted(count: int) -> int:
    """How many of so many drawn texts are held out: the first ones.

    Raises:
        ValueError: There is one alone.
    """
    if count < 2:
        raise ValueError(
            "There is one text alone, and what is fitted on cannot show what was gained: give more texts, a line each, "
            "or others with --held_out."
        )
    return min(MOST_HELD_OUT, max(1, count // HELD_OUT))


def rows_up_to(read: Callable[[Dataset], Dataset], examples: Dataset, most: int) -> Dataset:
    """Rows of the first examples, until they have `most` labels that count."""
    count = AT_FIRST
    while True:
        rows = read(examples.select(range(min(count, len(examples)))))
        kept, labels = 0, 0
        for each in rows["labels"]:
            if labels >= most:
                break
            kept, labels = kept + 1, labels + _counting(each)
        if labels >= most or count >= len(examples):
            return rows.select(range(kept))
        count *= 4


def _counting(labels: Sequence[int]) -> int:
    return sum(label != IGNORED_LABEL for label in labels)


def text_rows(args: Any, tokenizer: PreTrainedTokenizerBase, config: Any, source: dict) -> Rows:
    """Of texts, or of a task's examples, for a model of this config; see `scripts.fit_translators.FitArguments`."""
    columns = args.text_columns

    def reader(task: Any, data_args: Any) -> Callable[[Dataset], Dataset]:
        return lambda some: rows_of(task, some, tokenizer, data_args, config)

    *read, examples = examples_of(args, args.text or (), columns, "--text", source)
    if args.held_out:
        *others, held = examples_of(args, args.held_out, columns, "--held_out", source)
        held_rows = reader(*others)(held.select(range(min(MOST_HELD_OUT, len(held)))))
        seen = set(held["source"])
        examples = examples.select([place for place, text in enumerate(examples["source"]) if text not in seen])
        if not len(examples):
            raise ValueError("Every text is held out, so there is none to fit on: give others with --text.")
    else:
        count = parted(len(examples))
        held_rows = reader(*read)(examples.select(range(count)))
        examples = examples.select(range(count, len(examples)))
    return Rows(rows_up_to(reader(*read), examples, args.tokens), held_rows)


def answer_rows(found: Sequence[Continuation], encoder_decoder: bool) -> Rows:
    """Of a model's own answers, whose prompts are read and do not count."""
    found = [each for each in found if each.tokens]
    found = [found[place] for place in _order([f"{each.prompt}\0{each.tokens}" for each in found])]
    rows = [answer_row(each.prompt_tokens, each.tokens, encoder_decoder) for each in found]
    count = parted(len(rows))
    return Rows(Dataset.from_list(rows[count:]), Dataset.from_list(rows[:count]))


def together(found: Sequence[Rows]) -> Rows:
    """Rows of several kinds of text."""
    fitted, held_out = (concatenate_datasets(list(parts)) for parts in zip(*found, strict=True))
    return Rows(fitted, held_out)


def longest_first(rows: Dataset) -> Dataset:
    """Rows of like length side by side, which takes the least padding; what does not fit memory does not at once."""
    lengths = [len(ids) + len(labels) for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True)]
    return rows.select(sorted(range(len(rows)), key=lambda place: -lengths[place]))


def count_labels(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> TokenCounts:
    """How often each token is one to be predicted, for --frequent_tokens; special ones are not counted."""
    counted = Counter(label for labels in rows["labels"] for label in labels if label != IGNORED_LABEL)
    for special in tokenizer.all_special_ids:
        counted.pop(special, None)
    name = Path(tokenizer.name_or_path).name or type(tokenizer).__name__
    return TokenCounts.of(counted, name, vocabulary_digest(tokenizer.get_vocab()))


def told_text(input_ids: list[int], tokenizer: PreTrainedTokenizerBase, files: Sequence[str]) -> str:
    """Which text some tokens are of: its beginning, and where it stands in the files that it was read from."""
    text = " ".join(tokenizer.decode(input_ids, skip_special_tokens=True).split())[:BEGINNING]
    for file in files:
        for number, record in enumerate(read_records(file), 1):
            if any(text in " ".join(value.split()) for value in record.values() if isinstance(value, str)):
                return f"the text that begins {text!r}, record {number} of {file}"
    return f"the text that begins {text!r}"


# ------------------------------------------------------------------------------------------------------------- progress
class Part:
    """What a fit has come to, in a file beside its result; it is gone once that is there.

    Args:
        out: The result.
        settings: What decides that two fits are one.
    """

    def __init__(self, out: Path, settings: dict):
        self.path, self.settings, self._saved = out.with_name(f"{out.name}.part"), settings, time.monotonic()

    def read(self) -> dict[str, Any]:
        """What was written last; empty where that is nothing, or of another fit."""
        if not self.path.is_file():
            return {}
        try:
            held = torch.load(self.path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError):
            held = None
        if not isinstance(held, dict) or held.get("settings") != self.settings:
            logger.warning("%s is of another fit: this one begins anew.", self.path)
            return {}
        return held

    def write(self, held: dict[str, Any]) -> None:
        """Save, whole or not at all."""
        with replacing(self.path, "part") as temporary:
            torch.save({**held, "settings": self.settings}, temporary)
        self._saved = time.monotonic()

    def write_sometimes(self, held: dict[str, Any]) -> None:
        """The same where the last time was a while ago."""
        if time.monotonic() - self._saved >= SAVED_EVERY:
            self.write(held)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def rows_digest(rows: Dataset) -> str:
    """What stands for the content of rows in their order."""
    hashed = hashlib.sha256()
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        hashed.update(f"{ids} {labels}\n".encode())
    return hashed.hexdigest()[:16]


def batches(rows: Dataset, done: int, batch_size: int, label: str) -> Iterator[tuple[Dataset, int]]:
    """Some rows after another, from the first that is not done, and how many are when these are; it shows progress."""
    with progress(len(rows), label) as advance:
        advance(done)
        for start in range(done, len(rows), batch_size):
            some = rows.select(range(start, min(start + batch_size, len(rows))))
            yield some, start + len(some)
            advance(len(some))


def sums_over(model, rows: Dataset, layers: Sequence[int], batch_size: int, part: Part) -> TranslatorFit:
    """The sums of all positions, in one pass over the text, the longest first. It goes on where it was killed.

    Args:
        rows: Drawn; the first ones say what is too long.

    Raises:
        training.translators.NotFinite: The states of a text are not.
    """
    held = part.read()
    limits = held.get("limits") or length_limits(model, sample(rows), batch_size, layers)
    fit = TranslatorFit(layers, model.config.hidden_size, limits, model.device)
    done = held.get("rows", 0)
    if "sums" in held:
        fit.load_state_dict(held["sums"])
    if done == len(rows):
        return fit
    for some, read in batches(longest_first(rows), done, batch_size, "Reading"):
        add_texts(fit, model, some, batch_size)
        part.write_sometimes({"limits": limits, "rows": read, "sums": fit.state_dict()})
    part.write({"limits": limits, "rows": len(rows), "sums": fit.state_dict()})
    return fit


def sample(rows: Dataset) -> Dataset:
    """The first rows, with SAMPLED labels that count."""
    count, labels = 0, 0
    while count < len(rows) and labels < SAMPLED:
        count, labels = count + 1, labels + _counting(rows[count]["labels"])
    return rows.select(range(count))


def train_on(training: TranslatorTraining, part: Part, settings: str) -> None:
    """All steps of a training; it goes on where it was killed.

    Args:
        settings: What stands for those of the training: one of others begins anew, on the same sums.
    """
    held = part.read()
    if held.get("training", {}).get("settings") == settings:
        training.load_state_dict(held["training"])
    elif "training" in held:
        logger.warning("%s holds a training of other settings: this one begins anew.", part.path)
    with progress(training.steps, "Training") as advance:
        advance(training.step)
        while training.step < training.steps:
            training.take_step()
            advance(1)
            part.write_sometimes(held | {"training": training.state_dict() | {"settings": settings}})
