"""From a familiar name, a hub id, a folder or a file to examples of one shape.

Whatever the kind, an example is one row of a `datasets.Dataset` with the columns of `EXAMPLE_COLUMNS`: id, prompt,
source, target (the first reference, or an empty text) and references (None where the data have no column of them).
Tokenising and scoring know nothing else.
"""

import importlib
import logging
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset, load_from_disk
from datasets.fingerprint import get_temporary_cache_files_directory

from tasks.readers import read_records
from tasks.task import Kind, Source, Task

logger = logging.getLogger(__name__)

SPLIT_FILES = {"train": "train_file", "validation": "validation_file", "test": "test_file"}
SPLIT_LIMITS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}
EXAMPLE_COLUMNS = Features(
    {
        "id": Value("string"),
        "prompt": Value("string"),
        "source": Value("string"),
        "target": Value("string"),
        "references": List(Value("string")),
    }
)


@dataclass(frozen=True)
class Records:
    """Records as they were read, and where from (for messages)."""

    origin: str
    rows: Sequence[Mapping[str, Any]]

    def columns(self) -> list[str]:
        """Names of the columns, in the order of the file; those of the first record where records differ."""
        return self.rows.column_names if isinstance(self.rows, Dataset) else list(self.rows[0])


def find_task(kind: Kind, data_args: Any, tasks: Mapping[str, Task]) -> Task:
    """The task the data arguments ask for.

    --dataset_name is a familiar name, a hub id, or a folder; a folder called like a familiar name has that data set's
    columns and metric. Without it the files are read in the columns the flags name.

    Raises:
        ValueError: a familiar name of another kind.
    """
    name = data_args.dataset_name
    task = _named_task(kind, name, tasks) if name else Task("local files", kind, kind.metric)
    unanswerable = getattr(data_args, "version_2_with_negative", False) and task.metric == "squad"
    return replace(task, metric="squad_v2") if unanswerable else task


def _named_task(kind: Kind, name: str, tasks: Mapping[str, Task]) -> Task:
    folder = Path(name).is_dir() and name not in tasks
    wanted = Path(name).resolve().name if folder else name
    known = next((task for task in tasks.values() if wanted in task.spellings()), None)
    if known is None or (folder and known.kind is not kind):
        return Task(name, kind, kind.metric, sources=(Source(name),))
    if known.kind is not kind:
        fitting = ", ".join(sorted(other for other, task in tasks.items() if task.kind is kind))
        raise ValueError(f"{name} is a data set for {known.kind.name}, not for {kind.name}, which knows: {fitting}")
    return replace(known, name=name, sources=(Source(name),), generator=None) if folder else known


def load_examples(
    task: Task,
    data_args: Any,
    split: str,
    *,
    labelled: bool = True,
    cache_dir: str | None = None,
    token: str | bool | None = None,
) -> Dataset:
    """The examples of one split, at most --max_{train,eval,predict}_samples of them.

    The file given for the split is read if there is one, else the data set that --dataset_name names.

    Args:
        task: from `find_task`.
        data_args: data arguments of the task's kind.
        split: "train", "validation" or "test".
        labelled: the answers have to be there; False for --do_predict, where a test set may come without them.
        cache_dir: where the hub's data sets are kept.
        token: access token of the hub.

    Raises:
        ValueError: one sentence on what cannot be read and what would be valid.
    """
    records = _load_records(task, data_args, split, cache_dir, token)
    limit = getattr(data_args, SPLIT_LIMITS[split])
    if limit is not None and limit < 1:
        raise ValueError(f"--{SPLIT_LIMITS[split]} is {limit}; at least 1 is needed")
    if limit is not None and limit < len(records.rows):
        rows = records.rows
        records = replace(records, rows=rows.select(range(limit)) if isinstance(rows, Dataset) else rows[:limit])
    return to_examples(task, records, data_args, labelled=labelled)


