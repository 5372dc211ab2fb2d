"""The runs under a folder, as tables and figures read them: what was asked for, what it came to, and its details."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from util.files import read_json, read_jsonl

# The score a task is judged by, the first that a run has: key of the results -> its name and its key per example.
SCORES = {"eval_f1": ("F1", "f1"), "eval_rougeL": ("ROUGE-L", "rougeL"), "eval_bleu": ("BLEU", None)}

# Measures by the short names of figures.
SHORT = {
    "contrastive_decoding": "contrastive",
    "reweight_contrastive_decoding": "weighted",
    "reweight_contrastive_text": "weighted (text)",
    "JSD_contrastive_confidence": "JSD",
    "JSD_contrastive_text": "JSD (text)",
}


def method_of(policy: dict) -> str:
    """A policy, as `Policy.describe` has it, but for its thresholds and its first exit."""
    if policy["method"] != "early_exit":
        return {"full": "full model", "static": "static"}[policy["method"]]
    name = SHORT.get(policy["confidence"], policy["confidence"])
    if policy.get("vocabulary", "none") != "none":
        name += f" + {policy['vocabulary']}" + (" (capped)" if policy.get("adaptive_cap") else "")
    if policy.get("alpha", 0.1) != 0.1:
        name += f", alpha {policy['alpha']:g}"
    return name + (", token from s" if policy.get("emit", "exit") == "contrastive" else "")


@dataclass(frozen=True)
class RunFiles:
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

    @property
    def method(self) -> str:
        return method_of(self.policy)

    @property
    def first_exit(self) -> int | None:
        return self.policy.get("first_exit")

    @property
    def num_layers(self) -> int:
        return len(self.results["eval_exit_histogram"])

    @property
    def score_key(self) -> str:
        return next(name for name in SCORES if self.results.get(name) is not None)

    @property
    def score_name(self) -> str:
        return SCORES[self.score_key][0]

    @property
    def score(self) -> float:
        """In percent."""
        return self.results[self.score_key]

    @property
    def mean_exit(self) -> float:
        """Layers per token."""
        return self.results["eval_block_avg"]

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

    @property
    def example_scores(self) -> list[float] | None:
        """The score of each example, or None where the metric has none."""
        key = SCORES[self.score_key][1]
        return [row[key] for row in self.examples] if key and all(key in row for row in self.examples) else None

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


def read_runs(folder: Path) -> list[RunFiles]:
    """The finished runs under a folder.

    Raises:
        ValueError: There is none.
    """
    runs = [RunFiles(path.parent, read_json(path)) for path in sorted(folder.rglob("runs/*/all_results.json"))]
    runs = [run for run in runs if any(run.results.get(name) is not None for name in SCORES)]
    runs = [run for run in runs if "eval_block_avg" in run.results]
    if not runs:
        raise ValueError(f"{folder} holds no finished evaluation: expected runs/<name>/all_results.json below it.")
    return runs


def where(runs: Sequence[RunFiles], **wanted) -> list[RunFiles]:
    """The runs whose attributes (task, model, method, first_exit, ...) have these values, by first exit."""
    found = [run for run in runs if all(getattr(run, name) == value for name, value in wanted.items())]
    return sorted(found, key=lambda run: run.first_exit or run.policy.get("static_exit") or 0)


def scaled(layer: int, num_layers: int) -> int:
    """A layer of the published 24-layer decoder, in a decoder of another depth."""
    return max(1, round(layer * num_layers / 24))


@dataclass(frozen=True)
class Speed:
    """speed.json of a setting: the seconds of its policies, measured in turn."""

    path: Path
    held: dict

    def relative(self, run: RunFiles) -> list[float] | None:
        """Seconds per token relative to the full model's, repetition by repetition; None where it was not timed."""
        own, full = self._seconds(run.policy), self._seconds({"method": "full"})
        if own is None or full is None:
            return None
        return [mine / whole for mine, whole in zip(own, full, strict=True)]

    def _seconds(self, policy: dict) -> list[float] | None:
        for row in self.held["policies"]:
            if all(policy.get(name) == value for name, value in row["policy"].items()):
                return row["seconds_per_token"]
        return None


def read_speeds(folder: Path) -> dict[tuple[str, str], Speed]:
    """(task, model) -> what was timed of it, under a folder."""
    found = [Speed(path, read_json(path)) for path in sorted(folder.rglob("speed.json"))]
    return {(each.held["task"], each.held["model"]): each for each in found if "policies" in each.held}
