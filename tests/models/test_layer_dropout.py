"""Layers that a training step leaves out: which rows, in which modes, and under gradient checkpointing."""

from functools import partial

import pytest
import torch

from losses.layerskip import dropped_layers
from support import tiny_gpt2, tiny_llama, tiny_neox, tiny_opt, tiny_t5

LONGT5S = [partial(tiny_t5, kind=kind) for kind in ("longt5", "longt5, global")]
BUILDERS = [tiny_t5, *LONGT5S, tiny_gpt2, tiny_llama, tiny_neox, tiny_opt]


def made(build, rate: float = 0.9, layers: int = 4):
    model = build(3, layers=layers).double().train()
    flags = {"intermediate_loss_fn": "layerskip", "layer_dropout": rate, "layer_dropout_seed": 5}
    for name, value in flags.items():
        setattr(model.config, name, value)
    return model


def batch(model, rows: int = 6) -> dict:
    torch.manual_seed(1)
    ids = torch.randint(2, 60, (rows, 5))
    return {"input_ids": ids, "labels": ids.clone()}


def states_of(model, inputs, **steps) -> list[torch.Tensor]:
    """h^1 to h^L as the layers give them in a training forward."""
    seen = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in model.decoder_layers
    ]
    model(**inputs, **steps)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("build", BUILDERS)
def test_a_dropped_row_passes_its_layer_unchanged_and_no_other_does(build):
    model, rows = made(build), 40
    model(**batch(model, rows), step=2, steps=9)  # the hooks are there from the first batch on
    seen = states_of(model, batch(model, rows), step=3, steps=9)
    dropped = dropped_layers(4, rows, (3,), layer_dropout=0.9, layer_dropout_seed=5)
    assert dropped[1:3].any(1).all() and not dropped[[0, 3]].any()
    for place in range(1, 4):
        same = (seen[place] == seen[place - 1]).flatten(1).all(1)
        assert same.tolist() == dropped[place].tolist()


@pytest.mark.parametrize("build", BUILDERS)
def test_evaluation_and_other_losses_run_every_layer(build):
    model, plain = made(build), made(build, rate=0.0)
    inputs = batch(model)
    model(**inputs, step=1, steps=9)
    torch.testing.assert_close(model.eval()(**inputs).loss, plain.eval()(**inputs).loss)
    model.config.intermediate_loss_fn = plain.config.intermediate_loss_fn = "weighted_ce"
    losses = []
    for each in (model, plain):
        torch.manual_seed(2)  # some have dropout of their own
        losses.append(each.train()(**inputs).loss)
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_measured_between_two_steps_runs_every_layer(build):
    model, plain = made(build), made(build, rate=0.0)
    model(**batch(model), step=1, steps=9)
    assert model.layer_dropout.dropped.any()
    measured = [each.eval().teacher_forced(**batch(each, rows=4))[0].normed for each in (model, plain)]
    torch.testing.assert_close(*measured)


@pytest.mark.parametrize("build", BUILDERS)
def test_gradient_checkpointing_leaves_out_the_same_rows(build):
    gradients = []
    for checkpointing in (False, True):
        model = made(build)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch(model), step=3, steps=9).loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_parts_of_a_batch_draw_for_themselves_and_a_continued_training_draws_alike():
    model = made(tiny_gpt2)
    parts = []
    for _ in range(2):
        model(**batch(model), step=4, steps=9)
        parts.append(model.layer_dropout.dropped)
    again = made(tiny_gpt2)
    again(**batch(again), step=4, steps=9)
    assert not torch.equal(*parts) and torch.equal(again.layer_dropout.dropped, parts[0])
