import logging
import math
from itertools import pairwise

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from tasks import TASKS, best_window, features, train_features
from tasks.features import Encoder, overlapping, shared_length, special_ids
from tasks.loading import EXAMPLE_COLUMNS

CONTEXT = " ".join(f"The bridge {i} was built by Ada in {1900 + i}." for i in range(12))
QUESTION = "question: who built the old bridge? context: "


def examples(*rows):
    names, empty = ("prompt", "source", "target"), {"question": "", "references": []}
    rows = [{"id": str(i), **empty, **dict(zip(names, row, strict=True))} for i, row in enumerate(rows)]
    return Dataset.from_list(rows, features=EXAMPLE_COLUMNS)


def windows(tokenizer, data_args, *rows, **changes):
    args = data_args("question_answering", **changes)
    return features(TASKS["squad"], examples(*rows), tokenizer, args)


# --- the cutting ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 25))
def test_pieces_cover_everything_and_overlap(length, size, overlap):
    pieces = overlapping(list(range(length)), size, overlap)
    shared = overlap if overlap < size else size // 2
    assert set().union(*pieces) == set(range(length))
    assert all(len(piece) == size for piece in pieces[:-1]) and 0 < len(pieces[-1]) <= size
    for left, right in pairwise(pieces):
        assert left[size - shared :] == right[:shared]
        assert right[-1] > left[-1]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_shared_length_is_the_longest_common_prefix(first, second):
    n = shared_length(first, second)
    assert first[:n] == second[:n]
    assert n == min(len(first), len(second)) or first[n] != second[n]


def test_special_tokens_are_found(tokenizer):
    assert special_ids(tokenizer) == ([], [tokenizer.eos_token_id])


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["squad", "samsum", "iwslt2017"])
def test_what_fits_is_tokenised_whole(tokenizer, data_args, task):
    task = TASKS[task]
    found = features(task, examples((QUESTION, CONTEXT, "")), tokenizer, data_args(task.kind.name))
    assert len(found) == 1
    assert (found[0].example_id, found[0].window) == ("0", 0)
    assert found[0].input_ids == tokenizer(QUESTION + CONTEXT)["input_ids"]


def test_the_limit_is_exact(tokenizer, data_args):
    length = len(tokenizer(QUESTION + CONTEXT)["input_ids"])
    assert len(windows(tokenizer, data_args, (QUESTION, CONTEXT, ""), max_seq_length=length)) == 1
    assert len(windows(tokenizer, data_args, (QUESTION, CONTEXT, ""), max_seq_length=length - 1)) == 2


@pytest.mark.parametrize(("limit", "stride"), [(64, 16), (64, 0), (100, 40), (48, 12)])
def test_windows_repeat_the_question_and_share_the_stride(tokenizer, data_args, limit, stride):
    whole = tokenizer(QUESTION + CONTEXT)["input_ids"][:-1]
    question = tokenizer(QUESTION.strip())["input_ids"][:-1]
    args = {"max_seq_length": limit, "doc_stride": max(stride, 1)}
    found = windows(tokenizer, data_args, (QUESTION, CONTEXT, ""), **args)
    assert [feature.window for feature in found] == list(range(len(found)))
    assert all(len(feature.input_ids) <= limit for feature in found)
    assert all(feature.input_ids[: len(question)] == question for feature in found)
    assert all(feature.input_ids[-1] == tokenizer.eos_token_id for feature in found)
    bodies = [feature.input_ids[len(question) : -1] for feature in found]
    rest = bodies[0] + [token for body in bodies[1:] for token in body[args["doc_stride"] :]]
    assert question + rest == whole


def test_windows_are_those_of_the_tokenizers_own_stride(tokenizer, data_args):
    limit, stride = 64, 16
    head = len(tokenizer(QUESTION.strip())["input_ids"]) - 1
    own = tokenizer(
        CONTEXT,
        max_length=limit - head - 1,
        stride=stride,
        truncation=True,
        return_overflowing_tokens=True,
        add_special_tokens=False,
    )
    found = windows(tokenizer, data_args, (QUESTION, CONTEXT, ""), max_seq_length=limit, doc_stride=stride)
    assert [feature.input_ids[head:-1] for feature in found] == own["input_ids"]


def test_other_kinds_are_truncated_with_a_count(tokenizer, data_args, caplog):
    args = data_args("summarization", max_source_length=20)
    rows = [("summarize: ", CONTEXT, ""), ("summarize: ", "short", ""), ("summarize: ", CONTEXT, "")]
    found = features(TASKS["samsum"], examples(*rows), tokenizer, args)
    own = tokenizer([prompt + source for prompt, source, _ in rows], max_length=20, truncation=True)["input_ids"]
    assert [feature.input_ids for feature in found] == own
    assert "2 of 3 inputs are longer than --max_source_length 20 tokens and were truncated" in caplog.text


def test_windows_are_no_truncation(tokenizer, data_args, caplog):
    with caplog.at_level(logging.WARNING):
        windows(tokenizer, data_args, (QUESTION, CONTEXT, ""), max_seq_length=64, doc_stride=16)
    assert not caplog.records


