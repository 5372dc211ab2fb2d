"""Contrastive generation against its formulas, and the cached search against one that scores every prefix anew."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from transformers import TextStreamer

from decoding.policy import Policy
from decoding.strategies import DIVERGENCES, Strategy, bucket
from support import (
    DECODERS,
    double_precision,
    inputs_for,
    plain_generate,
    row_alone,
    sources,
    tiny_gpt2,
    tiny_t5,
    translated,
)

CASES = {
    "plain": Strategy("plain"),
    "contrastive": Strategy("contrastive", (2,), alpha=0.05),
    "contrastive, coefficient": Strategy("contrastive", (1,), alpha=0.1, temperature=1.3, coefficient=0.4),
    "acd": Strategy("acd", (2,), alpha=0.05),
    "acd, layers": Strategy("acd", (1,), expert=3, alpha=0.2),
    "dola_static": Strategy("dola_static", (3,), alpha=0.1),
    "dola": Strategy("dola", (0, 1, 2, 3), alpha=0.1),
    "unnormed": Strategy("dola_static", (2,), expert=3, alpha=0.05, final_norm=False),
}
LENGTH = 7


@torch.no_grad()
def formula(model, ids, mask, strategy):
    """Scores [n, V] of the token behind each prefix [n, t], as SPEC writes them, and the amateur dola picks."""
    states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    norm, last = model.get_submodule(model.final_norm), len(states) - 1

    def log_p(layer, temperature=1.0):
        hidden = states[layer][:, -1]
        if layer < last and strategy.final_norm:
            hidden = norm(translated(model, hidden, layer))
        return (model.lm_head(hidden * model.output_scale).float() / temperature).log_softmax(-1)

    expert = log_p(strategy.expert or last)
    if strategy.name == "plain":
        return expert, None
    rows, chosen = [], []
    for row in range(len(ids)):
        p = expert[row].exp()
        inside = p >= strategy.alpha * p.max()
        amateur = strategy.amateurs[0]
        if strategy.name == "dola":
            divergences = []
            for layer in strategy.amateurs:
                q = log_p(layer)[row].exp()
                m = (p + q) / 2
                divergences.append(0.5 * (p * (p / m).log()).nansum() + 0.5 * (q * (q / m).log()).nansum())
            amateur = strategy.amateurs[int(torch.stack(divergences).argmax())]
        chosen.append(amateur)
        if strategy.name == "contrastive":
            score = expert[row] - strategy.coefficient * log_p(amateur, strategy.temperature)[row]
        elif strategy.name == "acd":
            difference = expert[row] - log_p(amateur)[row]
            share = difference[inside].softmax(-1) * p[inside].sum()
            score = torch.full_like(p, -math.inf).masked_scatter(inside, share.log())
        else:
            score = expert[row] - log_p(amateur)[row]
        rows.append(score.masked_fill(~inside, -math.inf))
    return torch.stack(rows), chosen


def naive_beams(model, prompt, mask, strategy, beams, end=1):
    """Every prefix of every beam anew, one prompt at a time."""
    answers = []
    for ids, seen in zip(prompt, mask, strict=True):
        held = [(0.0, ids[seen.bool()].tolist(), False)]
        start = len(held[0][1])
        for _ in range(LENGTH):
            grown = []
            for total, tokens, ended in held:
                if ended:
                    grown.append((total, tokens, True))
                    continue
                row = torch.tensor([tokens])
                scores, _ = formula(model, row, torch.ones_like(row), strategy)
                grown += [(total + float(s), [*tokens, v], v == end) for v, s in enumerate(scores[0]) if s > -math.inf]
            held = sorted(grown, key=lambda beam: -beam[0])[:beams]
            if all(ended for *_, ended in held):
                break
        answers.append(held[0][1][start:])
    return answers


def answers_of(sequences, width):
    rows = sequences[:, width:].tolist()
    return [row[: row.index(1) + 1] if 1 in row else row for row in rows]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", DECODERS)
def test_greedy_is_the_argmax_of_the_formula(kind, name):
    strategy = CASES[name]
    with double_precision(DECODERS[kind](1)) as model:
        ids, mask = sources(1, 4, left=True)
        found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy)
        assert answers_of(found, ids.shape[1]) == naive_beams(model, ids, mask, strategy, beams=1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("beams", [2, 5])
def test_beams_are_those_of_a_search_without_a_cache(name, beams):
    strategy = Strategy(**{**CASES[name].__dict__, "beams": beams})
    for seed in (2, 5):
        with double_precision(tiny_gpt2(seed)) as model:
            ids, mask = sources(seed, 3, left=True)
            found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy)
            assert answers_of(found, ids.shape[1]) == naive_beams(model, ids, mask, strategy, beams)


def test_rows_of_a_batch_choose_their_own_layer():
    with double_precision(tiny_gpt2(3)) as model:
        ids, mask = sources(3, 8, left=True)
        _, chosen = formula(model, ids, mask, CASES["dola"])
        assert len(set(chosen)) > 1


@torch.no_grad()
def dolas_code(model, tokens, strategy):
    """The next token behind one prefix and the premature layer, as the code of DoLa's authors computes them: the layers
    read unnormed, the mean of two divergences of which the mixture is the first argument."""
    states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    mature = model.lm_head(states[-1][:, -1]).log_softmax(-1)
    premature = torch.stack([model.lm_head(states[layer][:, -1]).log_softmax(-1) for layer in strategy.amateurs])
    mixture = 0.5 * (mature.exp()[None] + premature.exp())
    first = functional.kl_div(mature[None].expand_as(premature), mixture, reduction="none").mean(-1)
    second = functional.kl_div(premature, mixture, reduction="none").mean(-1)
    layer = int((0.5 * (first + second)).mean(-1).argmax())
    scores = (mature - premature[layer])[0]
    scores[mature[0] < mature.max() + math.log(strategy.alpha)] = -math.inf
    return int(scores.argmax()), strategy.amateurs[layer]


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "neox"])
def test_dola_by_the_code_is_what_the_code_says(kind):
    """Tokens and layers; by the paper's divergence some layer is another one."""
    strategy, chosen = Strategy("dola", (0, 1, 2, 3), final_norm=False, divergence="code"), {}
    for seed in range(4):
        with double_precision(DECODERS[kind](seed)) as model:
            ids, mask = sources(seed, 3, left=True)
            found, trace = model.generate(
                ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy, return_trace=True
            )
            for row in range(3):
                tokens = ids[row][mask[row] == 1].tolist()
                answer = answers_of(found, ids.shape[1])[row]
                for place, token in enumerate(answer):
                    assert (token, trace.premature_layers[row, place]) == dolas_code(model, tokens, strategy)
                    tokens.append(token)
            other = {"strategy": replace(strategy, divergence="paper"), "return_trace": True}
            _, paper = model.generate(ids, attention_mask=mask, max_new_tokens=LENGTH, **other)
            chosen[seed] = (trace.premature_layers[:, 0].tolist(), paper.premature_layers[:, 0].tolist())
    assert any(code != paper for code, paper in chosen.values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("beams", [1, 3])
def test_the_layer_contrasted_with_is_recorded_per_token(name, beams):
    strategy = replace(CASES[name], beams=beams)
    with double_precision(tiny_gpt2(1)) as model:
        ids, mask = sources(1, 4, left=True)
        found, trace = model.generate(
            ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy, return_trace=True
        )
        assert trace.premature_layers.shape == (4, found.shape[1] - ids.shape[1])
        assert trace.lengths.tolist() == [len(answer) for answer in answers_of(found, ids.shape[1])]
        for row, answer in enumerate(answers_of(found, ids.shape[1])):
            tokens = ids[row][mask[row] == 1].tolist()
            for token, layer in zip(answer, trace.premature_layers[row].tolist(), strict=False):
                _, chosen = formula(model, torch.tensor([tokens]), torch.ones(1, len(tokens)).long(), strategy)
                assert layer == (-1 if chosen is None else chosen[0])
                tokens.append(token)
            assert (trace.premature_layers[row, len(answer) :] == -1).all()


def test_the_divergence_of_the_code_against_a_hand_worked_one():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    m = (p + q) / 2
    expected = sum(float((m * (m / each).log()).sum()) for each in (p, q)) / 2
    assert float(DIVERGENCES["code"](p.log(), q.log())) == pytest.approx(expected)
    assert float(DIVERGENCES["code"](p.log(), p.log())) == pytest.approx(0, abs=1e-7)
    zeros = torch.tensor([0.0, -math.inf])
    assert math.isfinite(float(DIVERGENCES["code"](zeros, zeros.flip(0))))


def test_a_long_prompt_is_run_in_pieces(monkeypatch):
    with double_precision(tiny_gpt2(4)) as model:
        ids, mask = sources(4, 3, left=True)
        wanted = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": LENGTH}
        strategy = Strategy("contrastive", (2,), beams=3)
        whole = model.generate(**wanted, strategy=strategy)
        monkeypatch.setattr("decoding.prompts.PROMPT_PIECE", 4)
        assert model.generate(**wanted, strategy=strategy).tolist() == whole.tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_decoder_is_searched_too(tied):
    """Plain beams without a norm of length are Hugging Face's with length_penalty 0, as long as none ends early."""
    with double_precision(tiny_t5(5, tied=tied)) as model:
        ids, mask = sources(5, 3)
        shared = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": LENGTH, "eos_token_id": 60}
        expected = plain_generate(model, **shared, num_beams=4, length_penalty=0.0, do_sample=False)
        found = model.generate(**shared, strategy=Strategy("plain", beams=4))
        running = (found[:, 1:] != 60).all(1) & (expected[:, 1:] != 60).all(1)
        assert running.any() and found[running].tolist() == expected[running].tolist()
        greedy = model.generate(**shared, strategy=Strategy("dola", (1, 2, 3)))
        assert greedy.shape[0] == 3


def test_processors_see_the_scores_and_sampling_draws_from_them():
    model = tiny_gpt2(6)
    ids, mask = sources(6, 2, left=True)
    shared = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 12, "eos_token_id": []}
    strategy = Strategy("dola", (1, 2), alpha=0.3)
    repeated = model.generate(**shared, strategy=strategy)
    again = model.generate(**shared, strategy=strategy, no_repeat_ngram_size=1)
    assert all(len(set(row[9:])) == 12 for row in again.tolist()) and again.tolist() != repeated.tolist()
    torch.manual_seed(0)
    drawn = [model.generate(**shared, strategy=strategy, do_sample=True).tolist() for _ in range(2)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_t5])
