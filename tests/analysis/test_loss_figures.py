"""What losses buy: the exits of each training stand beside each other, changes are paired by example."""

import pytest

from analysis.figures import read_all
from analysis.loss_figures import exits_by_loss, what_training_buys
from analysis.tables import what_losses_buy
from support_figures import problems
from support_runs import early

# Of each training, the scores of two examples at layers 1 to 4; 4 is the last one.
SCORES = {
    "shallowdeep_kd_last": ([40.0, 20.0], [70.0, 50.0], [80.0, 80.0], [90.0, 90.0]),
    "plain": ([0.0, 0.0], [10.0, 20.0], [50.0, 50.0], [100.0, 90.0]),
    "shallowdeep_ce": ([30.0, 30.0], [60.0, 40.0], [70.0, 90.0], [90.0, 90.0]),
    "t5_exits_trained": ([1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]),
}


@pytest.fixture
def runs(make_run):
    for model, scores in SCORES.items():
        for layer, found in enumerate(scores, 1):
            policy = {"method": "static", "static_exit": layer} if layer < 4 else {"method": "full"}
            make_run(f"{model}{layer}", policy, found, [layer] * 2, model=model)
        free = early("softmax", 2, last_exit=2, skipped="recompute")
        make_run(f"{model}-free", free, scores[1], [2, 4], model=model)
    return read_all(make_run.root)


def test_trainings_stand_in_the_order_of_the_table_of_losses_and_nothing_else_does(runs):
    found = exits_by_loss(runs)["invented_facts"]
    assert list(found) == ["plain", "shallowdeep_ce", "shallowdeep_kd_last"]
    assert [run.score for run in found["plain"]] == [0.0, 15.0, 50.0, 95.0]


def test_a_line_per_loss_over_all_exits(runs):
    drawing = what_training_buys(runs)
    rows = [row for row in drawing.values["rows"] if row["loss"] == "shallowdeep_ce"]
    assert [(row["layer"], row["score"]["value"]) for row in rows] == [(1, 30.0), (2, 50.0), (3, 80.0), (4, 90.0)]
    assert rows[1]["score"]["interval"] == (40.0, 60.0)
    assert problems(drawing.figure()) == [] and len(drawing.runs) == 12


def test_changes_are_paired_by_example(runs):
    table = what_losses_buy(runs)
    rows = {(row[1], row[2]): row[3:] for row in table.rows}
    assert rows["shallowdeep_kd_last", "2"] == [
        *("2", "2.00", "60.00", "50.00 to 70.00"),
        *("+45.00", "+30.00 to +60.00"),
        *("+10.00", "+10.00 to +10.00"),
    ]
    assert rows["shallowdeep_kd_last", "FREE at 2"][:2] == ["2", "3.00"]
    assert rows["plain", "4"][-4:] == ["-", "-", "+5.00", "+0.00 to +10.00"]
    assert rows["shallowdeep_ce", "1"][-2:] == ["-", "-"]


def test_without_a_plain_training_there_is_nothing_to_compare(make_run):
    make_run("full", {"method": "full"}, [1.0, 2.0], [4, 4], model="weighted_ce")
    runs = read_all(make_run.root)
    assert what_training_buys(runs) is None and what_losses_buy(runs).rows == []
