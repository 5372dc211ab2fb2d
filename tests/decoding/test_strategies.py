"""Contrastive generation against its formulas, and the cached search against one that scores every prefix anew."""

import math

import pytest
import torch
from transformers import TextStreamer

from decoding.policy import Policy
from decoding.strategies import Strategy, bucket
from support import DECODERS, double_precision, inputs_for, plain_generate, row_alone, sources, tiny_gpt2, tiny_t5

STRATEGIES = {
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
            hidden = norm(hidden)
        return (model.lm_head(hidden).float() / temperature).log_softmax(-1)

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


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "neox", "opt, untied"])
def test_greedy_is_the_argmax_of_the_formula(kind, name):
    strategy = STRATEGIES[name]
    with double_precision(DECODERS[kind](1)) as model:
        ids, mask = sources(1, 4, left=True)
        found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy)
        assert answers_of(found, ids.shape[1]) == naive_beams(model, ids, mask, strategy, beams=1)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("beams", [2, 5])
def test_beams_are_those_of_a_search_without_a_cache(name, beams):
    strategy = Strategy(**{**STRATEGIES[name].__dict__, "beams": beams})
    for seed in (2, 5):
        with double_precision(tiny_gpt2(seed)) as model:
            ids, mask = sources(seed, 3, left=True)
            found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy)
            assert answers_of(found, ids.shape[1]) == naive_beams(model, ids, mask, strategy, beams)


def test_rows_of_a_batch_choose_their_own_layer():
    with double_precision(tiny_gpt2(3)) as model:
        ids, mask = sources(3, 8, left=True)
        _, chosen = formula(model, ids, mask, STRATEGIES["dola"])
        assert len(set(chosen)) > 1


def test_a_long_prompt_is_run_in_pieces(monkeypatch):
    with double_precision(tiny_gpt2(4)) as model:
        ids, mask = sources(4, 3, left=True)
        wanted = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": LENGTH}
        strategy = Strategy("contrastive", (2,), beams=3)
        whole = model.generate(**wanted, strategy=strategy)
        monkeypatch.setattr("decoding.flops.PROMPT_PIECE", 4)
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

    found = model.generate(ids, max_new_tokens=5, strategy=STRATEGIES["acd"], streamer=Streamer(), eos_token_id=[])
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
        model.generate(ids, strategy=STRATEGIES["acd"], policy=Policy(static_exit=2))
    with pytest.raises(ValueError, match="has beams of its own"):
        model.generate(ids, strategy=STRATEGIES["acd"], num_beams=3)
    with pytest.raises(ValueError, match="draws one continuation, but 2 beams"):
        model.generate(ids, strategy=Strategy("acd", (2,), beams=2), do_sample=True)


def test_buckets_are_dolas():
    assert bucket("low", 32, tied=False) == tuple(range(0, 16, 2))
    assert bucket("high", 32, tied=False) == tuple(range(16, 32, 2))
    assert bucket("low", 48, tied=True) == tuple(range(2, 20, 2)) and bucket("high", 48, tied=True)[0] == 28
    with pytest.raises(ValueError, match="no bucket of layers"):
        bucket("middle", 32, tied=False)


@pytest.mark.parametrize("name", STRATEGIES)
def test_scores_are_the_formulas_and_minus_infinity_outside_the_plausible_set(name, monkeypatch):
    plain, seen = Strategy.scores, []
    monkeypatch.setattr(Strategy, "scores", lambda *given: seen.append(plain(*given)) or seen[-1])
    with double_precision(tiny_gpt2(9)) as model:
        inputs = inputs_for(model, 9, 4, length=1)
        model.generate(**inputs, strategy=STRATEGIES[name])
        rows = [row_alone(inputs, row) for row in range(4)]
        expected = [formula(model, row["input_ids"], row["attention_mask"], STRATEGIES[name])[0] for row in rows]
    torch.testing.assert_close(seen[0], torch.cat(expected))
    assert seen[0].isneginf().any() == (name != "plain")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", STRATEGIES)
def test_cuda_searches_as_the_cpu_does(name):
    strategy = Strategy(**{**STRATEGIES[name].__dict__, "beams": 3})
    with double_precision(tiny_gpt2(3)) as model:
        ids, mask = sources(3, 3, left=True)
        expected = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LENGTH, strategy=strategy)
        model.cuda()
        found = model.generate(
            input_ids=ids.cuda(), attention_mask=mask.cuda(), max_new_tokens=LENGTH, strategy=strategy
        )
        assert found.tolist() == expected.tolist()
