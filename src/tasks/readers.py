"""Small readers of local JSON, JSONL, CSV and text files. What is wrong with a file is said in one ValueError."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.task import is_null, name_of


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """The records of one file, chosen by its ending; byte order mark, blank lines and blank rows are passed over.

    Raises:
        ValueError: no such file, an unknown ending, no record in it, or a malformed line (which one).
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} ends in {path.suffix!r}; files that can be read end in {', '.join(READERS)}")
    text = _read_text(path)
    records = list(reader(path, text)) if text.strip() else []
    if not records:
        raise ValueError(f"{path} is empty: it holds no record")
    return records


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}; a JSON, JSONL or CSV file is needed"
        )
    try:
        # newlines as they are: they may stand inside a CSV cell
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _read_jsonl(path: Path, text: str) -> Iterator[dict]:
    # not splitlines(), which also breaks at characters JSON allows inside a text
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _record(_parse(line, f"line {number} of {path}"), f"line {number} of {path}")


def _read_json(path: Path, text: str) -> Iterator[dict]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # one record a line, under the wrong name
            yield from _read_jsonl(path, text)
            return
        raise ValueError(f"line {error.lineno} of {path} is not valid JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON: nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    rows = content.get("data", content) if isinstance(content, dict) else content
    if isinstance(rows, dict):
        rows = [rows]
    if not isinstance(rows, list):
        raise ValueError(f"{path} should hold a list of records, alone or under 'data', but holds {name_of(rows)}")
    for number, row in enumerate(rows, 1):
        record = _record(row, f"record {number} of {path}")
        yield from _questions(record, f"article {number} of {path}") if "paragraphs" in record else [record]


def _questions(article: dict, where: str) -> Iterator[dict]:
    """SQuAD's article > paragraphs > questions, flattened to the columns of the hub's data set."""
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [] if question.get("is_impossible") else question.get("answers")
                answers = [] if is_null(answers) else answers
                yield {
                    "id": question.get("id"),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer.get("answer_start", -1) for answer in answers],
                    },
                }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where} is not in SQuAD's format (paragraphs with context and qas, each with question and answers): "
            f"{error if isinstance(error, TypeError) else f'{error} is missing'}"
        ) from None


def _read_csv(path: Path, text: str) -> Iterator[dict]:
    csv.field_size_limit(sys.maxsize)  # articles are longer than the default
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    filled = (row for row in lines if any(cell.strip() for cell in row))
    try:
        header = next(filled, [])
        twice = next((name for name in header if name and header.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"line 1 of {path} has two columns called {twice!r}")
        for row in filled:
            if len(row) != len(header):
                raise ValueError(
                    f"line {lines.line_num} of {path} has {len(row)} fields where the header has {len(header)}"
                )
            yield dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num} of {path} is not valid CSV: {error}") from None


def _read_lines(path: Path, text: str) -> Iterator[dict]:
    # not splitlines(), which also breaks at characters that may stand inside a text
    yield from ({"text": line.rstrip("\r")} for line in text.split("\n") if line.strip())


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {getattr(error, 'msg', error)}") from None


def _record(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds {name_of(value)} where a record, {{column: value, ...}}, is expected")
    return value


READERS = {".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".txt": _read_lines}
