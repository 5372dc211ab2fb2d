"""GGUF checkpoints: what is loaded is what was saved, and what cannot be loaded is said."""

import struct

import pytest
import torch

from generate import main
from jobs.loading import load_config, load_model, load_tokenizer
from support import plain_generate, tiny_gpt2, tiny_llama
from util import DecoderArguments
from util.arguments import build

pytest.importorskip("gguf")
from support_gguf import write_gguf

# What a GGUF file does not hold is what every checkpoint of the family has.
FAMILIES = {
    "llama": {"attention_bias": False, "mlp_bias": False, "tied": True},
    "qwen2": {"use_sliding_window": False, "layer_types": None},
    "qwen3": {"head_dim": 128},
    "stablelm": {"hidden_size": 32, "partial_rotary_factor": 0.25},
    "gemma3": {"layers": 6, "layer_types": None, "rope_parameters": None, "query_pre_attn_scalar": 256, "tied": True},
}


def tiny(kind: str, tokenizer):
    if kind == "gpt2":
        return tiny_gpt2(1, vocab_size=len(tokenizer), n_positions=1024)
    return tiny_llama(1, kind=kind, vocab_size=len(tokenizer), **FAMILIES[kind])


def loaded(path, dtype=torch.float32):
    args = DecoderArguments(model_name_or_path=str(path))
    config = load_config(args, encoder=False)
    return load_model(args, config, dtype).eval(), load_tokenizer(args)


@pytest.mark.parametrize("kind", ["gpt2", *FAMILIES])
def test_a_model_comes_back_with_its_tokenizer(kind, tiny_tokenizer, tmp_path):
    model = tiny(kind, tiny_tokenizer)
    found, tokenizer = loaded(write_gguf(tmp_path / "tiny.gguf", model, tiny_tokenizer))
    ids = torch.randint(3, len(tokenizer), (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4)
    answer = found.generate(ids, max_new_tokens=5, do_sample=False)
    assert answer.tolist() == plain_generate(found, input_ids=ids, max_new_tokens=5, do_sample=False).tolist()
    assert len(tokenizer) == len(tiny_tokenizer) and tokenizer.eos_token == tokenizer.bos_token == "</s>"
    plain = tiny_tokenizer("What colour is it?", add_special_tokens=False)["input_ids"]
    assert tokenizer(" What colour is it?", add_special_tokens=False)["input_ids"] == plain
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "Hi"


def test_its_weights_are_widened_to_the_dtype_and_train(tiny_tokenizer, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny("llama", tiny_tokenizer), tiny_tokenizer)
    found, _ = loaded(path, torch.bfloat16)
    assert {each.dtype for each in found.parameters()} == {torch.bfloat16}
    assert not hasattr(found.config, "quantization_config")
    ids = torch.arange(3, 12)[None]
    found.float()(input_ids=ids, labels=ids).loss.backward()
    assert all(each.grad is not None for each in found.parameters())


def test_both_spellings_name_the_same_file(tiny_tokenizer, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny("llama", tiny_tokenizer), tiny_tokenizer)
    (apart,) = build((DecoderArguments,), {"model_name_or_path": str(tmp_path), "gguf_file": "tiny.gguf"})
    assert apart.model_name_or_path == DecoderArguments(model_name_or_path=str(path)).model_name_or_path == str(path)
    assert DecoderArguments(model_name_or_path="owner/name", gguf_file="a.gguf").model_name_or_path.endswith("/a.gguf")


def refused(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["-p", "Hi", *map(str, argv)])
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(told) == 1, told
    return told[0]


def test_what_is_no_whole_gguf_file_is_refused(tiny_tokenizer, tmp_path, capsys):
    missing, whole = tmp_path / "missing.gguf", tmp_path / "whole.gguf"
    assert "missing.gguf: there is no such file." in refused(capsys, "--model_name_or_path", missing)
    assert "no such file" in refused(capsys, "--model_name_or_path", tmp_path, "--gguf_file", "missing.gguf")
    assert "no GGUF file" in refused(capsys, "--model_name_or_path", tmp_path, "--gguf_file", "model.bin")
    content = write_gguf(whole, tiny("llama", tiny_tokenizer), tiny_tokenizer).read_bytes()
    for name, held in {
        "empty": b"",
        "text": b"This is no model.",
        "head": content[:900],
        "cut": content[:-900],
    }.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(held)
        told = refused(capsys, "--model_name_or_path", path)
        assert str(path) in told and "cut short" in told, told


def test_what_would_be_another_model_is_refused(tiny_tokenizer, tmp_path, capsys):
    scaled = write_gguf(
        tmp_path / "scaled.gguf", tiny("llama", tiny_tokenizer), tiny_tokenizer, llama__rope__scaling__type="yarn"
    )
    assert "scales its rotary positions" in refused(capsys, "--model_name_or_path", scaled)
    for name, sentence in (("falcon", "model_type is 'falcon'"), ("nothing", "architecture nothing is not supported")):
        path = tmp_path / f"{name}.gguf"
        key, value = b"general.architecture", name.encode()
        held = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(value)) + value
        path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + held + bytes(64))
        assert sentence in refused(capsys, "--model_name_or_path", path)


def test_without_the_package_a_sentence_says_what_to_install(tiny_tokenizer, tmp_path, capsys, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny("llama", tiny_tokenizer), tiny_tokenizer)
    monkeypatch.setattr("util.packages.find_spec", lambda module: None)
    told = refused(capsys, "--model_name_or_path", path)
    assert told.endswith("needs the package gguf: pip install gguf, or give a checkpoint in safetensors.")
