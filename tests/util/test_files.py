import math
import os

import numpy as np
import pytest

from util.files import (
    append_jsonl,
    file_problem,
    folder_problem,
    locked,
    read_json,
    read_jsonl,
    replacing,
    without_empty_folder,
    write_json,
    write_text,
)


def test_write_creates_the_folder_and_leaves_nothing_else(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "täxt\n")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "täxt\n"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"f1": 1})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of")
        raise RuntimeError
    assert read_json(path) == {"f1": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_owner_left_is_replaced_and_the_files_of_others_stay(tmp_path):
    path = tmp_path / "results.json"
    for owner in ("mine", "theirs"):
        (tmp_path / f".results.{owner}.json").write_text("half of")
    write_json(path, {"f1": 1}, "mine")
    assert read_json(path) == {"f1": 1}
    assert {each.name for each in tmp_path.iterdir()} == {"results.json", ".results.theirs.json"}


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda number: done.append(os.readlink(f"/proc/self/fd/{number}")))
    plain = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("renamed"), plain(*paths)))
    write_text(tmp_path / "a.txt", "a", "me")
    assert done == [str(tmp_path / ".a.me.txt"), "renamed", str(tmp_path)]


def test_a_locked_file_is_nobody_elses_until_it_is_closed(tmp_path):
    held = locked(tmp_path / "file")
    assert locked(tmp_path / "file") is None and locked(tmp_path / "other") is not None
    held.close()
    assert locked(tmp_path / "file") is not None


def test_where_something_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder_problem(tmp_path / "new" / "deeper") is None and file_problem(tmp_path / "new" / "file") is None
    assert file_problem(tmp_path / "file") is None
    assert "is a file, not a folder" in folder_problem(tmp_path / "file" / "deeper")
    assert "is a file, not a folder" in file_problem(tmp_path / "file" / "deeper")
    assert "it is a folder, not a file" in file_problem(tmp_path)
    assert "/proc: " in folder_problem("/proc/new") and "/proc: " in file_problem("/proc/new")
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


def test_json_keeps_the_order_and_turns_what_json_lacks(tmp_path):
    path = tmp_path / "results.json"
    write_json(
        path, {"z": math.nan, "a": np.float32("inf"), 3: np.arange(2), "path": tmp_path, "t": (np.int64(1), True)}
    )
    assert list(read_json(path)) == ["z", "a", "3", "path", "t"]
    assert read_json(path) == {"z": None, "a": None, "3": [0, 1], "path": str(tmp_path), "t": [1, True]}
    assert path.read_text().startswith('{\n  "z": null')


def test_jsonl_survives_a_round_trip_and_blank_lines(tmp_path):
    path = tmp_path / "sub" / "rows.jsonl"
    rows = [{"text": "one\u2028line"}, {"n": None}]
    append_jsonl(path, rows[:1])
    append_jsonl(path, rows[1:])
    path.write_text(path.read_text(encoding="utf-8") + "\n  \n", encoding="utf-8")
    assert read_jsonl(path) == rows


@pytest.mark.parametrize(
    ("read", "text", "told"),
    [
        (read_json, '{"a": 1,\n "b" 2}', "line 2"),
        (read_jsonl, '{"a": 1}\n{"a": \n', "line 2"),
        (read_jsonl, '{"a": 1}\n\n[1]\n', "line 3: expected a JSON object, found list"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, read, text, told):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as raised:
        read(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_a_missing_or_binary_file_is_named(tmp_path, read):
    with pytest.raises(ValueError, match=r"absent\.json cannot be read"):
        read(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.json is not UTF-8"):
        read(tmp_path / "binary.json")


def test_written_files_have_usual_permissions(tmp_path):
    write_text(tmp_path / "ours", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_stays_empty_goes_as_it_came(tmp_path):
    with without_empty_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError), without_empty_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir()
        raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    with without_empty_folder(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
        (tmp_path / "a" / "b" / "file").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "file"]
