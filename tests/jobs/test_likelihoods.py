"""Log-likelihoods of answers under strategies: cached and batched they are those of one answer at a time."""

import pytest
import torch

from decoding.strategies import SCORE_RULES, Strategy
from jobs.likelihoods import IMPLAUSIBLE, Likelihoods, Pair, common, encode_pair, side_by_side
from support import DECODERS, MODELS, VOCABULARY, in_float64, tiny_gpt2, tiny_t5

STRATEGIES = {
    name: Strategy(name, () if rule is None else (1, 2) if rule.chooses else (2,), alpha=0.0)
    for name, rule in SCORE_RULES.items()
}


class Padding:
    """As much of a tokenizer as tokens need."""

    pad_token_id = 0


def tokens(count):
    return torch.randint(3, VOCABULARY, (count,)).tolist()


def some_pairs():
    """Answers of different lengths to two questions behind the same beginning."""
    start = tokens(9)
    questions = [start + tokens(2), start + tokens(5)]
    return [Pair(question, tokens(count)) for question in questions for count in (1, 4, 6)]


@torch.no_grad()
def by_hand(model, pair, strategy, distribution):
    """Of one answer, with nothing cached."""
    context, answer = (torch.tensor([ids]) for ids in pair)
    if model.config.is_encoder_decoder:
        states, _ = model.teacher_forced(
            labels=answer, input_ids=context, attention_mask=context.new_ones(1, len(pair.context))
        )
        where = slice(0, len(pair.answer))
    else:
        states = model.layer_states(input_ids=torch.cat([context, answer], 1))
        where = slice(len(pair.context) - 1, len(pair.context) + len(pair.answer) - 1)
    layers = dict(enumerate(state[0, where] for state in (states.embedded, *states.hidden, states.last)))
    top = type("Top", (), {"num_layers": len(layers) - 1, "unembed": model.unembed()})
    scores = strategy.scores(top, layers).scores
    scores = scores.log_softmax(-1) if distribution else scores
    return float(scores.gather(1, answer[0][:, None]).clamp_min(IMPLAUSIBLE).sum())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("distribution", [False, True])
def test_batched_is_one_at_a_time(kind, distribution):
    with in_float64():
        model, pairs = MODELS[kind](3), some_pairs()
        found = Likelihoods(model, Padding(), batch_size=4).of_pairs(pairs, STRATEGIES, distribution)
        for name, strategy in STRATEGIES.items():
            for likelihood, pair in zip(found[name], pairs, strict=True):
                assert likelihood.tokens == len(pair.answer)
                assert likelihood.total == pytest.approx(by_hand(model, pair, strategy, distribution), abs=1e-4), name


def test_no_strategy_is_the_models_own():
    model, pairs = tiny_gpt2(), some_pairs()
    found = Likelihoods(model, Padding(), 8).of_pairs(pairs, {"vanilla": None})["vanilla"]
    for likelihood, pair in zip(found, pairs, strict=True):
        logits = model(torch.tensor([[*pair.context, *pair.answer]])).logits[0, len(pair.context) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(pair.answer)[:, None])
        assert likelihood.total == pytest.approx(own.sum().item(), abs=1e-3)
        assert likelihood.mean == pytest.approx(own.mean().item(), abs=1e-3)


def test_an_answer_of_what_each_token_is_likeliest_is_greedy(decided):
    model, context = tiny_gpt2(), tokens(5)
    said = model.generate(torch.tensor([context]), max_new_tokens=4)[0, 5:].tolist()
    other = [(said[0] + 1) % VOCABULARY, *said[1:]]
    pairs = [Pair(context, said), Pair(context, other), Pair(context, said[:2]), Pair(context, [])]
    found = Likelihoods(model, Padding(), 3).of_pairs(pairs, {"vanilla": None})["vanilla"]
    assert [each.greedy for each in found] == [True, False, True, True]
    assert found[3] == (0.0, 0, True), "nothing is certain to follow"


def test_of_a_context_all_are_read_one_after_the_other():
    pairs = [Pair([1, 2], [3]), Pair([4], [5, 6, 7]), Pair([1, 2], [3, 4, 5]), Pair([4], [5])]
    assert side_by_side(pairs) == [2, 0, 1, 3]


def test_what_is_implausible_can_be_summed():
    model = tiny_gpt2()
    strict = {"dola": Strategy("dola", (1, 2), alpha=1.0)}
    (found,) = Likelihoods(model, Padding(), 8).of_pairs([Pair(tokens(5), tokens(6))], strict)["dola"]
    assert IMPLAUSIBLE * 6 <= found.total < IMPLAUSIBLE


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_of_what_is_too_long_the_last_tokens_count(kind):
    model, pair = DECODERS[kind](0), Pair(tokens(30), tokens(5))
    short = Likelihoods(model, Padding(), 2, longest=12)
    (found,) = short.of_pairs([pair], STRATEGIES)["dola"]
    cut = Pair(pair.context[-8:], pair.answer)  # twelve tokens are read, the thirteenth is only said
    (same,) = Likelihoods(model, Padding(), 2).of_pairs([cut], STRATEGIES)["dola"]
    assert found.tokens == 5 and found.total == pytest.approx(same.total, abs=1e-3)


def test_what_texts_begin_with_is_read_once(monkeypatch):
    model, pairs, read = tiny_gpt2(), some_pairs(), []
    forward = model.base_model.forward
    monkeypatch.setattr(
        model.base_model,
        "forward",
        lambda *args, **more: read.append(more["input_ids"].numel()) or forward(*args, **more),
    )
    scorer = Likelihoods(model, Padding(), 8)
    for some in (pairs[:3], pairs[3:]):
        scorer.of_pairs(some, {"vanilla": None})
    # First the question but for its last token, then three rows; of the second question what is new.
    assert read == [10, 3 * 6, 4, 3 * 6]


def test_common_beginnings():
    assert common([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert common([[1], []]) == 0 and common([[5, 6]]) == 2 and common([[2], [1]]) == 0


def test_tokens_are_parted_as_the_harness_does(tiny_gpt2_dir):
    pytest.importorskip("lm_eval")
    from jobs.harness import EarlyExitLM

    lm = EarlyExitLM(str(tiny_gpt2_dir))
    for context, answer in (("The tower of", " Dover is red."), ("In ", "Elm, there"), ("Q: Where?\nA:", " Here.")):
        assert tuple(encode_pair(lm.tokenizer, context, answer, apart=False)) == tuple(lm._encode_pair(context, answer))
    with pytest.raises(ValueError, match="no token of its own"):
        encode_pair(lm.tokenizer, "The tower", "", apart=False)


def test_an_encoder_reads_the_context(tiny_tokenizer):
    model = tiny_t5(vocab_size=len(tiny_tokenizer))
    found = Likelihoods(model, tiny_tokenizer, 4).of("Where is Ann?", ["In Dover", "In Elm"], STRATEGIES, False)
    assert len(found["acd"]) == 2 and found["plain"][0].total < 0
