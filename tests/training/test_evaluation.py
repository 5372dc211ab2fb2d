"""Laws of the evaluation loop: however the inputs are batched, shared out or interrupted, the answers are the same."""

import gzip
import json
import math
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GenerationConfig

from decoding.policy import Policy
from models import DeployGPT2LMHeadModel, DeployT5ForConditionalGeneration
from support import away_from_ties, double_precision
from tasks import TASKS, Feature
from tasks.loading import EXAMPLE_COLUMNS
from training import evaluation
from training.evaluation import Decoded, DecodingData, DecodingOptions, choose, decode_batch, evaluate, padded, plan
from util.runs import Run

TEXTS = ["the tower of Arden is red", "a river", "Ann: where are you? Bob: in Dover, it rains", "Colmar is a town", "b"]
EARLY = Policy(confidence="softmax", threshold=0.1)
TIMES = ("runtime", "per_second", "time_", "starts")


@pytest.fixture(scope="module")
def tokenizer(tiny_t5_dir):
    return AutoTokenizer.from_pretrained(tiny_t5_dir)


@pytest.fixture(scope="module")
def model(tiny_t5_dir):
    return DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir)


def make_data(tokenizer, windows: int = 1) -> DecodingData:
    rows = [
        {"id": f"e{i}", "prompt": "", "source": text, "question": "", "target": "red", "references": ["red"]}
        for i, text in enumerate(TEXTS)
    ]
    features = [
        Feature(row["id"], window, tokenizer(row["source"] + " x" * window)["input_ids"])
        for i, row in enumerate(rows)
        for window in range(windows if i % 2 else 1)
    ]
    return DecodingData(TASKS["squad"], Dataset.from_list(rows, features=EXAMPLE_COLUMNS), features)


def make_options(**more) -> DecodingOptions:
    generation = GenerationConfig(max_length=10, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    return DecodingOptions(generation=generation, **({"policy": EARLY} | more))


def counted(metrics: dict) -> dict:
    """The metrics that are no times."""
    return {name: value for name, value in metrics.items() if not any(word in name for word in TIMES)}


def test_a_plan_holds_every_input_once_and_depends_on_nothing_else():
    features = [Feature(str(i), 0, [0] * (i * 7 % 5 + 1)) for i in range(23)]
    batches = plan(features, 4)
    assert sorted(int(each.example_id) for batch in batches for each in batch) == list(range(23))
    assert all(len(batch) == 4 for batch in batches[:-1])
    lengths = [len(each.input_ids) for batch in batches for each in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert [batch[0] for batch in plan(features, 1)] == features


def test_padding_is_masked_and_on_the_side_asked_for():
    right = padded([[5, 6], [7]], 0, None, left=False)
    assert right["input_ids"].tolist() == [[5, 6], [7, 0]] and right["attention_mask"].tolist() == [[1, 1], [1, 0]]
    left = padded([[5, 6], [7]], 0, 3, left=True)
    assert left["input_ids"].tolist() == [[0, 5, 6], [0, 0, 7]] and left["attention_mask"].tolist()[1] == [0, 0, 1]


@pytest.mark.parametrize("more", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 5, "pad_to": 40}])
def test_batching_changes_no_answer_and_no_count(model, tokenizer, more, decided):
    data = make_data(tokenizer)
    reference = evaluate(model, tokenizer, data, make_options(batch_size=2))
    outcome = evaluate(model, tokenizer, data, make_options(**more))
    assert outcome.predictions == reference.predictions
    for name, value in counted(reference.metrics).items():
        assert outcome.metrics[name] == pytest.approx(value), name


def test_counts_are_those_of_the_traces(model, tokenizer, decided):
    data = make_data(tokenizer)
    metrics = evaluate(model, tokenizer, data, make_options()).metrics
    _, details, _ = decode_batch(model, tokenizer, data.features, make_options(), scored=False)
    traces = details["traces"]
    layers = [layer for trace in traces for layer in trace["exit_layers"]]
    assert metrics["eval_block_avg"] == pytest.approx(sum(layers) / len(layers))
    assert metrics["eval_exit_histogram"] == {str(layer): layers.count(layer) for layer in range(1, 5)}
    assert len(set(layers)) > 1  # otherwise a wrong count would pass
    assert metrics["eval_generated_tokens"] == len(layers)
    assert metrics["eval_gen_len"] == pytest.approx(len(layers) / len(TEXTS))
    measured = sum(
        rows
        for trace in traces
        for token, tried in zip(trace["rows"], trace["confidences"], strict=True)
        for rows, confidence in zip(token, tried, strict=True)
        if confidence is not None
    )
    assert metrics["eval_flops_confidence_reference"] == model.config.d_model**2 * measured
    assert metrics["eval_flops_total_confidence"] == 2 * model.config.d_model * measured
    decoder = sum(
        value
        for name, value in metrics.items()
        if name.startswith("eval_flops_total_") and name.split("total_")[1] not in ("encoder", "decoder")
    )
    assert metrics["eval_flops_total_decoder"] == pytest.approx(decoder)
    assert metrics["eval_flops_decoder_per_sample"] == pytest.approx(decoder / len(TEXTS))


