"""Statements that are true or false, by topic (arXiv:2304.13734), and some that are invented."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.readers import read_records
from tasks.truthful import TELLINGS, invented_questions

COLUMNS = ("statement", "label")
LABELS = {"1": True, "0": False, "true": True, "false": False}
# What a file's name may end in beside its topic.
ENDING = "_true_false"


@dataclass(frozen=True)
class Statement:
    """A text that is true or false.

    Attributes:
        label: Whether it is true.
        topic: What it is about.
    """

    text: str
    label: bool
    topic: str


def read_statements(files: Sequence[str | Path]) -> list[Statement]:
    """The statements of files with the columns `statement` and `label`, each text once; a file's name is its topic.

    Raises:
        ValueError: A file cannot be read, lacks a column, has a label that is neither 1 nor 0, or another's topic.
    """
    topics = [Path(file).stem.removesuffix(ENDING) for file in files]
    twice = next((topic for topic in topics if topics.count(topic) > 1), None)
    if twice is not None:
        raise ValueError(f"Two files are of the topic {twice!r}, as their names say: give each topic one file.")
    found: dict[str, Statement] = {}
    for file, topic in zip(files, topics, strict=True):
        for number, record in enumerate(read_records(file), 1):
            statement = _statement(record, topic, f"{file}, record {number}")
            found.setdefault(statement.text, statement)
    return list(found.values())


def _statement(record: dict, topic: str, where: str) -> Statement:
    missing = [name for name in COLUMNS if name not in record]
    if missing:
        raise ValueError(f"{where} has no {' and no '.join(missing)}: valid are records with {' and '.join(COLUMNS)}.")
    text, label = (str(record[name]).strip() for name in COLUMNS)
    if not text:
        raise ValueError(f"{where}: its statement is empty.")
    if label.casefold() not in LABELS:
        raise ValueError(f"{where}: its label is {label!r}; valid are 1, which is true, and 0.")
    return Statement(text, LABELS[label.casefold()], topic)


def invented_statements(count: int = 480, seed: int = 0) -> list[Statement]:
    """Statements in the words of the invented stories, each of which tells before it claims what is so: topics in turn,
    half of each true.

    Args:
        seed: Another one gives other statements.
    """
    found = {}
    for index, question in enumerate(invented_questions(count, seed)):
        label = index // len(TELLINGS) % 2 == 0
        told, _ = question.question.rsplit(". ", 1)
        claim = (question.correct if label else question.incorrect)[-1]
        found.setdefault(f"{told}. {claim}.", Statement(f"{told}. {claim}.", label, question.category))
    return list(found.values())
