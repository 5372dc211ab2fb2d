"""Metrics by name: any of the `evaluate` library, of its hub or of a file of one's own, of texts that are there.

`--metrics rouge meteor bertscore:lang=en ./my_metric`. A name is one of the hub's, which are read from the cache where
there is no network; a file or a folder is code of whoever wrote it, and is run only where its path is given.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from statistics import fmean
from typing import Any

from tasks.metrics import Scores
from util.packages import package_problems
from util.terminal import reason

PREFETCH = "python src/scripts/cluster/prefetch.py --metrics"
# What an answer is tried with before anything is decoded; the second has no word of its reference.
TRIED = (("a tower", "a tower"), ("", "the red tower of Elm"))
# The features of the metrics on SQuAD, whose rows are dicts.
OF_SQUAD = "prediction_text"


@dataclass
class NamedMetric:
    """A metric of the `evaluate` library.

    Attributes:
        name: What stands before its numbers in results; that of its file where it is one.
        metric: The library's object.
        options: What `compute` is given beside texts.
        several: Whether it takes several references of a text; otherwise the first is taken.
    """

    name: str
    metric: Any
    options: dict[str, Any] = field(default_factory=dict)
    several: bool = False

    def compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
        """Its numbers, each named by the metric and the number; of a list of numbers, one of each text, their mean.

        Raises:
            ValueError: it cannot score these texts; the sentence says why.
        """
        try:
            given = self._given(predictions, references)
            found = self.metric.compute(predictions=given[0], references=given[1], **self.options)
        except Exception as error:  # metrics are anybody's code, and raise what they like
            raise ValueError(f"--metrics {self.name} cannot score these texts: {reason(error)}") from error
        numbers = {key: _number(value) for key, value in (found or {}).items()}
        scores = {f"{self.name}_{key}": value for key, value in numbers.items() if value is not None}
        if not scores:
            raise ValueError(f"--metrics {self.name} gives no number, but {', '.join(found or {}) or 'nothing'}.")
        return scores

    def _given(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list, list]:
        features = _features(self.metric)
        if OF_SQUAD in str(features["predictions"]):
            more = {"no_answer_probability": 0.0} if "no_answer_probability" in str(features["predictions"]) else {}
            rows = [{"id": str(row), OF_SQUAD: text, **more} for row, text in enumerate(predictions)]
            answers = [{"text": list(texts), "answer_start": [0] * len(texts)} for texts in references]
            return rows, [{"id": str(row), "answers": each} for row, each in enumerate(answers)]
        return list(predictions), [list(texts) if self.several else texts[0] for texts in references]


def load_metrics(asked: Sequence[str]) -> list[NamedMetric]:
    """The metrics of --metrics, each tried on two texts, so that what is missing is told before anything is decoded.

    Args:
        asked: names or paths, with options behind a colon, such as bertscore:lang=en.

    Raises:
        ValueError: one cannot be loaded or scores no texts; the sentence says which, why, and how it is fetched.
    """
    problems = package_problems("--metrics", "evaluate") if asked else []
    if problems:
        raise ValueError(problems[0])
    found = [load_metric(each) for each in asked]
    twice = {each.name for each in found if sum(each.name == other.name for other in found) > 1}
    if twice:
        raise ValueError(f"--metrics has {', '.join(sorted(twice))} twice: give each once.")
    return found


def load_metric(asked: str) -> NamedMetric:
    """One of `load_metrics`, which has been tried."""
    path, options = _parted(asked)
    local = is_local(path)
    _refuse_shadow(path, local)
    metric = _loaded(path, local, options.pop("config_name", None))
    name = Path(path).expanduser().resolve().stem if local else path.split("/")[-1]
    found = NamedMetric(re.sub(r"\W+", "_", name), metric, options, _takes_several(metric))
    try:
        found.compute([text for text, _ in TRIED], [[reference] for _, reference in TRIED])
    except ValueError as error:
        advice = "" if local else f" What it reads of the hub or of nltk is fetched by `{PREFETCH} {asked}`."
        raise ValueError(f"{error}{advice}") from error
    return found


def is_local(path: str) -> bool:
    """Whether a metric is named by its path, and so is one's own."""
    return path.startswith((".", "/", "~")) or path.endswith(".py")


def _parted(asked: str) -> tuple[str, dict[str, Any]]:
    """A name or path, and the options behind it; values are JSON, or words."""
    path, _, told = asked.partition(":")
    options = {}
    for each in filter(None, told.split(",")):
        key, given, value = each.partition("=")
        if not given or not key.isidentifier():
            raise ValueError(f"--metrics {asked}: behind the colon stand options as in bertscore:lang=en.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return path, options


def _refuse_shadow(path: str, local: bool) -> None:
    """The library would run a folder of a metric's name in the folder one happens to be in."""
    if not local and (Path(path) / f"{Path(path).name}.py").is_file():
        raise ValueError(
            f"--metrics {path}: there is a folder {path} here, whose code would be run in the place of the library's "
            f"metric: give ./{path} if it is meant, or another working directory."
        )


def _loaded(path: str, local: bool, config: str | None) -> Any:
    import evaluate  # half a second, which other runs need not spend

    evaluate.disable_progress_bar()
    path = os.path.expanduser(path)
    if local and not Path(path).exists():
        raise ValueError(f"--metrics {path}: there is no such file or folder.")
    try:
        return evaluate.load(path, config, **({} if local else {"module_type": "metric"}))
    except Exception as error:  # ImportError, FileNotFoundError, ConnectionError, OfflineModeIsEnabled and others
        raise ValueError(_why_not(path, local, error)) from error


def _why_not(path: str, local: bool, error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"--metrics {path} needs packages that are not installed: {reason(error)}"
    if local:
        return f"--metrics {path} is no metric of the evaluate library: {reason(error)}"
    return (
        f"--metrics {path} is not in the cache and cannot be fetched here, or there is no metric of that name: fetch "
        f"it where there is a network by `{PREFETCH} {path}`, or give a path to a metric of your own."
    )


def _features(metric: Any) -> Mapping[str, Any]:
    """Those of the first form in which a metric takes texts.

    Raises:
        ValueError: it takes something else, such as numbers.
    """
    forms = metric.features if isinstance(metric.features, list) else [metric.features]
    fitting = [form for form in forms if {"predictions", "references"} <= set(form) and "string" in str(form)]
    if not fitting or any("int" in str(form["predictions"]) for form in fitting):
        raise ValueError(f"it takes {forms[0]}, not texts")
    return fitting[0]


def _takes_several(metric: Any) -> bool:
    forms = metric.features if isinstance(metric.features, list) else [metric.features]
    return any(type(form.get("references")).__name__ in ("Sequence", "List", "LargeList") for form in forms)


def _number(value: Any) -> float | None:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Number) and not isinstance(value, complex):
        return value
    if isinstance(value, list) and value and all(isinstance(each, Number) for each in value):
        return fmean(value)
    return None


def named_scores(metrics: Sequence[NamedMetric], rows: Sequence[Mapping[str, Any]]) -> Scores:
    """The numbers of metrics over the lines of a run's predictions.jsonl; those without a reference do not count.

    Raises:
        ValueError: no line has a reference, or a metric cannot score these texts.
    """
    scored = [row for row in rows if row.get("references")]
    if metrics and not scored:
        raise ValueError("--metrics: these examples have no references to be scored against.")
    predictions, references = [row["prediction"] for row in scored], [row["references"] for row in scored]
    return {name: value for each in metrics for name, value in each.compute(predictions, references).items()}
