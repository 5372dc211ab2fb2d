"""An answer in a terminal while it comes: what is written, and when, and how drafts are shown and taken back."""

import re

import pytest
import torch

from jobs.streaming import BACK, GREY, KEEP, PLAIN, AnswerStreamer, DraftStreamer, fitting, settled, width

PIECES = ["He", " said", ": yes", ".\n", "\ufffd", "Then", " he", " END", " more"]


def read(tokens: list[int]) -> str:
    return "".join(PIECES[token] for token in tokens)


def screen(written: str) -> str:
    """What a terminal shows in the end."""
    return re.sub(f"{re.escape(KEEP)}.*?{re.escape(BACK)}", "", written)


def streamer(*ends: str, drafts: bool = False, start: str = "") -> AnswerStreamer:
    return (DraftStreamer if drafts else AnswerStreamer)(read, ends, start)


def put(stream: AnswerStreamer, *tokens: int) -> None:
    for token in tokens:
        stream.put(torch.tensor([token]))


def test_text_is_written_as_tokens_come_and_the_prompt_is_none_of_it(capsys):
    stream = streamer()
    stream.put(torch.tensor([[5, 6, 7]]))
    put(stream, 0, 1)
    assert capsys.readouterr().out == "He said" and stream.tokens == [0, 1]
    put(stream, 2)
    stream.end()
    stream.end()
    assert capsys.readouterr().out == ": yes\n"


def test_what_may_become_an_end_is_held_and_an_end_is_not_shown(capsys):
    stream = streamer(" ENDED", "he END", "xx")
    put(stream, 5)
    assert capsys.readouterr().out == "Then"
    put(stream, 6)
    assert capsys.readouterr().out == " ", "he may be the beginning of an end"
    put(stream, 7)
    stream.end()
    assert capsys.readouterr().out == "\n"


def test_what_was_held_for_an_end_that_does_not_come_is_written(capsys):
    stream = streamer("he END")
    put(stream, 5, 6, 8)
    stream.end()
    assert capsys.readouterr().out == "Then he more\n"


def test_half_a_character_waits_for_the_other_half():
    assert settled("a\ufffd", []) == "a" and settled("a\n", ["\n\n"]) == "a" and settled("a\nb", ["\n\n"]) == "a\nb"


def test_drafts_are_grey_until_they_stand_or_are_replaced(capsys):
    stream = streamer(drafts=True)
    put(stream, 0)
    stream.draft(torch.tensor([[1, 2]]))
    shown = capsys.readouterr().out
    assert shown == f"He{KEEP}{GREY} said: yes{PLAIN}"
    put(stream, 1)
    stream.draft(torch.empty(1, 0, dtype=torch.long))
    assert capsys.readouterr().out == f"{BACK} said"
    stream.draft(torch.tensor([[8]]))
    stream.draft(torch.tensor([[8, 6]]))
    put(stream, 2)
    stream.end()
    assert screen(f"He said{capsys.readouterr().out}") == "He said: yes\n"


def test_nobody_is_told_of_drafts_who_does_not_want_to_be():
    assert not hasattr(streamer(), "draft"), "so decoding does not even copy them"


def test_a_draft_ends_where_its_line_does(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = streamer(drafts=True, start="a line\nabcdefghij")
    put(stream, 0)
    capsys.readouterr()
    stream.draft(torch.tensor([[1, 2]]))
    assert f"{GREY} said: {PLAIN}" in capsys.readouterr().out, "12 columns are taken, and one is left free"
    stream.draft(torch.tensor([[3, 5]]))
    assert capsys.readouterr().out == f"{BACK}{KEEP}{GREY}.{PLAIN}"
    put(stream, 1, 2)  # 22 columns: the third of the next line
    capsys.readouterr()
    stream.draft(torch.tensor([[8, 8, 8, 8]]))
    assert f"{GREY} more more more m{PLAIN}" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("a\t", 9), ("", 0)])
def test_columns_of_a_text(text, columns):
    assert width(text) == columns and fitting(text + "x", columns) == text
