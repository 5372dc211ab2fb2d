"""Question answering: `question: ... context: ...` in, an answer out."""

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.task import Kind, Parts, Task, flagged_columns, text_of

DEFAULT_COLUMNS = {"context": "context", "question": "question", "answers": "answers"}


def columns(task: Task, data_args: Any, names: Sequence[str]) -> dict[str, str]:
    """The three columns: by flag, else the data set's, else SQuAD's names."""
    return flagged_columns(task, data_args, DEFAULT_COLUMNS)


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """Prompt, context and reference answers of one question."""
    question = text_of(values["question"]).lstrip()
    context = text_of(values["context"]).lstrip()
    return Parts(f"question: {question} context: ", context, reference_answers(values["answers"]))


def reference_answers(value: Any) -> list[str]:
    """The reference answers in any spelling a data set has for them; empty for a question without an answer.

    Understood: SQuAD's `{"text": [...]}`, NarrativeQA's `[{"text": ...}, ...]`, a list of texts, one text, and the same
    written into a CSV cell as JSON or as a Python literal. An empty text is no answer.
    """
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, Mapping):
        value = value.get("text")
    items = value if isinstance(value, (list, tuple)) else [value]
    answers = [text_of(item.get("text") if isinstance(item, Mapping) else item) for item in items]
    return [answer for answer in answers if answer.strip()]


def _literal(text: str) -> Any:
    """A cell that holds the literal of a dict, or of a list of texts or dicts, as that; any other text as it is."""
    stripped = text.strip()
    if not stripped.startswith(("{", "[")):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(stripped)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict) and "text" in value:
            return value
        if isinstance(value, list) and all(isinstance(item, (str, dict)) for item in value):
            return value
    if stripped.startswith(("{'text'", '{"text"')):
        raise ValueError(f"holds {stripped[:60]!r}, which is neither JSON nor a Python literal")
    return text


QUESTION_ANSWERING = Kind(
    name="question_answering",
    metric="squad",
    source_limit="max_seq_length",
    target_limit="max_answer_length",
    windowed=True,
    drops_empty=False,
    flags={"context": "context_column", "question": "question_column", "answers": "answer_column"},
    columns=columns,
    parts=parts,
)
