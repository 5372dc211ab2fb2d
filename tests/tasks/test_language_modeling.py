"""Texts as blocks that are learned, and as beginnings that are continued."""

import json

import pytest
from datasets import Dataset

from tasks import TASKS, find_task, load_examples
from tasks.language_modeling import beginnings, blocks
from tasks.loading import EXAMPLE_COLUMNS
from util import LanguageModelingArguments


def examples(*pairs):
    rows = [
        {"id": str(n), "prompt": prompt, "source": text, "question": "", "target": text, "references": [text]}
        for n, (prompt, text) in enumerate(pairs)
    ]
    return Dataset.from_list(rows, features=EXAMPLE_COLUMNS)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def tokenizer(tiny_gpt2_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_gpt2_dir)


def test_texts_follow_one_another_each_ended_and_are_cut_into_blocks(tokenizer):
    texts = ["The tower of Dover is red.", "Ann: Where are you?", "Bob: In Elm."]
    made = blocks(examples(*(("", text) for text in texts)), tokenizer, 7)
    whole = [token for text in texts for token in [*ids(tokenizer, text), tokenizer.eos_token_id]]
    found = [token for row in made["input_ids"] for token in row]
    assert found == whole[: len(found)] and len(whole) - len(found) < 2, "a lone token has nothing to predict"
    assert {len(row) for row in made["input_ids"][:-1]} == {7} and made["labels"] == made["input_ids"]


def test_a_prompt_does_not_count_in_the_loss(tokenizer, caplog):
    made = blocks(examples(("Where? ", "In Elm."), ("Who? ", "Bob")), tokenizer, 100)
    for row, (prompt, text) in zip(made, (("Where? ", "In Elm."), ("Who? ", "Bob")), strict=True):
        answer = [*ids(tokenizer, text), tokenizer.eos_token_id]
        assert row["input_ids"] == ids(tokenizer, prompt) + answer
        assert row["labels"] == [-100] * len(ids(tokenizer, prompt)) + answer
    assert len(blocks(examples(("Where? ", "In Elm.")), tokenizer, 4)["input_ids"][0]) == 4
    assert "1 of 1 texts are longer than --block_size 4 tokens and were cut" in caplog.text


def test_what_comes_behind_a_beginning_is_its_reference(tokenizer):
    text = "The tower of Dover is red. It rains there often."
    chosen, prompts = beginnings(examples(("", text), ("", "The")), tokenizer, 5, 6)
    whole = ids(tokenizer, text)
    assert len(chosen) == 1, "nothing is left to continue of the other"
    assert prompts[0].input_ids == whole[:5] and prompts[0].example_id == "0"
    assert chosen[0]["references"] == [tokenizer.decode(whole[5:11]).strip()]
    chosen, prompts = beginnings(examples(("Where? ", "In Elm.")), tokenizer, 5, 60)
    assert prompts[0].input_ids == ids(tokenizer, "Where? ") and chosen[0]["references"] == ["In Elm."]


def test_texts_apart_are_a_row_each_and_cut(tokenizer):
    texts = ["The tower of Dover is red.", "Ann: Where are you?"]
    made = blocks(examples(*(("", text) for text in texts)), tokenizer, 5, apart=True)
    whole = [[*ids(tokenizer, text), tokenizer.eos_token_id] for text in texts]
    assert made["input_ids"] == made["labels"] == [each[:5] for each in whole]


def test_prompts_that_fill_a_block_are_left_out_and_long_ones_are_cut(tokenizer, caplog):
    pairs = (("Where are you? In Dover? ", "In Elm."), ("Who? ", "Bob"))
    size = len(ids(tokenizer, pairs[0][0]))
    assert len(blocks(examples(*pairs), tokenizer, size)) == 1
    assert f"1 of 2 texts were left out: nothing is left to predict within --block_size {size}" in caplog.text
    with pytest.raises(ValueError, match="No text has a token to predict within --block_size 3"):
        blocks(examples(pairs[0]), tokenizer, 3)
    _, (prompt, _) = beginnings(examples(*pairs), tokenizer, 5, 6, longest=10)
    assert prompt.input_ids == ids(tokenizer, pairs[0][0])[-4:] and "1 of 2 prompts are longer" in caplog.text
    with pytest.raises(ValueError, match="leaves no room for a prompt in 6"):
        beginnings(examples(*pairs), tokenizer, 5, 6, longest=6)


def test_texts_that_are_all_too_short_are_refused(tokenizer):
    with pytest.raises(ValueError, match="No text is longer than --prompt_length 50 tokens"):
        beginnings(examples(("", "The tower")), tokenizer, 50, 6)


def test_a_text_file_has_a_text_per_line(tmp_path):
    (tmp_path / "a.txt").write_text("One line.\n\nAnother, \u2028 with a separator\n")
    arguments = LanguageModelingArguments(validation_file=str(tmp_path / "a.txt"))
    found = load_examples(find_task("language_modeling", arguments), arguments, "validation")
    assert found["source"] == ["One line.", "Another, \u2028 with a separator"]
    assert found["prompt"] == ["", ""]


def test_columns_are_named_or_found(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "x", "q": "Where? ", "a": "Here."}\n')
    arguments = LanguageModelingArguments(validation_file=str(tmp_path / "a.jsonl"), text_column="a", prompt_column="q")
    (row,) = load_examples(find_task("language_modeling", arguments), arguments, "validation")
    assert (row["prompt"], row["source"]) == ("Where? ", "Here.")
    with pytest.raises(ValueError, match="has no column 'b' for the prompt; it has id, q, a: choose one with --pro"):
        wrong = LanguageModelingArguments(validation_file=str(tmp_path / "a.jsonl"), text_column="a", prompt_column="b")
        load_examples(find_task("language_modeling", wrong), wrong, "validation")


@pytest.mark.parametrize(
    ("record", "flags", "found"),
    [
        ({"id": "x", "text": "One day.", "title": "A day"}, {}, "One day."),
        ({"url": "https://example.org/1", "content": "One day."}, {}, "One day."),
        ({"n": 3, "url": "https://example.org/1", "tale": "One day."}, {}, "One day."),
        ({"q": "Where to?", "a": "Over there."}, {"prompt_column": "q"}, "Over there."),
        ({"text": None, "tale": "One day.", "id": "x"}, {"text_column": "tale"}, "One day."),
        ({"a": "One day.", "b": "Another day."}, {}, None),
        ({"url": "https://example.org/1", "n": 3}, {}, None),
    ],
)
def test_the_texts_are_told_by_name_else_by_what_they_are(tmp_path, record, flags, found):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    arguments = LanguageModelingArguments(validation_file=str(tmp_path / "a.jsonl"), **flags)
    task = find_task("language_modeling", arguments)
    if found is None:
        with pytest.raises(ValueError, match=r"no column that is surely the text; it has .*: choose one with --text"):
            load_examples(task, arguments, "validation")
    else:
        assert load_examples(task, arguments, "validation")["source"][:] == [found]


def test_the_data_sets_by_name():
    assert TASKS["wikitext"].sources[0].path == "Salesforce/wikitext"
    arguments = LanguageModelingArguments(dataset_name="invented_stories", max_eval_samples=3)
    found = load_examples(find_task("language_modeling", arguments), arguments, "validation")
    assert len(found) == 3 and len(set(found["source"])) == 3
    squad = LanguageModelingArguments(dataset_name="squad")
    with pytest.raises(ValueError, match="for question_answering, not for language_modeling, which knows: invented_st"):
        find_task("language_modeling", squad)
