"""Strategies compared: intervals, differences from vanilla, the table and the figure."""

import json
import math

import pytest

from analysis.strategies import PANELS, caption, label_of, numbers, paint_strategies, summary, table
from jobs.truthful import Results
from support_figures import problems
from tasks.answer_scores import answer_scores, choice_scores, factor_score, number_score, repetition_scores
from tasks.truthful import invented_questions
from util.files import jsonable

TEXTS = {
    "vanilla": ["the cat and the cat", "a dog", "the cat sat", "one two three four"],
    "dola": ["a b c d", "a dog barks", "x y z", "one one one one"],
}


def results(count=6, strategies=("vanilla", "dola")):
    choices = {
        name: [{"mc1": 100.0 * (index % 2), "mc2": 10.0 * index + 5 * place, "mc3": 50.0} for index in range(count)]
        for place, name in enumerate(strategies)
    }
    texts = {name: TEXTS[name] for name in strategies}
    repeated = {name: [repetition_scores(text) for text in each] for name, each in texts.items()}
    return Results({"choices": choices, "open_ended": repeated}, texts, ["Something is left out."])


def row_of(rows, score, strategy):
    return next(row for row in rows if (row.score, row.strategy) == (score, strategy))


def test_a_difference_is_paired_by_example():
    rows = summary(results())
    dola = row_of(rows, "mc2", "dola")
    assert dola.n == 6 and dola.value == 30 and dola.difference == 5 and dola.difference_interval == (5, 5)
    low, high = dola.interval
    assert low < 30 < high
    assert row_of(rows, "mc2", "vanilla").difference is None


def test_without_vanilla_there_is_no_difference():
    assert all(row.difference is None for row in summary(results(strategies=("dola",))))


def test_different_ngrams_are_those_of_all_texts():
    rows = summary(results())
    words = " ".join(TEXTS["vanilla"]).split()
    found = row_of(rows, "distinct1", "vanilla")
    assert found.value == pytest.approx(100 * len(set(words)) / len(words)) and found.n == 4
    low, high = found.interval
    assert low <= found.value <= high
    dola = row_of(rows, "distinct1", "dola")
    assert dola.difference == pytest.approx(dola.value - found.value)
    assert dola.difference_interval[0] <= dola.difference <= dola.difference_interval[1]


def test_one_text_has_no_interval():
    alone = Results({"open_ended": {"vanilla": [repetition_scores("a b")]}}, {"vanilla": ["a b"]})
    found = row_of(summary(alone), "distinct1", "vanilla")
    assert found.value == 100 and all(map(math.isnan, found.interval))
    assert "-" in table("Title", summary(alone), []).text()


def test_every_score_has_a_panel_and_a_name():
    question = invented_questions(1)[0]
    scores = choice_scores(0, [0.0], [0.0]) | answer_scores("a", question) | repetition_scores("a")
    scores |= factor_score(0.0, [0.0]) | number_score("1", "1")
    shown = [score for names in PANELS.values() for score in names]
    assert set(scores) <= set(shown) and len(shown) == len(set(shown))
    assert len({label_of(score) for score in shown}) == len(shown)


def test_the_table_has_a_row_per_score_and_strategy():
    rows = summary(results())
    found = table("Title", rows, ["Something is left out."])
    assert len(found.rows) == len(rows) == 2 * (3 + 3 + 3)
    assert [cells[:3] for cells in found.rows[:2]] == [["MC1", "vanilla", "6"], ["MC1", "dola", "6"]]
    assert found.rows[3][5:] == ["+5.00", "+5.00 to +5.00"] and "Something is left out." in found.text()


def test_the_figure_is_readable():
    rows = summary(results())
    values = json.loads(json.dumps(jsonable(numbers(rows))))
    figure = paint_strategies(values)
    assert [axes.get_title() for axes in figure.axes] == [
        panel for panel in PANELS if any(score in values["scores"] for score in PANELS[panel])
    ]
    assert not problems(figure)
    told = caption(rows, [])
    assert "n = 6 examples (multiple choice)" in told and "n = 4 examples" in told
