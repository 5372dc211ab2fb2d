"""Exit translators: what they make of a state, and the file that holds them alone."""

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from decoding.policy import Policy
from models.lora import load_lora
from models.translators import (
    MODULE,
    ExitTranslators,
    attach_translators,
    fingerprint,
    load_translators,
    same_model,
    save_translators,
)
from models.unembed import Unembed
from support import (
    MODELS,
    POLICIES,
    double_precision,
    inputs_for,
    random_translators,
    tiny_gpt2,
    tiny_t5,
    translated,
    with_adapters,
    with_translators,
)

WIDTH = 24


@torch.no_grad()
def test_a_translator_adds_an_affine_map():
    made, hidden = random_translators((1, 3), WIDTH), torch.randn(5, WIDTH)
    weight, bias = made["3"].weight, made["3"].bias
    torch.testing.assert_close(made(hidden, 3), hidden + hidden @ weight.T + bias)
    assert made(hidden, 2) is hidden and made.layers == (1, 3)
    made.reset()
    assert torch.equal(made(hidden, 3), hidden)
    assert torch.equal(ExitTranslators(WIDTH, [2])(hidden, 2), hidden)


def test_a_file_gives_back_what_was_saved(tmp_path):
    model, made = tiny_t5(1), random_translators((1, 3), WIDTH)
    save_translators(tmp_path / "made.safetensors", made, model)
    found = load_translators(tmp_path / "made.safetensors", tiny_t5(1))
    assert found.layers == (1, 3)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in made.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_is_the_same_in_another_dtype_and_with_more_beside_it(dtype):
    own = fingerprint(tiny_gpt2(2))
    assert same_model(own, fingerprint(tiny_gpt2(2).to(dtype)))
    assert same_model(own, fingerprint(with_adapters(tiny_gpt2(2))))
    assert not same_model(own, fingerprint(tiny_gpt2(3)))
    headed = tiny_t5(2)
    held = fingerprint(headed)
    headed.cm_head = torch.nn.Sequential(torch.nn.Linear(3, 3))
    headed.exit_translators = random_translators((1, 3), WIDTH)
    assert same_model(held, fingerprint(headed))
    trained = tiny_t5(2)
    with torch.no_grad():
        trained.decoder.block[3].layer[0].SelfAttention.q.weight.mul_(1.05)
    assert not same_model(held, fingerprint(trained))


def broken(path, change):
    """The file with its metadata and weights changed."""
    with safe_open(path, framework="pt") as file:
        held, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    change(held, weights)
    save_file(weights, path, metadata=held)


def infinite(held, weights):
    weights["exit_translators.3.bias"][2] = torch.inf