def _load_records(task: Task, data_args: Any, split: str, cache_dir: str | None, token: str | bool | None) -> Records:
    file = getattr(data_args, SPLIT_FILES[split])
    if file:
        return Records(file, read_records(file))
    if task.generator:
        module, name = task.generator.split(".")
        make = getattr(importlib.import_module(f"tasks.{module}"), name)
        return Records(
            f"{task.name} {split}", make(split, getattr(data_args, SPLIT_LIMITS[split]) or task.sizes[split])
        )
    if not task.sources:
        raise ValueError(f"there is no {split} split: --{SPLIT_FILES[split]} or --dataset_name is needed")
    rows = _load_first(task, data_args.dataset_config_name, split, cache_dir, token)
    if not len(rows):
        raise ValueError(f"the {split} split of {task.name} is empty")
    return Records(f"{task.name} {split}", rows)


def _load_first(task: Task, config: str | None, split: str, cache_dir: str | None, token: str | bool | None) -> Dataset:
    """The first source of the task that loads."""
    errors = []
    for source in task.sources:
        try:
            rows = _load_source(source, config, split, cache_dir, token)
        except Exception as error:  # datasets raises a dozen unrelated types; each becomes part of the one sentence
            errors.append(f"{source.path}: {_first_line(error)}")
            continue
        if errors:
            logger.warning("%s was read from %s instead (%s)", task.name, source.path, "; ".join(errors))
        return rows
    raise ValueError(
        f"the {split} split of {task.name} cannot be loaded ({'; '.join(errors)}); without network give a folder made "
        f"with save_to_disk as --dataset_name, or --{SPLIT_FILES[split]}"
    )


def _load_source(
    source: Source, config: str | None, split: str, cache_dir: str | None, token: str | bool | None
) -> Dataset:
    folder = Path(source.path)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _split_of(load_from_disk(source.path), split)
    config = config or source.config
    return load_dataset(
        source.path,
        name=None if source.data_dir else config,
        data_dir=(config or source.data_dir) if source.data_dir else None,
        revision=source.revision,
        split=split,
        cache_dir=cache_dir,
        token=token,
    )


def _split_of(saved: Dataset | DatasetDict, split: str) -> Dataset:
    splits = {str(saved.split or split): saved} if isinstance(saved, Dataset) else saved
    if split not in splits:
        raise ValueError(f"it has no split {split}, but {', '.join(splits)}")
    return splits[split]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def to_examples(task: Task, records: Records, data_args: Any, *, labelled: bool = True) -> Dataset:
    """Records in the data set's columns -> examples in `EXAMPLE_COLUMNS`, ids made unique, empty pairs dropped."""
    paths = resolve_columns(task, records, data_args, labelled)
    convert = _Converter(task.kind, records.origin, paths, data_args)
    if isinstance(records.rows, Dataset):
        roots = dict.fromkeys(path.split(".")[0] for path in (*paths.values(), "id"))
        rows = records.rows.select_columns([name for name in roots if name in records.rows.column_names])
        examples = rows.map(
            convert,
            with_indices=True,
            features=EXAMPLE_COLUMNS,
            remove_columns=rows.column_names,
            num_proc=data_args.preprocessing_num_workers,
            load_from_cache_file=not data_args.overwrite_cache,
            cache_file_name=_cache_file(rows),
            desc=f"Reading {records.origin}",
        )
    else:
        rows = [convert(row, index) for index, row in enumerate(records.rows)]
        examples = Dataset.from_list(rows, features=EXAMPLE_COLUMNS)
    examples = _with_unique_ids(examples, records.origin)
    examples = _without_empty(examples, records.origin, labelled) if task.kind.drops_empty else examples
    if labelled and task.metric == "squad":
        _check_answered(examples, records.origin)
    return examples


def _cache_file(rows: Dataset) -> str | None:
    """Where examples of a saved folder go, which is not ours to write to; None is the cache the data came from."""
    if not any((Path(file["filename"]).parent / "state.json").is_file() for file in rows.cache_files):
        return None
    return str(Path(get_temporary_cache_files_directory()) / f"{uuid.uuid4().hex}.arrow")


