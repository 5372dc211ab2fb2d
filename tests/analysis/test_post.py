"""The post's tables come from files, its pictures are there, and the committed post is what the files give."""

import re
from pathlib import Path

import pytest

from analysis.post import fill, main
from util.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
TABLE = {"head": ["method", "min", "score"], "rows": [["a", "1", "5"], ["b, c", "1", "6"], ["a", "2", "7"]]}


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "table_9.json", TABLE)
    return tmp_path


def block(query: str, body: str = "") -> str:
    return f"before\n<!-- table_9: {query} -->\n{body}<!-- end -->\nafter\n"


def test_a_block_is_the_rows_and_columns_it_asks_for(folder):
    filled = fill(block("method=a; columns=score, min", "| old |\n"), folder)
    assert filled == block("method=a; columns=score, min", "| score | min |\n| --- | --- |\n| 5 | 1 |\n| 7 | 2 |\n")
    assert fill(filled, folder) == filled
    assert "| b, c | 6 |" in fill(block("method=a|b, c; min=1; columns=method, score"), folder)


@pytest.mark.parametrize(
    ("query", "words"),
    [("columns=scores", "no column scores: valid are method"), ("min=3; columns=min", "no row with")],
)
def test_what_is_not_there_is_refused(folder, query, words, capsys):
    post = folder / "post.md"
    post.write_text(block(query))
    with pytest.raises(SystemExit) as stop:
        main(["--post", str(post), "--tables", str(folder)])
    assert stop.value.code == 2 and words in capsys.readouterr().err
    assert post.read_text() == block(query)


def test_the_post_is_what_its_files_give():
    text = (ROOT / "blogpost.md").read_text(encoding="utf-8")
    assert fill(text, ROOT / "blogpost_figures") == text
    assert text.count("<!-- end -->") > 5


def test_a_table_that_ends_has_begun(folder):
    with pytest.raises(ValueError, match="2 tables end, and 1 begin"):
        fill(block("columns=min") + "<!-- table 9: columns=min -->\n<!-- end -->\n", folder)
    (folder / "of-two").mkdir()
    write_json(folder / "of-two" / "table-9.json", TABLE)
    assert "| 7 |" in fill("<!-- of-two/table-9: columns=score -->\n<!-- end -->\n", folder)


def test_every_picture_of_the_post_is_there_and_names_its_runs():
    pictures = re.findall(r"\((blogpost_figures/figure_\w+)\.png\)", (ROOT / "blogpost.md").read_text(encoding="utf-8"))
    assert len(pictures) == len(set(pictures)) >= 20
    for picture in pictures:
        held = read_json(ROOT / f"{picture}.json")
        assert (ROOT / f"{picture}.png").stat().st_size < 2**20
        assert held["runs"] or picture.endswith("17")
        assert not [run for run in held["runs"] if run.startswith("/")]


def test_nothing_of_the_post_is_left_to_be_written():
    assert re.findall(r"\b[A-Z]+_TEXT\b", (ROOT / "blogpost.md").read_text(encoding="utf-8")) == []
