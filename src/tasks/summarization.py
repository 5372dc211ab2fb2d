"""Summarization: a prefix and a text in, a summary out."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.task import Kind, Parts, Task, flagged_columns, text_of

# never a text: ids and the nameless index column pandas writes
NOT_TEXT = {"id", ""}


def columns(task: Task, data_args: Any, names: Sequence[str]) -> dict[str, str]:
    """Text and summary: by flag, else the data set's, else the first two columns that are no id."""
    candidates = [name for name in names if name not in NOT_TEXT]
    first, second = (candidates + ["text", "summary"][len(candidates) :])[:2]
    return flagged_columns(task, data_args, {"text": first, "summary": second})


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """Prefix, text and the one reference summary."""
    summary = text_of(values["summary"])
    return Parts(data_args.source_prefix or "", text_of(values["text"]), [summary] if summary.strip() else [])


SUMMARIZATION = Kind(
    name="summarization",
    metric="rouge",
    source_limit="max_source_length",
    target_limit="max_target_length",
    windowed=False,
    drops_empty=True,
    flags={"text": "text_column", "summary": "summary_column"},
    columns=columns,
    parts=parts,
)