WRONG = {
    "cannot be read": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "holds no exit translators": lambda path: broken(path, lambda held, _: held.pop("kind")),
    "does not say which model": lambda path: broken(path, lambda held, _: held.update(fingerprint="{}")),
    "not finite": lambda path: broken(path, infinite),
    r"exit_translators\.3\.weight is \[24, 24\]; valid": lambda path: broken(
        path, lambda _, weights: weights.pop("exit_translators.3.bias")
    ),
    r"exit_translators\.4\.bias is \[24\]; valid .* layers 1 to 3": lambda path: broken(
        path, lambda _, weights: weights.update({"exit_translators.4.bias": torch.zeros(24)})
    ),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_file_that_is_no_good_is_refused(words, tmp_path):
    path = tmp_path / "made.safetensors"
    save_translators(path, random_translators((1, 3), WIDTH), tiny_t5(1))
    WRONG[words](path)
    with pytest.raises(ValueError, match=words):
        load_translators(path, tiny_t5(1))


OTHERS = {
    "whose weights are not this model's": lambda: tiny_t5(2),
    "a model of 4 layers, and this model has 5": lambda: tiny_t5(1, layers=5),
    "states of width 24, and this model has 32": lambda: tiny_t5(1, d_model=32),
}


@pytest.mark.parametrize("words", OTHERS)
def test_another_models_translators_are_refused(words, tmp_path):
    save_translators(tmp_path / "made.safetensors", random_translators((1, 3), WIDTH), tiny_t5(1))
    with pytest.raises(ValueError, match=words):
        load_translators(tmp_path / "made.safetensors", OTHERS[words]())
    with pytest.raises(ValueError, match="cannot be read"):
        load_translators(tmp_path / "nowhere.safetensors", tiny_t5(1))


def test_only_what_fits_is_saved(tmp_path):
    for layers, width in (((4,), WIDTH), ((1,), 20)):
        with pytest.raises(ValueError, match="layers 1 to 3"):
            save_translators(tmp_path / "made.safetensors", random_translators(layers, width), tiny_t5(1))
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- in a model
@pytest.mark.parametrize("policy", ["static", "softmax", "JSD, text, fixed", "FREE"])
@pytest.mark.parametrize("build", [tiny_t5, tiny_gpt2])
def test_zeros_change_nothing(build, policy):
    """Not a bit: neither tokens nor confidences."""
    plain, zero = build(4), build(4)
    attach_translators(zero, ExitTranslators(WIDTH, range(1, 4)))
    inputs = inputs_for(plain, 4, 2)
    expected, trace = plain.generate(**inputs, policy=POLICIES[policy], return_trace=True)
    found, own = zero.generate(**inputs, policy=POLICIES[policy], return_trace=True)
    assert torch.equal(found, expected) and own.exit_layers.tolist() == trace.exit_layers.tolist()
    assert np.array_equal(own.confidences, trace.confidences, equal_nan=True)
    assert own.translated.any() and not trace.translated.any()


@pytest.mark.parametrize("build", [tiny_t5, tiny_gpt2])
def test_meta_reads_what_is_translated_and_state_what_is_not(build):
    """A classifier that looks at one number of the final-normed translation; the state's cosine stays what it was."""
    with double_precision(with_translators(build(5, has_cm_head=True))) as model:
        inputs = inputs_for(model, 5, 1, length=4)
        kept = {"return_trace": True, "return_states": True}
        _, trace = model.generate(**inputs, policy=Policy(confidence="meta", threshold=1.0), **kept)
        states = torch.from_numpy(trace.states[0]).double()  # [T, L + 1, D]
        norm = model.get_submodule(model.final_norm)
        with torch.no_grad():
            read = torch.stack([norm(translated(model, states[:, layer], layer)) for layer in (1, 2, 3)], 1)
            expected = model.cm_head(read).softmax(-1)[..., 1].numpy()
        asked = ~np.isnan(trace.confidences[0, :, 0])
        np.testing.assert_allclose(trace.confidences[0, asked, :3], expected[asked], atol=1e-4)
        _, cosines = model.generate(**inputs, policy=Policy(confidence="state", threshold=1.0), return_trace=True)
        model.exit_translators.reset()
        _, plain = model.generate(**inputs, policy=Policy(confidence="state", threshold=1.0), return_trace=True)
        assert np.array_equal(cosines.confidences, plain.confidences, equal_nan=True)
        assert not cosines.translated.any(), "nothing is read where nothing leaves"


@pytest.mark.parametrize("name", ["JSD", "JSD, text, fixed", "weighted", "no V_head"])
@pytest.mark.parametrize("kind", ["adapters merged, translators", "llama, adapters merged, translators"])
def test_a_state_is_translated_once(kind, name, monkeypatch):
    """Whatever asks for it, its own exit and contrasts of those above; what is counted is what was multiplied."""
    multiplied, translate = [], Unembed._translate

    def counted(unembed, hidden, layer):
        multiplied.extend([layer] * (len(hidden) if layer in unembed.translated else 0))
        return translate(unembed, hidden, layer)

    monkeypatch.setattr(Unembed, "_translate", counted)
    model = MODELS[kind](6)
    _, trace = model.generate(**inputs_for(model, 6, 3), policy=POLICIES[name], return_trace=True)
    layers = np.arange(1, 5)
    assert trace.translated.max() == 1 and trace.translated.sum() > 20
    assert [multiplied.count(layer) for layer in layers] == trace.translated.sum((0, 1)).tolist()
    assert (trace.translated <= (layers <= trace.exit_layers[..., None])).all()
    assert trace.flops()["exit_translators"].sum() == 2 * WIDTH**2 * trace.translated.sum()


@pytest.mark.parametrize("build", [tiny_t5, tiny_gpt2])
def test_a_checkpoint_holds_them(build, tmp_path):
    model = with_translators(build(7), (1, 3))
    model.save_pretrained(tmp_path)
    assert {"exit_translators.1.weight", "exit_translators.3.bias"} < load_file(tmp_path / "model.safetensors").keys()
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    inputs, policy = inputs_for(model, 7, 2), POLICIES["static"]
    assert torch.equal(again.generate(**inputs, policy=policy), model.generate(**inputs, policy=policy))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.exit_translators["1"].weight.dtype == torch.bfloat16
    new = type(model)(model.config)
    assert not any(parameter.any() for parameter in new.exit_translators.parameters()), "new ones change nothing"


def test_adapters_are_saved_and_loaded_with_them(tmp_path):
    """Where the model that the adapters belong to has none, too."""
    model = with_adapters(with_translators(tiny_gpt2(8), (2,)))
    assert {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad} == {"transformer"}
    model.save_pretrained(tmp_path)
    other, held = tiny_gpt2(8), LoraConfig.from_pretrained(tmp_path)
    assert held.modules_to_save == [MODULE]
    load_lora(other, held, load_file(tmp_path / "adapter_model.safetensors"), "base")
    assert torch.equal(other.exit_translators["2"].weight, model.exit_translators["2"].weight)
    inputs, policy = inputs_for(model, 8, 2), Policy(static_exit=2)
    assert torch.equal(other.generate(**inputs, policy=policy), model.generate(**inputs, policy=policy))


@pytest.mark.parametrize("build", [tiny_t5, tiny_gpt2])
def test_losses_read_what_exits_read_and_translators_learn(build):
    model = with_translators(build(9, intermediate_loss_fn="ce"))
    ids = inputs_for(model, 9, 2)["input_ids"]
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert all(parameter.grad.any() for parameter in model.exit_translators.parameters())
    model.exit_translators.reset()
    assert not torch.isclose(model(input_ids=ids, labels=ids).loss, loss, rtol=1e-3)
