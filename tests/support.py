"""Tiny random models that the tests share, built from local configurations in milliseconds."""

import atexit
import math
import os
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import hypothesis
import numpy as np
import torch
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    LongT5Config,
    MistralConfig,
    MT5Config,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    T5Config,
)
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from decoding import acceptance, contrastive, emission
from decoding.earlier import EarlierLayers
from decoding.exits import ExitState
from decoding.frequent import TokenCounts
from decoding.policy import Policy
from decoding.recorder import Recorder
from models import (
    DeployGemma3ForCausalLM,
    DeployGPT2LMHeadModel,
    DeployGPTNeoXForCausalLM,
    DeployGraniteForCausalLM,
    DeployLlamaForCausalLM,
    DeployLongT5ForConditionalGeneration,
    DeployMistralForCausalLM,
    DeployMT5ForConditionalGeneration,
    DeployOlmo2ForCausalLM,
    DeployOPTForCausalLM,
    DeployPhiForCausalLM,
    DeployQwen2ForCausalLM,
    DeployQwen3ForCausalLM,
    DeployStableLmForCausalLM,
    DeployT5ForConditionalGeneration,
)
from models.lora import add_lora, merge_lora
from models.translators import ExitTranslators, attach_translators
from models.unembed import Unembed
from training import evaluation
from util.files import write_text

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 61


