"""Pruning keeps the true top-k at every exit: how many tokens, which, and the same logits copied or masked."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.earlier import EarlierLayers
from decoding.exits import ExitState
from decoding.policy import Policy
from decoding.pruning import VOCABULARIES, PruningSettings, first_survivors, likeliest, penalty_below, prune
from support import inputs_for, scripted_unembed, tiny_t5

T5_LARGE = PruningSettings(vocabulary=32128, num_layers=24, first_exit=7)
SCHEDULES = {name: row.schedule for name, row in VOCABULARIES.items() if row is not None and row.first is None}


# ------------------------------------------------------------------------------------------------------------ how many
@pytest.mark.parametrize(("layer", "k"), [(2, 2781), (7, 842), (23, 260), (24, 250)])
def test_decaying_gives_the_published_numbers(layer, k):
    assert SCHEDULES["decaying"](T5_LARGE, layer, 0.0) == k


def test_fixed_is_the_decaying_number_at_the_first_exit_unless_given():
    assert SCHEDULES["fixed"](T5_LARGE, 20, 0.3) == 842
    assert SCHEDULES["fixed"](PruningSettings(32128, 24, 7, k=256), 20, 0.3) == 256


def test_decaying_stops_at_k_min():
    pruning = PruningSettings(32128, 24, k_min=1000, k_max=2000)
    assert [SCHEDULES["decaying"](pruning, layer, 0.0) for layer in (12, 24)] == [1333, 1000]


@pytest.mark.parametrize("confidence", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_adaptive_follows_the_last_confidence(confidence):
    assert SCHEDULES["adaptive"](T5_LARGE, 8, confidence) == int(32128 * (1 - 0.9 * confidence))
    assert SCHEDULES["adaptive"](PruningSettings(1000, 8, scale=0.5), 8, confidence) == int(
        1000 * (1 - 0.5 * confidence)
    )


def test_the_cap_of_adaptive_is_fixed_prunings_number():
    capped = PruningSettings(32128, 24, 7, cap=True)
    assert [SCHEDULES["adaptive"](capped, 8, confidence) for confidence in (0.0, 0.9)] == [842, 842]
    assert SCHEDULES["adaptive"](PruningSettings(500, 24, 7, k=200, cap=True), 8, 0.9) == int(500 * (1 - 0.81))


def test_both_ends_are_scaled_where_the_vocabulary_is_smaller_and_they_were_not_given():
    small = PruningSettings(4016, 8)  # an eighth of T5's
    assert small.lowest == 31.25 and small.highest == 4375
    assert PruningSettings(4016, 8, k_min=50).lowest == 50
    assert PruningSettings(50257, 8).lowest == 250
    assert SCHEDULES["decaying"](small, 4, 0.0) == int(4375 / (1 + 139 * 4 / 8))


# --------------------------------------------------------------------------------------------------------------- which
def adversarial(seed, batch, size):
    """Ties everywhere: logits from a handful of values, with one row all equal and one whose low ids are the worst."""
    logits = torch.randint(0, 4, (batch, size), generator=torch.Generator().manual_seed(seed)).float()
    logits[0] = 1.0
    logits[-1] = torch.arange(size).float()
    return logits


def random(seed, batch, size):
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(seed))


def truly_best(values, k, tokens):
    """The k best of `tokens` by their `values`, best first, lower token first on a tie: sorted by Python."""
    return sorted(tokens, key=lambda token: (-values[token], token))[:k]


@settings(max_examples=60)
@given(
    make=st.sampled_from([random, adversarial]), seed=st.integers(0, 10_000), batch=st.integers(2, 4), data=st.data()
)
def test_likeliest_and_penalty_are_the_true_top_k(make, seed, batch, data):
    size = data.draw(st.integers(3, 40))
    logits = make(seed, batch, size)
    k = data.draw(st.integers(1, size))
    for row, columns in enumerate(likeliest(logits, k).tolist()):
        assert columns == truly_best(logits[row].tolist(), k, range(size))
    ks = data.draw(st.lists(st.integers(1, size), min_size=batch, max_size=batch))
    for row, penalty in enumerate(penalty_below(logits, ks)):
        kept = torch.nonzero(penalty == 0).flatten().tolist()
        assert sorted(truly_best(logits[row].tolist(), ks[row], range(size))) == kept


@settings(max_examples=80)
@given(
    kind=st.sampled_from(sorted(SCHEDULES)),
    make=st.sampled_from([random, adversarial]),
    seed=st.integers(0, 10_000),
    copy_share=st.sampled_from([0.0, 0.3, 1.0]),
    leaves=st.booleans(),
)
def test_every_exit_keeps_the_true_top_k_of_those_kept_before(kind, make, seed, copy_share, leaves):
    """Through seven exits with scripted logits and confidences, whether rows are copied or masked, and while other
    rows leave; the likeliest token is always among them, and logits are the whole head's on them."""
    batch, size, layers = 3, 60, 9
    unembed, chosen = scripted_unembed(size), np.random.default_rng(seed)
    pruning = PruningSettings(size, layers, first_exit=1, k_min=4, k_max=70)
    earlier, rows, survivors = EarlierLayers(unembed, layers, batch), list(range(batch)), None
    expected = {row: list(range(size)) for row in rows}
    for layer in range(1, layers):
        logits = make(seed + layer, batch, size)
        exit = ExitState(unembed, layer, logits[rows], logits[rows], survivors, rows=rows, earlier=earlier)
        for i, row in enumerate(rows):
            tokens = list(range(size)) if exit.ids is None else exit.ids[i].tolist()
            held = dict(zip(tokens, exit.logits[i].tolist(), strict=True))
            held = {token: value for token, value in held.items() if value > -np.inf}
            assert sorted(held) == sorted(expected[row])
            assert held == {token: logits[row, token].item() for token in expected[row]}
            assert exit.kept[i] == len(held) and exit.multiplied[i] >= len(held)
            assert exit.likeliest[i].item() == truly_best(logits[row].tolist(), 1, expected[row])[0]
        confidences = chosen.random(len(rows)).tolist()
        staying = list(range(len(rows)))
        if leaves and layer in (3, 5):
            staying = staying[1:]
        for i in staying:
            k = max(2, min(SCHEDULES[kind](pruning, layer + 1, confidences[i]), len(expected[rows[i]])))
            expected[rows[i]] = truly_best(logits[rows[i]].tolist(), k, expected[rows[i]])
        survivors = prune(unembed, exit, staying, SCHEDULES[kind], pruning, confidences, copy_share)
        rows = [rows[i] for i in staying]


