"""Laws of the generator: deterministic, answers stand where they say, splits share no text, text is varied."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.invented import KINDS, PASSAGES, SCENES, SPLIT_RESIDUES, Inventor, invented_dialogues, invented_facts

COUNT = 800
SOURCE = Path(__file__).resolve().parents[2] / "src" / "tasks" / "invented.py"
GENERATORS = {"facts": invented_facts, "dialogues": invented_dialogues}


@pytest.fixture(scope="module")
def facts() -> dict[str, list[dict]]:
    return {split: invented_facts(split, COUNT) for split in SPLIT_RESIDUES}


@pytest.fixture(scope="module")
def dialogues() -> dict[str, list[dict]]:
    return {split: invented_dialogues(split, COUNT) for split in SPLIT_RESIDUES}


def test_every_process_makes_the_same_examples():
    code = (
        f"import json, runpy; made = runpy.run_path({str(SOURCE)!r}); "
        "print(json.dumps([made['invented_facts']('train', 50), made['invented_dialogues']('validation', 50)]))"
    )
    expected = [invented_facts("train", 50), invented_dialogues("validation", 50)]
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        assert json.loads(result.stdout) == expected


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_a_longer_list_begins_with_the_shorter_and_another_seed_differs(generator):
    assert generator("test", 30)[:10] == generator("test", 10)
    assert generator("test", 10, seed=1) != generator("test", 10)


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_an_unknown_split_is_refused(generator):
    with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
        generator("dev", 1)


def test_columns_are_those_of_the_public_datasets(facts, dialogues):
    assert all(set(row) == {"id", "title", "context", "question", "answers"} for row in facts["train"])
    assert all(set(row) == {"id", "dialogue", "summary"} for row in dialogues["train"])
    for rows in (*facts.values(), *dialogues.values()):
        assert len({row["id"] for row in rows}) == COUNT


def test_answers_stand_where_they_say(facts):
    for row in (row for rows in facts.values() for row in rows):
        (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert text and row["context"][start : start + len(text)] == text


def test_no_passage_or_dialogue_of_one_split_occurs_in_another(facts, dialogues):
    for rows, column in ((facts, "context"), (dialogues, "dialogue")):
        seen = {split: {row[column] for row in each} for split, each in rows.items()}
        assert not seen["train"] & seen["validation"]
        assert not seen["train"] & seen["test"]
        assert not seen["validation"] & seen["test"]


def test_splits_share_the_parts_of_names_but_no_name():
    drawn = {split: {Inventor(split, random.Random(i)).town() for i in range(3000)} for split in SPLIT_RESIDUES}
    assert not drawn["train"] & drawn["validation"] and not drawn["train"] & drawn["test"]
    assert {name[:3] for name in drawn["validation"]} <= {name[:3] for name in drawn["train"]}


def test_text_is_varied(facts, dialogues):
    assert len({row["context"] for row in facts["train"]}) == COUNT
    assert len({row["dialogue"] for row in dialogues["train"]}) > 0.95 * COUNT
    # Questions without their names, answers, and openings of summaries.
    assert len({row["question"].split()[0] for row in facts["train"]}) >= 7
    assert len({row["answers"]["text"][0] for row in facts["train"]}) > 0.5 * COUNT
    assert len({row["summary"].split(" ", 1)[1][:12] for row in dialogues["train"]}) > 30


def test_passages_and_dialogues_are_short(facts, dialogues):
    sentences = [row["context"].count(". ") + 1 for row in facts["train"]]
    assert min(sentences) >= 2 and max(sentences) <= 5
    turns = [row["dialogue"].count("\n") + 1 for row in dialogues["train"]]
    assert min(turns) >= 2 and max(turns) <= 7
    assert all(": " in turn for row in dialogues["train"] for turn in row["dialogue"].split("\n"))


def test_every_kind_and_scene_is_used(facts, dialogues):
    openings = " ".join(row["summary"] for row in dialogues["train"])
    for words in ("will meet", "borrow", "will buy", "pick up", "cannot come", "celebrate", "looking for", "read it"):
        assert words in openings
    assert len(SCENES) == 10
    contexts = " ".join(row["context"] for row in facts["train"])
    for kind in KINDS.values():
        assert any(noun.lower() in contexts.lower() for noun in kind.nouns)


def test_some_questions_go_over_a_link(facts):
    linked = [row for row in facts["train"] if " who founded " in row["question"] or "author of" in row["question"]]
    assert len(linked) > 0.01 * COUNT


@pytest.mark.parametrize("passage", PASSAGES)
def test_every_kind_of_passage_can_be_asked_for_alone(passage):
    rows = invented_facts("train", 100, shares={passage: 1.0})
    assert rows == invented_facts("train", 100, shares={passage: 2.0})
    sentences = {row["context"].count(". ") + 1 for row in rows}
    assert sentences == {"single": {3, 4}, "pair": {4}, "chain": {3}, "short_pair": {2}}[passage]


def test_two_of_a_kind_are_told_apart_by_their_names():
    for row in invented_facts("train", 200, shares={"short_pair": 1.0}):
        name = row["title"].removeprefix("The ").removeprefix("the ")
        assert name in row["question"] and row["context"].count(name) == 1


def test_some_dialogues_hold_a_correction(dialogues):
    corrected = [row for row in dialogues["train"] if "make it" in row["dialogue"] or "instead of" in row["dialogue"]]
    assert len(corrected) > 0.05 * COUNT
