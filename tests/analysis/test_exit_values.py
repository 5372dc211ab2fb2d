"""What layers say of texts: against the library's hidden states, whatever the batches and pieces."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn import functional

from analysis import exit_values as module
from analysis.exit_values import exit_values
from decoding.confidence import CONFIDENCES
from support import DECODERS, T5S, tiny_t5, translated

MEASURES = [name for name, row in CONFIDENCES.items() if not row.looks_ahead and not row.reads_head]
CHECKED = ("gpt2", "llama, adapters merged, translators", "gemma3, tied", "granite", "neox", "opt")
EVERYTHING = 10_000


def texts(count=5):
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, 61, (length,), generator=generator).tolist() for length in range(6, 6 + count)]
    return Dataset.from_list([{"input_ids": each, "labels": [-100, -100, *each[2:]]} for each in ids])


def pairs(count=5):
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(2, 61, (6 + place,), generator=generator).tolist() for place in range(count)]
    return Dataset.from_list(
        [{"input_ids": each, "labels": [*each[: 3 + place % 2], 1]} for place, each in enumerate(ids)]
    )


def read_by_the_library(model, row):
    """Logits [T, L, V] where a row's labels count, and these labels, from `output_hidden_states`."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    norm = model.get_submodule(model.final_norm)
    if model.config.is_encoder_decoder:
        states = model(input_ids=ids, labels=labels, output_hidden_states=True).decoder_hidden_states
        taken, wanted = slice(None), labels[0]
    else:
        states = model(ids, output_hidden_states=True).hidden_states
        taken = (labels[0, 1:] != -100).nonzero().flatten()
        wanted = labels[0, 1:][taken]
    below = enumerate(states[1:-1], 1)
    normed = [*(norm(translated(model, state, layer)) for layer, state in below), states[-1]]
    head = model.lm_head
    scaling = getattr(model.config, "logits_scaling", 1.0)
    scale = model.config.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else 1.0
    return torch.stack([head(state[0, taken] * scale) / scaling for state in normed], 1).float(), wanted


@torch.no_grad()
def check(model, rows):
    found = exit_values(model, rows, 2, EVERYTHING, ["softmax", "entropy"], alpha=0.2)
    read = [read_by_the_library(model, row) for row in rows]
    logits, labels = torch.cat([each for each, _ in read]), torch.cat([each for _, each in read])  # [N, L, V]
    assert found.rows.tolist() == [number for number, (each, _) in enumerate(read) for _ in each]
    log_p = logits.log_softmax(-1)
    close = {"rtol": 1e-3, "atol": 1e-3}
    np.testing.assert_allclose(found.loss, -log_p.gather(2, labels[:, None, None].expand(-1, 4, 1))[..., 0], **close)
    divergence = functional.kl_div(log_p, log_p[:, -1:].expand_as(log_p), reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(found.divergence, divergence, **close)
    top2 = logits.topk(2, dim=-1).values
    sure = (top2[..., 0] - top2[..., 1] > 1e-3).all(1).numpy()  # otherwise rounding decides
    assert sure.mean() > 0.8
    token = logits[:, -1].argmax(-1)
    assert (found.equal == (logits.argmax(-1) == token[:, None]).numpy())[sure].all()
    ordered = logits.argsort(-1, descending=True)
    rank = 1 + (ordered == token[:, None, None]).int().argmax(-1).numpy()
    assert (found.rank == rank)[sure].mean() > 0.97, "ties of the others"
    p = log_p.exp()
    assert (found.plausible == (p >= 0.2 * p.amax(-1, keepdim=True)).sum(-1).numpy()).mean() > 0.97
    p2 = p.topk(2, dim=-1).values
    np.testing.assert_allclose(found.confidences["softmax"], (p2[..., 0] - p2[..., 1])[:, :-1], **close)


@pytest.mark.parametrize("kind", CHECKED)
def test_decoders_are_read_as_the_librarys_hidden_states_have_it(kind):
    check(DECODERS[kind](0), texts())


@pytest.mark.parametrize("kind", T5S)
def test_encoder_decoders_are_read_as_the_librarys_hidden_states_have_it(kind):
    check(T5S[kind](0), pairs())


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_neither_batches_nor_pieces_change_anything(kind, monkeypatch):
    model = DECODERS[kind](1).train()
    whole = exit_values(model, texts(), 5, EVERYTHING, MEASURES)
    assert model.training, "its mode is restored"
    monkeypatch.setattr(module, "HELD", 1)  # a position at a time
    alone = exit_values(model, texts(), 1, EVERYTHING, MEASURES)
    for name in ("loss", "divergence"):
        np.testing.assert_allclose(getattr(alone, name), getattr(whole, name), rtol=1e-3, atol=1e-4)
    for name in MEASURES:
        # which amateur is the farthest, and which tokens are plausible, rounding may decide
        differs = ~np.isclose(alone.confidences[name], whole.confidences[name], atol=1e-3, equal_nan=True)
        assert differs.mean() < 0.05, name


def test_measures_are_those_of_the_decode_loop():
    """At a position whose text is the prompt, an exit is asked what the loop asks it."""
    model, text = DECODERS["llama, adapters merged, translators"](2), texts(1)[0]
    found = exit_values(model, Dataset.from_list([text]), 1, EVERYTHING, MEASURES)
    logits, _ = read_by_the_library(model, text)
    top2 = logits.softmax(-1).topk(2, dim=-1).values[:, :-1]  # [N, L - 1, 2]
    np.testing.assert_allclose(found.confidences["max_prob"], top2[..., 0].detach(), atol=1e-4)
    gap = (top2[..., 0] - top2[..., 1]).detach().numpy()
    alone = found.plausible[:, :-1] == 1
    # with one plausible token the text's contrast is the softmax gap, and the code's one minus the second
    np.testing.assert_allclose(found.confidences["reweight_contrastive_text"][alone], gap[alone], atol=1e-4)
    second = top2[..., 1].detach().numpy()
    late = alone & (np.arange(1, 4) >= 3)
    np.testing.assert_allclose(found.confidences["JSD_contrastive_confidence"][late], 1 - second[late], atol=1e-4)
    assert np.isnan(found.confidences["state"][:, 0]).all() and not np.isnan(found.confidences["state"][:, 1:]).any()


def test_positions_are_spread_and_few():
    whole = exit_values(DECODERS["gpt2"](0), texts(8), 3, EVERYTHING, ["softmax"])
    some = exit_values(DECODERS["gpt2"](0), texts(8), 3, 10, ["softmax"])
    assert 9 <= len(some.loss) <= 10 and len(set(some.rows.tolist())) > 5
    everything = [tuple(row) for row in whole.rank]
    assert all(tuple(row) in everything for row in some.rank)


def test_the_last_layer_says_what_it_says():
    found = exit_values(tiny_t5(3), pairs(), 2, EVERYTHING, [])
    assert found.layers == 4 and found.equal[:, -1].all() and (found.rank[:, -1] == 1).all()
    assert (found.divergence[:, -1] == 0).all() and (found.divergence > -1e-5).all()


def test_nothing_to_look_at_is_refused():
    nothing = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100] * 3}])
    with pytest.raises(ValueError, match="nothing that a layer could say"):
        exit_values(DECODERS["gpt2"](0), nothing, 1, 5, [])