def test_a_question_that_leaves_no_room_is_shortened_before_its_last_word(tokenizer, data_args, caplog):
    prompt = f"question: {'who built the old stone bridge ' * 20}? context: "
    found = windows(tokenizer, data_args, (prompt, CONTEXT, ""), max_seq_length=60, doc_stride=16)
    whole = tokenizer(prompt + CONTEXT)["input_ids"]
    assert all(len(feature.input_ids) <= 60 for feature in found)
    assert found[0].input_ids[:20] == whole[:20]
    assert all("context:" in tokenizer.decode(feature.input_ids) for feature in found)
    seen = "".join(tokenizer.decode(feature.input_ids) for feature in found)
    assert all(str(1900 + i) in seen for i in range(12))
    assert "1 of 1 inputs are longer than --max_seq_length 60" in caplog.text


def test_an_empty_context_is_an_input_too(tokenizer, data_args):
    assert len(windows(tokenizer, data_args, (QUESTION, "", ""))) == 1


@pytest.mark.parametrize(
    ("limit", "stride", "sentence"),
    [
        (64, 64, "--doc_stride 64 has to be below --max_seq_length 64"),
        (2, 1, "--max_seq_length 2 leaves no room for text: valid are 3 and above"),
    ],
)
def test_impossible_windows_are_refused(tokenizer, data_args, limit, stride, sentence):
    with pytest.raises(ValueError, match=sentence):
        windows(tokenizer, data_args, (QUESTION, CONTEXT, ""), max_seq_length=limit, doc_stride=stride)


def test_a_tokenizer_written_in_python_has_the_same_windows(data_args):
    tokenizer = ByT5Tokenizer()
    found = windows(tokenizer, data_args, (QUESTION, CONTEXT, ""), max_seq_length=100, doc_stride=20)
    texts = [tokenizer.decode(feature.input_ids, skip_special_tokens=True) for feature in found]
    assert all(text.startswith(QUESTION) and len(text) <= 99 for text in texts)
    bodies = [text.removeprefix(QUESTION) for text in texts]
    assert bodies[0] + "".join(body[20:] for body in bodies[1:]) == CONTEXT


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_features_are_inputs_and_first_answers(tokenizer, data_args):
    found = train_features(
        TASKS["squad"], examples((QUESTION, CONTEXT, "Ada")), tokenizer, data_args("question_answering")
    )
    assert found.column_names == ["input_ids", "attention_mask", "labels"]
    assert found[0]["input_ids"] == tokenizer(QUESTION + CONTEXT)["input_ids"]
    assert found[0]["attention_mask"] == [1] * len(found[0]["input_ids"])
    assert found[0]["labels"] == tokenizer("Ada")["input_ids"]


def test_training_keeps_the_windows_that_show_the_answer(tokenizer, data_args):
    args = data_args("question_answering", max_seq_length=64, doc_stride=16)
    everything = features(TASKS["squad"], examples((QUESTION, CONTEXT, "")), tokenizer, args)
    found = train_features(TASKS["squad"], examples((QUESTION, CONTEXT, "1907")), tokenizer, args)
    assert 0 < len(found) < len(everything)
    assert all("1907" in tokenizer.decode(row["input_ids"]) for row in found)
    shown = [feature.input_ids for feature in everything if "1907" in tokenizer.decode(feature.input_ids)]
    assert found["input_ids"][:] == shown


@pytest.mark.parametrize(("target", "kept"), [("nowhere in it", "first"), ("", "all")])
def test_training_on_an_answer_that_is_not_in_the_text(tokenizer, data_args, target, kept):
    args = data_args("question_answering", max_seq_length=64, doc_stride=16)
    everything = [f.input_ids for f in features(TASKS["squad"], examples((QUESTION, CONTEXT, "")), tokenizer, args)]
    found = train_features(TASKS["squad"], examples((QUESTION, CONTEXT, target)), tokenizer, args)
    assert found["input_ids"][:] == (everything[:1] if kept == "first" else everything)


def test_a_long_target_is_truncated_with_a_count(tokenizer, data_args, caplog):
    args = data_args("question_answering", max_answer_length=5)
    rows = [(QUESTION, CONTEXT, "Ada Quill in the year of 1901"), (QUESTION, CONTEXT, "")]
    found = train_features(TASKS["squad"], examples(*rows), tokenizer, args)
    assert len(found[0]["labels"]) == 5
    assert found[0]["labels"][-1] == tokenizer.eos_token_id
    assert found[1]["labels"] == [tokenizer.eos_token_id]
    assert "1 of 2 targets are longer than --max_answer_length 5 tokens and were truncated" in caplog.text


# --- the best window --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(max_value=0, allow_nan=False), min_size=1))
def test_best_window_is_the_likeliest_and_the_first_on_a_tie(scores):
    assert best_window(scores) == scores.index(max(scores))


def test_best_window_never_takes_nan():
    assert best_window([math.nan, -9.0]) == 1
    assert best_window([math.nan]) == 0


@pytest.mark.parametrize(("threshold", "winner"), [(0.0, 0), (0.3, 1), (-1.0, 0)])
def test_no_answer_has_to_be_better_by_the_threshold(threshold, winner):
    assert best_window([-0.1, -0.3], ["", "Ada"], threshold) == winner


def test_the_threshold_does_not_order_answers():
    assert best_window([-0.3, -0.1], ["Ada", "Bea"], 5.0) == 1


def test_encoding_nothing_is_nothing(tokenizer):
    assert Encoder(tokenizer, 10, None).encode([], []) == []