def resolve_columns(task: Task, records: Records, data_args: Any, labelled: bool) -> dict[str, str]:
    """Role -> dotted path of a column that is there.

    Raises:
        ValueError: a column is missing; says which there are and which flag chooses another.
    """
    names = records.columns()
    paths = task.kind.columns(task, data_args, names)
    for role, path in list(paths.items()):
        root = path.split(".")[0]
        if path in names or root in names:
            continue
        if role == task.kind.answer_role and not labelled:
            del paths[role]
            continue
        raise ValueError(
            f"{records.origin} has no column {root!r} for the {role}; it has {', '.join(names)}: choose one with "
            f"--{task.kind.flags[role]}"
        )
    return paths


@dataclass(frozen=True)
class _Converter:
    """One record -> one example; an object because `Dataset.map` sends it to worker processes."""

    kind: Kind
    origin: str
    paths: Mapping[str, str]
    data_args: Any

    @property
    def labelled(self) -> bool:
        """Whether the column of the answers is there."""
        return self.kind.answer_role in self.paths

    def __call__(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        try:
            values = {
                role: _value(record, self.paths[role]) if role in self.paths else None for role in self.kind.flags
            }
            parts = self.kind.parts(values, self.data_args)
        except KeyError as error:
            raise ValueError(
                f"record {index + 1} of {self.origin} has no {error.args[0]!r}; it has {', '.join(record)}"
            ) from None
        except ValueError as error:
            columns = ", ".join(self.paths.values())
            raise ValueError(f"record {index + 1} of {self.origin} (columns {columns}): {error}") from None
        given = record.get("id")
        return {
            "id": str(index) if given is None else str(given),
            "prompt": parts.prompt,
            "source": parts.source,
            "target": parts.references[0] if parts.references else "",
            "references": parts.references if self.labelled else None,
        }


def _value(record: Any, path: str) -> Any:
    """The value at a dotted path; a column of exactly that name goes first, a list on the way is mapped over."""
    if isinstance(record, list):
        return [_value(item, path) for item in record]
    if path in record:
        return record[path]
    root, _, rest = path.partition(".")
    if not rest or not isinstance(record.get(root), (Mapping, list)):
        raise KeyError(path if root in record else root)
    return _value(record[root], rest)


def _with_unique_ids(examples: Dataset, origin: str) -> Dataset:
    ids = examples["id"][:]
    taken = set(ids)
    if len(taken) == len(ids):
        return examples
    logger.warning("%d records of %s repeat an id and got a number behind it", len(ids) - len(taken), origin)
    column = examples.features["id"]
    return examples.remove_columns("id").add_column("id", unique_ids(ids), feature=column)


def unique_ids(ids: Sequence[str]) -> list[str]:
    """Every first occurrence as it is, every later one with the lowest free number behind it (`a`, `a-2`, `a-3`)."""
    taken, seen, unique = set(ids), Counter(), []
    for name in ids:
        seen[name] += 1
        candidate = name if seen[name] == 1 else f"{name}-{seen[name]}"
        while seen[name] > 1 and candidate in taken:
            seen[name] += 1
            candidate = f"{name}-{seen[name]}"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def _without_empty(examples: Dataset, origin: str, labelled: bool) -> Dataset:
    pairs = zip(examples["source"], examples["target"], strict=True)
    kept = [i for i, (source, target) in enumerate(pairs) if source.strip() and (target.strip() or not labelled)]
    dropped = len(examples) - len(kept)
    if not kept:
        raise ValueError(f"each of the {dropped} records of {origin} has an empty text or an empty target")
    if not dropped:
        return examples
    logger.warning("%d of %d records of %s are empty and were left out", dropped, len(examples), origin)
    return examples.select(kept)


def _check_answered(examples: Dataset, origin: str) -> None:
    unanswered = sum(not references for references in examples["references"])
    if unanswered:
        raise ValueError(
            f"{unanswered} of {len(examples)} questions of {origin} have no answer; with --version_2_with_negative "
            "True they are scored as SQuAD v2 does"
        )
