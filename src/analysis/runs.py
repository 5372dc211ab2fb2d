"""The runs under a folder, as tables and figures read them: what was asked for, what it came to, and its details."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from decoding import naming
from decoding.policy import Policy
from tasks.metrics import Shown, shown_scores
from util.files import read_json, read_jsonl

# What of a run's settings is its policy.
POLICY = {"method", *(field.name for field in fields(Policy))}

# What else of a run's settings changes neither a score nor a count of full depth.
UNCOMPARED = {"views", "save_traces", "device", "batch_size", "exit_layers"}
# What of its environment changes its clock.
CLOCK = ("device", "threads", "batch_size", "processes")


def scores() -> dict[str, Shown]:
    """The score a task is judged by, the first that a run has, by its key in the results."""
    return {f"eval_{key}": told for key, told in shown_scores().items()}


def example_scores(shown: Shown, rows: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Id of an example -> what of it a score follows from, [K], of lines of predictions; none where none is known."""
    key = shown.by_example
    return {row["id"]: np.asarray(row[key], float).reshape(-1) for row in rows if key is not None and key in row}


class Judged:
    """What has results, and among them a score that its task is judged by.

    Attributes:
        results: By name, as in all_results.json.
    """

    results: Mapping

    @property
    def score_key(self) -> str:
        return next(name for name in scores() if self.results.get(name) is not None)

    @property
    def shown(self) -> Shown:
        """The score a task is judged by."""
        return scores()[self.score_key]

    @property
    def score_name(self) -> str:
        return self.shown.label

    @property
    def score(self) -> float:
        """In percent."""
        return self.results[self.score_key]


@dataclass(frozen=True)
class RunFiles(Judged):
    """One finished evaluation with exits, or at full depth; details are read when asked for.

    Attributes:
        folder: Of the run.
        results: all_results.json.
    """

    folder: Path
    results: dict

    @property
    def policy(self) -> dict:
        return self.results["eval_policy"]

    @property
    def task(self) -> str:
        return self.policy["task"]

    @property
    def model(self) -> str:
        return str(self.policy.get("model", "model"))

    @property
    def data(self) -> str:
        """The task and split, with which runs are comparable."""
        return f"{self.task}, {self.policy['split']}"

    @cached_property
    def conditions(self) -> dict[str, str]:
        """Everything but the policy that shaped the results, such as model, data and generation; runs that differ here
        are not comparable. Nested settings are named as in generation.num_beams."""
        held = {name: value for name, value in self.policy.items() if name not in POLICY | UNCOMPARED}
        return {name: json.dumps(value, sort_keys=True) for name, value in flat(held)}

    @property
    def clock(self) -> dict:
        """What its seconds depend on beside its policy."""
        environment = self.results.get("environment", {})
        return {name: environment.get(name) for name in CLOCK} | {
            "products": environment.get("products", {}).get("mode")
        }

    @property
    def method(self) -> str:
        return naming.method(self.policy)

    @property
    def first_exit(self) -> int | None:
        return self.policy.get("first_exit")

    @property
    def num_layers(self) -> int:
        return len(self.results["eval_exit_histogram"])

    @property
    def mean_exit(self) -> float:
        """Layers per token, those of tokens that were rolled back included."""
        return self.results["eval_block_avg"]

    @property
    def layers_run(self) -> float:
        """Layer passes per token, those of pending tokens and of rejected ones included."""
        return self.results.get("eval_layers_run", self.mean_exit)

    @property
    def layers_in_turn(self) -> float:
        """Layers per token one after the other: those that pending tokens pass together count once."""
        return self.results.get("eval_layers_in_turn", self.mean_exit)

    @property
    def acceptance_rate(self) -> float | None:
        """Of the drafted tokens, how many stood; None where nothing was verified."""
        return self.results.get("eval_acceptance_rate")

    @property
    def samples(self) -> int:
        return self.results["eval_samples"]

    def flops(self, part: str) -> float:
        """Of a part, per example."""
        return self.results[f"eval_flops_{part}_per_sample"]

    @cached_property
    def examples(self) -> list[dict]:
        """The lines of predictions.jsonl."""
        return read_jsonl(self.folder / "predictions.jsonl")

    def same_output(self, other: RunFiles) -> int:
        """How many examples got the same text as in another run on the same data."""
        texts = {row["id"]: row["prediction"] for row in other.examples}
        return sum(texts.get(row["id"]) == row["prediction"] for row in self.examples)

    @cached_property
    def example_scores(self) -> dict[str, np.ndarray]:
        """Id of an example -> what of it the score follows from, such as its own score, [K]; empty where the metric has
        none, or predictions.jsonl was not kept."""
        kept = (self.folder / "predictions.jsonl").is_file()
        return example_scores(self.shown, self.examples) if kept else {}

    @property
    def layers(self) -> list[dict] | None:
        """layers.json, or None where no such view was kept."""
        path = self.folder / "layers.json"
        return read_json(path) if path.is_file() else None

    def details(self, kind: str) -> Iterator[dict]:
        """The lines of a kind of detail, one per input; none where it was not kept."""
        path = self.folder / f"{kind}.jsonl.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                yield from map(json.loads, lines)


