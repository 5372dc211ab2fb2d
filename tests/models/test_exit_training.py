"""Every loss in a model: under gradient checkpointing, in bfloat16, and which parameters it teaches."""

import pytest
import torch

from losses.exits import LOSSES
from support import tiny_gpt2, tiny_llama, tiny_t5

BUILDERS = [tiny_t5, tiny_gpt2, tiny_llama]
SHALLOW, DEPTH = 2, 4
DISTILLING = [name for name in LOSSES if "kd" in name]


def made(build, loss: str, dtype: torch.dtype = torch.float64):
    model = build(3, layers=DEPTH).to(dtype).train()
    model.config.update({"intermediate_loss_fn": loss, "shallow_exit_layer": SHALLOW})
    return model


def gradients(model) -> dict[str, torch.Tensor]:
    """Name of a parameter -> its gradient after one batch, of those that have one; the loss is a scalar in float32."""
    torch.manual_seed(1)
    ids = torch.randint(2, 60, (4, 6))
    labels = ids.clone()
    labels[1, 3:] = -100
    torch.manual_seed(2)  # some have dropout of their own
    loss = model(input_ids=ids, labels=labels, step=3, steps=9).loss
    assert loss.shape == () and loss.isfinite()
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach(), **found}


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_checkpointing_changes_nothing(build, loss):
    plain, checkpointed = made(build, loss), made(build, loss)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    expected, found = gradients(plain), gradients(checkpointed)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_comes_near_float32(build, loss):
    expected = gradients(made(build, loss, torch.float32))
    whole, mixed = made(build, loss, torch.bfloat16), made(build, loss, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(mixed)
    for each, dtype in ((gradients(whole), torch.bfloat16), (found, torch.float32)):
        assert each["loss"].dtype == torch.float32, "sums over a vocabulary are taken in float32"
        torch.testing.assert_close(each["loss"], expected["loss"], rtol=0.03, atol=0)
        assert each.keys() == expected.keys()
        assert all(gradient.dtype == dtype for name, gradient in each.items() if name != "loss")
        assert all(gradient.isfinite().all() for gradient in each.values())


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("loss", DISTILLING)
def test_layers_above_the_shallow_exit_learn_from_their_labels_alone(build, loss):
    taught, plain = gradients(made(build, loss)), gradients(made(build, "shallowdeep_ce"))
    above = [name for layer in range(SHALLOW, DEPTH) for name in names_of(made(build, loss), layer)]
    below = names_of(made(build, loss), SHALLOW - 1)
    assert above and all(torch.allclose(taught[name], plain[name], rtol=1e-9, atol=1e-12) for name in above)
    assert not any(torch.allclose(taught[name], plain[name]) for name in below if plain[name].abs().max() > 0)


def names_of(model, layer: int) -> list[str]:
    """The parameters of a decoder layer that a loss reaches, from 0."""
    own = {id(parameter) for parameter in model.decoder_layers[layer].parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in own]


def test_weights_are_saved_as_readable_as_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    tiny_t5().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
