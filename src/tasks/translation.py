"""Translation: a prefix and a sentence in, the sentence in another language out."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.task import Kind, Parts, Task, text_of

PAIR = re.compile(r"(?:^|[-_/])([a-z]{2,3})-([a-z]{2,3})$")


def columns(task: Task, data_args: Any, names: Sequence[str]) -> dict[str, str]:
    """`translation.<language>` of both languages; `<language>` where each language has its own column (CSV)."""
    source, target = language_pair(task, data_args)
    return {"source": _column(source, names), "target": _column(target, names)}


def language_pair(task: Task, data_args: Any) -> tuple[str, str]:
    """(source, target) language: the flags' (`en_XX` is `en`), else the two that end --dataset_config_name,
    --dataset_name or the data set's own configuration (`iwslt2017-de-en`)."""
    own = [source.data_dir or source.config for source in task.sources]
    names = [data_args.dataset_config_name, data_args.dataset_name, *own]
    found = [match.groups() for name in names if name and (match := PAIR.search(name))]
    source, target = found[0] if found else (None, None)
    source, target = data_args.source_lang or source, data_args.target_lang or target
    if not source or not target:
        raise ValueError("translation needs --source_lang and --target_lang (such as de and en), which were not given")
    return source.split("_")[0], target.split("_")[0]


def _column(language: str, names: Sequence[str]) -> str:
    return language if language in names and "translation" not in names else f"translation.{language}"


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """Prefix, sentence and the one reference translation."""
    references = [] if values["target"] is None else [text_of(values["target"])]
    return Parts(data_args.source_prefix or "", text_of(values["source"]), references)


TRANSLATION = Kind(
    name="translation",
    metric="sacrebleu",
    source_limit="max_source_length",
    target_limit="max_target_length",
    windowed=False,
    drops_empty=False,
    flags={"source": "source_lang", "target": "target_lang"},
    columns=columns,
    parts=parts,
)
