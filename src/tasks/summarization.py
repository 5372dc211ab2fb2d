"""Summarization: a prefix and a text in, a summary out."""

from collections.abc import Mapping
from typing import Any

from tasks.columns import SUMMARIES, TEXTS, find, given
from tasks.metrics import rouge_tokenizer
from tasks.task import Kind, Parts, Sample, Task, text_or_null
from tasks.templates import Template


def columns(task: Task, data_args: Any, sample: Sample) -> dict[str, str | None]:
    """Text and summary: by flag, else the data set's, else as `columns.find` tells them."""
    return find({"text": TEXTS, "summary": SUMMARIES}, given(task, data_args), sample)


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """Prefix, text and the one reference summary."""
    summary = values["summary"] or ""
    return Parts(data_args.source_prefix or "", values["text"] or "", [summary] if summary.strip() else [])


SUMMARIZATION = Kind(
    name="summarization",
    metric="rouge",
    source_limit="max_source_length",
    target_limit="max_target_length",
    windowed=False,
    drops_empty=True,
    flags={"text": "text_column", "summary": "summary_column"},
    reads={"text": text_or_null, "summary": text_or_null},
    columns=columns,
    parts=parts,
    tokenizer=rouge_tokenizer,
    template=Template("Summarize the text in one or two sentences.", "Text: {text}\nSummary: {answer}"),
    fields={"text": "source"},
    stop=("\n\n",),
)
