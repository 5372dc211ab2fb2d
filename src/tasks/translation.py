"""Translation: a prefix and a sentence in, the sentence in another language out."""

import re
from collections.abc import Mapping
from typing import Any

from tasks.metrics import bleu_tokenizer
from tasks.task import Kind, Parts, Sample, Task, text_of, text_or_null
from tasks.templates import Template

# de, pt_BR or deu_Latn
_LANGUAGE = "([a-z]{2,3}(?:_[A-Z][A-Za-z]{1,3})?)"
# Code of a language -> its English name, which a prompt says.
NAMES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "et": "Estonian", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian",
    "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian",
    "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
PAIR = re.compile(rf"(?:^|[-_/]){_LANGUAGE}-{_LANGUAGE}$")


def columns(task: Task, data_args: Any, sample: Sample) -> dict[str, str]:
    """Of each language, the key of the column `translation` or the column that is called as the language is.

    The name as it was given goes first, then its short form: old jobs give mBART's `en_XX` and mean `en`.
    """
    roles = zip(("source", "target"), language_pair(task, data_args), strict=True)
    return {role: _column(language, sample) for role, language in roles}


def language_pair(task: Task, data_args: Any) -> tuple[str, str]:
    """(source, target) language: the flags', else the two that end --dataset_config_name, --dataset_name or the data
    set's own configuration (`iwslt2017-de-en`), else the data set's columns, which are called as languages are.

    Raises:
        ValueError: one is not known, or both are the same.
    """
    own = [source.data_dir or source.config for source in task.sources]
    names = [data_args.dataset_config_name, data_args.dataset_name, *own]
    found = [match.groups() for name in names if name and (match := PAIR.search(name))]
    source, target = found[0] if found else (task.columns.get("source"), task.columns.get("target"))
    source, target = data_args.source_lang or source, data_args.target_lang or target
    missing = [flag for flag, language in (("--source_lang", source), ("--target_lang", target)) if not language]
    if missing:
        raise ValueError(
            "translation needs --source_lang and --target_lang, such as de and en; not given: " + " and ".join(missing)
        )
    if source == target:
        raise ValueError(
            f"translation is from {source} to {target}: --source_lang and --target_lang have to name two languages"
        )
    return source, target


def short(language: str) -> str:
    """The language without region or script: pt of pt_BR, deu of deu_Latn."""
    return re.split("[-_]", language)[0]


def _column(language: str, sample: Sample) -> str:
    """The path of a language's column; its name where there is none."""
    keys = {key for value in sample.get("translation", ()) if isinstance(value, Mapping) for key in value}
    for name in (language, short(language)):
        if name in keys:
            return f"translation.{name}"
        if name in sample:
            return name
    return language


def parts(values: Mapping[str, Any], data_args: Any) -> Parts:
    """Prefix, sentence and the one reference translation; an empty one, which CSV has for null, is none."""
    references = [values["target"]] if (values["target"] or "").strip() else []
    return Parts(data_args.source_prefix or "", values["source"], references)


def languages(task: Task, data_args: Any) -> dict[str, str]:
    """What a prompt calls the two languages: by their names in English, or as they were given."""
    pair = zip(("source_lang", "target_lang"), language_pair(task, data_args), strict=True)
    return {role: NAMES.get(short(language), language) for role, language in pair}


def tokenizer(task: Task, data_args: Any) -> str | None:
    """BLEU's tokenizer: --bleu_tokenizer, else the one for the language translated to."""
    return bleu_tokenizer(data_args.bleu_tokenizer, language_pair(task, data_args)[1])


TRANSLATION = Kind(
    name="translation",
    metric="sacrebleu",
    source_limit="max_source_length",
    target_limit="max_target_length",
    windowed=False,
    drops_empty=False,
    flags={"source": "source_lang", "target": "target_lang"},
    reads={"source": text_of, "target": text_or_null},
    columns=columns,
    parts=parts,
    tokenizer=tokenizer,
    template=Template(
        "Translate from {source_lang} to {target_lang}.", "{source_lang}: {source}\n{target_lang}: {answer}"
    ),
    fields={"source": "source"},
    words=languages,
    stop=("\n",),
)
