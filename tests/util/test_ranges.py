"""The table of ranges has a row for every number that a command line can give, and its rows hold the defaults."""

from dataclasses import fields
from typing import get_type_hints

import pytest

from analysis.prompt_lens import LensArguments
from util import (
    AdditionalArguments,
    LanguageModelingArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    TrainingArguments,
    TranslationArguments,
)
from util.checks import LATER
from util.generate_args import GenerateArguments
from util.legacy_flags import LEGACY
from util.ranges import RANGES, range_problems

CLASSES = [
    AdditionalArguments,
    GenerateArguments,
    LanguageModelingArguments,
    LensArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    TrainingArguments,
    TranslationArguments,
]
# Refused but for a few values, whatever their range.
ELSEWHERE = {*LATER, *(name for name, row in LEGACY.items() if row.apply is None)}


def numbers(cls):
    """Name -> default of the fields that hold numbers."""
    hints = get_type_hints(cls)
    return {
        each.name: each.default
        for each in fields(cls)
        if {int, float} & {hints[each.name], *getattr(hints[each.name], "__args__", ())}
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_every_number_has_a_range_that_holds_its_default(cls):
    found = {name: default for name, default in numbers(cls).items() if name not in ELSEWHERE}
    assert found and not set(found) - set(RANGES)
    assert [name for name, default in found.items() if default is not None and default not in RANGES[name]] == []


def test_a_sentence_names_the_flag_its_value_and_what_is_valid():
    class Given:
        def __init__(self):
            self.top_p, self.seed, self.k, self.unknown = 2.0, -1, None, -1

    assert range_problems(Given()) == [
        "--top_p 2.0: valid are numbers above 0 up to 1.",
        "--seed -1: valid are 0 to 4294967295.",
    ]
    assert len(range_problems(Given(), top_p=RANGES["temperature"])) == 1
