"""The tasks: question answering, summarization, translation, language modeling and completion, as data.

A run is `find_task` -> `load_examples` -> `features` (or `train_features`) -> decode -> `best_window` -> `score`.
"""

from itertools import permutations
from typing import Any

from tasks import loading
from tasks.completion import COMPLETION
from tasks.features import Feature, best_window, features, train_features
from tasks.invented import invented_dialogues, invented_facts
from tasks.language_modeling import LANGUAGE_MODELING
from tasks.loading import load_examples
from tasks.metrics import METRICS, Metric, generated_length, is_scored, score, score_example, score_names
from tasks.question_answering import QUESTION_ANSWERING
from tasks.stories import invented_stories
from tasks.summarization import SUMMARIZATION
from tasks.task import Kind, Source, Task
from tasks.translation import TRANSLATION

KINDS = {kind.name: kind for kind in (QUESTION_ANSWERING, SUMMARIZATION, TRANSLATION, LANGUAGE_MODELING, COMPLETION)}

SQUAD_COLUMNS = {"context": "context", "question": "question", "answers": "answers"}
INVENTED_SIZES = {"train": 20_000, "validation": 500, "test": 500}


def _summarization(name: str, text: str, summary: str, *sources: Source, aliases: tuple[str, ...] = (), **more) -> Task:
    columns = {"text": text, "summary": summary}
    return Task(name, SUMMARIZATION, "rouge", columns, sources=sources, aliases=aliases, **more)


def _iwslt2017(name: str, config: str) -> Task:
    # the scripts on main no longer load; the hub's own conversion has a folder per configuration
    converted = Source("IWSLT/iwslt2017", revision="refs/convert/parquet", data_dir=config)
    return Task(name, TRANSLATION, "sacrebleu", sources=(converted,))


_IWSLT2017_PAIRS = [
    *permutations(("de", "en", "it", "nl", "ro"), 2),
    *((a, b) for other in ("ar", "fr", "ja", "ko", "zh") for a, b in ((other, "en"), ("en", other))),
]

_ALL = [
    Task("squad", QUESTION_ANSWERING, "squad", SQUAD_COLUMNS, sources=(Source("rajpurkar/squad"),)),
    Task("squad_v2", QUESTION_ANSWERING, "squad_v2", SQUAD_COLUMNS, sources=(Source("rajpurkar/squad_v2"),)),
    Task(
        "narrativeqa",
        QUESTION_ANSWERING,
        "rouge",
        {"context": "document.summary.text", "question": "question.text", "answers": "answers"},
        sources=(Source("deepmind/narrativeqa"),),
    ),
    _summarization("samsum", "dialogue", "summary", Source("knkarthick/samsum"), aliases=("Samsung/samsum",)),
    _summarization(
        "cnn_dailymail",
        "article",
        "highlights",
        Source("abisee/cnn_dailymail", config="3.0.0"),
        aliases=("ccdv/cnn_dailymail",),
    ),
    _summarization(
        "xsum",
        "document",
        "summary",
        Source("EdinburghNLP/xsum"),
        # older caches of main hold a script; this revision holds parquet only
        Source("EdinburghNLP/xsum", revision="7d4d486c2f8ef850b1a11aead99b894ff3dd7da9"),
    ),
    _summarization(
        "multi_news", "document", "summary", Source("Awesome075/multi_news_parquet"), aliases=("alexfabbri/multi_news",)
    ),
    _summarization(
        "big_patent",
        "description",
        "abstract",
        Source("NortheasternUniversity/big_patent", config="all"),
        Source("BEE-spoke-data/bigpatent-all"),
        aliases=("bigpatent",),
    ),
    _iwslt2017("iwslt2017", "iwslt2017-de-en"),
    *(_iwslt2017(f"iwslt2017-{a}-{b}", f"iwslt2017-{a}-{b}") for a, b in _IWSLT2017_PAIRS),
    Task(
        "multi30k",
        TRANSLATION,
        "sacrebleu",
        {"source": "de", "target": "en"},
        sources=(Source("bentrevett/multi30k"),),
    ),
    Task(
        "invented_facts",
        QUESTION_ANSWERING,
        "squad",
        SQUAD_COLUMNS,
        generator=invented_facts,
        sizes=INVENTED_SIZES,
    ),
    _summarization("invented_dialogues", "dialogue", "summary", generator=invented_dialogues, sizes=INVENTED_SIZES),
    Task("wikitext", LANGUAGE_MODELING, "rouge", sources=(Source("Salesforce/wikitext", config="wikitext-2-raw-v1"),)),
    Task("humaneval", COMPLETION, "rouge", {"prompt": "prompt"}, sources=(Source("openai/openai_humaneval"),)),
    Task("invented_stories", LANGUAGE_MODELING, "rouge", generator=invented_stories, sizes=INVENTED_SIZES),
]

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""Familiar --dataset_name -> task."""


def find_task(kind: str, data_args: Any) -> Task:
    """The task the data arguments of one kind (a key of `KINDS`) ask for; see `loading.find_task`."""
    return loading.find_task(KINDS[kind], data_args, TASKS)


__all__ = [
    "KINDS",
    "METRICS",
    "TASKS",
    "Feature",
    "Kind",
    "Metric",
    "Source",
    "Task",
    "best_window",
    "features",
    "find_task",
    "generated_length",
    "is_scored",
    "load_examples",
    "score",
    "score_example",
    "score_names",
    "train_features",
]
