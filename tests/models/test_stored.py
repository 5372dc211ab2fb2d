"""Weights that go straight from files into their place: the same numbers, in any dtype, by pieces of any size."""

from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel

from models import DeployGPT2LMHeadModel, DeployT5ForConditionalGeneration, deploying, deploying_class, stored
from models.stored import refuse_spread, stored_weights
from support import MODELS, tiny_gpt2, tiny_t5

WEIGHTS = {
    "matrix": torch.randn(7, 5),
    "halves": torch.randn(9, 3).bfloat16(),
    "vector": torch.randn(11),
    "stack": torch.randn(2, 3, 4),
    "number": torch.tensor(3.5),
    "nothing": torch.zeros(0, 4).bfloat16(),
    "nowhere": torch.zeros(3, 0),
    "none": torch.zeros(0),
    "one": torch.randn(1),
    "counts": torch.arange(6),
}


@pytest.mark.parametrize("piece", [1, 64, 2**20])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float64])
def test_a_weight_is_that_of_the_file(tmp_path, monkeypatch, piece, dtype):
    monkeypatch.setattr(stored, "PIECE", piece)
    names = list(WEIGHTS)
    files = [str(tmp_path / f"{number}.safetensors") for number in (1, 2)]
    for file, some in zip(files, (names[:3], names[3:]), strict=True):
        save_file({name: WEIGHTS[name] for name in some}, file)
    found = stored_weights(files)
    assert found.keys() == WEIGHTS.keys()
    for name, expected in WEIGHTS.items():
        read = found[name][...].to(device=torch.device("cpu"), dtype=dtype)
        wanted = expected if dtype is None else expected.to(dtype)
        assert read.dtype == wanted.dtype and read.shape == wanted.shape and torch.equal(read, wanted)


def test_what_is_not_read_here_is_left_to_the_library(tmp_path):
    save_file({"one": torch.randn(4), "eight": torch.randn(4).to(torch.float8_e4m3fn)}, tmp_path / "weights")
    assert stored_weights([str(tmp_path / "weights")]) is None


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_a_broken_file_is_refused(tmp_path, kept):
    save_file(WEIGHTS, tmp_path / "weights")
    (tmp_path / "broken").write_bytes((tmp_path / "weights").read_bytes()[:kept])
    with pytest.raises(SafetensorError):
        stored_weights([str(tmp_path / "broken")])


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_what_was_saved(tmp_path, monkeypatch, kind, dtype):
    monkeypatch.setattr(stored, "PIECE", 256)
    model = MODELS[kind](1)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    loaded = type(model).from_pretrained(tmp_path, dtype=dtype)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    held = model.state_dict()
    assert loaded.state_dict().keys() == held.keys()
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == dtype and torch.equal(weight, held[name].to(dtype)), name


def test_the_library_calls_what_is_overridden(tmp_path, monkeypatch):
    tiny_gpt2().save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(deploying, "stored_weights", lambda files: asked.append(files) or stored_weights(files))
    DeployGPT2LMHeadModel.from_pretrained(tmp_path)
    assert asked == [[str(tmp_path / "model.safetensors")]], (
        f"from_pretrained of transformers {transformers.__version__} does not go through _load_pretrained_model, which "
        "is private: EarlyExitGeneration overrides it, or models hold their weights twice while they are loaded."
    )


def test_the_library_may_name_what_it_hands_over(monkeypatch):
    """As its `load_adapter` does."""
    given = {"model": None, "state_dict": {}, "checkpoint_files": None, "expected_keys": ["one"]}
    given["load_config"] = SimpleNamespace(device_map=None, hf_quantizer=None, device_mesh=None)
    monkeypatch.setattr(PreTrainedModel, "_load_pretrained_model", lambda *first, **others: (first, others))
    first, others = DeployGPT2LMHeadModel._load_pretrained_model(**given)
    assert [*first, others] == [*list(given.values())[:3], given["load_config"], {"expected_keys": ["one"]}]


def test_what_a_model_keeps_in_float32_is_read_so(tmp_path):
    model = tiny_t5()
    model.save_pretrained(tmp_path)
    loaded = DeployT5ForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float16)
    assert loaded.shared.weight.dtype == torch.float16
    wo = "decoder.block.0.layer.2.DenseReluDense.wo.weight"
    assert torch.equal(loaded.state_dict()[wo], model.state_dict()[wo])


def test_one_device_is_a_map(tmp_path):
    model = tiny_gpt2()
    model.save_pretrained(tmp_path)
    loaded = deploying_class(model.config).from_pretrained(tmp_path, device_map={"": "cpu"})
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_several_devices_are_refused(tmp_path):
    model = tiny_gpt2()
    model.save_pretrained(tmp_path)
    places = {"transformer.h.0": "cpu", "transformer.h.1": "disk", "transformer": "cpu", "lm_head": "cpu"}
    for device_map in (places, {"a": 0, "b": 1}):
        with pytest.raises(ValueError, match=r"spreads the model over .*, .*: .*one device that holds the model"):
            refuse_spread(device_map)
    with pytest.raises(ValueError, match="spreads the model over cpu, disk"):
        deploying_class(model.config).from_pretrained(tmp_path, device_map=places, offload_folder=tmp_path / "disk")
