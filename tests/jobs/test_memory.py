"""What a model takes is said before it is loaded."""

import json
import logging
import shutil

import pytest
import torch

import generate
from jobs import loading, memory
from jobs.memory import GIB, Needs, Rows, check_room, free_bytes, needs
from support import DECODERS, MODELS, tiny_t5

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_the_model(kind, dtype):
    model = MODELS[kind](0)
    held = str(model.config.to_dict())
    expected = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
    assert needs(model.config, dtype) == Needs(expected, 0)
    assert str(model.config.to_dict()) == held


@pytest.mark.parametrize("kind", DECODERS)
def test_states_are_those_of_the_cache(kind):
    model = MODELS[kind](0)
    cache = model(torch.full((3, 5), 7), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert needs(model.config, torch.float32, Rows(3, 5)).states == held


def test_an_encoders_tokens_are_kept_in_every_layer():
    model = tiny_t5()
    source, answer = torch.full((2, 6), 7), torch.full((2, 4), 7)
    cache = model(input_ids=source, decoder_input_ids=answer, use_cache=True).past_key_values
    layers = [*cache.self_attention_cache.layers, *cache.cross_attention_cache.layers]
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    assert needs(model.config, torch.float32, Rows(2, 6 + 4)).states == held


def test_what_does_not_fit_is_refused_with_numbers(monkeypatch, caplog):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 8 * GIB)
    with pytest.raises(
        ValueError, match=r"weights of llama take 16.00 GiB in float32, and cpu has 8.00 GiB free: .*half"
    ):
        check_room("llama", Needs(16 * GIB, 0), torch.float32, CPU)
    with caplog.at_level(logging.WARNING):
        check_room("llama", Needs(6 * GIB, GIB), torch.bfloat16, CPU, Rows(4, 1000))
        assert not caplog.messages
        check_room("llama", Needs(6 * GIB, 3 * GIB), torch.bfloat16, CPU, Rows(4, 1000))
    (said,) = caplog.messages
    assert "6.00 GiB in bfloat16" in said and "4 rows of 1000 tokens, prompt and answer, up to 3.00 GiB" in said
    assert "0.75 GiB a row" in said and "8.00 GiB free" in said


def test_this_machine_has_memory():
    assert 0 < free_bytes(CPU) < 2**60
    assert free_bytes(torch.device("meta")) is None


def test_a_limit_of_a_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    assert memory._left(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\nactive_file 50\ninactive_file 150\n")
    assert memory._left(tmp_path) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left(tmp_path) == float("inf")


def test_nothing_is_read_of_a_checkpoint_that_does_not_fit(tiny_gpt2_dir, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(tiny_gpt2_dir, tmp_path / "large")
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(held | {"n_embd": 2**14, "n_layer": 200}))
    monkeypatch.setattr(loading, "_load_checkpoint", lambda *given: pytest.fail("it was read"))
    with pytest.raises(SystemExit) as refused:
        generate.main(["--model_name_or_path", str(folder), "-p", "Once", "--device", "cpu"])
    assert refused.value.code == 2 and "The weights of" in capsys.readouterr().err


def test_generate_says_what_its_rows_take(tiny_gpt2_dir, tmp_path, monkeypatch, caplog):
    needed = []
    monkeypatch.setattr(loading, "check_room", lambda *given: needed.append(given[-1]))
    (tmp_path / "prompts.txt").write_text("Bob\nThe tower of\n")
    flags = ["--model_name_or_path", str(tiny_gpt2_dir), "--device", "cpu", "-l", "3"]
    (one,) = generate.main([*flags, "-p", "The tower of"])
    generate.main([*flags, "--prompt_file", str(tmp_path / "prompts.txt"), "--strategy", "beam", "--beam_size", "2"])
    tokens = len(one.prompt_tokens) + 3
    assert needed == [Rows(1, tokens), Rows(8 * 2, tokens)]


@pytest.mark.parametrize("value", ["auto", "balanced", "cpu"])
def test_several_devices_are_refused(capsys, value):
    with pytest.raises(SystemExit) as refused:
        generate.main(["-p", "Once", "--device_map", value])
    assert refused.value.code == 2
    assert f"--device_map {value} is not available" in capsys.readouterr().err
