"""The same policies of several sets of runs: paired by example, relative to their own full depth, or refused."""

import pytest

from analysis import compare_runs
from analysis.drawing import drawn_before
from analysis.figures import PAINTS
from support_runs import early, write_run
from util.files import read_json, write_json

BEFORE, AFTER = [10.0, 30.0, 20.0, 40.0], [40.0, 60.0, 60.0, 60.0]
LOSSLESS = early("softmax", 2, skipped="recompute", last_exit=2, verification="exact")


@pytest.fixture
def sets(tmp_path):
    for name, scores in (("before", BEFORE), ("after", AFTER)):
        runs = tmp_path / name / "task" / "runs"
        write_run(runs / "full", {"method": "full"}, [80.0] * 4, [4] * 4)
        write_run(runs / "static", {"method": "static", "static_exit": 2}, scores, [2] * 4)
        write_run(runs / "softmax", early("softmax", 1), [score + 5 for score in scores], [1, 2, 3, 4])
        verified = write_run(runs / "lossless", LOSSLESS, [80.0] * 4, [2] * 4)
        held = read_json(verified / "all_results.json")
        held["eval_exit_counts"] |= {"drafted": 40, "accepted": 30}
        write_json(verified / "all_results.json", held)
    return [str(tmp_path / "before"), str(tmp_path / "after")]


def rows_of(table) -> dict:
    return {(row[0], row[1]): dict(zip(table.head, row, strict=True)) for row in table.rows}


def test_differences_are_paired_and_costs_relative_to_full_depth(sets, tmp_path):
    out = tmp_path / "out"
    found = rows_of(compare_runs.main(["--runs", *sets, "--names", "as it is", "translated", "--out", str(out)]))
    assert len(found) == 8 and found["static, layer 2", "as it is"]["difference"] == "-"
    after = found["static, layer 2", "translated"]
    assert after["score"] == "55.00" and after["difference"] == "+30.00"
    low, high = map(float, after["95% interval"].split(" to "))
    assert 20 <= low < 30 < high <= 40  # of the four differences 30, 30, 40, 20
    lossless = found["lossless > 0.9, from layer 2", "translated"]
    assert (lossless["drafted"], lossless["stood"], lossless["difference"]) == ("40", "30", "+0.00")
    assert found["softmax > 0.9", "translated"]["exit layer"] == "2.50" and after["decoder FLOPs"] == "1.00"
    drawing = drawn_before(out / "compare_runs.json", PAINTS)
    assert {row["policy"] for row in drawing.values["rows"]} == {"full depth", "static, layer 2", "softmax > 0.9"}
    assert (out / "compare_runs.png").stat().st_size > 5000 and (out / "table.txt").is_file()


def test_seconds_are_those_that_were_timed_in_turn(sets, tmp_path):
    policy = {"method": "static", "static_exit": 2}
    held = {"task": "invented_facts", "model": "t5_exits_trained", "settings": {"examples": 2, "repetitions": 2}}
    held["policies"] = [{"policy": policy, "relative": [0.5, 0.4]}]
    write_json(tmp_path / "after" / "task" / "speed.json", held)
    found = rows_of(compare_runs.main(["--runs", *sets, "--out", str(tmp_path / "out")]))
    assert found["static, layer 2", "after"]["x full depth"] == "2.25 (2.00 to 2.50)"
    assert found["static, layer 2", "before"]["x full depth"] == "-"


def test_sets_that_cannot_be_compared_are_refused(sets, tmp_path, capsys):
    other = tmp_path / "other" / "runs"
    write_run(other / "static", {"method": "static", "static_exit": 2}, BEFORE, [2] * 4)
    few = tmp_path / "few" / "runs"
    write_run(few / "full", {"method": "full"}, [80.0] * 3, [4] * 3)
    write_run(tmp_path / "mixed" / "runs" / "full", {"method": "full"}, [80.0] * 4, [4] * 4)
    write_run(tmp_path / "mixed" / "b" / "runs" / "full", {"method": "full"}, [80.0] * 4, [4] * 4, model="b")
    for runs, words in (
        ([sets[0], str(tmp_path / "mixed")], "give a folder with one of them"),
        ([sets[0], str(tmp_path / "other")], "none of them is at full depth"),
        ([sets[0], str(tmp_path / "few")], "not of one task and the same examples"),
        ([sets[0], str(tmp_path / "absent")], "holds no finished evaluation"),
        ([sets[0], sets[0]], "2 different ones are needed"),
    ):
        with pytest.raises(SystemExit) as stop:
            compare_runs.main(["--runs", *runs, "--out", str(tmp_path / "out")])
        assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
