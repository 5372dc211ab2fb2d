"""What is refused of a checkpoint before its weights are looked at, and what loading them takes."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from jobs.loading import load_config
from models import DeployLlamaForCausalLM
from models.translators import ExitTranslators, attach_translators
from support import ROOT
from util import DecoderArguments


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "gguf"])
def test_a_quantised_checkpoint_is_refused_by_its_config(tiny_gpt2_dir, tmp_path, method):
    folder = shutil.copytree(tiny_gpt2_dir, tmp_path / "quantised")
    held = json.loads((folder / "config.json").read_text())
    held["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="quantised is quantised: early-exit decoding reads plain weights"):
        load_config(DecoderArguments(model_name_or_path=str(folder)), encoder=False)


PEAK = """
import gc, re, sys
from pathlib import Path
import torch
from jobs.loading import load_config, load_model
from util import DecoderArguments
from util.arguments import EMBEDDED_DECODER

def status(name):
    # In bytes. A child's ru_maxrss begins at its parent's, what /proc says does not.
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def load(path):
    model_args = DecoderArguments(model_name_or_path=str(path))
    config = load_config(model_args, encoder=False)
    return load_model(model_args, config, getattr(torch, sys.argv[2]), device=torch.device("cpu"))

load(EMBEDDED_DECODER)  # whatever is imported on the way is there
gc.collect()
before = status("VmRSS")
model = load(sys.argv[1])
peak = status("VmHWM") - before
assert all(bool((weight == weight.flatten()[0]).all()) for weight in model.parameters()), "all are read"
assert all(weight.flatten()[0] != 0 for weight in model.parameters())
print(peak / sum(weight.nbytes for weight in model.parameters()))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Stored dtype -> folder of a sharded checkpoint with translators and a head of its own, 100 million weights."""
    sizes = {"vocab_size": 8000, "hidden_size": 640, "intermediate_size": 2560, "num_hidden_layers": 16}
    config = LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=False)
    with torch.device("meta"):
        model = DeployLlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    attach_translators(model, ExitTranslators(config.hidden_size, range(1, 5)))
    for weight in model.parameters():
        torch.nn.init.constant_(weight, 0.02)
    with tempfile.TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as folder:  # pytest keeps its own
        folders = {dtype: Path(folder, dtype) for dtype in ("float32", "bfloat16")}
        for dtype, path in folders.items():
            model.to(getattr(torch, dtype)).save_pretrained(path, max_shard_size="40MB")
            assert len(list(path.glob("*.safetensors"))) >= 5
        del model
        yield folders


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(("held", "asked"), [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")])
def test_loading_takes_the_weights_and_little_more(large, held, asked):
    command = [sys.executable, "-c", PEAK, str(large[held]), asked]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "src")
    assert done.returncode == 0, done.stderr[-2000:]
    assert 0.9 < float(done.stdout.split()[-1]) <= 1.1