def test_a_trace_has_an_item_per_token_and_of_a_token_one_per_layer_it_ran(model, tokenizer):
    decoded, details, _ = decode_batch(model, tokenizer, make_data(tokenizer).features, make_options(), scored=False)
    for answer, trace in zip(decoded, details["traces"], strict=True):
        assert len(trace["tokens"]) == answer.length == len(trace["exit_layers"])
        for layer, confidences, rows in zip(trace["exit_layers"], trace["confidences"], trace["rows"], strict=True):
            assert len(confidences) == len(rows) == layer
            taken = confidences[layer - 1]
            assert (taken is not None and taken > 0.1) or layer == model.num_exit_layers


def test_the_window_of_highest_mean_log_probability_answers(model, tokenizer, decided):
    data = make_data(tokenizer, windows=3)
    outcome = evaluate(model, tokenizer, data, make_options())
    decoded, _, _ = decode_batch(model, tokenizer, data.features, make_options(), scored=True)
    for row in outcome.predictions:
        windows = [each for each in decoded if each.id == row["id"]]
        best = max(windows, key=lambda each: each.score)
        assert (row["window"], row["prediction"]) == (best.window, best.text)
    assert outcome.metrics["eval_samples"] == len(TEXTS)
    assert outcome.metrics["eval_generated_tokens"] == sum(each.length for each in decoded)


@torch.no_grad()
def test_the_score_of_a_window_is_the_mean_of_its_tokens_whatever_their_number(tiny_t5_dir, tokenizer):
    with double_precision(DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir)) as model:
        data = make_data(tokenizer, windows=2)
        decoded, details, _ = decode_batch(model, tokenizer, data.features, make_options(policy=Policy()), scored=True)
        for feature, window, trace in zip(data.features, decoded, details["traces"], strict=True):
            answer = torch.tensor(trace["tokens"])
            prefix = torch.cat([torch.tensor([0]), answer[:-1]])[None]
            logits = model(input_ids=torch.tensor([feature.input_ids]), decoder_input_ids=prefix).logits[0]
            said = logits.log_softmax(-1).gather(1, answer[:, None])
            assert len(answer) > 1 and window.score == pytest.approx(float(said.mean()))


def test_prompts_of_several_lengths_go_on_as_each_does_alone(tiny_gpt2_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2_dir)
    features = [Feature(f"e{i}", 0, tokenizer(text)["input_ids"]) for i, text in enumerate(TEXTS)]
    assert len({len(feature.input_ids) for feature in features}) > 2
    options = make_options(batch_size=5)
    options.generation.update(max_length=None, max_new_tokens=6)
    with double_precision(DeployGPT2LMHeadModel.from_pretrained(tiny_gpt2_dir)) as model:
        model.config.update({"use_early_exit": True, "exit_conf_type": "softmax", "exit_conf_threshold": 0.1})
        _, details, _ = decode_batch(model, tokenizer, features, options, scored=False)
        for feature, trace in zip(features, details["traces"], strict=True):
            prompt = torch.tensor([feature.input_ids])
            alone, found = model.generate(input_ids=prompt, max_new_tokens=6, return_trace=True)
            assert trace["tokens"] == alone[0, prompt.shape[1] :].tolist()
            assert trace["exit_layers"] == found.exit_layers[0].tolist()


def test_an_empty_answer_is_an_answer_among_windows_of_squad_v2(tokenizer):
    data = make_data(tokenizer)
    v2 = DecodingData(TASKS["squad_v2"], data.examples, data.features)
    windows = {"e0": [Decoded("e0", 0, "red", 1, -2.0), Decoded("e0", 1, "", 1, -1.0)]}
    assert choose(windows, v2, 0.0)[0].window == 1
    assert choose(windows, v2, 1.5)[0].window == 0


def killed_and_continued(model, tokenizer, data, options, folder, monkeypatch, at, damage=lambda folder: None):
    """What a run comes to that was killed in a batch, damaged, and started again, and how many batches were decoded in
    all."""
    decoding, calls = evaluation.decode_batch, []

    def failing(*args):
        calls.append(args)
        if len(calls) == at:
            raise KeyboardInterrupt
        return decoding(*args)

    def start() -> Run:
        run = Run(folder, "test", {"policy": Policy().describe()}, "eval")
        run.prepare()
        return run

    monkeypatch.setattr(evaluation, "decode_batch", failing)
    run = start()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tokenizer, data, options, run=run)
    run.close()
    damage(run.folder)
    model.threshold = None
    return evaluate(model, tokenizer, data, options, run=start()), len(calls)


