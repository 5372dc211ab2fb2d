"""What is counted of a decoded answer, against counting token by token from the lists of its trace."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from support import MODELS, POLICIES, double_precision, inputs_for
from tasks import Feature
from training.records import exit_cost, exit_counts, reference_rows, token_texts, trace_row

KINDS = ["tied", "gpt2"]
BATCH = 4
ASSETS = Path(__file__).parents[2] / "src" / "assets"


def decoded(model, policy, seed: int = 5):
    """The trace of a few answers, and its lines as they are written."""
    inputs = inputs_for(model, seed, BATCH)
    _, trace = model.generate(**inputs, policy=policy, return_trace=True)
    lines = []
    for row in range(BATCH):
        tokens = list(range(int(trace.lengths[row])))
        lines.append(trace_row(Feature(str(row), 0, [1]), tokens, trace, row))
    return trace, lines


def exits(line: dict):
    """(token, exit of this token, values by name, and `taken` where the token left there) of every exit tried."""
    lists = {name: line[name] for name in ("rows", "kept", "members", "amateur_rows") if name in line}
    for token, confidences in enumerate(line["confidences"]):
        tried = [layer for layer, confidence in enumerate(confidences) if confidence is not None]
        for number, layer in enumerate(tried):
            values = {name: values[token][layer] for name, values in lists.items()}
            yield token, number, values | {"taken": layer + 1 == line["exit_layers"][token]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["softmax", "fixed", "decaying", "adaptive", "JSD", "JSD, adaptive", "weighted, fixed"]
)
def test_counts_of_exits_are_those_of_the_lines(kind, name):
    with double_precision(MODELS[kind](5)) as model:
        trace, lines = decoded(model, POLICIES[name])
    assert any(token == 0 for line in lines for token, *_ in exits(line)) == (kind == "tied")  # else from the prompt
    assert any(number > 0 for line in lines for _, number, _ in exits(line))
    for row, line in enumerate(lines):
        found, seen = exit_counts(trace, row), list(exits(line))
        first = [values for _, number, values in seen if number == 0]
        later = [values for _, number, values in seen if number > 0]
        compared = [values for *_, values in seen if values.get("members", 0) > 0]
        single = [values for values in compared if values["members"] == 1]
        assert (found["first"], found["later"]) == (len(first), len(later))
        assert found["rows_first"] == sum(values["rows"] for values in first)
        assert found["rows_later"] == sum(values["rows"] for values in later)
        assert found["kept_later"] == sum(values["kept"] for values in later)
        assert found["amateur_rows"] == sum(values.get("amateur_rows", 0) for *_, values in seen)
        assert (found["compared"], found["single"]) == (len(compared), len(single))
        assert found["taken"] == sum(values["taken"] for values in compared)
        assert found["taken_single"] == sum(values["taken"] for values in single)
        assert found["shallow"] == sum(layer < model.num_exit_layers for layer in line["exit_layers"])
        assert found["passes"] == sum(line["exit_layers"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["softmax", "fixed", "decaying", "adaptive", "JSD", "state"])
def test_the_reference_counts_no_first_exit_of_a_token_under_pruning(kind, name):
    policy = POLICIES[name]
    with double_precision(MODELS[kind](5)) as model:
        trace, lines = decoded(model, policy)
    total = 0
    for row, line in enumerate(lines):
        expected = sum(v.get("kept", 0) for _, number, v in exits(line) if number > 0 or not policy.prunes)
        assert reference_rows(trace, row, policy) == expected
        total += expected
        cost = exit_cost(trace, row, trace.flops(), policy)
        assert cost["reference_flops"] == expected * model.config.hidden_size**2
    assert (total > 0) == (name != "state")


TEXTS = ["The tower of Arden is red. It isn't old .", "naïve 😀😀 fin", "שלום, עולם", "", " two  spaces"]


@pytest.mark.parametrize("name", ["t5_exits_trained", "gpt2_stories", "tiny"])
@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_tokens_are_the_text(name, text, tiny_t5_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_dir if name == "tiny" else ASSETS / name)
    tokens = tokenizer(text)["input_ids"]
    texts = token_texts(tokenizer, tokens)
    assert len(texts) == len(tokens)
    assert "".join(texts) == tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    assert not any("\ufffd" in each for each in texts[:-1])
    cut = next((n for n in range(1, len(tokens)) if tokenizer.decode(tokens[:n]).endswith("\ufffd")), 0)
    assert "".join(token_texts(tokenizer, tokens[:cut])) == tokenizer.decode(tokens[:cut])
