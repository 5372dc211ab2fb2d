"""The invented stories: repeatable, told apart by split, and of one piece."""

import re

import pytest

from tasks.invented import SPLIT_RESIDUES
from tasks.stories import LOST, PLACES, STORY, invented_stories


@pytest.mark.parametrize("split", SPLIT_RESIDUES)
def test_stories_are_repeatable_and_seeds_differ(split):
    assert invented_stories(split, 5, 1) == invented_stories(split, 5, 1)
    assert invented_stories(split, 5, 1) != invented_stories(split, 5, 2)
    assert len({row["id"] for row in invented_stories(split, 50)}) == 50


def test_no_story_of_a_split_occurs_in_another():
    texts = {split: {row["text"] for row in invented_stories(split, 300)} for split in SPLIT_RESIDUES}
    assert not texts["train"] & texts["validation"] and not texts["validation"] & texts["test"]


def test_nothing_is_left_to_fill_in_and_every_sentence_ends():
    for row in invented_stories("train", 200):
        assert not re.search(r"[{}]|  ", row["text"]) and row["text"][-1] in '.!"'
        assert not re.search(r"\b[Aa] [aeiou]", row["text"].replace("a one", "")), row["text"]


def test_what_was_lost_is_found_where_the_helper_said():
    for row in invented_stories("train", 100):
        places = [place for place in PLACES if place in row["text"]]
        assert len(places) == 1 and row["text"].count(places[0]) == 2
        assert sum(thing.split(" ", 1)[1] in row["text"] for thing in LOST) >= 1


def test_every_part_of_a_story_has_several_forms():
    assert all(len(part) > 1 for part in STORY)
