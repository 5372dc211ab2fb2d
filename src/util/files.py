"""Reading and writing of small files: written whole or not at all, read with errors that name the file and the line."""

import csv
import fcntl
import io
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: str | os.PathLike, owner: str | None = None) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, which it is renamed to when the block ends well.

    Whoever reads `path` meanwhile sees the old file or the new one, never a part; after an exception the old one stays.

    Args:
        owner: names the temporary file. One who alone writes under it replaces what a killed process of his left;
            without it the name is a new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, since writers of figures choose the format by it.
    temporary = path.with_name(f".{path.stem}.{owner or uuid.uuid4().hex}{path.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: str | os.PathLike) -> None:
    """Returns when what was written to a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: str | os.PathLike) -> None:
    """Returns when the names in a folder are on the disk, on file systems that can say so."""
    folder = os.open(path, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(folder)
    os.close(folder)


def permit(path: str | os.PathLike) -> None:
    """Gives a file the permissions of any other new one; safetensors writes what its owner alone can read."""
    mask = os.umask(0o077)
    os.umask(mask)
    Path(path).chmod(0o666 & ~mask)


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


def write_text(path: str | os.PathLike, text: str, owner: str | None = None) -> None:
    """Writes `text` in UTF-8, creating the folder where it is missing; `owner` as of `replacing`."""
    with replacing(path, owner) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any, owner: str | None = None) -> None:
    """Writes `value` as indented JSON, keys in the order given, numbers that are not finite as null; `owner` as of
    `replacing`."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", owner)


def append_jsonl(path: str | os.PathLike, rows: Iterable[dict]) -> None:
    """Appends one line per row and flushes, so that a run that is killed loses at most the line being written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    append(path, jsonl(rows))


def append(path: str | os.PathLike, data: bytes) -> int:
    """Appends to a file; its size then."""
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        return file.tell()


def jsonl(rows: Iterable[dict]) -> bytes:
    """One line of JSON per row."""
    lines = [json.dumps(jsonable(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    return "".join(lines).encode()


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of the same columns, with their names in the first line; None and nan are empty cells."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{name: None if value != value else value for name, value in row.items()} for row in rows])
    write_text(path, text.getvalue())


def locked(path: str | os.PathLike) -> IO[bytes] | None:
    """The file, made where it is missing, opened to append, and nobody else's until it is closed or the process ends;
    None where another process has it."""
    file = open(path, "ab")  # noqa: SIM115 - it is handed out
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass  # a file system without locks
    return file


def folder_problem(folder: str | os.PathLike) -> str | None:
    """A sentence where nothing can be written to `folder`, which need not exist yet and is not created."""
    existing = Path(folder)
    while not os.path.exists(existing) and existing != existing.parent:  # which asks no leave of a closed folder
        existing = existing.parent
    if not existing.is_dir():
        return f"{folder} cannot be written: {existing} is a file, not a folder."
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        return f"{folder} cannot be written: {existing}: {error.strerror}."
    return None


def file_problem(path: str | os.PathLike) -> str | None:
    """A sentence where `path` cannot be written as a file; its folder need not exist yet and is not created."""
    if Path(path).is_dir():
        return f"{path} cannot be written: it is a folder, not a file."
    return folder_problem(Path(path).parent)


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
