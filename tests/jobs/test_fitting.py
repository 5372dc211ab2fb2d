"""What is fitted on and held out, which of it came first, and where a fit goes on."""

import pytest
import torch
from datasets import Dataset
from transformers import GPT2Config, T5Config

from conftest import dialogues, questions, write_jsonl
from jobs import fitting as module
from jobs.fitting import (
    Part,
    answer_rows,
    column_of,
    count_labels,
    longest_first,
    sums_over,
    text_rows,
    told_text,
    train_on,
)
from jobs.reading import ReadingArguments
from jobs.telling import Continuation
from models.translators import ExitTranslators
from support import DECODERS
from training.translators import TranslatorTraining

IDS = [
    torch.randint(2, 61, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in range(3, 12)
]
ROWS = Dataset.from_list([{"input_ids": ids, "labels": ids} for ids in IDS])


def arguments(*text, held_out=None, tokens=10_000, columns=(), **more):
    args = ReadingArguments(block_size=64, **more)
    vars(args).update(text=[*map(str, text)], held_out=held_out, tokens=tokens, text_columns=list(columns))
    return args


def as_set(rows: Dataset) -> set[tuple[int, ...]]:
    return {tuple(ids) for ids in rows["input_ids"]}


@pytest.fixture
def files(tmp_path):
    return write_jsonl(tmp_path / "a.jsonl", questions(24)), write_jsonl(tmp_path / "b.jsonl", dialogues(20))


def test_what_is_held_out_is_not_fitted_on_and_depends_on_no_order(files, tiny_tokenizer):
    columns = ("context", "dialogue")
    one = text_rows(arguments(*files, columns=columns), tiny_tokenizer, GPT2Config(), {})
    other = text_rows(arguments(*files[::-1], columns=columns), tiny_tokenizer, GPT2Config(), {})
    assert one.fitted[:] == other.fitted[:] and one.held_out[:] == other.held_out[:]
    assert not as_set(one.fitted) & as_set(one.held_out)
    different = {record["context"] for record in questions(24)} | {record["dialogue"] for record in dialogues(20)}
    assert len(one.held_out) == len(different) // 10 and len(one.fitted) == len(different) - len(one.held_out)


def test_texts_are_fitted_on_until_their_tokens_suffice(files, tiny_tokenizer, monkeypatch):
    every = text_rows(arguments(files[0], columns=("context",)), tiny_tokenizer, GPT2Config(), {}).fitted
    monkeypatch.setattr(module, "AT_FIRST", 2)
    some = text_rows(arguments(files[0], columns=("context",), tokens=150), tiny_tokenizer, GPT2Config(), {}).fitted
    assert some["input_ids"] == every["input_ids"][: len(some)]
    lengths = [len(ids) for ids in some["input_ids"]]
    assert sum(lengths) >= 150 > sum(lengths[:-1])


def test_texts_of_other_files_are_held_out_and_left_out_of_the_fit(files, tmp_path, tiny_tokenizer):
    held = write_jsonl(tmp_path / "held.jsonl", dialogues(5))
    found = text_rows(
        arguments(files[1], held_out=[str(held)], columns=("dialogue",)), tiny_tokenizer, GPT2Config(), {}
    )
    assert len(found.held_out) == len({record["dialogue"] for record in dialogues(5)})
    assert not as_set(found.fitted) & as_set(found.held_out)
    with pytest.raises(ValueError, match="Every text is held out"):
        text_rows(arguments(held, held_out=[str(held)], columns=("dialogue",)), tiny_tokenizer, GPT2Config(), {})


def test_the_answers_of_a_task_stand_where_the_model_writes_them(files, tiny_tokenizer):
    """Behind a prompt where there is no encoder, which alone reads the text otherwise."""
    args = arguments(files[1], kind="summarization")
    behind = text_rows(args, tiny_tokenizer, GPT2Config(), {}).held_out[0]
    apart = text_rows(args, tiny_tokenizer, T5Config(), {}).held_out[0]
    counted = [label for label in behind["labels"] if label != -100]
    assert len(behind["input_ids"]) == len(behind["labels"]) and behind["input_ids"][-len(counted) :] == counted
    shown, answer, wanted = map(tiny_tokenizer.decode, (behind["input_ids"], counted, apart["labels"]))
    assert shown.strip().startswith("Summarize the text") and answer.strip() == wanted.strip()
    assert apart["input_ids"] != apart["labels"]


def test_one_text_is_refused_and_so_is_a_column_that_is_not_there(files, tmp_path, tiny_tokenizer):
    (tmp_path / "one.txt").write_text("The tower of Dover is old.\n")
    with pytest.raises(ValueError, match="There is one text alone"):
        text_rows(arguments(tmp_path / "one.txt"), tiny_tokenizer, GPT2Config(), {})
    with pytest.raises(ValueError, match=r"--text_column body: .*a\.jsonl has none of them, it has id, title"):
        column_of(str(files[0]), ["body"])
    assert column_of(str(files[0]), ["dialogue", "answers.text"]) == "answers.text"
    assert column_of(str(tmp_path / "one.txt"), ["dialogue"]) is None and column_of(None, []) is None


def test_answers_count_and_their_prompts_do_not(tiny_tokenizer):
    found = [Continuation(f"{n}", "", [5, n], None, prompt_tokens=[3, 4]) for n in range(20)]
    found.append(Continuation("empty", "", [], None, prompt_tokens=[3]))
    decoder, encoder = answer_rows(found, False), answer_rows(found[::-1], True)
    assert len(decoder.held_out) == 2 and len(decoder.fitted) == 18
    assert {(tuple(row["input_ids"]), tuple(row["labels"])) for part in decoder for row in part} == {
        ((3, 4, 5, n), (-100, -100, 5, n)) for n in range(20)
    }
    assert encoder.fitted["labels"] == [labels[2:] for labels in decoder.fitted["labels"]]
    assert encoder.fitted["input_ids"][0] == [3, 4]
    counts = count_labels(decoder.fitted, tiny_tokenizer)
    assert counts.ids[0] == 5 and counts.counts[0] >= 18 and not {0, 1, 2} & set(counts.ids), "no special ones"


def test_longest_first_keeps_every_row():
    rows = longest_first(ROWS)
    assert [len(ids) for ids in rows["input_ids"]] == [*range(11, 2, -1)] and as_set(rows) == as_set(ROWS)


class Killed(Exception):
    """What stands for a signal."""


def test_a_killed_fit_goes_on_where_it_was(tmp_path, monkeypatch):
    model, calls = DECODERS["gpt2"](0).double(), []
    whole = sums_over(model, ROWS, [1, 2], 2, Part(tmp_path / "whole", {"fit": 1}))

    def counted(fit, model, rows, size):
        calls.append(len(rows))
        if len(calls) == 3:
            raise Killed
        add(fit, model, rows, size)

    add = module.add_texts
    monkeypatch.setattr(module, "add_texts", counted)
    monkeypatch.setattr(module, "SAVED_EVERY", 0.0)
    with pytest.raises(Killed):
        sums_over(model, ROWS, [1, 2], 2, Part(tmp_path / "out", {"fit": 1}))
    assert (tmp_path / "out.part").is_file() and not (tmp_path / "out").exists()
    found = sums_over(model, ROWS, [1, 2], 4, Part(tmp_path / "out", {"fit": 1}))
    assert calls == [2, 2, 2, 4, 1], "what was there is not read again"
    assert found.counts.tolist() == whole.counts.tolist()
    for layer, expected in whole.solve().items():
        torch.testing.assert_close(found.solve()[layer], expected, rtol=1e-4, atol=1e-4)
    sums_over(model, ROWS, [1, 2], 4, Part(tmp_path / "out", {"fit": 1}))
    assert len(calls) == 5, "done"


def test_a_training_of_other_settings_is_not_gone_on_with(tmp_path, monkeypatch, caplog):
    def training(steps, rate):
        model = DECODERS["gpt2"](0)
        return TranslatorTraining(model, ExitTranslators(model.config.hidden_size, [2]), ROWS, 2, 8, steps, rate)

    monkeypatch.setattr(module, "SAVED_EVERY", 0.0)
    part = Part(tmp_path / "out", {"fit": 1})
    train_on(training(3, 1e-2), part, "one")
    whole, again = training(2, 1e-3), training(2, 1e-3)
    train_on(whole, Part(tmp_path / "whole", {"fit": 1}), "other")
    train_on(again, part, "other")
    assert "holds a training of other settings" in caplog.text
    assert again.step == 2 and torch.equal(again.translators["2"].weight, whole.translators["2"].weight)


def test_a_part_of_another_fit_or_a_torn_one_is_not_taken(tmp_path, caplog):
    part = Part(tmp_path / "out", {"fit": 1})
    assert part.read() == {}
    part.write({"rows": 3, "sums": torch.ones(2)})
    assert part.read()["rows"] == 3
    assert Part(tmp_path / "out", {"fit": 2}).read() == {} and "is of another fit" in caplog.text
    part.path.write_bytes(part.path.read_bytes()[:100])
    assert part.read() == {}
    part.remove()
    part.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_told_by_its_beginning_and_its_record(files, tiny_tokenizer):
    ids = tiny_tokenizer(questions(24)[5]["context"], add_special_tokens=False)["input_ids"]
    told = told_text(ids, tiny_tokenizer, [str(files[1]), str(files[0])])
    assert "is a town." in told and "of " in told and str(files[0]) in told
    assert told_text(ids, tiny_tokenizer, []).startswith("the text that begins '")
