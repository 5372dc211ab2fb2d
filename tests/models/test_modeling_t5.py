"""Laws of the training side of the T5 family: losses over exits, the `meta` head, loading and saving."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    LongT5Config,
    LongT5ForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from losses.exits import LOSSES, loss_over_layers
from losses.layers import Layers, LayerStates
from models.exit_training import wants_cm_head
from models.modeling_longt5 import EarlyExitLongT5ForConditionalGeneration
from models.modeling_t5 import EarlyExitMT5ForConditionalGeneration, EarlyExitT5ForConditionalGeneration
from support import double_precision

SIZES = {
    "vocab_size": 40,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
FAMILY = {
    "t5 tied": (T5Config, {}, EarlyExitT5ForConditionalGeneration, T5ForConditionalGeneration),
    "t5 unscaled": (
        T5Config,
        {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
        EarlyExitT5ForConditionalGeneration,
        T5ForConditionalGeneration,
    ),
    "mt5": (MT5Config, {}, EarlyExitMT5ForConditionalGeneration, MT5ForConditionalGeneration),
    "longt5": (
        LongT5Config,
        {"local_radius": 2, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"},
        EarlyExitLongT5ForConditionalGeneration,
        LongT5ForConditionalGeneration,
    ),
    "longt5, global": (
        LongT5Config,
        {"local_radius": 1, "global_block_size": 2, "encoder_attention_type": "transient-global"},
        EarlyExitLongT5ForConditionalGeneration,
        LongT5ForConditionalGeneration,
    ),
}


def build(member: str, **settings):
    config_class, options, model_class, _ = FAMILY[member]
    config = config_class(**SIZES, **options)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return model_class(config)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    labels = torch.randint(2, 40, (2, 6))
    labels[1, 4:] = -100
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[0, 5:] = 0
    return {"input_ids": torch.randint(2, 40, (2, 7)), "attention_mask": mask, "labels": labels}


@torch.no_grad()
def library_states(model, batch) -> tuple[LayerStates, torch.Tensor]:
    """The library's own hidden states, and its logits."""
    library = next(each for each in type(model).__mro__ if each.__module__.startswith("transformers.models."))
    output = library.forward(model, **batch, output_hidden_states=True)
    _, *below, last = output.decoder_hidden_states
    return LayerStates(below, [*map(model.decoder.final_layer_norm, below), last]), output.logits


@torch.no_grad()
def layer_losses(model, batch) -> list[torch.Tensor]:
    """Cross entropy of each decoder layer from the library's own hidden states, with the head written out."""
    states, last = library_states(model, batch)
    scale = model.config.d_model**-0.5 if getattr(model.config, "scale_decoder_outputs", False) else 1.0
    logits = [hidden * scale @ model.lm_head.weight.T for hidden in states.normed]
    torch.testing.assert_close(logits[-1], last)
    return [functional.cross_entropy(each.flatten(0, 1), batch["labels"].flatten()) for each in logits]


@pytest.mark.parametrize("member", FAMILY)
def test_without_settings_forward_is_the_librarys(member, batch):
    with double_precision(build(member)) as model:
        library = FAMILY[member][3](model.config)
        library.load_state_dict(model.state_dict())
        ours, theirs = model(**batch), library(**batch)
        torch.testing.assert_close((ours.loss, ours.logits), (theirs.loss, theirs.logits))


@pytest.mark.parametrize("member", FAMILY)
@pytest.mark.parametrize(
    ("name", "weights"), [("ce", (1, 1, 1)), ("weighted_ce", (1, 2, 3)), ("shallowdeep_ce", (0, 2, 3))]
)
def test_intermediate_loss_is_the_formula_over_hidden_states(member, name, weights, batch):
    with double_precision(build(member, intermediate_loss_fn=name, shallow_exit_layer=2).eval()) as model:
        losses = layer_losses(model, batch)
        expected = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
        torch.testing.assert_close(model(**batch).loss.detach(), expected)


@pytest.mark.parametrize("member", FAMILY)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_that_of_the_librarys_states_and_every_weight_learns(member, name, batch):
    settings = {"intermediate_loss_fn": name, "shallow_exit_layer": 2, "layer_dropout": 0.0}
    with double_precision(build(member, **settings).train()) as model:
        states, _ = library_states(model, batch)
        expected = loss_over_layers(name, Layers(states, batch["labels"], model.unembed(), model.config))
        loss = model(**batch).loss
        torch.testing.assert_close(loss.detach(), expected.detach())
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_logits_come_with_the_loss_in_evaluation_only(batch):
    model = build("t5 tied", intermediate_loss_fn="ce")
    assert model.train()(**batch).logits is None
    plain = build("t5 tied").eval()
    torch.testing.assert_close(model.eval()(**batch).logits, plain(**batch).logits)


