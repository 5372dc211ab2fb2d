"""The flags of generate.py: which strategy they come to, and what is refused."""

import pytest

from util.generate_args import GenerateArguments, layers_of


def strategy(num_layers=48, tied=True, **flags):
    return GenerateArguments(prompt="a", **flags).strategy_of(num_layers, tied)


def test_greedy_and_sample_are_the_loops_own():
    assert strategy(strategy="greedy") is None and strategy(strategy="sample") is None


def test_the_amateur_of_gpt2_xl_is_layer_46_of_48():
    found = strategy(strategy="contrastive")
    assert (found.name, found.amateurs, found.expert, found.beams) == ("contrastive", (46,), None, 5)
    assert (found.alpha, found.temperature, found.coefficient) == (0.1, 0.5, 1.0)
    assert strategy(strategy="acd").beams == 1 and strategy(strategy="beam").beams == 5


def test_layers_may_be_named():
    found = strategy(strategy="acd", intermediate_layer=12, upper_layer=40, alpha=0.2)
    assert (found.amateurs, found.expert, found.alpha) == ((12,), 40, 0.2)
    found = strategy(strategy="dola", early_exit_layers="0,2,..,32")
    assert (found.amateurs, found.expert) == (tuple(range(0, 32, 2)), 32)
    found = strategy(strategy="dola_static", early_exit_layers="16,32")
    assert (found.amateurs, found.expert) == ((16,), 32)
    assert strategy(strategy="dola_static").amateurs == (46,)


@pytest.mark.parametrize(("text", "expert"), [("32", 32), ("-1", None)])
@pytest.mark.parametrize("name", ["dola", "dola_static"])
def test_dola_of_one_layer_is_plain(name, text, expert):
    found = strategy(strategy=name, early_exit_layers=text)
    assert (found.name, found.amateurs, found.expert) == ("plain", (), expert)


@pytest.mark.parametrize(
    ("flags", "penalty"),
    [
        ({"strategy": "dola"}, 1.2),
        ({"strategy": "dola_static"}, 1.2),
        ({"strategy": "dola", "early_exit_layers": "low"}, 1.2),
        ({"strategy": "dola", "early_exit_layers": "0,2,4"}, 1.2),
        ({"strategy": "dola", "early_exit_layers": "4"}, 1.0),
        ({"strategy": "dola", "repetition_penalty": 1.1}, 1.1),
        ({"strategy": "acd"}, 1.0),
        ({}, 1.0),
    ],
)
def test_a_repetition_penalty_is_dolas_alone(flags, penalty):
    assert GenerateArguments(prompt="a", **flags).repetition_penalty == penalty


def test_prompts_are_asked_for_in_a_terminal(monkeypatch):
    monkeypatch.setattr("util.generate_args.asks", lambda: True)
    assert GenerateArguments().converses and not GenerateArguments(prompt="").converses
    with pytest.raises(ValueError, match="--out is for -p or --prompt_file"):
        GenerateArguments(output_file="out.jsonl")


def test_ends_are_lists_with_line_breaks():
    args = GenerateArguments(prompt="a", stop="\\n", stop_token_ids=[3])
    assert (args.stop, args.stop_token_ids) == (["\n"], [3])
    args = GenerateArguments(prompt="a")
    assert (args.stop, args.stop_token_ids) == ([], [])


def test_dola_takes_a_bucket():
    assert strategy(32, strategy="dola").amateurs == tuple(range(16, 32, 2))
    assert strategy(32, False, strategy="dola", early_exit_layers="low").amateurs == tuple(range(0, 16, 2))


@pytest.mark.parametrize(
    ("text", "layers"),
    [("16,32", [16, 32]), ("0,2,..,8", [0, 2, 4, 6, 8]), ("1, 4, .., 11", [1, 4, 7, 10, 11]), ("16", [16])],
)
def test_lists_of_layers(text, layers):
    assert layers_of(text) == layers


@pytest.mark.parametrize("text", ["", "a,b", "..,3", "1,..,9", "1,2,..", "1,2,..,x", "-1,4"])
def test_what_is_no_list_of_layers_is_refused(text):
    with pytest.raises(ValueError, match="--early_exit_layers"):
        layers_of(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "There is nothing to continue: give -p TEXT or --prompt_file FILE"),
        ({"prompt": "a", "strategy": "cd"}, "--strategy cd: valid are greedy, sample, beam, contrastive"),
        ({"prompt_file": "nowhere.txt"}, "--prompt_file nowhere.txt: there is no such file"),
        ({"prompt": "a", "max_new_tokens": 0}, "--max_new_tokens 0: valid are 1 and above"),
        ({"prompt": "a", "temperature": 0.0}, "--temperature 0.0"),
        ({"prompt": "a", "dtype": "int8"}, "--dtype int8: valid are float32"),
        ({"prompt": "a", "strategy": "beam", "show_exits": True}, "--show_exits needs greedy or sample"),
        ({"prompt": "a", "stop": ["end", ""]}, "--stop is empty: every answer would end at once"),
        ({"prompt": "a", "show_drafts": True, "compare": True}, "while it comes, --compare when it is there"),
        ({"prompt": "a", "no_repeat_ngram_size": -1}, "--no_repeat_ngram_size -1"),
    ],
)
def test_what_contradicts_itself_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        GenerateArguments(**flags)


def test_a_layer_that_the_model_has_not_is_refused():
    with pytest.raises(ValueError, match="Layer 9 cannot be contrasted with layer 8: valid are 0 to 7"):
        strategy(8, strategy="acd", intermediate_layer=9)


def test_a_refusal_names_the_flags_that_name_the_layers():
    with pytest.raises(ValueError, match=r"^--intermediate_layer 7, --upper_layer 3: Layer 7 cannot be contrasted"):
        strategy(8, strategy="acd", intermediate_layer=7, upper_layer=3)
    with pytest.raises(ValueError, match=r"^--early_exit_layers 9,3: Layer 9"):
        strategy(8, strategy="dola", early_exit_layers="9,3")
