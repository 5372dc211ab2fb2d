"""Tables against numbers worked out by hand."""

import pytest

from analysis.drawing import Runs
from analysis.runs import read_runs
from analysis.tables import TABLES
from support_runs import early

JSD = "JSD_contrastive_confidence"


def table(make_run, name):
    return TABLES[name](Runs(read_runs(make_run.root), {}))


def test_table_1_is_the_mean_over_late_layers(make_run):
    """Of 4 layers, 15/24 is layer 2 (2.5 rounded to even); layer 1 does not count."""
    for first, score in ((1, 0.0), (2, 80.0), (3, 90.0)):
        make_run(f"f{first}", early(JSD, first, "fixed"), [score, score], [first, 4])
    found = table(make_run, "table_1")
    assert found.rows == [
        ["invented_facts", "t5_exits_trained", "JSD + fixed", "3.25 +- 0.35", "F1", "85.00 +- 7.07", "2 3"]
    ]
    text = found.text()
    assert "n = 2 examples per run" in text and "runs/f3" in text and "runs/f1" not in text


def test_table_2_pairs_examples_and_sets_the_cut_beside_its_ceiling(make_run):
    make_run("whole", early("softmax", 1), [50.0, 100.0, 75.0], [4, 4, 4], flops=[300.0] * 3)
    make_run("fixed", early("softmax", 1, "fixed"), [49.0, 99.0, 74.0], [4, 4, 4], flops=[100.0] * 3)
    make_run("other", early("softmax", 2, "fixed"), [0.0], [4])
    (row,) = table(make_run, "table_2").rows
    assert row[2:7] == ["softmax + fixed", "1", "3", "74.00", "-1.00"] and row[7] == "-1.00 to -1.00"
    # 10 first exits of 100 rows each, 20 later ones with 10 multiplied and 5 kept each
    assert row[8:] == ["0.100", "0.050", "3.00", f"{30 * 100 / (10 * 100 + 100):.2f}"]


def test_table_3_counts_exits_with_one_plausible_token(make_run):
    make_run("jsd", early(JSD, 2), [1.0, 2.0], [2, 4])
    assert table(make_run, "table_3").rows == [
        ["invented_facts", "t5_exits_trained", "2", "30", "80.0", "8", "100.0"],
    ]


def test_table_4_compares_at_the_same_layer_and_at_the_same_depth(make_run):
    make_run("s1", early("softmax", 1), [60.0, 60.0], [1, 3])
    make_run("s3", early("softmax", 3), [90.0, 90.0], [4, 4])
    make_run("j1", early(JSD, 1), [80.0, 80.0], [3, 3])
    make_run("j3", early(JSD, 3), [90.0, 70.0], [1, 2])
    first, second = table(make_run, "table_4").rows
    # softmax's line from 60 at depth 2 to 90 at depth 4 has 75 at depth 3
    assert first[3:] == ["1", "+1.00", "+20.00", "+20.00 to +20.00", "+5.00"]
    assert second[3:6] == ["3", "-2.50", "-10.00"] and second[-1] == "-", "shallower than any of softmax's points"


def test_table_5_has_a_row_per_run(make_run):
    make_run("full", {"method": "full"}, [90.0, 70.0], [4, 4], flops=[0.0, 0.0])
    make_run("static", {"method": "static", "static_exit": 2}, [50.0, 50.0], [2, 2])
    make_run("softmax", early("softmax", 3), [80.0, 80.0], [3, 4], flops=[100.0, 300.0])
    rows = {row[2]: row[3:] for row in table(make_run, "table_5").rows}
    assert rows["full model"][:3] == ["4", "2", "80.00"] and rows["static"][0] == "2"
    assert rows["softmax"][2:4] == ["80.00", "80.00 to 80.00"] and rows["softmax"][4] == "3.50"
    assert rows["softmax"][6:] == ["200", "1e+03", "-"], "no seconds were measured"


@pytest.mark.parametrize("name", [name for name in TABLES if name != "table_5"])
def test_without_its_runs_a_table_is_empty(make_run, name):
    make_run("full", {"method": "full"}, [1.0], [4])
    assert table(make_run, name).rows == []


def test_table_12_pairs_every_policy_with_full_depth(make_run):
    make_run("full", {"method": "full"}, [90.0, 70.0], [4, 4])
    make_run("static", {"method": "static", "static_exit": 2}, [80.0, 60.0], [2, 2])
    make_run("FREE", early("softmax", 1, skipped="recompute", last_exit=1), [90.0, 71.0], [1, 4])
    make_run("short", early("softmax", 1), [90.0], [1])
    found = table(make_run, "table_12")
    free, static = (dict(zip(found.head, row, strict=True)) for row in found.rows)
    assert (static["method"], static["min"], static["change"], static["share"]) == ("static", "2", "-10.00", "50%")
    assert static["95% interval"] == "-10.00 to -10.00" and static["FLOPs"] == "1.00"
    assert (free["method"], free["change"], free["mean exit"], free["in turn"]) == ("FREE", "+0.50", "2.50", "2.00")
    assert free["x full depth"] == "-"
