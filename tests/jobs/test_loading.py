"""What is refused of a checkpoint before its weights are looked at."""

import json
import shutil

import pytest

from jobs.loading import load_config
from util import DecoderArguments


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "gguf"])
def test_a_quantised_checkpoint_is_refused_by_its_config(tiny_gpt2_dir, tmp_path, method):
    folder = shutil.copytree(tiny_gpt2_dir, tmp_path / "quantised")
    held = json.loads((folder / "config.json").read_text())
    held["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match="quantised is quantised: early-exit decoding reads plain weights"):
        load_config(DecoderArguments(model_name_or_path=str(folder)), encoder=False)
