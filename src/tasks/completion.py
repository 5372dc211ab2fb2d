"""Completion: prompts that are continued as they are, such as those of HumanEval (arXiv:2107.03374).

What was written is kept, for whoever tests it in a sandbox of his own; nothing here runs it.
"""

from collections.abc import Mapping
from typing import Any

from tasks.columns import given
from tasks.metrics import rouge_tokenizer
from tasks.task import Kind, Parts, Sample, Task, text_of, text_or_null
from tasks.templates import Template


def columns(task: Task, data_args: Any, sample: Sample) -> dict[str, str | None]:
    """The prompts, by flag or by that name; solutions, which training alone needs, by flag only."""
    return {"prompt": "prompt", "solution": None, **given(task, data_args)}


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """A prompt, and what a person wrote behind it where that is known."""
    solution = values["solution"] or ""
    return Parts("", values["prompt"], [solution] if solution.strip() else [])


def sample_line(row: Mapping[str, Any]) -> dict[str, str]:
    """A line of predictions.jsonl as HumanEval's own evaluation reads it."""
    return {"task_id": row["id"], "completion": row["prediction"]}


COMPLETION = Kind(
    name="completion",
    metric="rouge",
    source_limit="max_prompt_length",
    target_limit="max_completion_length",
    windowed=False,
    drops_empty=True,
    flags={"prompt": "prompt_column", "solution": "solution_column"},
    reads={"prompt": text_of, "solution": text_or_null},
    columns=columns,
    parts=parts,
    tokenizer=rouge_tokenizer,
    encoder=False,
    template=Template("", "{prompt}{answer}", verbatim=True),
    fields={"prompt": "source"},
    stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
    ids=("task_id", "id"),
    lines={"completions.jsonl": sample_line},
)