def test_ids_are_likeliest_first():
    logits = random(4, 2, 50)
    exit = ExitState(scripted_unembed(50), 1, logits, logits)
    survivors = prune(exit.unembed, exit, [0, 1], SCHEDULES["fixed"], PruningSettings(50, 6, k=9), [0.5, 0.5], 1.0)
    ranked = logits.gather(1, survivors.ids)
    assert (ranked.diff(dim=1) <= 0).all() and survivors.ids.shape == (2, 9)


# ----------------------------------------------------------------------------------------------- what is multiplied
def survivors_of(batch, k, size=80, copy_share=0.25, kind="fixed", **pruning):
    logits = random(6, batch, size)
    exit = ExitState(scripted_unembed(size), 1, logits, logits)
    pruning = PruningSettings(size, 9, **({"k": k} | pruning))
    everyone = list(range(batch))
    return prune(exit.unembed, exit, everyone, SCHEDULES[kind], pruning, [0.5] * batch, copy_share), exit, pruning


def test_rows_are_copied_while_rows_times_k_is_a_share_of_the_vocabulary():
    copied, _, _ = survivors_of(2, k=10)
    assert copied.head.weight.shape == (2, 10, 80) and copied.multiplied == {0: 10, 1: 10}
    whole, _, _ = survivors_of(2, k=11)
    assert whole.head is None and whole.multiplied == {0: 80, 1: 80} and whole.kept == {0: 11, 1: 11}


def test_fixed_pruning_copies_once():
    survivors, exit, pruning = survivors_of(2, k=9)
    again = ExitState(exit.unembed, 2, exit.hidden, exit.hidden, survivors)
    assert prune(exit.unembed, again, [0, 1], SCHEDULES["fixed"], pruning, [0.5, 0.5], 0.25) is survivors


def test_copied_rows_are_copied_anew_when_half_of_them_are_left():
    survivors, exit, _ = survivors_of(1, k=20)
    for k, width in ((11, 20), (10, 10)):
        later = ExitState(exit.unembed, 2, exit.hidden, exit.hidden, survivors)
        found = prune(exit.unembed, later, [0], SCHEDULES["fixed"], PruningSettings(80, 9, k=k), [0.5], 0.25)
        assert found.ids.shape == (1, width) and found.kept == {0: k} and found.multiplied == {0: width}


