"""What is read of a model to fit translators, and that training them lowers the divergence and touches nothing else."""

import pytest
import torch
from datasets import Dataset

from models.translators import ExitTranslators
from support import DECODERS, tiny_t5
from training.translator_fit import TOO_LONG, TranslatorFit
from training.translators import NotFinite, TranslatorTraining, add_texts, length_limits, rows_of_step, states_of

WIDTH = 24
GENERATOR = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(2, 61, (length,), generator=GENERATOR).tolist() for length in (9, 5, 12, 7, 30, 3)]
ROWS = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in TEXTS])
PAIRS = Dataset.from_list([{"input_ids": ids, "labels": [*ids[:4], 1]} for ids in TEXTS])
MODELS = {"gpt2": (DECODERS["gpt2"], ROWS), "llama": (DECODERS["llama"], ROWS), "t5": (tiny_t5, PAIRS)}


@pytest.mark.parametrize("name", MODELS)
def test_the_fit_depends_neither_on_batch_size_nor_on_the_order_of_texts(name):
    made, rows = MODELS[name]
    model, found = made(0).double(), []
    for size, order in ((1, range(6)), (4, [3, 0, 5, 1, 4, 2])):
        fit = TranslatorFit([1, 3], WIDTH)
        add_texts(fit, model, rows.select(order), size)
        found.append(fit.solve())
    assert fit.counts[0] == sum(len(row["labels"]) for row in rows) - (len(rows) if name != "t5" else 0)
    for layer in (1, 3):
        torch.testing.assert_close(found[0][layer], found[1][layer], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_states_are_those_before_the_final_norm():
    model = DECODERS["llama"](0)
    ((first, second), last), *_ = states_of(model, ROWS, 1, [1, 3])
    output = model.model(torch.tensor(TEXTS[:1]), output_hidden_states=True)
    torch.testing.assert_close(first, output.hidden_states[1][0, :-1])
    torch.testing.assert_close(second, output.hidden_states[3][0, :-1])
    torch.testing.assert_close(model.model.norm(last), output.last_hidden_state[0, :-1])


def test_limits_are_ten_times_the_median_of_each_layer():
    model = DECODERS["gpt2"](0).double()
    found = [
        torch.cat(each) for each in zip(*((h[0], last) for h, last in states_of(model, ROWS, 6, [2])), strict=True)
    ]
    expected = [TOO_LONG * each.norm(dim=1).median().item() for each in found]
    for rows, size in ((ROWS, 6), (ROWS.select([4, 2, 0, 1, 3, 5]), 1)):
        assert length_limits(model, rows, size, [2]) == pytest.approx(expected)


def test_a_text_whose_states_are_not_finite_is_named():
    model = DECODERS["gpt2"](0)
    with torch.no_grad():
        model.transformer.wte.weight[TEXTS[2][3]] = torch.inf
    with pytest.raises(NotFinite, match="after layer 1 are not finite") as raised:
        add_texts(TranslatorFit([1, 2, 3], WIDTH), model, ROWS, 2)
    assert raised.value.input_ids in [ids for ids in TEXTS if TEXTS[2][3] in ids[:-1]]


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_divergence_and_changes_nothing_else(name):
    made, rows = MODELS[name]
    model = made(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    translators = ExitTranslators(WIDTH, [1, 3])
    training = TranslatorTraining(model, translators, rows, 6, 1000, 30, 3e-3)
    losses = [training.take_step() for _ in range(30)]
    assert losses[-1] < 0.8 * losses[0] and translators["1"].weight.any() and translators["3"].bias.any()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_training_that_was_interrupted_ends_as_one_that_was_not():
    def training():
        return TranslatorTraining(DECODERS["gpt2"](0), ExitTranslators(WIDTH, [2]), ROWS, 2, 8, 4, 1e-2)

    whole, half, rest = training(), training(), training()
    for each in (whole, whole, whole, whole, half, half):
        each.take_step()
    rest.load_state_dict(half.state_dict())
    rest.take_step()
    rest.take_step()
    assert torch.equal(rest.translators["2"].weight, whole.translators["2"].weight)


def test_every_row_comes_once_before_any_comes_again():
    found = [row for step in range(5) for row in rows_of_step(step, 5, 3)]
    assert all(sorted(found[start : start + 5]) == [0, 1, 2, 3, 4] for start in (0, 5, 10))
    assert found[:5] != found[5:10]
