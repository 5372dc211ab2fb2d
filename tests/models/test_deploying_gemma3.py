"""What is special to Gemma 3: two rotary bases, a norm in float32, and what is refused."""

import pytest
import torch
from transformers import Gemma3TextConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from decoding.policy import Policy
from models import DEPLOYED, deploying_class
from models.deploying_gemma3 import Gemma3Norm
from support import double_precision, inputs_for, plain_generate, sources, tiny_llama


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_norm_is_the_librarys(dtype):
    module = Gemma3RMSNorm(24).to(dtype)
    torch.nn.init.normal_(module.weight)
    states = torch.randn(3, 5, 24, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(Gemma3Norm.first(module)(states), module(states))


def test_each_kind_of_layer_turns_by_its_own_base():
    model = tiny_llama(0, kind="gemma3")
    adapter = model.adapter_class(model, torch.tensor([[2, 3]]), {}, capacity=20)
    module, positions = model.model.rotary_emb, torch.arange(20)[None]
    for kind, rotary, window in zip(model.config.layer_types, adapter.rotaries, adapter.windows, strict=True):
        cos, _ = module(adapter.unembed.weight, positions, kind)
        assert torch.equal(rotary.cos, cos[0]) and window == (7 if kind == "sliding_attention" else None)
    assert not torch.equal(adapter.rotaries[0].cos, adapter.rotaries[1].cos)


def test_layers_of_one_kind_alone_are_the_librarys():
    for kind in ("sliding_attention", "full_attention"):
        with double_precision(tiny_llama(1, kind="gemma3", layer_types=[kind] * 4)) as model:
            inputs = inputs_for(model, 1, 3)
            for policy in (
                Policy(),
                Policy(confidence="softmax", threshold=0.3, skipped="recompute", verification="exact"),
            ):
                assert model.generate(**inputs, policy=policy).tolist() == plain_generate(model, **inputs).tolist()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"final_logit_softcapping": 30.0}, "caps its logits .*30.0"),
        ({"use_bidirectional_attention": True}, "tokens see those that follow"),
    ],
)
def test_what_it_does_not_do_is_refused(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_llama(0, kind="gemma3", **setting).generate(sources(0, 1)[0], max_new_tokens=2)


def test_gemma_2_and_the_models_that_see_pictures_are_refused():
    assert deploying_class(Gemma3TextConfig()) is DEPLOYED["gemma3_text"]
    for kind in ("gemma2", "gemma3"):
        with pytest.raises(ValueError, match=f"model_type is '{kind}'"):
            deploying_class(type("Config", (), {"model_type": kind}))
