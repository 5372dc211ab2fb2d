"""Scores with their intervals: of means as of corpora, alone and against another run of the same examples."""

import json
import random

import numpy as np
import pytest
import sacrebleu

from analysis import intervals, quantities
from analysis.runs import RunFiles
from support_runs import early
from tasks import metrics
from util.files import read_json, write_json

WORDS = ["the", "a", "red", "tower", "of", "elm", "stands", "on", "hill", "man", "walks", "dog", "sees"]


def sentences(count: int, changed: float, seed: int) -> list[tuple[str, str]]:
    """Pairs of a text and its reference, of whose words so many were changed."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(4, 14))]
        text = [rng.choice(WORDS) if rng.random() < changed else word for word in reference]
        found.append((" ".join(text), " ".join(reference)))
    return found


def translated(folder, pairs: list[tuple[str, str]]) -> RunFiles:
    """A run of translations."""
    folder.mkdir()
    lines = [
        {"id": f"s{place}", "prediction": text, "references": [reference], **metrics.bleu_example(text, (reference,))}
        for place, (text, reference) in enumerate(pairs)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {"eval_bleu": metrics.bleu([text for text, _ in pairs], [[reference] for _, reference in pairs])["bleu"]}
    write_json(folder / "all_results.json", {**results, "eval_samples": len(pairs), "eval_policy": {}})
    return RunFiles(folder, read_json(folder / "all_results.json"))


def test_the_interval_of_a_corpus_is_that_of_sacrebleu(tmp_path):
    pairs = sentences(300, 0.3, seed=1)
    found = quantities.score(translated(tmp_path / "run", pairs))
    texts, references = zip(*pairs, strict=True)
    theirs = sacrebleu.BLEU().corpus_score([*texts], [[*references]], n_bootstrap=1000)
    assert found.value == pytest.approx(theirs.score, abs=1e-3)
    assert sum(found.interval) / 2 == pytest.approx(theirs._mean, abs=0.15 * theirs._ci)
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(theirs._ci, rel=0.1)


def test_a_change_of_a_corpus_is_paired_by_sentence(tmp_path):
    pairs, worse = sentences(200, 0.2, seed=1), sentences(200, 0.2, seed=1)
    worse[:20] = [("tower tower tower tower", reference) for _, reference in worse[:20]]
    one, other = translated(tmp_path / "one", pairs), translated(tmp_path / "other", worse)
    found = quantities.change(other, one)
    assert found.value == pytest.approx(other.score - one.score, abs=1e-3)
    low, high = found.interval
    assert low < found.value < high < 0
    alone = quantities.score(one).interval
    assert high - low < alone[1] - alone[0], "what both have in common does not count"
    same = quantities.change(one, translated(tmp_path / "same", pairs))
    assert (same.value, same.interval) == (0.0, (0.0, 0.0))


def test_runs_are_compared_by_the_examples_that_both_have(tmp_path):
    pairs = sentences(50, 0.3, seed=2)
    whole, part = translated(tmp_path / "whole", pairs), translated(tmp_path / "part", pairs[:20])
    assert quantities.change(part, whole).value == 0
    other = translated(tmp_path / "other", pairs)
    other.examples[:] = [row | {"id": f"other {row['id']}"} for row in other.examples]
    assert quantities.change(other, whole) is None


def test_means_have_the_intervals_they_had(make_run):
    values = np.random.default_rng(3).normal(50, 20, 80)
    one = make_run("one", early("softmax", 1), values.tolist(), [2] * 80)
    other = make_run("other", early("softmax", 2), (values[::-1] + 1).tolist(), [2] * 80)
    one, other = (RunFiles(folder, read_json(folder / "all_results.json")) for folder in (one, other))
    assert quantities.score(one).interval == pytest.approx(intervals.of_mean(values))
    found = quantities.change(one, other)
    assert found.interval == pytest.approx(intervals.of_difference(values, values[::-1] + 1))
    assert quantities.change(one, one).interval == (0.0, 0.0)


def test_without_numbers_of_its_examples_a_score_stands_alone(tmp_path):
    run = translated(tmp_path / "run", sentences(5, 0.5, seed=4))
    del run.examples[0]["bleu_counts"]
    assert quantities.score(run).interval == (run.score, run.score)
    assert quantities.change(run, run) is not None, "of those that have them"
