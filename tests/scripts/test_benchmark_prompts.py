"""The benchmark on prompts runs on both kinds of model and writes what it prints; how fast it all is is not tested."""

import numpy as np
import pytest
import torch

from analysis import figures
from decoding.policy import Policy
from jobs.experiments import named
from scripts import benchmark_decoding
from scripts.benchmark_prompts import Reads, Timed, Weights, usual
from support import MODELS, POLICIES, inputs_for
from util.arguments import EMBEDDED_DECODER, EMBEDDED_MODEL
from util.files import read_json

PROMPTS = "Once upon a time there\nIn spring\nThe little dog ran to the\n"
ASKED = ["--static_exit_layer 3", "--use_early_exit True --exit_conf_threshold 0.5"]
LOSSLESS = "--use_shallow_deep True --shallow_exit_layer 2 --lossless True"


@pytest.fixture
def arguments(tmp_path):
    """Of a benchmark of a model, but for its batches and policies."""
    file = tmp_path / "prompts.txt"
    file.write_text(PROMPTS)

    def of(path) -> list[str]:
        named = ["--model_name_or_path", str(path), "--prompt_file", str(file)]
        return [*named, "--new_tokens", "4", "--repetitions", "2", "--out", str(tmp_path / "benchmark.json")]

    return of


@pytest.mark.parametrize("path", [EMBEDDED_DECODER, EMBEDDED_MODEL])
def test_every_policy_asked_for_is_held_against_generate_full_depth_and_its_bound(path, arguments, tmp_path, capsys):
    flags = [flag for text in (*ASKED, LOSSLESS) for flag in ("--policy", text)]
    benchmark_decoding.main([*arguments(path), "--batch", "1", "2", *flags])
    report = read_json(tmp_path / "benchmark.json")
    assert report["prompts"] == 3 and report["new_tokens"] == 4 and set(report["batches"]) == {"1", "2"}
    for rows in report["batches"].values():
        full, static, softmax, lossless = rows.values()
        for row in rows.values():
            for key in ("generate", "full_depth", "bound"):
                assert 0 < row[key]["min"] <= row[key]["median"] <= row[key]["max"]
            assert 0 <= row["equal"] <= 1 and row["milliseconds_per_token"] > 0
        assert full["equal"] == lossless["equal"] == 1 and full["full_depth"]["median"] == 1
        assert full["layers"] == 8 and static["layers"] < 5 and softmax["layers"] <= 8
        assert full["accepted"] is None and (lossless["accepted"] is None or 0 <= lossless["accepted"] <= 1)
    (table,) = figures.draw_all(tmp_path, tmp_path / "figures")
    rows = read_json(table.with_suffix(".json"))["rows"]
    assert [row[0] for row in rows] == 2 * list(report["batches"]["1"]) and rows[0][3] == "1.00 (1.00 to 1.00)"
    shown = capsys.readouterr().out
    assert "static, layer 3" in shown and "softmax > 0.5" in shown and "x bound" in shown


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model_name_or_path", "gpt2"], "--model_name_or_path and --prompt_file go together"),
        (["--policy", "--static_exit_layer 2"], "--policy is of a checkpoint"),
        (["--model_name_or_path", str(EMBEDDED_DECODER), "--prompt_file", "none.txt"], "there is no such file"),
    ],
)
def test_what_cannot_be_timed_is_refused(flags, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark_decoding.main(flags)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_policies_have_names_and_full_depth_is_among_them(capsys):
    assert list(named([*ASKED, LOSSLESS], 8, 4)) == [
        "full depth",
        "static, layer 3",
        "softmax > 0.5",
        "lossless > 0, from layer 2",
    ]
    always = named([LOSSLESS, f"{LOSSLESS} --num_speculations 2"], 8, 4)
    assert list(always)[1:] == [
        "lossless > 0, from layer 2",
        "lossless > 0, from layer 2 (--num_speculations 2)",
    ]
    assert len(usual(12, 4)) == 5
    with pytest.raises(ValueError, match="static_exit_layer is 9: valid are 1 to 8"):
        named(["--static_exit_layer 9"], 8, 4)
    with pytest.raises(SystemExit):
        named(["--nothing 9"], 8, 4)


@pytest.mark.parametrize("kind", MODELS)
def test_the_weights_are_those_that_the_decoder_multiplies(kind):
    """Of every layer the matrices of its adapter, but for those that the source meets."""
    model = MODELS[kind](0)
    cost, weights = model.adapter_class.count_layers(model.config), Weights(model)
    assert len(weights.layers) == cost and weights.head.shape[1] == model.unembed().vocabulary_size
    _, trace = model.generate(**inputs_for(model, 0, 1, 3), policy=Policy(), return_trace=True)
    assert all(sum(map(torch.numel, layer)) == trace.cost.layer_weights for layer in weights.layers)


@pytest.mark.parametrize("kind", ["gpt2", "adapters merged, translators"])
@pytest.mark.parametrize("name", ["full", "softmax", "static", "lossless"])
def test_what_is_read_is_what_the_trace_counts(kind, name):
    """At full depth every layer and a head for each token, but the first where the prompt gives it; a static exit reads
    its own layers; one that is asked multiplies a head each time."""
    model, policy = MODELS[kind](1), POLICIES.get(name, Policy())
    inputs = inputs_for(model, 1, 1, 6)
    _, trace = model.generate(**inputs, policy=policy, return_trace=True)
    reads, first = Reads.of(trace, model.unembed().vocabulary_size), int(trace.cost.prefilled)
    tokens, depth = int(trace.lengths[0]) - first, trace.cost.num_layers
    if name == "full":
        assert reads == (tokens * depth, tokens, 0)
    else:
        assert 0 < reads.layers <= (tokens + trace.counts["drafted"][0]) * depth and reads.heads > 0
    if not policy.recomputes:
        asked = (~np.isnan(trace.confidences)).sum() if policy.confidence else 0
        assert reads.layers == trace.exit_layers.sum() - first * depth and reads.heads >= min(asked, tokens)
        if name != "full" and kind != "gpt2":
            assert reads.translators == (asked if name == "softmax" else tokens)


def test_a_bound_multiplies_what_was_read_as_often_as_it_was(monkeypatch):
    weights, met = Weights(MODELS["llama, adapters merged, translators"](0)), []
    assert [each.shape for each in weights.translators] == [(24, 24)] * 2
    number = {id(layer[0]): i for i, layer in enumerate(weights.layers)}
    monkeypatch.setattr(weights, "_pass", lambda numbers, states: met.extend([*numbers, "head"]))
    assert len(number) == len(weights.layers)
    weights.multiply(Reads(7, 3, 5), batch=2, prompt=0)
    assert met == [0, 1, "head", 2, 3, "head", 4, 5, 6, "head"]
    met.clear()
    weights.multiply(Reads(0, 0), batch=2, prompt=5)
    assert met == [*range(len(weights.layers)), "head"]


def test_speeds_are_by_token_and_repetition():
    fast = Timed([1.0, 1.0, 2.0], [[1, 2], [3, 4]])
    slow = Timed([2.0, 1.0, 8.0], [[1, 5], [3, 4]])
    assert fast.times_as_fast(slow) == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert fast.equal(slow) == 0.75
    assert fast.times_as_fast(Timed([1.0] * 3, [[1], [2]]))["median"] == 2.0
