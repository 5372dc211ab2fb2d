"""Scores of every layer under teacher forcing, against the library's loss, whatever the batches."""

import math

import pytest
import torch
from datasets import Dataset

from support import DECODERS, tiny_t5
from training.exit_scores import exit_score_metrics, exit_scores, perplexities


def rows(count):
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, 61, (length,), generator=generator).tolist() for length in range(4, 4 + count)]
    return Dataset.from_list([{"input_ids": each, "labels": [-100, -100, *each[2:]]} for each in ids])


@pytest.mark.parametrize("kind", DECODERS)
def test_the_last_layers_is_the_exponential_of_the_librarys_loss(kind):
    model, blocks = DECODERS[kind](0), rows(5)
    found = perplexities(model, blocks, 2)
    total = count = 0
    with torch.no_grad():
        for row in blocks:
            loss = model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
            counted = len(row["labels"]) - 2
            total, count = total + float(loss) * counted, count + counted
    assert found["loss"] == pytest.approx(total / count, rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-3)
    assert list(found["perplexity_by_layer"]) == ["1", "2", "3", "4"]
    assert found["perplexity_by_layer"]["4"] == found["perplexity"]


def test_batches_change_nothing_and_the_mode_is_restored():
    model, blocks = DECODERS["gpt2"](1).train(), rows(7)
    alone, together = perplexities(model, blocks, 1), perplexities(model, blocks, 4)
    assert model.training
    for layer, value in alone["perplexity_by_layer"].items():
        assert together["perplexity_by_layer"][layer] == pytest.approx(value, rel=1e-4)


def test_a_layers_perplexity_is_that_of_a_model_that_ends_there():
    model, blocks = DECODERS["llama"](2), rows(4)
    found = perplexities(model, blocks, 4)["perplexity_by_layer"]
    model.model.layers = model.model.layers[:2]
    model.config.num_hidden_layers = 2
    assert perplexities(model, blocks, 4)["perplexity"] == pytest.approx(found["2"], rel=1e-4)


def test_nothing_to_predict_is_refused():
    blocks = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100] * 3}])
    with pytest.raises(ValueError, match="there is no loss of any layer"):
        perplexities(DECODERS["gpt2"](0), blocks, 1)


def pairs(count):
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, 61, (6 + place,), generator=generator).tolist() for place in range(count)]
    return Dataset.from_list(
        [{"input_ids": each, "labels": [*each[: 3 + place % 2], 1]} for place, each in enumerate(ids)]
    )


def test_an_encoder_decoder_is_read_as_it_is_trained():
    """The last layer's against the library's forward, a lower one's against a decoder that ends there."""
    model, rows = tiny_t5(3), pairs(5)
    found = exit_scores(model, rows, 2, (2, 4))
    losses = {2: [], 4: []}
    right = {2: [], 4: []}
    blocks = model.decoder.block
    for layer in (4, 2):
        model.decoder.block = blocks[:layer]
        with torch.no_grad():
            for row in rows:
                labels = torch.tensor([row["labels"]])
                logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).logits[0]
                losses[layer] += torch.nn.functional.cross_entropy(logits, labels[0], reduction="none").tolist()
                right[layer] += (logits.argmax(-1) == labels[0]).tolist()
    for layer in (2, 4):
        assert found[layer].loss == pytest.approx(sum(losses[layer]) / len(losses[layer]), rel=1e-4)
        assert found[layer].accuracy == pytest.approx(sum(right[layer]) / len(right[layer]))


def test_metrics_are_named_by_layer():
    found = exit_score_metrics(tiny_t5(3), pairs(3), 2, (1, 4))
    assert list(found) == ["loss_layer_1", "loss_layer_4", "accuracy_layer_1", "accuracy_layer_4"]
    assert all(0 <= found[f"accuracy_layer_{layer}"] <= 100 for layer in (1, 4))