@pytest.mark.parametrize("beams", [1, 3])
def test_beams_of_a_batch_are_those_of_its_rows_under_a_penalty(build, beams):
    with double_precision(build(10)) as model:
        ids, mask = sources(10, 4, left=not model.config.is_encoder_decoder)
        wanted = {"max_new_tokens": LENGTH, "repetition_penalty": 1.5, "strategy": Strategy("acd", (2,), beams=beams)}
        together = model.generate(ids, attention_mask=mask, **wanted)
        for row in range(4):
            own = ids[row][mask[row] == 1][None]
            (alone,) = answers_of(model.generate(own, **wanted), 1 if model.config.is_encoder_decoder else own.shape[1])
            start = 1 if model.config.is_encoder_decoder else ids.shape[1]
            assert together[row, start : start + len(alone)].tolist() == alone


def test_one_beam_streams_what_it_returns():
    model = tiny_gpt2(7)
    ids, _ = sources(7, 1)
    seen = []

    class Streamer(TextStreamer):
        def __init__(self):
            pass

        def put(self, tokens):
            seen.extend(tokens.flatten().tolist())

        def end(self):
            seen.append("end")

    found = model.generate(ids, max_new_tokens=5, strategy=CASES["acd"], streamer=Streamer(), eos_token_id=[])
    assert seen == [*found[0].tolist(), "end"], "the library puts the prompt first"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cd"}, "strategy is 'cd': valid are plain, contrastive, acd, dola_static, dola"),
        ({"name": "contrastive"}, "needs layers to contrast with|contrasts with one layer, but 0"),
        ({"name": "acd", "amateurs": (1, 2)}, "acd contrasts with one layer, but 2 were given"),
        ({"name": "plain", "alpha": 2.0}, "alpha is 2.0: valid are 0 to 1"),
        ({"name": "plain", "temperature": 0.0}, "amateur temperature is 0.0"),
        ({"name": "plain", "beams": 0}, "beam size is 0"),
        ({"name": "plain", "beams": 2.5}, "beams is 2.5: valid is a whole number"),
        ({"name": "plain", "divergence": "kl"}, "divergence is 'kl': valid are paper, code"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Strategy(**settings)


def test_layers_that_are_not_there_are_refused_and_so_are_exits():
    model = tiny_gpt2(8)
    ids, _ = sources(8, 1)
    with pytest.raises(ValueError, match="Layer 4 cannot be contrasted with layer 4: valid are 0 to 3"):
        model.generate(ids, strategy=Strategy("acd", (4,)))
    with pytest.raises(ValueError, match="The contrasted layer is 9: valid are 1 to 4"):
        model.generate(ids, strategy=Strategy("acd", (1,), expert=9))
    with pytest.raises(ValueError, match="goes without early exits"):
        model.generate(ids, strategy=CASES["acd"], policy=Policy(static_exit=2))
    with pytest.raises(ValueError, match="has beams of its own"):
        model.generate(ids, strategy=CASES["acd"], num_beams=3)
    with pytest.raises(ValueError, match="beams have one result, the best: leave num_return_sequences out"):
        model.generate(ids, strategy=Strategy("acd", (2,), beams=2), num_return_sequences=2)
    with pytest.raises(ValueError, match="draws one continuation, but 2 beams"):
        model.generate(ids, strategy=Strategy("acd", (2,), beams=2), do_sample=True)


def test_buckets_are_dolas():
    assert bucket("low", 32, tied=False) == tuple(range(0, 16, 2))
    assert bucket("high", 32, tied=False) == tuple(range(16, 32, 2))
    assert bucket("low", 48, tied=True) == tuple(range(2, 20, 2)) and bucket("high", 48, tied=True)[0] == 28
    with pytest.raises(ValueError, match="no bucket of layers"):
        bucket("middle", 32, tied=False)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_formulas_and_minus_infinity_outside_the_plausible_set(name, monkeypatch):
    plain, seen = Strategy.scores, []
    monkeypatch.setattr(Strategy, "scores", lambda *given: seen.append(plain(*given)) or seen[-1])
    with double_precision(tiny_gpt2(9)) as model:
        inputs = inputs_for(model, 9, 4, length=1)
        model.generate(**inputs, strategy=CASES[name])
        rows = [row_alone(inputs, row) for row in range(4)]
        expected = [formula(model, row["input_ids"], row["attention_mask"], CASES[name])[0] for row in rows]
    torch.testing.assert_close(seen[0].scores, torch.cat(expected))
    assert seen[0].scores.isneginf().any() == (name != "plain")


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("plain", "acd, layers", "unnormed")])
def test_a_token_at_alpha_times_the_highest_is_plausible(name):
    """At alpha 1 that is the expert's likeliest alone, so that all of them say what the full model does."""
    with double_precision(tiny_gpt2(9)) as model:
        inputs = inputs_for(model, 9, 3, length=LENGTH)
        found = model.generate(**inputs, strategy=replace(CASES[name], alpha=1.0))
        assert found.tolist() == plain_generate(model, **inputs, do_sample=False).tolist()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_cuda_searches_as_the_cpu_does(name):
    strategy = Strategy(**{**CASES[name].__dict__, "beams": 3})
    with double_precision(tiny_gpt2(3)) as model:
        ids, mask = sources(3, 3, left=True)
        expected = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy)
        model.cuda()
        found = model.generate(
            input_ids=ids.cuda(), attention_mask=mask.cuda(), max_new_tokens=LENGTH, strategy=strategy
        )
        assert found.tolist() == expected.tolist()
