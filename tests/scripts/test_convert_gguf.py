"""A GGUF file becomes a checkpoint of safetensors that is the same model, whole or not at all."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs import converting
from jobs.converting import is_whole
from scripts.convert_gguf import main
from support import tiny_llama
from support_folders import left_in

pytest.importorskip("gguf")
from support_gguf import write_gguf


@pytest.fixture
def file(tiny_tokenizer, tmp_path):
    model = tiny_llama(1, vocab_size=len(tiny_tokenizer), attention_bias=False, mlp_bias=False, tied=True)
    return write_gguf(tmp_path / "tiny.gguf", model, tiny_tokenizer), model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_checkpoint_is_the_same_model(file, tmp_path, dtype, capsys):
    path, model = file
    main(["--model_name_or_path", str(path), "--out", str(tmp_path / "out"), "--dtype", dtype])
    assert "tiny.gguf is in" in capsys.readouterr().out and is_whole(tmp_path / "out")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(found).__name__ == "LlamaForCausalLM" and found.dtype == getattr(torch, dtype)
    held = found.state_dict()
    assert all(torch.equal(held[name], each.to(found.dtype)) for name, each in model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template and found.generation_config.eos_token_id == tokenizer.eos_token_id
    held = json.loads((tmp_path / "out" / "config.json").read_text())
    assert held["architectures"] == ["LlamaForCausalLM"] and "quantization_config" not in held


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, argv)])
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(told) == 1, told
    return told[0]


def test_what_cannot_be_converted_leaves_nothing(file, tmp_path, capsys, monkeypatch):
    path, _ = file
    out = tmp_path / "out"
    assert "give --out FOLDER" in refused(capsys, "--model_name_or_path", path)
    assert "is no GGUF file" in refused(capsys, "--out", out)
    assert "valid are float32, bfloat16" in refused(
        capsys, "--model_name_or_path", path, "--out", out, "--dtype", "int4"
    )
    before = left_in(tmp_path)
    monkeypatch.setattr(converting.shutil, "disk_usage", lambda folder: converting.shutil._ntuple_diskusage(9, 9, 0))
    assert "has room for 0 MB" in refused(capsys, "--model_name_or_path", path, "--out", out)
    assert left_in(tmp_path) == before


def test_a_disk_that_is_full_all_at_once_leaves_nothing(file, tmp_path, capsys, monkeypatch):
    path, _ = file
    before = left_in(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.DeployLlamaForCausalLM.save_pretrained", full)
    assert "No space left" in refused(capsys, "--model_name_or_path", path, "--out", tmp_path / "out")
    assert left_in(tmp_path) == before


def test_a_checkpoint_with_a_part_of_its_weights_is_not_whole(file, tmp_path):
    path, _ = file
    main(["--model_name_or_path", str(path), "--out", str(tmp_path / "out")])
    weights = tmp_path / "out" / converting.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    assert not is_whole(tmp_path / "out")
