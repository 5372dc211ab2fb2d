"""Hidden to logits: one object says what every model says, in training, in decoding, on copied rows of the head."""

import pytest
import torch
from torch import nn

from decoding.adapter import HeadRows
from models import ways
from models.norms import norm_of
from models.unembed import Unembed
from support import MODELS, double_precision, sources


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_the_head_says_what_the_model_says(kind):
    """Unembedding the last layer's states, through the module, on its weights or on copied rows of them."""
    with double_precision(MODELS[kind](2)) as model:
        ids, _ = sources(2, 2)
        decoder = {"decoder_input_ids": ids[:, :3]} if model.config.is_encoder_decoder else {}
        found = model(ids, **decoder, output_hidden_states=True)
        states = found.decoder_hidden_states if decoder else found.hidden_states
        normed, expected = states[-1][:, -1], found.logits[:, -1]  # final-normed by the library
        unembed = model.unembed()
        torch.testing.assert_close(unembed(normed), expected)
        torch.testing.assert_close(unembed.logits(normed), expected)
        torch.testing.assert_close(unembed.logits(normed[:1]), expected[:1])
        rows = torch.tensor([[3, 50, 7], [9, 4, 60]])
        copied = unembed.rows(rows)
        torch.testing.assert_close(unembed.logits_on(copied, normed[:, None])[:, 0], expected.gather(1, rows))
        fewer = copied.take([1, 0], torch.tensor([[2, 0], [1, 1]]))
        torch.testing.assert_close(
            unembed.logits_on(fewer, normed[[1, 0], None])[:, 0],
            torch.stack([expected[1, [60, 9]], expected[0, [50, 50]]]),
        )


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_the_final_norm_is_the_models_own(kind):
    with double_precision(MODELS[kind](3)) as model:
        module = model.get_submodule(model.final_norm)
        hidden = torch.randn(5, model.unembed().width)
        torch.testing.assert_close(model.unembed().normalise(hidden, model.num_exit_layers), module(hidden))


@pytest.mark.parametrize("bias", [True, False])
def test_pieces_of_the_head_change_nothing(bias, monkeypatch):
    head = nn.Linear(6, 40, bias=bias)
    unembed = Unembed(norm_of(nn.LayerNorm(6)), head, scale=0.5)
    states = torch.randn(4, 6)
    expected = unembed(states)
    monkeypatch.setattr(ways, "PIECE", 16)
    torch.testing.assert_close(unembed.logits(states), expected)


def test_rows_of_some_of_the_batch_rows():
    rows = HeadRows(torch.randn(3, 2, 4), torch.randn(3, 2))
    assert all(torch.equal(found, held[[2, 0]]) for found, held in zip(rows.of([2, 0]), rows, strict=True))
    assert HeadRows(rows.weight, None).of([1]).bias is None