def seed_everything(seed: int, test=None) -> None:
    """All that draws begins at `seed`; what hypothesis draws for the test as well, if it is one of its kind."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if hypothesis.is_hypothesis_test(test):
        hypothesis.seed(seed)(test)


# Of T5's kin: name -> the deployed class, the config's class, and what is special about the tiny one. Sources of the
# tests are longer than a block of its encoder, and no multiple of one.
T5_KIN = {
    "t5": (DeployT5ForConditionalGeneration, T5Config, {}),
    "mt5": (DeployMT5ForConditionalGeneration, MT5Config, {}),
    "longt5": (DeployLongT5ForConditionalGeneration, LongT5Config, {"local_radius": 1}),
    "longt5, global": (
        DeployLongT5ForConditionalGeneration,
        LongT5Config,
        {"local_radius": 1, "global_block_size": 2, "encoder_attention_type": "transient-global"},
    ),
}


def tiny_t5(seed: int = 0, *, kind: str = "t5", layers: int = 4, gated: bool = False, tied: bool = True, **config):
    """A random T5, or one of its kin, with peaky logits, so that confidences spread and few argmaxes are close."""
    torch.manual_seed(seed)
    deployed, config_class, special = T5_KIN[kind]
    settings = {
        "vocab_size": VOCABULARY,
        "d_model": 24,
        "d_kv": 6,
        "d_ff": 40,
        "num_layers": 2,
        "num_decoder_layers": layers,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": tied,
        "dropout_rate": 0.0,
    }
    model = deployed(config_class(**settings | special | config))
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    return _spread(model)


def tiny_gpt2(seed: int = 0, *, layers: int = 4, **config):
    """A random GPT-2."""
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCABULARY, "n_embd": 24, "n_head": 4, "n_layer": layers, "n_positions": 64}
    return _spread(DeployGPT2LMHeadModel(GPT2Config(**{**settings, **TOKENS, **config})))


WINDOWED = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
# Of Llama's kin: name -> the deployed class, the config's class, and what is special about the tiny one.
LLAMAS = {
    "llama": (DeployLlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (DeployMistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "qwen2": (
        DeployQwen2ForCausalLM,
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2},
    ),
    "qwen3": (DeployQwen3ForCausalLM, Qwen3Config, {"head_dim": 10}),
    "phi": (DeployPhiForCausalLM, PhiConfig, {"partial_rotary_factor": 0.67}),
    "phi, norms of heads": (DeployPhiForCausalLM, PhiConfig, {"partial_rotary_factor": 0.34, "qk_layernorm": True}),
    "stablelm": (DeployStableLmForCausalLM, StableLmConfig, {"partial_rotary_factor": 0.67, "use_qkv_bias": True}),
    "stablelm, parallel, norms of heads": (
        DeployStableLmForCausalLM,
        StableLmConfig,
        {"partial_rotary_factor": 0.34, "use_parallel_residual": True, "qk_layernorm": True},
    ),
    "olmo2": (DeployOlmo2ForCausalLM, Olmo2Config, {}),
    "granite": (
        DeployGraniteForCausalLM,
        GraniteConfig,
        {"embedding_multiplier": 1.5, "residual_multiplier": 0.7, "attention_multiplier": 0.3, "logits_scaling": 1.7},
    ),
}
# Gemma 3: of its layers every other sees a window and turns by another base; its scores are scaled by another number
# than the width of a head.
LLAMAS["gemma3"] = (
    DeployGemma3ForCausalLM,
    Gemma3TextConfig,
    {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 7,
        "head_dim": 10,
        "query_pre_attn_scalar": 7,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0},
        },
    },
)
TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}


def tiny_llama(seed: int = 0, *, kind: str = "llama", layers: int = 4, tied: bool = False, **config):
    """A random Llama, or one of its kin, whose keys are shared by two heads of queries each."""
    torch.manual_seed(seed)
    deployed, config_class, special = LLAMAS[kind]
    settings = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return _spread(deployed(config_class(**settings | special | config, **TOKENS, tie_word_embeddings=tied)))


def tiny_neox(seed: int = 0, *, layers: int = 4, tied: bool = False, **config):
    """A random GPT-NeoX; half of each head is turned."""
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": 3, "max_position_embeddings": 64, "rotary_pct": 0.5}
    return _spread(DeployGPTNeoXForCausalLM(GPTNeoXConfig(**settings, **TOKENS, tie_word_embeddings=tied, **config)))


def tiny_opt(seed: int = 0, *, layers: int = 4, tied: bool = True, **config):
    """A random OPT."""
    torch.manual_seed(seed)
    settings = {"vocab_size": VOCABULARY, "hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": layers}
    settings |= {"num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 24}
    return _spread(DeployOPTForCausalLM(OPTConfig(**settings | config, **TOKENS, tie_word_embeddings=tied)))


# Every decoder-only architecture, tied and untied.
DECODERS = {
    "gpt2": tiny_gpt2,
    "gpt2, untied": lambda seed: tiny_gpt2(seed, tie_word_embeddings=False),
    **{kind: lambda seed, kind=kind: tiny_llama(seed, kind=kind) for kind in LLAMAS},
    "llama, tied": lambda seed: tiny_llama(seed, tied=True),
    "gemma3, tied": lambda seed: tiny_llama(seed, kind="gemma3", tied=True),
    "neox": tiny_neox,
    "neox, in sequence, tied": lambda seed: tiny_neox(seed, tied=True, use_parallel_residual=False),
    "opt": tiny_opt,
    "opt, untied": lambda seed: tiny_opt(seed, tied=False),
}


T5S = {
    "tied": tiny_t5,
    "untied": lambda seed: tiny_t5(seed, tied=False),
    "gated": lambda seed: tiny_t5(seed, gated=True, tied=False),
    "mt5": lambda seed: tiny_t5(seed, kind="mt5", gated=True, tied=False),
    "longt5": lambda seed: tiny_t5(seed, kind="longt5", gated=True, tied=False),
    "longt5, global": lambda seed: tiny_t5(seed, kind="longt5, global"),
}


@torch.no_grad()
def with_adapters(model, names: list[str] | None = None):
    """The model with random adapters of low rank beside its weights."""
    add_lora(model, "base", 2, 4.0, 0.0, names)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    return model


def with_merged_adapters(model):
    """The model whose weights random adapters are merged into."""
    model = with_adapters(model)
    merge_lora(model)
    return model


def random_translators(layers, width: int) -> ExitTranslators:
    """Translators that change a state as much as it is."""
    return ExitTranslators.of(
        {layer: (torch.randn(width, width) * width**-0.5, 0.3 * torch.randn(width)) for layer in layers}
    )


def with_translators(model, layers=(1, 2, 3)):
    """The model with random exit translators after some layers."""
    attach_translators(model, random_translators(layers, model.config.hidden_size))
    return model


def translated(model, hidden, layer: int):
    """What an exit after a layer norms, as SPEC has it: h^l + A_l h^l + b_l of h^l [..., D]."""
    held = getattr(model, "exit_translators", {})
    if str(layer) not in held:
        return hidden
    weight, bias = held[str(layer)].weight, held[str(layer)].bias
    return hidden + torch.einsum("ij,...j->...i", weight, hidden) + bias


# What may stand beside a checkpoint's weights, one with the other.
T5S["adapters merged, translators"] = lambda seed: with_translators(with_merged_adapters(tiny_t5(seed)))
DECODERS["llama, adapters merged, translators"] = lambda seed: with_translators(
    with_merged_adapters(tiny_llama(seed)), (1, 3)
)
MODELS = T5S | DECODERS


def _spread(model):
    """Randomise every parameter, norms and biases too, because a wrong use of a constant would otherwise pass.

    The head is scaled so that logits have a deviation of about 3 and confidences spread over [0, 1].
    """
    head = model.get_output_embeddings().weight
    head_scale = 3.0 if getattr(model.config, "scale_decoder_outputs", False) else 3 * head.shape[-1] ** -0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if parameter.dim() == 1 else 3 * parameter.shape[-1] ** -0.5
            scale = head_scale if parameter is head else scale
            centre = 1.0 if "norm" in name or ("ln_" in name and name.endswith("weight")) else 0.0
            centre = 0.0 if "gemma" in model.config.model_type else centre  # whose norms add the 1
            parameter.copy_(centre + scale * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def calm(model):
    """Small matrices in all layers: attention that is not torn between slots makes no more of a rounding than it is."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and re.search(r"\.\d+\.", name):
            parameter.div_(6)
    return model


