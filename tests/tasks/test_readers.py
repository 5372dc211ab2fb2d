import csv
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.readers import read_records

ROWS = [{"id": "1", "text": 'a\nb, "c"', "summary": "ä"}, {"id": "2", "text": "", "summary": "x"}]


def as_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.json", json.dumps(ROWS)),
        ("indented.json", json.dumps(ROWS, indent=2)),
        ("data.json", json.dumps({"version": "1", "data": ROWS})),
        ("lines.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("lines.json", "\n".join(map(json.dumps, ROWS)) + "\n"),
        ("gaps.jsonl", "\n\n" + "\r\n \r\n".join(map(json.dumps, ROWS)) + "\n\n"),
        ("mark.jsonl", b"\xef\xbb\xbf" + "\n".join(map(json.dumps, ROWS)).encode()),
        ("UPPER.JSONL", "\n".join(map(json.dumps, ROWS))),
    ],
)
def test_json_in_every_form(write, name, content):
    assert read_records(write(name, content)) == ROWS


def test_one_record_in_a_json_file_is_one_record(write):
    assert read_records(write("one.json", json.dumps(ROWS[0]))) == ROWS[:1]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.fixed_dictionaries({"id": cells, "text": cells, "summary": cells}), min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path, rows):
    as_csv(tmp_path / "rows.csv", [*rows, ROWS[0]])
    filled = [row for row in rows if any(cell.strip() for cell in row.values())]
    assert read_records(tmp_path / "rows.csv") == [*filled, ROWS[0]]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8", newline="")
    assert read_records(tmp_path / "rows.jsonl") == rows


def test_csv_with_mark_blank_lines_and_windows_line_ends(write):
    content = b'\xef\xbb\xbftext,summary\r\n\r\n"a\r\nb",c\r\n\r\n'
    assert read_records(write("rows.csv", content)) == [{"text": "a\r\nb", "summary": "c"}]


@pytest.mark.parametrize("blank", ["", "  ", ",", " , \t", '"",""', '"\n", '])
def test_blank_lines_and_rows_of_a_csv_file_are_passed_over(write, blank):
    content = f"{blank}\ntext,summary\n{blank}\na,b\n\n{blank}\n{blank}\n"
    assert read_records(write("rows.csv", content)) == [{"text": "a", "summary": "b"}]


def test_csv_holds_long_articles(write):
    article = "word " * 100_000
    assert read_records(write("rows.csv", f"text,summary\n{article},b\n"))[0]["text"] == article


def squad_json(**question):
    qas = [
        {
            "id": "q1",
            "question": "who?",
            "answers": [{"text": "Ada", "answer_start": 3}, {"text": "A.", "answer_start": 0}],
        },
        {"id": "q2", "question": "why?", "answers": [], "is_impossible": True, **question},
    ]
    return {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "It is Ada.", "qas": qas}]}]}


def test_squads_nested_json_is_flattened(write):
    plausible = [{"text": "no", "answer_start": 1}]
    first, second = read_records(write("dev.json", json.dumps(squad_json(answers=plausible))))
    assert first == {
        "id": "q1",
        "title": "T",
        "context": "It is Ada.",
        "question": "who?",
        "answers": {"text": ["Ada", "A."], "answer_start": [3, 0]},
    }
    assert second["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize("null", [None, float("nan")])
def test_null_for_answers_is_none_in_squads_json(write, null):
    _, second = read_records(write("dev.json", json.dumps(squad_json(answers=null, is_impossible=False))))
    assert second["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.xml", "x", r"a.xml ends in '.xml'; files that can be read end in .json, .jsonl, .csv, .txt"),
        ("a.jsonl", "", "a.jsonl is empty"),
        ("a.csv", "\n \n", "a.csv is empty"),
        ("a.csv", "text,summary\n", "a.csv is empty"),
        ("a.csv", "text,summary\n \n,\n", "a.csv is empty"),
        ("a.csv", " ,\n,\n", "a.csv is empty"),
        ("a.json", "[]", "a.json is empty"),
        ("a.json", '{"data": []}', "a.json is empty"),
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', "line 3 of .*a.jsonl is not valid JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2 of .*a.jsonl holds a list where a record"),
        ("a.json", '{"a": 1}\n{"a": \n', "line 2 of .*a.json is not valid JSON"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', "line 2 of .*a.json is not valid JSON"),
        ("a.json", '[{"a": 1}, "b"]', "record 2 of .*a.json holds a text where a record"),
        ("a.json", "3", "a.json should hold a list of records, .* but holds the number 3"),
        ("a.jsonl", "NaN", "line 1 of .*a.jsonl holds null where a record"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}", "line 2 of .*a.jsonl is not valid JSON: Exceeds the limit"),
        ("a.json", '[{"a": ' + "9" * 5000 + "}]", "a.json is not valid JSON: Exceeds the limit"),
        ("a.jsonl", "true", "line 1 of .*a.jsonl holds true where a record"),
        ("a.csv", "a,b\n1,2\n\n1,2,3\n", "line 4 of .*a.csv has 3 fields where the header has 2"),
        ("a.csv", "a,b,a,,\n1,2,3,,\n", "line 1 of .*a.csv has two columns called 'a'"),
        pytest.param("a.json", "[" * 100_000, "a.json is not valid JSON: nested too deeply", id="deep"),
        ("a.csv", 'a,b\n1,"2\n', "line 2 of .*a.csv is not valid CSV"),
        ("a.jsonl", b'{"a": "\xff"}', r"a.jsonl is not UTF-8 text \(byte 7\)"),
        ("a.json", json.dumps({"data": [{"paragraphs": [{"qas": []}, {"qas": [{}]}]}]}), "article 1 of .*'context'"),
        ("a.json", json.dumps({"data": [{"paragraphs": ["x"]}]}), "article 1 of .* is not in SQuAD's format"),
    ],
)
def test_bad_files_are_named_in_one_sentence(write, name, content, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        read_records(write(name, content))
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone.json is not there"):
        read_records(tmp_path / "gone.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match=r"folder.json is a folder"):
        read_records(tmp_path / "folder.json")
