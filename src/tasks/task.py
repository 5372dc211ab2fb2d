"""What a task is: data. Which data set, which columns, which prompt, which metric."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.templates import Template

# Column -> its first values, those of records that have it.
Sample = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Source:
    """The arguments of `datasets.load_dataset` for one data set, readable without a dataset script."""

    path: str
    config: str | None = None
    revision: str | None = None
    data_dir: str | None = None


@dataclass(frozen=True)
class Parts:
    """One record in the terms all kinds share: the model reads `prompt + source` and should answer a reference.

    The prompt is what each window of a long input repeats; the source is what is cut into windows or truncated. What
    is asked of the source stands in the prompt, and alone in `question`; empty where the kind asks always the same.
    """

    prompt: str
    source: str
    references: list[str]
    question: str = ""


@dataclass(frozen=True)
class Kind:
    """What the tasks of one kind have in common; one of question_answering, summarization, translation,
    language_modeling.

    Attributes:
        name: the kind, as in `run_<name>.py`.
        metric: key of `metrics.METRICS` used for data sets that name none.
        source_limit: the data argument that bounds the input, in tokens with special tokens.
        target_limit: the data argument that bounds the target of training, in tokens with special tokens.
        windowed: a longer input becomes windows of --doc_stride instead of being truncated.
        drops_empty: records without input or without target are left out.
        flags: role of a column -> the flag that chooses it; the last role is the answer's.
        reads: role -> what makes of a cell the value `parts` gets; a ValueError says what the cell holds instead.
        columns: (task, data_args, column -> its first values) -> role -> dotted path of its column, or None where it
            cannot be told; a role that needs no column is left out.
        parts: (role -> its value, None without a column, data_args) -> Parts.
        tokenizer: (task, data_args) -> what splits texts into words for the metric; see `Task`.
        encoder: Whether it is for models with an encoder or for those without; None: for both.
        template: How a model without an encoder is asked where no other template is given; None where none is.
        unanswerable: The same where some examples have no answer.
        fields: Placeholder of a template -> the column of an example, source or question, that it stands for.
        words: (task, data_args) -> placeholder -> what it stands for in all examples.
        stop: What ends an answer that no chat template has an end for.
        ids: Columns that may name an example, the surest first.
        lines: File of a run -> what its line is of a line of predictions.jsonl.
    """

    name: str
    metric: str
    source_limit: str
    target_limit: str
    windowed: bool
    drops_empty: bool
    flags: Mapping[str, str]
    reads: Mapping[str, Callable[[Any], Any]]
    columns: Callable[["Task", Any, Sample], dict[str, str | None]]
    parts: Callable[[Mapping[str, Any], Any], Parts]
    tokenizer: Callable[["Task", Any], str | None]
    encoder: bool | None = None
    template: Template | None = None
    unanswerable: Template | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    words: Callable[["Task", Any], Mapping[str, str]] = lambda task, data_args: {}
    stop: tuple[str, ...] = ()
    ids: tuple[str, ...] = ("id",)
    lines: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def answer_role(self) -> str:
        """The role of the column that data without labels lack."""
        return list(self.flags)[-1]


@dataclass(frozen=True)
class Task:
    """One data set as a task: what `TASKS` holds per familiar name.

    Attributes:
        name: the familiar name, or whatever --dataset_name gave; used in messages.
        kind: how a record becomes prompt and references.
        metric: key of `metrics.METRICS`.
        tokenizer: what splits texts into words for the metric, a key of `metrics.ROUGE_TOKENIZERS` or a tokenizer of
            sacreBLEU; None is the metric's own.
        columns: role -> dotted path; a list on the way is mapped over (`answers.text`).
        sources: where the data set is, best first; a later one is used, with a warning, where an earlier one fails.
        aliases: further spellings of --dataset_name that mean this task.
        generator: (split, number of records) -> records in the data set's columns, instead of a source.
        sizes: split -> number of records the generator makes.
    """

    name: str
    kind: Kind
    metric: str
    columns: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    aliases: tuple[str, ...] = ()
    generator: Callable[[str, int], Sequence[Mapping[str, Any]]] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    tokenizer: str | None = None

    def spellings(self) -> set[str]:
        """Every --dataset_name that means this task."""
        return {self.name, *self.aliases, *(source.path for source in self.sources[:1])}

    @property
    def scoring(self) -> dict[str, str]:
        """What the metric is given beside predictions and references."""
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer}


def is_null(value: Any) -> bool:
    """Whether a cell holds nothing: null, or the NaN that stands for it in tables and in JSON written from them."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def name_of(value: Any) -> str:
    """A value as a sentence names it: null, true, the number 3, a list."""
    if is_null(value):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    name = type(value).__name__
    return {"str": "a text", "dict": "an object"}.get(name, f"a {name}")


def text_of(value: Any) -> str:
    """The text of a cell that has to hold one; null, a number or anything else raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"holds {name_of(value)} where text is expected")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a surrogate pair at character {error.start}, which is no valid text") from None
    return value


def text_or_null(value: Any) -> str | None:
    """The text of a cell, None where it holds nothing."""
    return None if is_null(value) else text_of(value)
