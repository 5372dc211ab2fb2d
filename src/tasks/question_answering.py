"""Question answering: `question: ... context: ...` in, an answer out."""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tasks.columns import given
from tasks.metrics import rouge_tokenizer
from tasks.task import Kind, Parts, Sample, Task, is_null, text_of
from tasks.templates import Template

DEFAULT_COLUMNS = {"context": "context", "question": "question", "answers": "answers"}


def columns(task: Task, data_args: Any, sample: Sample) -> dict[str, str]:
    """The three columns: by flag, else the data set's, else SQuAD's names."""
    return {**DEFAULT_COLUMNS, **given(task, data_args)}


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """Prompt, context and reference answers of one question."""
    question = values["question"].lstrip()
    return Parts(f"question: {question} context: ", values["context"].lstrip(), values["answers"] or [], question)


def question_of(value: Any) -> str:
    """The text of a question, which may not be blank."""
    question = text_of(value)
    if not question.strip():
        raise ValueError("holds an empty text where a question is expected")
    return question


def reference_answers(value: Any) -> list[str]:
    """The reference answers in any spelling a data set has for them; empty for a question without an answer.

    Understood: SQuAD's `{"text": [...]}`, NarrativeQA's `[{"text": ...}, ...]`, a list of texts, one text, and the same
    written into a CSV cell as JSON or as a Python literal. An empty text and null are no answer. A number is a fair
    answer, though its file wrote it without quotes; it is written out as a person would, 1912.0 as 1912, since tables
    make floats of whole numbers where one of the column is missing.
    """
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, Mapping):
        value = _answer_text(value)
    items = value if isinstance(value, (list, tuple)) else [value]
    answers = [_written(_answer_text(item)) for item in items]
    return [answer for answer in answers if answer.strip()]


def _answer_text(item: Any) -> Any:
    """What an object holds as its text; anything else is its own."""
    if not isinstance(item, Mapping):
        return item
    if "text" not in item:
        raise ValueError(f"holds an object without 'text' where an answer is expected; it has {', '.join(item)}")
    return item["text"]


def _written(answer: Any) -> str:
    if is_null(answer):
        return ""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    number = isinstance(answer, int | float) and not isinstance(answer, bool) and math.isfinite(answer)
    return str(answer) if number else text_of(answer)


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


TEMPLATE = Template(
    "Answer the question with a few words of the passage.",
    "Passage: {context}\nQuestion: {question}\nAnswer: {answer}",
)
UNANSWERABLE = "unanswerable"
QUESTION_ANSWERING = Kind(
    name="question_answering",
    metric="squad",
    source_limit="max_seq_length",
    target_limit="max_answer_length",
    windowed=True,
    drops_empty=False,
    flags={"context": "context_column", "question": "question_column", "answers": "answer_column"},
    reads={"context": text_of, "question": question_of, "answers": reference_answers},
    columns=columns,
    parts=parts,
    tokenizer=rouge_tokenizer,
    template=TEMPLATE,
    unanswerable=replace(
        TEMPLATE,
        instruction=f"{TEMPLATE.instruction} Where it does not tell, answer: {UNANSWERABLE}",
        silence=UNANSWERABLE,
    ),
    fields={"context": "source", "question": "question"},
    stop=("\n",),
)
