"""What a task is: data. Which data set, which columns, which prompt, which metric."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


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

    The prompt is what each window of a long input repeats; the source is what is cut into windows or truncated.
    """

    prompt: str
    source: str
    references: list[str]


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
        columns: (task, data_args, names of the columns there are) -> role -> dotted path of the column.
        parts: (role -> value of the column, data_args) -> Parts.
    """

    name: str
    metric: str
    source_limit: str
    target_limit: str
    windowed: bool
    drops_empty: bool
    flags: Mapping[str, str]
    columns: Callable[["Task", Any, Sequence[str]], dict[str, str]]
    parts: Callable[[Mapping[str, Any], Any], Parts]

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
        columns: role -> dotted path; a list on the way is mapped over (`answers.text`).
        sources: where the data set is, best first; a later one is used, with a warning, where an earlier one fails.
        aliases: further spellings of --dataset_name that mean this task.
        generator: module and function of `tasks` that makes the records instead of a source, such as
            invented.invented_facts.
        sizes: split -> number of records the generator makes.
    """

    name: str
    kind: Kind
    metric: str
    columns: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    aliases: tuple[str, ...] = ()
    generator: str | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)

    def spellings(self) -> set[str]:
        """Every --dataset_name that means this task."""
        return {self.name, *self.aliases, *(source.path for source in self.sources[:1])}


def flagged_columns(task: Task, data_args: Any, defaults: Mapping[str, str]) -> dict[str, str]:
    """Role -> column: the flag's if given, else the task's, else the default's."""
    flags = task.kind.flags
    return {role: getattr(data_args, flags[role]) or task.columns.get(role, defaults[role]) for role in flags}


def text_of(value: Any) -> str:
    """The text of one cell: None is empty, numbers are written out, anything else raises ValueError."""
    if value is None:
        return ""
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"holds a {type(value).__name__} where text is expected")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a surrogate pair at character {error.start}, which is no valid text") from None
    return text
