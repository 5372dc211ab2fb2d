"""Templates of prompts: files of them, what they are filled with, and what is refused."""

import pytest

from tasks.templates import Template, fill, read_template

FIELDS = {"context": "source", "question": "question"}


def read(write, text, words=()):
    return read_template(write("template.txt", text), FIELDS, words)


def test_an_instruction_and_an_example(write):
    found = read(write, "Read.\n\nThen answer.\n---\nText: {context}\nQ: {question}\nA: {answer}\n")
    assert found == Template("Read.\n\nThen answer.", "Text: {context}\nQ: {question}\nA: {answer}")
    assert found.told({}) == "Read.\n\nThen answer."
    assert found.question({"context": "It is {red}.", "question": "Why?"}) == "Text: It is {red}.\nQ: Why?\nA:"


@pytest.mark.parametrize(
    ("text", "gap"),
    [("A: {answer}\n", " "), ("A:", " "), ("A:\n{answer}", ""), ("A:\t {answer}", "\t "), ("A:{answer}", "")],
)
def test_an_answer_comes_last_and_keeps_what_parts_it(write, text, gap):
    found = read(write, "{context} {question} " + text)
    assert found.instruction == "" and found.gap == gap
    shown = found.question({"context": "c", "question": "q"})
    assert shown == "c q A:" + ("\n" if "\n{" in text else "")


def test_braces_and_words(write):
    found = read(write, "Be {tone}: {{}}\n---\n{context}{question} {{{tone}}}", words=["tone"])
    assert found.told({"tone": "kind"}) == "Be kind: {}"
    assert found.question({"context": "c", "question": "q", "tone": "kind"}) == "cq {kind}"
    assert fill("no placeholder", {}) == "no placeholder"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{context} {answer}", r"lacks \{question\}, without which"),
        (
            "Say {question} of {context}\n---\n{context}{question}",
            r"\{question\}, which is no placeholder there: valid are none",
        ),
        (
            "{context} {question} {text}",
            r"has \{text\}, which is no placeholder there: valid are \{context\}, \{question\}, \{answer\}",
        ),
        ("{context.__class__} {question}", r"has \{context.__class__\}, which is no placeholder"),
        ("{context!r} {question}", r"has \{context\}, which is no placeholder there"),
        ("{context} {} {question}", r"has \{\}, which is no placeholder"),
        ("{context} {question", r"template.txt: .* in field name; a brace itself is written \{\{ or \}\}"),
        ("{context} {question} {answer}, surely", r"\{answer\} has to come once, at the end"),
        ("a\n---\nb\n---\n{context}{question}", "has 2 lines of ---: one parts instruction and example"),
        ("", r"lacks \{context\} and \{question\}"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
    ],
)
def test_what_is_no_template_is_a_sentence(write, text, told):
    with pytest.raises(ValueError, match=told):
        read(write, text)


def test_a_folder_is_no_template(tmp_path):
    with pytest.raises(ValueError, match=r"--template \S+ cannot be read: Is a directory"):
        read_template(tmp_path, FIELDS, [])
