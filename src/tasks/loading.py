"""From a familiar name, a hub id, a folder or a file to examples of one shape.

Whatever the kind, an example is one row of a `datasets.Dataset` with the columns of `EXAMPLE_COLUMNS`: id, prompt,
source, question (what is asked of the source, where that differs), target (the first reference, or an empty text) and
references (None where the data have no column of them). Tokenising and scoring know nothing else.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value, load_dataset, load_from_disk
from datasets.fingerprint import get_temporary_cache_files_directory

from tasks.columns import flagged, refuse_one_for_two, resolve
from tasks.metrics import is_scored, warn_unseen
from tasks.readers import read_records
from tasks.task import Kind, Source, Task, is_null, text_of

logger = logging.getLogger(__name__)

SPLIT_FILES = {"train": "train_file", "validation": "validation_file", "test": "test_file"}
SPLIT_LIMITS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}
# Records that are looked at where it has to be told what a column holds.
SAMPLE = 100
EXAMPLE_COLUMNS = Features(
    {
        "id": Value("string"),
        "prompt": Value("string"),
        "source": Value("string"),
        "question": Value("string"),
        "target": Value("string"),
        "references": List(Value("string")),
    }
)


@dataclass(frozen=True)
class Records:
    """Records as they were read, and where from (for messages)."""

    origin: str
    rows: Sequence[Mapping[str, Any]]

    def sample(self) -> dict[str, list]:
        """Column -> its values in the first records that have it, in the order of the file."""
        if isinstance(self.rows, Dataset):  # as Arrow, which leaves pictures and sounds undecoded
            return self.rows.with_format("arrow")[:SAMPLE].to_pydict()
        found: dict[str, list] = {}
        for row in self.rows[:SAMPLE]:
            for name, value in row.items():
                found.setdefault(name, []).append(value)
        return found


def find_task(kind: Kind, data_args: Any, tasks: Mapping[str, Task]) -> Task:
    """The task the data arguments ask for.

    --dataset_name is a familiar name, a hub id, or a folder; a folder called like a familiar name has that data set's
    columns and metric. Without it the files are read in the columns the flags name.

    Raises:
        ValueError: a familiar name of another kind, one column for two roles, or a tokenizer that cannot be used.
    """
    name = data_args.dataset_name
    task = _named_task(kind, name, tasks) if name else Task("local files", kind, kind.metric)
    refuse_one_for_two(kind, flagged(kind, data_args))
    unanswerable = getattr(data_args, "version_2_with_negative", False) and task.metric == "squad"
    task = replace(task, metric="squad_v2") if unanswerable else task
    tokenizer = kind.tokenizer(task, data_args)
    return replace(task, tokenizer=tokenizer) if tokenizer else task


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
    examples = to_examples(task, records, data_args, labelled=labelled)
    if split != "train":
        warn_unseen(task, examples["references"][:], records.origin)
    return examples


def _load_records(task: Task, data_args: Any, split: str, cache_dir: str | None, token: str | bool | None) -> Records:
    file = getattr(data_args, SPLIT_FILES[split])
    if file:
        return Records(file, read_records(file))
    if task.generator:
        size = getattr(data_args, SPLIT_LIMITS[split]) or task.sizes[split]
        return Records(f"{task.name} {split}", task.generator(split, size))
    if not task.sources:
        raise ValueError(f"there is no {split} split: --{SPLIT_FILES[split]} or --dataset_name is needed")
    rows = _load_first(task, data_args.dataset_config_name, split, cache_dir, token)
    if not len(rows):
        raise ValueError(f"the {split} split of {task.name} is empty")
    return Records(f"{task.name} {split}", rows)


def fetch(task: Task, config: str | None, split: str) -> None:
    """Have a split in the cache of data sets, where it comes from the hub.

    Raises:
        ValueError: it is not there and cannot be fetched.
    """
    if task.sources:
        _load_first(task, config, split, None, None)


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
    local = len(task.sources) == 1 and Path(task.sources[0].path).is_dir()
    advice = "" if local else "; without network give a folder made with save_to_disk as --dataset_name"
    raise ValueError(f"the {split} split of {task.name} cannot be loaded ({'; '.join(errors)}){advice}")


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
    """Records in the data set's columns -> examples in `EXAMPLE_COLUMNS`, ids made unique; of those that cannot be
    learned or scored, see `_without_empty`."""
    paths = resolve(task, data_args, records.sample(), records.origin, labelled)
    logger.info("%s: %s", records.origin, ", ".join(f"{role} <- column {path!r}" for role, path in paths.items()))
    convert = _Converter(task.kind, records.origin, paths, data_args)
    if isinstance(records.rows, Dataset):
        roots = dict.fromkeys(path.split(".")[0] for path in (*paths.values(), *task.kind.ids))
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
    if labelled and task.metric == "squad":
        _check_answered(examples, records.origin)
    examples = _without_empty(task, _with_unique_ids(examples, records.origin), records.origin, labelled)
    blank = sum(not source.strip() for source in examples["source"])
    if blank:
        logger.warning("%d of %d records of %s have an empty text to read", blank, len(examples), records.origin)
    return examples


def _cache_file(rows: Dataset) -> str | None:
    """Where examples of a saved folder go, which is not ours to write to; None is the cache the data came from."""
    if not any((Path(file["filename"]).parent / "state.json").is_file() for file in rows.cache_files):
        return None
    return str(Path(get_temporary_cache_files_directory()) / f"{uuid.uuid4().hex}.arrow")


@dataclass(frozen=True)
class _Converter:
    """One record -> one example; an object because `Dataset.map` sends it to worker processes."""

    kind: Kind
    origin: str
    paths: Mapping[str, str]
    data_args: Any

    def __call__(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        try:
            cells = {role: _value(record, path) for role, path in self.paths.items()}
        except KeyError as error:
            raise ValueError(
                f"record {index + 1} of {self.origin} has no {error.args[0]!r}; it has {', '.join(record) or 'nothing'}"
            ) from None
        read = {role: self._read(index, self.paths[role], self.kind.reads[role], cells[role]) for role in cells}
        parts = self.kind.parts(dict.fromkeys(self.kind.flags) | read, self.data_args)
        name = next((name for name in self.kind.ids if name in record), "id")
        return {
            "id": self._read(index, name, _id_of, record.get(name)) or str(index),
            "prompt": parts.prompt,
            "source": parts.source,
            "question": parts.question,
            "target": parts.references[0] if parts.references else "",
            "references": parts.references if self.kind.answer_role in self.paths else None,
        }

    def _read(self, index: int, path: str, read: Callable[[Any], Any], cell: Any) -> Any:
        try:
            return read(cell)
        except ValueError as error:
            raise ValueError(f"record {index + 1} of {self.origin}: column {path!r} {error}") from None


def _id_of(value: Any) -> str:
    return "" if is_null(value) else text_of(str(value))


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


def _without_empty(task: Task, examples: Dataset, origin: str, labelled: bool) -> Dataset:
    """The examples without those that have nothing to read, where the kind drops these, or nothing to be learned and
    scored by; an unanswerable question of SQuAD v2 is scored."""
    pairs = zip(examples["source"], examples["references"], strict=True)
    kept = [
        index
        for index, (source, references) in enumerate(pairs)
        if (source.strip() or not task.kind.drops_empty) and (not labelled or is_scored(task, references))
    ]
    dropped = len(examples) - len(kept)
    if not kept:
        raise ValueError(f"each of the {dropped} records of {origin} has an empty text or no reference")
    if not dropped:
        return examples
    logger.warning(
        "%d of %d records of %s have an empty text or no reference and were left out", dropped, len(examples), origin
    )
    return examples.select(kept)


def _check_answered(examples: Dataset, origin: str) -> None:
    unanswered = [index for index, references in enumerate(examples["references"], 1) if not references]
    if unanswered:
        raise ValueError(
            f"{len(unanswered)} of {len(examples)} questions of {origin} have no answer, the first of them record "
            f"{unanswered[0]}; with --version_2_with_negative True they are scored as SQuAD v2 does"
        )
