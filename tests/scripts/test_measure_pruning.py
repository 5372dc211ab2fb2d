"""What pruning saves: the same answers under every policy, and numbers that belong together."""

import pytest

from scripts import measure_pruning
from scripts.measure_pruning import FULL, POLICIES, WHOLE, Spent, main, table
from util.files import read_json


def spent(seconds, flops, rows):
    return Spent([seconds, 2 * seconds], [flops, 2 * flops], [4, 8], [rows, rows], [[1] * 4, [2] * 8])


def test_ratios_are_of_sums_beside_full_depth_and_the_whole_head():
    found = table({FULL: spent(1.0, 1e9, 0), WHOLE: spent(4.0, 3e9, 100), "+ fixed": spent(2.0, 2e9, 5)}, "t", 100)
    cells = dict(zip(found.head, found.rows[2], strict=True))
    assert cells["GFLOPs/token"] == "0.500" and cells["ms/token"] == "500.0"
    assert cells["seconds / full"] == "2.00" and cells["seconds / unpruned"] == "0.50"
    assert cells["95% interval"] == "2.00 to 2.00" and cells["rows/V"] == "0.0500"


def test_every_policy_writes_what_full_depth_does(tiny_gpt2_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure_pruning, "crossing", lambda *sizes: {"median": 0.25, "min": 0.25, "max": 0.25})
    flags = ["--model", tiny_gpt2_dir, "--questions", 2, "--tokens", 4, "--repetitions", 1, "--out", tmp_path]
    found = main(list(map(str, flags)))
    assert list(found) == list(POLICIES) and all(each.answers == found[FULL].answers for each in found.values())
    assert found[FULL].flops[0] < found["+ fixed"].flops[0] <= found[WHOLE].flops[0]
    assert found[FULL].rows == [0, 0] and found["+ fixed"].rows[0] < found[WHOLE].rows[0]
    said = capsys.readouterr().out
    assert "All answers are those of full depth: yes." in said and "pays up to rows * k / V of 0.25" in said
    held = read_json(tmp_path / "pruning.json")
    assert len(held["rows"]) == len(POLICIES) and held["copying_pays_up_to"]["1"]["median"] == 0.25


def test_a_model_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(tmp_path / "absent"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "there is no such folder" in capsys.readouterr().err