def read_run(folder: Path) -> RunFiles:
    """The run that a folder is, or the only finished one under it.

    Raises:
        ValueError: There is none, or there are several.
    """
    if (folder / "predictions.jsonl").is_file():
        runs = [RunFiles(folder, read_json(folder / "all_results.json"))]
        if not _is_evaluation(runs[0]):
            raise ValueError(f"{folder} holds no finished evaluation with exits or at full depth.")
    else:
        runs = read_runs(folder)
    if len(runs) > 1:
        raise ValueError(f"{folder} holds {len(runs)} runs: give the folder of one, such as {runs[0].folder}.")
    return runs[0]


def _is_evaluation(run: RunFiles) -> bool:
    return "eval_block_avg" in run.results and any(run.results.get(name) is not None for name in scores())


def read_runs(folder: Path) -> list[RunFiles]:
    """The finished runs under a folder.

    Raises:
        ValueError: There is none.
    """
    runs = [RunFiles(path.parent, read_json(path)) for path in sorted(folder.rglob("runs/*/all_results.json"))]
    runs = [run for run in runs if _is_evaluation(run)]
    if not runs:
        raise ValueError(f"{folder} holds no finished evaluation: expected runs/<name>/all_results.json below it.")
    return runs


def flat(settings: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Settings by name; nested ones as in generation.num_beams."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def differing(groups: Sequence[RunFiles]) -> list[str]:
    """The names of conditions in which some runs differ."""
    names = dict.fromkeys(name for run in groups for name in run.conditions)
    return [name for name in names if len({run.conditions.get(name) for run in groups}) > 1]


def refuse_mixtures(runs: Sequence[RunFiles]) -> None:
    """Refuse runs of one task with models of one name that are not comparable.

    Raises:
        ValueError: The sentence says which they are and in what they differ.
    """
    groups: dict[tuple[str, str], list[RunFiles]] = {}
    for run in runs:
        groups.setdefault((run.task, run.model), []).append(run)
    for (task, model), some in groups.items():
        names = differing(some)
        if names:
            other = next(run for run in some if run.conditions != some[0].conditions)
            raise ValueError(
                f"The runs of {task} with {model} differ in {', '.join(names)}, so they are not comparable, such as "
                f"{some[0].folder} and {other.folder}: give a folder with one kind of them."
            )


def where(runs: Sequence[RunFiles], **wanted) -> list[RunFiles]:
    """The runs whose attributes (task, model, method, first_exit, ...) have these values, by first exit."""
    found = [run for run in runs if all(getattr(run, name) == value for name, value in wanted.items())]
    return sorted(found, key=lambda run: run.first_exit or run.policy.get("static_exit") or 0)


def scaled(layer: int, num_layers: int) -> int:
    """A layer of the published 24-layer decoder, in a decoder of another depth."""
    return max(1, round(layer * num_layers / 24))


@dataclass(frozen=True)
class Speed:
    """The seconds of a model's policies on a task, each measured in turn with the full model.

    Attributes:
        settings: How they were measured.
        model: The fingerprint of the model timed, or None where it was not kept.
        rows: "policy" and "relative" of each, see `jobs.speed`.
    """

    settings: dict
    rows: list[dict]
    model: str | None = None

    def relative(self, run: RunFiles) -> list[float] | None:
        """Seconds per token relative to the full model's, repetition by repetition; None where it was not timed."""
        if self.model not in (None, run.policy.get("model_fingerprint", self.model)):
            return None
        policy = {name: value for name, value in run.policy.items() if name in POLICY}
        return next((row["relative"] for row in self.rows if row["policy"] == policy), None)


def read_speeds(folder: Path) -> dict[tuple[str, str], Speed]:
    """(task, model) -> what was timed of it, in the files speed.json under a folder."""
    speeds: dict[tuple[str, str], Speed] = {}
    for path in sorted(folder.rglob("speed.json")):
        held = read_json(path)
        if "policies" in held:
            group = (held["task"], held["model"])
            rows = [
                *(speeds[group].rows if group in speeds else ()),
                *(row for row in held["policies"] if "relative" in row),
            ]
            speeds[group] = Speed(held["settings"], rows, held.get("model_fingerprint"))
    return speeds