def test_a_continued_run_ends_with_the_same_numbers(model, tokenizer, tmp_path, monkeypatch, decided):
    data, options = make_data(tokenizer, windows=2), make_options(batch_size=2)
    whole = evaluate(model, tokenizer, data, options)
    outcome, decoded = killed_and_continued(model, tokenizer, data, options, tmp_path, monkeypatch, at=3)
    assert decoded == 3 + 4 - 2  # of four batches two were there already
    assert outcome.predictions == whole.predictions
    assert counted(outcome.metrics).items() >= counted(whole.metrics).items()
    assert outcome.metrics["eval_starts"] == 2


def cut(path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda folder: cut(folder / "traces.0.jsonl", 0.6), 1),
        (lambda folder: cut(folder / "predictions.0.jsonl", 0.99), 1),
        (lambda folder: (folder / "traces.0.jsonl").unlink(), 0),
        (lambda folder: (folder / "layers.0.jsonl").unlink(), 0),
        (lambda folder: (folder / "predictions.0.jsonl").unlink(), 0),
        (lambda folder: cut(folder / "predictions.0.jsonl", 0), 0),
    ],
)
def test_a_run_whose_parts_were_spoilt_ends_with_all_of_them(model, tokenizer, tmp_path, monkeypatch, damage, left):
    data, options = make_data(tokenizer, windows=2), make_options(batch_size=2, views=("layers",))
    whole = evaluate(model, tokenizer, data, options)
    more = {"at": 3, "damage": damage}
    outcome, decoded = killed_and_continued(model, tokenizer, data, options, tmp_path, monkeypatch, **more)
    assert decoded == 3 + 4 - left
    assert outcome.predictions == whole.predictions
    assert counted(outcome.metrics).items() >= counted(whole.metrics).items()
    for kind in ("traces", "layers"):
        (path,) = tmp_path.glob(f"runs/*/{kind}.jsonl.gz")
        lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert [(line["id"], line["window"]) for line in lines] == [
            (feature.example_id, feature.window) for feature in data.features
        ]


FREE = Policy(confidence="softmax", threshold=0.02, first_exit=2, last_exit=2, skipped="recompute")


def test_counts_of_shallow_and_deep_tokens(model, tokenizer):
    data, policy = make_data(tokenizer), replace(FREE, verification="rollback", rollback_threshold=3.0)
    metrics = evaluate(model, tokenizer, data, make_options(policy=policy)).metrics
    shallow, deep, run_deep, synchronisations, rolled_back = metrics["eval_block_num"]
    tokens = metrics["eval_generated_tokens"]
    assert shallow + deep == tokens and min(shallow, deep, run_deep, synchronisations, rolled_back) > 0
    assert metrics["eval_block_avg"] == pytest.approx((deep * 4 + (shallow + rolled_back) * 2) / tokens)
    assert metrics["eval_layers_run"] > sum(int(k) * v for k, v in metrics["eval_exit_histogram"].items()) / tokens
    assert 0 < metrics["eval_acceptance_rate"] < 1


def test_lossless_scores_as_the_full_model(model, tokenizer):
    data, exact = make_data(tokenizer, windows=3), replace(FREE, verification="exact", num_speculations=8)
    found = evaluate(model, tokenizer, data, make_options(policy=exact, batch_size=2))
    with away_from_ties():  # but for the drafts, which may be
        expected = evaluate(model, tokenizer, data, make_options(policy=Policy(), batch_size=2))
    kept = ("id", "prediction", "window", "tokens")
    assert [[row.get(key) for key in kept] for row in found.predictions] == [
        [row.get(key) for key in kept] for row in expected.predictions
    ]
    assert found.metrics["eval_layers_run"] > 4, "one exit of a random model is wrong more often than not"


def test_an_adaptive_threshold_begins_anew_with_a_run_and_goes_on_with_a_continued_one(
    model, tokenizer, tmp_path, monkeypatch, decided
):
    data, options = make_data(tokenizer), make_options(policy=replace(FREE, adapts=True), batch_size=1)
    whole = evaluate(model, tokenizer, data, options)
    again = evaluate(model, tokenizer, data, options)
    assert counted(again.metrics) == counted(whole.metrics)
    assert whole.metrics["eval_adaptive_threshold"]["0"]["fits"] > 1
    outcome, _ = killed_and_continued(model, tokenizer, data, options, tmp_path, monkeypatch, at=4)
    assert outcome.predictions == whole.predictions
    assert counted(outcome.metrics).items() >= counted(whole.metrics).items()


def test_beams_have_scores_but_no_exits(model, tokenizer):
    options = make_options(policy=Policy()).with_generation({"num_beams": 2})
    outcome = evaluate(model, tokenizer, make_data(tokenizer, windows=2), options)
    assert "eval_block_avg" not in outcome.metrics and outcome.metrics["eval_f1"] == 0
    assert math.isfinite(outcome.metrics["time_decoder_forward"]) and outcome.metrics["time_encoder_forward"] > 0
    assert outcome.metrics["eval_gen_len"] > 0


def test_the_mode_of_the_model_is_restored(model, tokenizer):
    model.train()
    evaluate(model, tokenizer, make_data(tokenizer), make_options())
    assert model.training
    model.eval()