def test_a_vocabulary_that_is_kept_whole_is_no_pruning():
    survivors, _, _ = survivors_of(2, k=80)
    assert survivors is None


@pytest.mark.parametrize("copy_share", [0.0, 1.0])
def test_two_tokens_survive_whatever_the_formula_says(copy_share):
    """A confidence is a gap of two; at confidence 1 the adaptive formula leaves none."""
    policy = Policy(
        confidence="softmax", vocabulary="adaptive", threshold=1.0, adaptive_scale=1.0, copy_share=copy_share
    )
    model = tiny_t5(3, tied=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
    _, trace = model.generate(**inputs_for(model, 3, 3), policy=policy, return_trace=True)
    later = trace.kept[:, :, 1:3][trace.exit_layers > 0]
    assert later.min() == 2


# ------------------------------------------------------------------------------------ chosen before the first exit
@settings(max_examples=60)
@given(
    kind=st.sampled_from([None, *sorted(SCHEDULES)]),
    make=st.sampled_from([random, adversarial]),
    seed=st.integers(0, 10_000),
    copy_share=st.sampled_from([0.0, 0.5, 1.0]),
    data=st.data(),
)
def test_what_is_chosen_before_the_first_exit_has_the_whole_heads_logits(kind, make, seed, copy_share, data):
    """Of each row its own tokens, doubles among them; a schedule goes on from there as from the whole vocabulary."""
    batch, size, layers = 3, 40, 6
    token = st.integers(0, size - 1)
    own = [data.draw(st.lists(token, min_size=2, max_size=25).filter(lambda t: len(set(t)) > 1)) for _ in range(batch)]
    unembed, rows = scripted_unembed(size), list(range(batch))
    earlier, settings = EarlierLayers(unembed, layers, batch), PruningSettings(size, layers, k_min=3, k_max=30)
    survivors = first_survivors(unembed, [torch.tensor(tokens) for tokens in own], copy_share)
    together = len(set().union(*own))
    assert set(survivors.multiplied.values()) == {together if together <= copy_share * size else size}
    expected = {row: sorted(set(tokens)) for row, tokens in enumerate(own)}
    for layer in range(1, layers):
        logits = make(seed + layer, batch, size)
        exit = ExitState(unembed, layer, logits[rows], logits[rows], survivors, rows=rows, earlier=earlier)
        for i, row in enumerate(rows):
            tokens = list(range(size)) if exit.ids is None else exit.ids[i].tolist()
            held = dict(zip(tokens, exit.logits[i].tolist(), strict=True))
            held = {token: value for token, value in held.items() if value > -np.inf}
            assert held == {token: logits[row, token].item() for token in expected[row]}
            assert exit.kept[i] == len(held) and exit.multiplied[i] >= len(held)
            assert exit.likeliest[i].item() == truly_best(logits[row].tolist(), 1, expected[row])[0]
        staying = list(range(len(rows)))[layer == 3 :]
        if kind is not None:
            for i in staying:
                k = max(2, min(SCHEDULES[kind](settings, layer + 1, 0.5), len(expected[rows[i]])))
                expected[rows[i]] = truly_best(logits[rows[i]].tolist(), k, expected[rows[i]])
            survivors = prune(unembed, exit, staying, SCHEDULES[kind], settings, [0.5] * len(rows), copy_share)
        rows = [rows[i] for i in staying]


@pytest.mark.parametrize("tokens", [[], [3], [3, 3], [3, 40], [-1, 3]])
def test_a_row_begins_with_two_tokens_that_there_are(tokens):
    with pytest.raises(ValueError, match=r"surviving tokens.*valid are two or more of 0 to 39"):
        first_survivors(scripted_unembed(40), [torch.tensor(tokens, dtype=torch.long)], 1.0)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [random, adversarial])
def test_cuda_chooses_what_the_cpu_chooses(make):
    logits = make(8, 4, 300)
    ids = torch.stack([torch.randperm(300, generator=torch.Generator().manual_seed(row)) for row in range(4)])
    for tokens in (None, ids):
        moved = None if tokens is None else tokens.cuda()
        assert likeliest(logits.cuda(), 40, moved).cpu().tolist() == likeliest(logits, 40, tokens).tolist()
        ks = [3, 40, 299, 300]
        assert penalty_below(logits.cuda(), ks, moved).cpu().tolist() == penalty_below(logits, ks, tokens).tolist()