def test_without_labels_the_settings_do_not_matter(batch):
    model = build("t5 tied", intermediate_loss_fn="ce").eval()
    inputs = {"input_ids": batch["input_ids"], "decoder_input_ids": torch.zeros(2, 1, dtype=torch.long)}
    assert model(**inputs).loss is None
    torch.testing.assert_close(model(**inputs).logits, build("t5 tied").eval()(**inputs).logits)


@pytest.mark.parametrize("member", FAMILY)
def test_only_the_meta_head_learns_under_train_meta_cm_head(member, batch):
    model = build(member, train_meta_cm_head=True)
    model(**batch).loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {"cm_head.0.weight", "cm_head.0.bias", "cm_head.2.weight", "cm_head.2.bias"}
    assert learned == trainable == expected


def test_a_loaded_model_is_frozen_as_well(tmp_path):
    build("t5 tied").save_pretrained(tmp_path)
    config = T5Config.from_pretrained(tmp_path)
    config.train_meta_cm_head = True
    model = EarlyExitT5ForConditionalGeneration.from_pretrained(tmp_path, config=config)
    assert all(p.requires_grad == name.startswith("cm_head.") for name, p in model.named_parameters())


def test_the_meta_head_exists_when_the_config_says_so():
    for settings in (
        {"train_meta_cm_head": True},
        {"has_cm_head": True},
        {"exit_conf_type": "meta"},
        {"shallow2deep_conf_type": "meta"},
    ):
        assert hasattr(build("t5 tied", **settings), "cm_head")
    model = build("t5 tied", exit_conf_type="softmax", train_meta_cm_head=False)
    assert not hasattr(model, "cm_head") and not wants_cm_head(model.config)


def test_new_weights_have_the_scale_of_the_library():
    """The head's matrices are not drawn with T5's factor of 1, and the decoder's are those of the library's class."""
    model = build("t5 tied", has_cm_head=True, d_model=256)
    for linear in (model.cm_head[0], model.cm_head[2]):
        assert 0.5 * 256**-0.5 < linear.weight.std() < 2 * 256**-0.5
        assert torch.count_nonzero(linear.bias) == 0
    query = build("t5 tied").decoder.block[0].layer[0].SelfAttention.q.weight
    assert query.std() < 2 * (SIZES["d_model"] * SIZES["d_kv"]) ** -0.5


def untied_checkpoint(folder):
    """A checkpoint in which lm_head and the embedding differ, as flan-T5's do."""
    model = build("t5 unscaled", has_cm_head=True)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = torch.randn_like(weights["shared.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


@pytest.mark.parametrize("tied", [True, False])
def test_saving_and_loading_changes_nothing(tied, tmp_path, batch):
    first, second = tmp_path / "first", tmp_path / "second"
    if tied:
        build("t5 tied", has_cm_head=True).save_pretrained(first)
    else:
        weights = untied_checkpoint(first)
    model, info = EarlyExitT5ForConditionalGeneration.from_pretrained(first, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert (model.lm_head.weight.data_ptr() == model.shared.weight.data_ptr()) == tied
    if not tied:
        assert torch.equal(model.lm_head.weight, weights["lm_head.weight"])
    model.save_pretrained(second)
    again = EarlyExitT5ForConditionalGeneration.from_pretrained(second)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())


def test_a_head_without_biases_has_biases_of_zero(tmp_path):
    build("t5 tied", has_cm_head=True).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not name.endswith("bias")}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, info = EarlyExitT5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.count_nonzero(model.cm_head[0].bias) == 0 and torch.count_nonzero(model.cm_head[2].bias) == 0
    assert torch.equal(model.cm_head[0].weight, weights["cm_head.0.weight"])


def test_foreign_weights_are_ignored_with_one_line(tmp_path, caplog):
    build("t5 tied").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["layer_transformation.weight"] = torch.zeros(16, 16)
    weights["decoder.lm_head.weight"] = torch.zeros(40, 16)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        _, info = EarlyExitT5ForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    (line,) = [record.getMessage() for record in caplog.records if "layer_transformation" in record.getMessage()]
    assert "decoder.lm_head.weight" in line and "\n" not in line


def test_a_head_of_the_checkpoint_is_left_alone_where_it_is_not_wanted(tmp_path):
    build("t5 tied", has_cm_head=True).save_pretrained(tmp_path)
    config = T5Config.from_pretrained(tmp_path)
    config.has_cm_head = False
    model, info = EarlyExitT5ForConditionalGeneration.from_pretrained(tmp_path, config=config, output_loading_info=True)
    assert not info["unexpected_keys"] and not hasattr(model, "cm_head")


def test_the_trainer_will_not_scale_the_loss():
    assert EarlyExitT5ForConditionalGeneration.accepts_loss_kwargs is False
