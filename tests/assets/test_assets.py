"""The embedded checkpoints: small, complete, loaded as float32, with a tokenizer that gives back any text."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from models import DeployT5ForConditionalGeneration

ASSETS = Path(__file__).resolve().parents[2] / "src" / "assets"
# Of each model what is stored: the format of its numbers, and MiB at most.
STORED = {"t5_exits": ("BF16", 8), "t5_translation": ("F16", 16)}
CHECKPOINTS = [f"{model}_{exits}" for model in STORED for exits in ("trained", "untrained")]
ODD_TEXTS = (
    "",
    "plain words",
    "  two spaces before,\tand a tab\nand a line",
    "Grüße aus Köln, ça va? naïve Ångström",
    "日本語 and emoji 🙂👩‍🚀",
    "a\u00a0b \u200b zero width",
    "100% of $5,000.00 <b>tags</b> {braces} \\ `ticks`",
)


def stored(name: str) -> tuple[str, int]:
    return STORED[name.rpartition("_")[0]]


pytestmark = pytest.mark.parametrize("name", CHECKPOINTS)


def test_everything_needed_is_there_and_small(name):
    files = {path.name for path in (ASSETS / name).iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed <= files
    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) <= stored(name)[1] * 2**20


def test_weights_are_stored_in_16_bit_and_loaded_as_float32(name):
    with safe_open(ASSETS / name / "model.safetensors", "pt") as weights:
        found = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118 - no mapping
    assert found == {stored(name)[0]}
    model = DeployT5ForConditionalGeneration.from_pretrained(ASSETS / name)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_nothing_is_missing_from_the_checkpoint(name):
    _, info = DeployT5ForConditionalGeneration.from_pretrained(ASSETS / name, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_sizes_and_special_tokens(name):
    config, tokenizer = AutoConfig.from_pretrained(ASSETS / name), AutoTokenizer.from_pretrained(ASSETS / name)
    assert config.num_decoder_layers >= 8 and config.vocab_size >= 4000
    assert len(tokenizer) == config.vocab_size
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (0, 1, 0)


def test_the_config_carries_no_policy_and_no_training_setting(name):
    config = AutoConfig.from_pretrained(ASSETS / name)
    for setting in ("use_early_exit", "exit_conf_type", "intermediate_loss_fn", "train_meta_cm_head"):
        assert not getattr(config, setting, None)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_text_survives_the_tokenizer(name, text):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name)
    ids = tokenizer(text).input_ids
    assert ids[-1] == tokenizer.eos_token_id and tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_word_has_the_same_tokens_at_the_start_and_inside(name):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name)
    alone = tokenizer("Kalmarow").input_ids[:-1]
    assert tokenizer("near Kalmarow").input_ids[-1 - len(alone) : -1] == alone


def test_a_padded_batch_is_the_texts(name):
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / name)
    texts = ["one", "two words and more"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert tokenizer.batch_decode(batch.input_ids, skip_special_tokens=True) == texts
    assert batch.attention_mask.sum().item() == (batch.input_ids != 0).sum().item()


def test_the_two_are_one_architecture_and_tokenizer_with_different_weights(name):
    model, _, exits = name.rpartition("_")
    other = f"{model}_{'untrained' if exits == 'trained' else 'trained'}"
    for file in ("config.json", "tokenizer.json"):
        assert (ASSETS / name / file).read_bytes() == (ASSETS / other / file).read_bytes()
    assert (ASSETS / name / "model.safetensors").read_bytes() != (ASSETS / other / "model.safetensors").read_bytes()
