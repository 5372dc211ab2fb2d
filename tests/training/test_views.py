"""Views of a run: their lines, what they sum up to, and that nothing but them changes when they are asked for."""

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, GenerationConfig

from decoding.policy import Policy
from models import DeployT5ForConditionalGeneration
from support import with_translators
from tasks import TASKS, Feature
from tasks.loading import EXAMPLE_COLUMNS
from training.evaluation import DecodingData, DecodingOptions, decode_batch
from training.views import VIEWS, Lens, readouts, summarise_layers

TEXTS = ["the tower of Arden is red", "a river", "Colmar is a town", "b"]


@pytest.fixture(scope="module")
def tokenizer(tiny_t5_dir):
    return AutoTokenizer.from_pretrained(tiny_t5_dir)


@pytest.fixture
def model(tiny_t5_dir):
    return DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir).eval()


EARLY = Policy(confidence="softmax", threshold=0.05)


def features(tokenizer):
    return [Feature(f"e{i}", 0, tokenizer(text)["input_ids"]) for i, text in enumerate(TEXTS)]


def decode(model, tokenizer, views=(), policy=EARLY):
    generation = GenerationConfig(max_length=8, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    options = DecodingOptions(generation=generation, policy=policy, views=views)
    return decode_batch(model, tokenizer, features(tokenizer), options, scored=False)


@pytest.mark.parametrize("early", [False, True])
def test_a_token_has_an_item_per_layer_from_the_embedding_to_its_exit(model, tokenizer, early):
    _, details, _ = decode(model, tokenizer, ("layers", "jsds"), EARLY if early else Policy())
    depths = set()
    for layers, jsds, trace in zip(details["layers"], details["jsds"], details["traces"], strict=True):
        assert layers["tokens"] == jsds["tokens"] == trace["tokens"]
        assert layers["texts"] == [tokenizer.decode([token]) for token in trace["tokens"]]
        for index, layer in enumerate(trace["exit_layers"]):
            depths.add(layer)
            for name in ("rank", "likeliest", "says", "probability", "gap"):
                assert len(layers[name][index]) == layer + 1
            assert layers["says"][index] == [tokenizer.decode([token]) for token in layers["likeliest"][index]]
            assert layers["rank"][index][-1] == 1 and layers["likeliest"][index][-1] == trace["tokens"][index]
            assert [len(row) for row in jsds["divergence"][index]] == list(range(layer + 1))
            assert jsds["contrast"][index]["tokens"][0] == trace["tokens"][index]
    assert len(depths) > 1 if early else depths == {4}


def test_the_confidence_of_a_view_is_the_one_the_exit_was_taken_by(model, tokenizer):
    _, details, _ = decode(with_translators(model), tokenizer, ("layers",))
    for layers, trace in zip(details["layers"], details["traces"], strict=True):
        for gap, confidences in zip(layers["gap"], trace["confidences"], strict=True):
            tried = [(layer, c) for layer, c in enumerate(confidences, start=1) if c is not None]
            for layer, confidence in tried:
                assert gap[layer] == pytest.approx(confidence, abs=1e-4)


def test_views_change_nothing_else_and_runs_that_ask_for_none_keep_no_states(model, tokenizer, monkeypatch):
    plain, details, _ = decode(model, tokenizer)
    viewed, more, _ = decode(model, tokenizer, tuple(VIEWS))
    assert plain == viewed and details["traces"] == more["traces"] and set(details) == {"traces"}
    asked = []
    generate = model.generate
    monkeypatch.setattr(
        model, "generate", lambda *args, **kwargs: asked.append(kwargs["return_states"]) or generate(*args, **kwargs)
    )
    decode(model, tokenizer)
    assert asked == [False]


def test_a_readout_ends_at_its_first_end_of_sequence_and_keeps_tokens_that_had_left(tokenizer):
    a, b, c = tokenizer("Arden red town", add_special_tokens=False)["input_ids"][:3]
    likeliest = [[a, a, a], [1, b], [1, c, c]]
    said = readouts(Lens(None, tokenizer, Policy()), [a, b, c], likeliest)
    assert said == [tokenizer.decode(each).strip() for each in ([a], [a, b, c], [a, b, c])]


def test_the_summary_counts_tokens_and_scores_what_layers_read_out():
    lines = [
        {
            "id": "x",
            "window": 0,
            "tokens": [5, 6],
            "likeliest": [[9, 5], [6, 6, 6]],
            "probability": [[0.5, 0.75], [0.25, 0.5, 1.0]],
            "gap": [[0.1, 0.3], [0.2, 0.1, 0.9]],
            "readouts": ["blue", "red", "red"],
        },
        {
            "id": "y",
            "window": 0,
            "tokens": [7],
            "likeliest": [[7, 7]],
            "probability": [[0.75, 1.0]],
            "gap": [[0.6, 0.6]],
            "readouts": ["green", "green"],
        },
    ]
    empty = dict.fromkeys(("prompt", "source", "question"), "")
    rows = [{"id": name, **empty, "target": "red", "references": ["red"]} for name in "xy"]
    examples = Dataset.from_list(rows, features=EXAMPLE_COLUMNS)
    data = DecodingData(TASKS["squad"], examples, [])
    found = summarise_layers(reversed(lines), {("x", 0), ("y", 0)}, data.task, data.examples)
    assert [row["tokens"] for row in found] == [3, 3, 1]
    assert [row["probability"] for row in found] == pytest.approx([0.5, 0.75, 1.0])
    assert [row["gap"] for row in found] == pytest.approx([0.3, 1 / 3, 0.9])
    assert [row["accuracy"] for row in found] == pytest.approx([2 / 3, 1.0, 1.0])
    assert [row["score"]["f1"] for row in found] == [0.0, 50.0, 50.0]
