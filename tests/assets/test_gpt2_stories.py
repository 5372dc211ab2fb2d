"""The embedded GPT-2: small, complete, with exits that were trained, and what generate.py makes of it without flags."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

import generate
from models import DeployGPT2LMHeadModel
from tasks.stories import invented_stories
from training.exit_scores import perplexities
from util.arguments import EMBEDDED_DECODER

ASSETS = Path(__file__).resolve().parents[2] / "src" / "assets"


def test_all_assets_together_are_small_and_this_one_is_complete():
    assert {path.name for path in EMBEDDED_DECODER.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 52 * 2**20
    with safe_open(EMBEDDED_DECODER / "model.safetensors", "pt") as stored:
        assert {stored.get_slice(key).get_dtype() for key in stored.keys()} == {"BF16"}  # noqa: SIM118 - no mapping
    model, info = DeployGPT2LMHeadModel.from_pretrained(EMBEDDED_DECODER, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    config = AutoConfig.from_pretrained(EMBEDDED_DECODER)
    assert not getattr(config, "intermediate_loss_fn", None) and not getattr(config, "use_early_exit", None)


@pytest.mark.parametrize(
    "text", ["", "plain words", "  two spaces,\ta tab\nand a line", "Grüße, 日本語 🙂", "<b> $5 \\"]
)
def test_any_text_survives_the_tokenizer(text):
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DECODER)
    ids = tokenizer(text).input_ids
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == text


def test_every_layer_reads_unseen_stories_well():
    from datasets import Dataset

    model = DeployGPT2LMHeadModel.from_pretrained(EMBEDDED_DECODER)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DECODER)
    rows = [[0, *tokenizer(row["text"]).input_ids] for row in invented_stories("validation", 20)]
    found = perplexities(model, Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in rows]), 8)
    by_layer = list(found["perplexity_by_layer"].values())
    assert found["perplexity"] < 3 and max(by_layer) < 5 and by_layer[0] == max(by_layer)


def test_generate_needs_no_flag_but_the_prompt(capsys, decided):
    (found,) = generate.main(["-p", "Once upon a time", "--device", "cpu"])
    assert "there was a" in found.text and capsys.readouterr().out.startswith("Once upon a time there was a")


def test_exits_save_layers_and_lossless_changes_nothing(decided):
    flags = ["-p", "Once upon a time", "--device", "cpu", "-l", "40"]
    exits = ["--use_early_exit", "True", "--exit_conf_threshold", "0.8"]
    (full,), (early,) = generate.main(flags), generate.main([*flags, *exits])
    (lossless,) = generate.main([*flags, *exits, "--lossless", "True"])
    assert sum(early.exit_layers) < 0.7 * sum(full.exit_layers)
    assert lossless.tokens == full.tokens and min(lossless.exit_layers) < 8
