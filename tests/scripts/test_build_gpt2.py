"""The command that rebuilds the embedded GPT-2, with a few steps of a small model."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from models import DeployGPT2LMHeadModel
from scripts import build_gpt2
from support import OFF

SMALL = ["--rows", "2", "--length", "32", "--layers", "2", "--width", "32"]


@pytest.fixture(autouse=True)
def few_stories(monkeypatch):
    monkeypatch.setattr(build_gpt2, "TOKENIZER_STORIES", 200)


def test_one_command_makes_a_checkpoint_of_float32(tmp_path):
    out = tmp_path / "made"
    build_gpt2.main(["--out", str(out), "--steps", "3", *SMALL])
    model, info = DeployGPT2LMHeadModel.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and model.dtype == torch.float32
    config = AutoConfig.from_pretrained(out)
    assert not hasattr(config, "intermediate_loss_fn") and config.architectures == ["GPT2LMHeadModel"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("Grüße, 日本").input_ids) == "Grüße, 日本"
    assert not (tmp_path / "made.work").exists(), "the state of a finished run is removed"


def test_a_batch_depends_on_its_step_alone():
    tokenizer = build_gpt2.build_tokenizer()
    stream = build_gpt2.batches(tokenizer, 2, 32, 0)
    first, second = next(stream), next(stream)
    again = next(build_gpt2.batches(tokenizer, 2, 32, 1))
    assert torch.equal(second["input_ids"], again["input_ids"])
    assert not torch.equal(first["input_ids"], second["input_ids"]) and first["input_ids"].shape == (2, 32)


def test_a_killed_run_continues(tmp_path, monkeypatch, capsys):
    out = tmp_path / "made"
    plain, steps = build_gpt2.batches, []

    def dying(*arguments):
        for batch in plain(*arguments):
            if len(steps) == 2:
                raise KeyboardInterrupt
            steps.append(batch)
            yield batch

    monkeypatch.setattr("scripts.build_assets.SAVE_EVERY", 0)
    monkeypatch.setattr(build_gpt2, "batches", dying)
    with pytest.raises(KeyboardInterrupt):
        build_gpt2.main(["--out", str(out), "--steps", "4", *SMALL])
    monkeypatch.setattr(build_gpt2, "batches", plain)
    build_gpt2.main(["--out", str(out), "--steps", "4", *SMALL])
    build_gpt2.main(["--out", str(tmp_path / "whole"), "--steps", "4", *SMALL])
    continued, whole = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "whole"))
    torch.testing.assert_close(continued, whole, rtol=torch.finfo(torch.bfloat16).eps, atol=OFF)
    assert "is complete" in capsys.readouterr().out
