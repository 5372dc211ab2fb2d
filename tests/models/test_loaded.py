"""A model that is loaded already decodes early without being loaded twice."""

import copy
import logging

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2LMHeadModel,
    GPT2Model,
    OPTConfig,
    OPTForCausalLM,
    pipeline,
)

from decoding.policy import Policy
from models import deploy, deploying_class
from models.translators import MODULE, attach_translators
from support import MODELS, away_from_ties, inputs_for, plain_generate

EARLY = Policy(confidence="softmax", threshold=0.5)


def plain(model):
    """The library's own model with the weights of one of ours."""
    library = next(each for each in type(model).__mro__ if each.__module__.startswith("transformers.models."))
    made = library(copy.deepcopy(model.config)).eval()
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:  # a T5's config ties them
        made.get_output_embeddings().weight = nn.Parameter(model.get_output_embeddings().weight.clone())
    held = {name: value for name, value in model.state_dict().items() if not name.startswith(MODULE)}
    made.load_state_dict(held)
    if hasattr(model, MODULE):
        attach_translators(made, copy.deepcopy(model.exit_translators))
    made.generation_config = copy.deepcopy(model.generation_config)
    return made


@pytest.mark.parametrize("kind", MODELS)
def test_it_generates_what_the_deployed_class_does_and_the_model_what_it_did(kind):
    ours = MODELS[kind](seed=3)
    theirs, inputs = plain(ours), inputs_for(ours, seed=3, batch=2)
    before = plain_generate(theirs, **inputs)
    with away_from_ties():
        wanted, trace = ours.generate(**inputs, policy=EARLY, return_trace=True)
        sequences, own = deploy(theirs).generate(**inputs, policy=EARLY, return_trace=True)
    assert torch.equal(sequences, wanted) and own.exit_layers.tolist() == trace.exit_layers.tolist()
    assert (own.exit_layers < ours.num_exit_layers).any(), "some token leaves early, or nothing is compared"
    assert torch.equal(plain_generate(theirs, **inputs), before)


@pytest.mark.parametrize("kind", MODELS)
def test_it_holds_the_same_parameters_and_settings(kind):
    theirs = plain(MODELS[kind](seed=0)).to(torch.bfloat16)
    theirs.generation_config.max_new_tokens = 7
    seen = deploy(theirs)
    assert isinstance(seen, deploying_class(theirs.config)) and not isinstance(theirs, type(seen))
    assert all(a is b for a, b in zip(theirs.parameters(), seen.parameters(), strict=True))
    assert theirs.state_dict().keys() == seen.state_dict().keys()
    tied = theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight
    assert (seen.get_output_embeddings().weight is seen.get_input_embeddings().weight) == tied
    assert seen.config is theirs.config and seen.generation_config is theirs.generation_config
    assert (seen.dtype, seen.device) == (torch.bfloat16, theirs.device)


def test_what_is_done_to_one_is_done_to_both():
    theirs = plain(MODELS["gpt2"](seed=1))
    seen, inputs = deploy(theirs), inputs_for(theirs, seed=1, batch=1)
    assert deploy(seen) is seen
    theirs.train()
    seen.generate(**inputs, policy=EARLY)
    assert seen.training and all(module.training for module in theirs.modules())
    seen.eval()
    assert not theirs.training
    before = seen.generate(**inputs)
    with torch.no_grad():
        theirs.transformer.wte.weight.neg_()
    after = deploy(plain(seen)).generate(**inputs)
    assert torch.equal(seen.generate(**inputs), after) and not torch.equal(before, after)
    theirs.to(torch.float64)
    assert seen.dtype == torch.float64


def test_it_trains_as_the_library_does():
    theirs = plain(MODELS["llama"](seed=2))
    ids = torch.arange(2, 12)[None]
    loss = deploy(theirs)(input_ids=ids, labels=ids).loss
    assert torch.equal(loss, theirs(input_ids=ids, labels=ids).loss)
    loss.backward()
    assert all(parameter.grad is not None for parameter in theirs.parameters())


class Wrapper(nn.Module):
    """As peft's: it has what it wraps under another name, and its config."""

    def __init__(self, model):
        super().__init__()
        self.base_model, self.config = model, model.config

    def merge_and_unload(self):
        return self.base_model


class Headstrong(GPT2LMHeadModel):
    """A user's own model."""


def test_what_cannot_is_refused_with_a_sentence():
    theirs = plain(MODELS["gpt2"](seed=0))
    bloom = BloomForCausalLM(BloomConfig(vocab_size=10, hidden_size=8, n_layer=1, n_head=2))
    small = OPTForCausalLM(
        OPTConfig(
            vocab_size=10, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=4
        )
    )
    wrapped = Wrapper(theirs)
    for given, sentence in (
        (bloom, "model_type is 'bloom': early-exit decoding supports t5, "),
        (theirs.transformer, "got a GPT2Model: of the architecture gpt2 it takes a GPT2LMHeadModel."),
        (Headstrong(theirs.config), "got a Headstrong: of the architecture gpt2 it takes a GPT2LMHeadModel."),
        (small, "as OPT-350m does: early-exit decoding supports the other sizes."),
        (wrapped, r"got a Wrapper: merge its adapter first, deploy\(model.merge_and_unload\(\)\)."),
        (nn.Sequential(theirs), "got a Sequential: a transformers model is wanted, not what wraps or names it."),
        ("gpt2", "got a str: a transformers model is wanted"),
    ):
        with pytest.raises(ValueError, match=sentence):
            deploy(given)
    assert isinstance(theirs.transformer, GPT2Model) and deploy(wrapped.merge_and_unload()).generate


def test_a_pipeline_of_a_decoder_only_model(tiny_gpt2_dir, caplog):
    theirs, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tiny_gpt2_dir),
        AutoTokenizer.from_pretrained(tiny_gpt2_dir),
    )
    seen = deploy(theirs)
    settings = {"do_sample": False, "max_new_tokens": 8}
    logging.getLogger("transformers").addHandler(caplog.handler)  # which passes nothing on
    try:
        pipe = pipeline("text-generation", model=seen, tokenizer=tokenizer)
        prompts = ["The tower of Arden", "Its"]
        early = [out[0]["generated_text"] for out in pipe(prompts, batch_size=2, policy=EARLY, **settings)]
        full = pipe(prompts[0], **settings)
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not [line for line in caplog.messages if "not supported" in line]
    for prompt, text in zip(prompts, early, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        sequence, trace = seen.generate(**inputs, policy=EARLY, return_trace=True, **settings)
        answer = sequence[0, inputs["input_ids"].shape[1] :]
        assert text == prompt + tokenizer.decode(answer, skip_special_tokens=True)
        assert (trace.exit_layers < seen.num_exit_layers).any()
    assert full == pipeline("text-generation", model=theirs, tokenizer=tokenizer)(prompts[0], **settings)


def test_a_pipeline_of_an_encoder_decoder(tiny_t5_dir):
    theirs = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_dir)
    seen, text = deploy(theirs), "What colour is the tower?"
    settings = {"do_sample": False, "max_new_tokens": 8, "policy": Policy(static_exit=2)}
    pipe = pipeline("text-generation", model=seen, tokenizer=tokenizer)
    (out,) = pipe(text, return_tensors=True, **settings)
    sequence, trace = seen.generate(**tokenizer(text, return_tensors="pt"), return_trace=True, **settings)
    assert out["generated_token_ids"] == sequence[0].tolist() and (trace.exit_layers == 2).any()
