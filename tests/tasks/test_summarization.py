# ruff: noqa: RUF001 - commas of Chinese
import json
import logging

import pytest
from datasets import Dataset

from tasks import TASKS, find_task, load_examples
from tasks.summarization import SUMMARIZATION, parts
from tasks.task import Task

LOCAL = Task("local files", SUMMARIZATION, "rouge")
LONG, SHORT = "Heavy rain fell all night and the river rose over its banks.", "Rain flooded the town."


@pytest.mark.parametrize(("prefix", "prompt"), [("summarize: ", "summarize: "), (None, "")])
def test_prefix_stands_in_front(data_args, prefix, prompt):
    found = parts({"text": "a\nb", "summary": "c"}, data_args("summarization", source_prefix=prefix))
    assert (found.prompt, found.source, found.references) == (prompt, "a\nb", ["c"])


RECORDS = {
    "dialogue and summary": ({"dialogue": "A: hi", "summary": "greet"}, "dialogue", "summary"),
    "XL-Sum": (
        {"id": "u1", "url": "https://example.org/1", "title": "A flood in town", "summary": SHORT, "text": LONG},
        "text",
        "summary",
    ),
    "DialogSum": (
        {"fname": "dev_0", "dialogue": "#Person1#: Hello.", "summary": "They greet.", "topic": "greeting"},
        "dialogue",
        "summary",
    ),
    "an index of pandas": ({"Unnamed: 0": "0", "dialogue": "A: hi", "summary": "They greet."}, "dialogue", "summary"),
    "a nameless index": ({"": "0", "article": LONG, "id": "x", "highlights": SHORT}, "article", "highlights"),
    "arXiv": ({"article": LONG, "abstract": SHORT, "section_names": "a\nb"}, "article", "abstract"),
    "big patent": ({"abstract": SHORT, "description": LONG}, "description", "abstract"),
    "another case, and spaces": ({"Text ": LONG, " Summary": SHORT}, "Text ", " Summary"),
    "a known name that holds no text": (
        {"document": "news/a1.txt", "text": LONG, "summary": SHORT},
        "text",
        "summary",
    ),
    "a number of known name": ({"document": 7, "body": LONG, "summary": SHORT}, "body", "summary"),
    "one known name": (
        {"url": "http://a.b/c", "passage_of_news": LONG, "summary": SHORT},
        "passage_of_news",
        "summary",
    ),
    "the other known name": ({"text": LONG, "label": 1, "gist": SHORT}, "text", "gist"),
    "two columns of texts": ({"source": LONG, "target": SHORT}, "source", "target"),
    "two texts among others": (
        {
            "n": "12",
            "at": "2020-01-31",
            "hash": "9f8a7b",
            "file": "My notes.pdf",
            "to": "ana@example.org",
            "long": LONG,
            "brief": SHORT,
            "tag": "news",
        },
        "long",
        "brief",
    ),
    "the long one later": ({"brief": "Rain.", "whole": LONG}, "whole", "brief"),
    "two words": ({"first": "hello", "second": "hi"}, "first", "second"),
    "Chinese without known names": ({"no": "1", "甲": "你好，你在哪里？", "乙": "他们打招呼", "丙": "a1"}, "甲", "乙"),
}


@pytest.mark.parametrize("form", ["json", "table"])
@pytest.mark.parametrize(("record", "text", "summary"), RECORDS.values(), ids=RECORDS)
def test_columns_are_told_by_name_else_by_what_they_hold(
    data_args, write, tmp_path, caplog, record, text, summary, form
):
    if form == "json":
        args = data_args("summarization", validation_file=write("rows.jsonl", [record]))
    else:
        Dataset.from_list([record]).save_to_disk(tmp_path / "saved")
        args = data_args("summarization", dataset_name=str(tmp_path / "saved"))
    with caplog.at_level(logging.INFO, "tasks"):
        (example,) = load_examples(find_task("summarization", args), args, "validation")
    assert (example["source"], example["references"]) == (record[text], [record[summary]])
    assert caplog.text.count(f"text <- column {text!r}, summary <- column {summary!r}") == 1


PAIR, UNSURE = {"a": LONG, "b": SHORT}, "no column that is surely the"
UNCLEAR = [
    ({**PAIR, "c": LONG}, {}, f"{UNSURE} text and {UNSURE} summary; .*: choose one with --text_column and --summary"),
    (
        {"id": "x", "url": "https://a.org", "n": 3},
        {},
        "surely the text and .*it has id, url, n: choose one with --text",
    ),
    ({"a": LONG}, {}, f"{UNSURE} text and"),
    ({"text": LONG}, {}, f"{UNSURE} summary; it has text: choose one with --summary_column"),
    ({"text": LONG, "b": SHORT, "c": SHORT}, {}, f"{UNSURE} summary; it has text, b, c"),
    (PAIR, {"text_column": "x"}, f"no column 'x' for the text and {UNSURE} summary; .*--text_column and --summ"),
    (PAIR, {"text_column": "a", "summary_column": "x"}, "no column 'x' for the summary; .* with --summary_column$"),
    (PAIR, {"text_column": "a", "summary_column": "a"}, "both 'a': give --text_column and --summary_column two"),
]


@pytest.mark.parametrize(("record", "flags", "sentence"), UNCLEAR)
def test_what_cannot_be_told_is_refused_with_columns_and_flags(data_args, write, record, flags, sentence):
    args = data_args("summarization", validation_file=write("rows.jsonl", [record]), **flags)
    with pytest.raises(ValueError, match=sentence):
        load_examples(find_task("summarization", args), args, "validation")


@pytest.mark.parametrize(
    ("flags", "columns"),
    [
        ({"text_column": "c", "summary_column": "a"}, {"text": "c", "summary": "a"}),
        ({"text_column": "summary"}, {"text": "summary", "summary": None}),
        ({"summary_column": "a"}, {"text": None, "summary": "a"}),
    ],
)
def test_flags_go_first(data_args, flags, columns):
    sample = {"a": [SHORT], "b": [LONG], "c": [LONG], "summary": [SHORT]}
    assert SUMMARIZATION.columns(LOCAL, data_args("summarization", **flags), sample) == columns


def test_columns_of_a_data_set_go_before_names(data_args):
    sample = {"id": ["1"], "summary": [SHORT], "document": [LONG], "dialogue": [LONG]}
    found = SUMMARIZATION.columns(TASKS["xsum"], data_args("summarization"), sample)
    assert found == {"text": "document", "summary": "summary"}


def test_what_is_there_in_later_records_only_is_seen(data_args, write):
    path = write("rows.jsonl", [{"id": 1, "dialogue": "A: hi"}, {"id": 2, "dialogue": "A: hi", "summary": "Hi."}])
    args = data_args("summarization", validation_file=path)
    with pytest.raises(ValueError, match=r"record 1 of .* has no 'summary'; it has id, dialogue"):
        load_examples(find_task("summarization", args), args, "validation")


def test_each_file_of_a_job_says_what_is_read_once(data_args, write, caplog):
    rows = [{"dialogue": "A: hi", "summary": "Hi."}]
    args = data_args(
        "summarization", train_file=write("a.jsonl", rows), validation_file=write("b.json", json.dumps(rows))
    )
    with caplog.at_level(logging.INFO, "tasks"):
        for split in ("train", "validation"):
            load_examples(find_task("summarization", args), args, split)
    assert [record.getMessage().split("/")[-1] for record in caplog.records] == [
        "a.jsonl: text <- column 'dialogue', summary <- column 'summary'",
        "b.json: text <- column 'dialogue', summary <- column 'summary'",
    ]
