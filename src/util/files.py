"""Reading and writing of small files: written whole or not at all, read with errors that name the file and the line."""

import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, which it is renamed to when the block ends well.

    Whoever reads `path` meanwhile sees the old file or the new one, never a part; after an exception the old one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since writers of figures choose the format by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def without_empty_folder(folder: str | os.PathLike) -> Iterator[None]:
    """Takes `folder`, and those above it, away again if they came into being in the block and nothing is in them."""
    made = [each for each in (Path(folder), *Path(folder).parents) if not each.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # of a folder that is not empty, or not there
            for each in made:
                each.rmdir()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` in UTF-8, creating the folder where it is missing."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, keys in the order given, numbers that are not finite as null."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_jsonl(path: str | os.PathLike, rows: Iterable[dict]) -> None:
    """Appends one line per row and flushes, so that a run that is killed loses at most the line being written."""
    lines = [json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def jsonable(value: Any) -> Any:
    """The same value in JSON's own types: arrays as lists, paths as strings, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return jsonable(value.tolist())
    return str(value) if isinstance(value, os.PathLike) else value


def read_json(path: str | os.PathLike) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: the file is missing or malformed; the sentence names the file and the line.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}, column {error.colno}).") from None


def read_jsonl(path: str | os.PathLike) -> list[dict]:
    """The objects of a file with one JSON object per line; blank lines are skipped.

    Raises:
        ValueError: the file is missing or a line is no JSON object; the sentence names the file and the line.
    """
    # No splitlines: it also breaks at characters such as U+2028, which JSON allows inside a string.
    lines = enumerate(read_text(path).split("\n"), start=1)
    return [_object(path, number, line) for number, line in lines if line.strip()]


def _object(path: str | os.PathLike, number: int, line: str) -> dict:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno}).") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}.")
    return value


def read_text(path: str | os.PathLike) -> str:
    """The text of a file in UTF-8.

    Raises:
        ValueError: the file is missing or no text; the sentence names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
