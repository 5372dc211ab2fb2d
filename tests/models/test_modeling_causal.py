"""The training side of decoder-only models: the losses are T5's, one position ahead, and labels may be masked."""

import pytest
import torch
from torch.nn import functional

from decoding.policy import Policy
from support import DECODERS, double_precision, sources, tiny_gpt2, translated

SPECIAL = {"weighted_ce": [1, 2, 3, 4], "ce": [1, 1, 1, 1]}


def batch(seed, masked=4):
    """Left-padded ids, their mask, and labels of all but the first tokens and the padding."""
    ids, mask = sources(seed, 3, left=True)
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :masked] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("kind", DECODERS)
def test_the_loss_is_the_weighted_mean_of_the_layers_cross_entropies(kind, name):
    with double_precision(DECODERS[kind](1)) as model:
        model.config.intermediate_loss_fn = name
        inputs = batch(1)
        found = model(**inputs)
        with torch.no_grad():
            plain = {key: inputs[key] for key in ("input_ids", "attention_mask")}
            states = model(**plain, output_hidden_states=True).hidden_states
            norm = model.get_submodule(model.final_norm)
            below = enumerate(states[1:-1], 1)
            normed = [*(norm(translated(model, state, layer)) for layer, state in below), states[-1]]
            logits_by_layer = [model.lm_head(hidden * model.output_scale) for hidden in normed]
            losses = [
                functional.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())
                for logits in logits_by_layer
            ]
        weights = SPECIAL[name]
        expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
        torch.testing.assert_close(found.loss, expected)
        torch.testing.assert_close(found.logits, logits_by_layer[-1])
        model.train()
        assert model(**inputs).logits is None, "the logits of a whole text are kept for nobody"


@pytest.mark.parametrize("kind", DECODERS)
def test_without_a_name_the_loss_is_the_librarys(kind):
    with double_precision(DECODERS[kind](2)) as model:
        inputs = batch(2)
        library = next(c for c in type(model).__mro__ if c.__module__.startswith("transformers.models."))
        torch.testing.assert_close(model(**inputs).loss, library.forward(model, **inputs).loss)


def test_nothing_under_the_mask_counts():
    model = tiny_gpt2(3)
    model.config.intermediate_loss_fn = "weighted_ce"
    inputs = batch(3)
    inputs["labels"][:] = -100
    assert model(**inputs).loss == 0


def test_every_parameter_learns():
    model = tiny_gpt2(4).train()
    model.config.intermediate_loss_fn = "weighted_ce"
    model(**batch(4)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_meta_head_alone_is_trained_and_decodes():
    model = tiny_gpt2(5, train_meta_cm_head=True)
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"cm_head"}
    model(**batch(5)).loss.backward()
    assert all(each.grad is not None for name, each in model.named_parameters() if name.startswith("cm_head"))
    ids, _ = sources(5, 1)
    _, trace = model.generate(
        ids, max_new_tokens=5, policy=Policy(confidence="meta", threshold=0.0, first_exit=2), return_trace=True
    )
    assert (trace.exit_layers[:, 1:] == 2).all()


def test_a_saved_model_is_the_same_again(tmp_path):
    with double_precision(tiny_gpt2(6, intermediate_loss_fn="ce")) as model:
        model.save_pretrained(tmp_path)
        again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        torch.testing.assert_close(again(**batch(6)).loss, model(**batch(6)).loss)
