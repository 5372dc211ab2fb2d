"""Positions of labelled data: which, in which order, of which row, and how many at once."""

import torch
from datasets import Dataset

from support import DECODERS, tiny_t5
from training.positions import labelled_positions

IDS = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [15, 16]]
ROWS = Dataset.from_list([{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in IDS])
AHEAD = [label for ids in IDS for label in ids[1:]]


def test_every_label_comes_once_with_its_row():
    model = DECODERS["llama"](0).train()
    found = list(labelled_positions(model, ROWS, 2))
    assert torch.cat([each.labels for each in found]).tolist() == AHEAD
    assert torch.cat([each.rows for each in found]).tolist() == [0] * 3 + [1] * 5 + [2]
    assert model.training
    assert len(found) == 2, "a batch each"


def test_some_of_them_are_those_that_every_batch_size_takes():
    model = DECODERS["gpt2"](0)
    for size in (1, 2, 3):
        found = list(labelled_positions(model, ROWS, size, share=0.5))
        assert torch.cat([each.labels for each in found]).tolist() == AHEAD[1::2]


def test_no_more_come_at_once_than_memory_is_given_for():
    found = list(labelled_positions(DECODERS["gpt2"](0), ROWS, 3, held=2 * 61 + 5))
    assert [len(each.labels) for each in found] == [2, 2, 2, 2, 1]
    assert all(each.states.normed[0].shape == (len(each.labels), 24) for each in found)


def test_states_are_those_of_all_layers_from_the_embedding_on():
    model = DECODERS["llama"](1)
    (some,) = labelled_positions(model, Dataset.from_list([ROWS[0]]), 1)
    with torch.no_grad():
        states = model(torch.tensor([IDS[0]]), output_hidden_states=True).hidden_states
    for found, expected in zip((some.states.embedded, *some.states.hidden), states[:-1], strict=True):
        torch.testing.assert_close(found, expected[0, :-1])
    torch.testing.assert_close(some.states.normed[-1], states[-1][0, :-1])
    torch.testing.assert_close(model.model.norm(some.states.last), states[-1][0, :-1])


def test_an_encoder_decoder_has_the_embedding_of_its_decoder():
    model = tiny_t5(0)
    (some,) = labelled_positions(model, Dataset.from_list([{"input_ids": [5, 6], "labels": [7, 8, 1]}]), 1)
    torch.testing.assert_close(some.states.embedded, model.shared.weight[[0, 7, 8]])
    assert some.labels.tolist() == [7, 8, 1] and len(some.states.hidden) == 3
    torch.testing.assert_close(model.decoder.final_layer_norm(some.states.last), some.states.normed[-1])
