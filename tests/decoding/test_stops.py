"""Texts that end an answer."""

import torch

from decoding.stops import Until, before, ends_of, stopping


def ids_of(tokenizer, text):
    return torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])


def test_an_end_is_looked_for_behind_the_prompt_alone(tiny_tokenizer):
    ids = ids_of(tiny_tokenizer, "The tower of")
    assert not bool(Until(tiny_tokenizer, ["tower of"], 2)(ids, None))
    assert bool(Until(tiny_tokenizer, ["tower of"], 0)(ids, None))


def test_each_row_stops_for_itself_however_its_tokens_part_the_end(tiny_tokenizer):
    texts = ("It is red.\n", "It is red\n\n", "It is wide, wide.")
    rows = [ids_of(tiny_tokenizer, text)[0][-4:] for text in texts]
    (stop,) = stopping(tiny_tokenizer, ("\n\n", "d.\n"), 0)
    assert stop(torch.stack(rows), None).tolist() == [True, True, False]


def test_no_end_is_no_criterion(tiny_tokenizer):
    assert list(stopping(tiny_tokenizer, (), 0)) == []


def test_the_text_before_the_first_end():
    assert before("one. two\nthree", ["\n", ". "]) == "one"
    assert before("\none", ["\n"]) == "" and before("one", ["\n"]) == before("one", []) == "one"


def test_line_breaks_of_a_command_line():
    assert ends_of(r"\n\nQ:\t") == ["\n\nQ:\t"] and ends_of(["\n", ""]) == ["\n", ""]