def sources(seed: int, batch: int, length: int = 9, left: bool = False):
    """Random token ids [B, S] of different lengths, with their mask; padding on the right, or left."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, VOCABULARY, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, batch):
        cut = int(torch.randint(0, length - 1, (1,), generator=generator))
        mask[row, slice(0, cut) if left else slice(length - cut, length)] = 0
    return ids * mask, mask


def inputs_for(model, seed: int, batch: int, length: int = 12) -> dict:
    """What generate takes: prompts of different lengths, padded on the side that is the model's."""
    ids, mask = sources(seed, batch, left=not model.config.is_encoder_decoder)
    return {"input_ids": ids, "attention_mask": mask, "max_new_tokens": length}


def answer_of(model, inputs: dict, sequences, row: int) -> list[int]:
    """The tokens of a row's answer, up to its end."""
    start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    answer = sequences[row, start:].tolist()
    return answer[: answer.index(1) + 1] if 1 in answer else answer


def row_alone(inputs: dict, row: int) -> dict:
    """A row of a batch without its padding."""
    ids = inputs["input_ids"][row][inputs["attention_mask"][row] == 1][None]
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def plain_generate(model, **kwargs):
    """Hugging Face's own generate on the same weights. The cache is built without the config, which would size it by
    the number of encoder layers."""
    library = next(c for c in type(model).__mro__ if c.__module__.startswith("transformers.models."))
    if model.config.is_encoder_decoder:
        kwargs["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    return library.generate(model, **kwargs)


@contextmanager
def in_float64() -> Iterator[None]:
    """What is computed in float32 by itself is computed in float64: the library's norms and scores, our confidences.
    Two ways of computing the same then agree to a dozen digits, and no decision hangs on the others."""
    plain = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with ExitStack() as patches:
            for name, function in NEVER_NARROWER.items():
                patches.enter_context(mock.patch(name, function))
            yield
    finally:
        torch.set_default_dtype(plain)


@contextmanager
def double_precision(model):
    """The model in float64, and what is computed with it."""
    with in_float64():
        yield model.double()


def _never_narrower(function):
    """The same where its first argument is a tensor of float64, which stays one, or no tensor."""

    def wide(first, *args, **kwargs):
        if getattr(first, "dtype", torch.float64) == torch.float64:
            args = tuple(torch.float64 if value is torch.float32 else value for value in args)
            kwargs = {name: torch.float64 if value is torch.float32 else value for name, value in kwargs.items()}
        return function(first, *args, **kwargs)

    return wide


_plain_float = torch.Tensor.float
NEVER_NARROWER = {
    "torch.Tensor.to": _never_narrower(torch.Tensor.to),
    "torch.Tensor.float": lambda tensor: tensor if tensor.dtype == torch.float64 else _plain_float(tensor),
    "torch.zeros": _never_narrower(torch.zeros),
}


def rounding(dtype: torch.dtype, roundings: int, magnitude: float) -> float:
    """How far two ways of computing a number of that magnitude may lie apart: each rounds so often, by an epsilon to
    either side, which adds up as the root of their number does."""
    return torch.finfo(dtype).eps * math.sqrt(roundings) * magnitude


# A token passes a tiny model: twenty operations in each of six layers, each rounded once for every one of 64 terms. Its
# logits go up to ten, and may be off by so much in float32.
OFF = rounding(torch.float32, 20 * 6 * 64, magnitude=10)
# A decision compares two of them, and two runs compare decisions: nearer than that to a tie it may fall either way.
TIE = 2 * 2 * OFF


class Decisions:
    """How near decisions came to a tie: of two tokens, a confidence and its threshold, two amateurs, two windows."""

    def __init__(self):
        self.nearest = math.inf

    def saw(self, gaps: torch.Tensor) -> None:
        self.nearest = min([self.nearest, *gaps.abs().flatten().tolist()])

    def best_two(self, scores: torch.Tensor) -> None:
        """Of scores [n, V]; rows of zeros had ended."""
        running = scores[(scores != 0).any(-1)]
        self.saw(running.topk(2, dim=-1).values.diff(dim=-1))


@contextmanager
def watched_decisions() -> Iterator[Decisions]:
    """Watches all decode calls of this process."""
    seen = Decisions()

    def choose(scores, ids, sample):
        seen.best_two(scores)
        return plain["choose"](scores, ids, sample)

    def draft(tokens, deep, drawn_from=None):
        seen.best_two(deep)
        return plain["Draft"](tokens, deep, drawn_from)

    def tried(recorder, exit, confidences, sizes):
        thresholds = [recorder.thresholds[-1][row] for row in exit.rows]
        seen.saw(torch.tensor(confidences) - torch.tensor(thresholds))
        return plain["tried"](recorder, exit, confidences, sizes)

    def farthest(logits, divergence, layer):
        if divergence.shape[-1] > 1:
            share = divergence / torch.arange(layer - 2, 0, -1)
            seen.saw((share.topk(2, dim=-1).values / share.amax(-1, keepdim=True)).diff(dim=-1))
        return plain["_farthest"](logits, divergence, layer)

    def best_window(scores, *given):
        seen.saw(torch.tensor(scores).topk(2).values.diff())
        return plain["best_window"](scores, *given)

    spies = [(acceptance, choose), (emission, choose), (acceptance, draft, "Draft"), (Recorder, tried)]
    spies += [(contrastive, farthest, "_farthest"), (evaluation, best_window)]
    plain = {}
    with ExitStack() as patches:
        for where, spy, *name in spies:
            name = name[0] if name else spy.__name__
            plain[name] = getattr(where, name)
            patches.enter_context(mock.patch.object(where, name, spy))
        yield seen


@contextmanager
def away_from_ties() -> Iterator[None]:
    """Decisions made in float32 within it are compared with ones made in another way: none may be near a tie."""
    with watched_decisions() as seen:
        yield
    assert seen.nearest > TIE, "too near to a tie: take another seed, prompt or threshold"


def alike(found, expected) -> bool:
    """Whether two values of JSON are the same, floats as far as float32 is (see `OFF`)."""
    if isinstance(expected, float):
        return found == expected or math.isclose(found, expected, rel_tol=OFF, abs_tol=OFF)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(alike(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    return found == expected


def scripted_unembed(vocabulary: int, dtype: torch.dtype | None = None) -> Unembed:
    """Of a model whose states are its logits: the head is the identity, the norm does nothing."""
    head = torch.nn.Linear(vocabulary, vocabulary, bias=False)
    head.weight = torch.nn.Parameter(torch.eye(vocabulary, dtype=dtype), requires_grad=False)
    return Unembed(lambda hidden: hidden, head)


def scripted_confidence(normed: torch.Tensor) -> torch.Tensor:
    """What its `meta` head makes of them, [n, 2]."""
    return normed[:, :2]


def scripted_exit(layers, first_exit: int = 1, alpha: float = 0.1, survivors=None, final=None) -> ExitState:
    """The exit after the last of `layers` [l + 1, n, V], whose logits are scripted, as the loop would come to it.

    Args:
        first_exit: From here on every layer was an exit tried before.
        survivors: layer -> `Survivors` in force at its exit; the whole vocabulary where not given.
    """
    layers = torch.stack(list(layers)).to(next(iter(layers)).dtype)
    depth, batch, size = layers.shape
    unembed, rows = scripted_unembed(size, layers.dtype), list(range(batch))
    earlier = EarlierLayers(unembed, depth, batch)
    for layer, hidden in enumerate(layers):
        earlier.ran(rows, hidden)
        if layer < min(first_exit, depth - 1):
            continue
        held = (survivors or {}).get(layer)
        previous = layers[max(layer - 1, 0)]
        given = {"earlier": earlier, "alpha": alpha, "final": final, "confidence_head": scripted_confidence}
        exit = ExitState(unembed, layer, hidden, previous, held, rows=rows, **given)
        if layer < depth - 1:
            exit.remember()
    return exit


def counts_file(seed: int = 0, vocabulary: int = VOCABULARY) -> str:
    """A file of counts of that many tokens, in an order of their own."""
    ids = np.random.default_rng(seed).permutation(vocabulary).tolist()
    path = Path(tempfile.gettempdir()) / f"counts-{seed}-{vocabulary}-{os.getpid()}.json"
    write_text(path, TokenCounts("tiny", "of the tests", tuple(ids), tuple(range(vocabulary, 0, -1))).text())
    atexit.register(lambda: path.unlink(missing_ok=True))
    return str(path)


FREQUENT = {"vocabulary": "frequent", "extra": {"frequent_tokens": counts_file()}}
POLICIES = {
    "full": Policy(),
    "static": Policy(static_exit=2),
    "softmax": Policy(confidence="softmax", threshold=0.3),
    "max_prob": Policy(confidence="max_prob", threshold=0.4, first_exit=2),
    "entropy": Policy(confidence="entropy", threshold=0.4),
    "state": Policy(confidence="state", threshold=0.5),
    "decaying threshold": Policy(confidence="softmax", threshold=0.4, temperature=4.0, length=10),
    "fixed": Policy(confidence="softmax", vocabulary="fixed", threshold=0.5, k=7),
    "fixed, whole head": Policy(confidence="max_prob", vocabulary="fixed", threshold=0.6, k=40, first_exit=2),
    "decaying": Policy(confidence="softmax", vocabulary="decaying", threshold=0.5, k_min=3, k_max=55),
    "adaptive": Policy(confidence="softmax", vocabulary="adaptive", threshold=0.6),
    "adaptive, capped": Policy(confidence="entropy", vocabulary="adaptive", threshold=0.6, k=9, adaptive_cap=True),
    "frequent": Policy(confidence="softmax", threshold=0.5, k=20, copy_share=0.7, **FREQUENT),
    "frequent, whole head": Policy(confidence="entropy", threshold=0.5, k=20, copy_share=0.0, **FREQUENT),
    "frequent, JSD": Policy(
        confidence="JSD_contrastive_confidence", threshold=0.8, first_exit=3, k=12, copy_share=1.0, **FREQUENT
    ),
    "frequent, JSD, text": Policy(
        confidence="JSD_contrastive_text", threshold=0.4, first_exit=2, k=9, copy_share=1.0, **FREQUENT
    ),
    "frequent, weighted": Policy(
        confidence="reweight_contrastive_decoding", threshold=0.6, k=25, copy_share=1.0, **FREQUENT
    ),
    "contrastive": Policy(confidence="contrastive_decoding", threshold=0.5),
    "weighted": Policy(confidence="reweight_contrastive_decoding", threshold=0.6, alpha=0.3),
    "JSD": Policy(confidence="JSD_contrastive_confidence", threshold=0.7, first_exit=2),
    "weighted, text": Policy(confidence="reweight_contrastive_text", threshold=0.3),
    "JSD, text": Policy(confidence="JSD_contrastive_text", threshold=0.3),
    "weighted, fixed": Policy(confidence="reweight_contrastive_decoding", vocabulary="fixed", threshold=0.6, k=6),
    "JSD, adaptive": Policy(
        confidence="JSD_contrastive_confidence", vocabulary="adaptive", threshold=0.9, first_exit=2
    ),
    "JSD, decaying": Policy(
        confidence="JSD_contrastive_confidence", vocabulary="decaying", threshold=0.9, k_min=3, k_max=40, first_exit=2
    ),
    "JSD, text, fixed": Policy(confidence="JSD_contrastive_text", vocabulary="fixed", threshold=0.3, k=6, first_exit=2),
    "emitted contrast": Policy(confidence="contrastive_decoding", threshold=0.4, emit="contrastive"),
    "no V_head": Policy(
        confidence="JSD_contrastive_confidence", vocabulary="fixed", threshold=0.4, k=7, alpha=0.0, emit="contrastive"
    ),
    "oracle": Policy(confidence="oracle", threshold=0.5),
    "FREE": Policy(confidence="softmax", threshold=0.4, first_exit=2, last_exit=2, skipped="recompute"),
    "FREE, often": Policy(
        confidence="max_prob", threshold=0.4, first_exit=1, last_exit=1, skipped="recompute", num_speculations=2
    ),
    "FREE, several exits": Policy(confidence="softmax", threshold=0.5, skipped="recompute"),
    "FREE, pruned": Policy(
        confidence="softmax", vocabulary="fixed", threshold=0.5, k=7, skipped="recompute", num_speculations=3
    ),
    "FREE, frequent": Policy(
        confidence="softmax", threshold=0.4, first_exit=2, last_exit=2, skipped="recompute", k=12, **FREQUENT
    ),
    "FREE, contrastive": Policy(
        confidence="JSD_contrastive_confidence", threshold=0.8, first_exit=2, skipped="recompute"
    ),
    "rollback": Policy(
        confidence="softmax",
        threshold=0.3,
        first_exit=2,
        last_exit=2,
        skipped="recompute",
        verification="rollback",
        rollback_threshold=1.0,
    ),
    "lossless": Policy(
        confidence="softmax", threshold=0.3, skipped="recompute", verification="exact", num_speculations=3
    ),
    "lossless, frequent": Policy(
        confidence="softmax",
        threshold=0.0,
        first_exit=2,
        last_exit=2,
        skipped="recompute",
        verification="exact",
        num_speculations=4,
        k=12,
        copy_share=1.0,
        **FREQUENT,
    ),
}


def shell(*command, cwd: Path = ROOT, **environment) -> subprocess.Popen:
    """A command in a process of its own, with its output in pipes."""
    names = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, command)], cwd=cwd, env={**os.environ, **names}, start_new_session=True, **pipes)
