"""The sweep over drafts: points are written one by one, a sweep that was killed goes on, the figure is drawn."""

import runpy
from pathlib import Path

import pytest

from util.files import read_json

SCRIPT = Path(__file__).parents[2] / "src" / "scripts" / "sweep_drafts.py"


@pytest.mark.slow
def test_points_are_written_one_by_one_and_not_repeated(tmp_path, capsys):
    sweep = runpy.run_path(str(SCRIPT))
    out = tmp_path / "drafts"
    shared = ["--out", str(out), "--settings", "facts_trained", "--layers", "2", "--examples", "4"]
    shared += ["--speed-examples", "1", "--repetitions", "1", "--drafts"]
    sweep["main"]([*shared, "2"])
    assert not (out / "figure_21.png").exists(), "there is nothing to compare yet"
    written = {path: path.stat().st_mtime_ns for path in out.rglob("predictions.jsonl")}
    first = read_json(out / "facts_trained" / "speed.json")["policies"]
    sweep["main"]([*shared, "2", "4"])
    assert written == {path: path.stat().st_mtime_ns for path in written}
    speeds = read_json(out / "facts_trained" / "speed.json")["policies"]
    assert speeds[:2] == first and [row["policy"].get("num_speculations") for row in speeds] == [None, 2, 4]
    assert "layer 2, 4 drafted: " in capsys.readouterr().out
    rows = read_json(out / "table_8.json")["rows"]
    assert [row[2:4] for row in rows] == [["2", "2"], ["2", "4"]] and {row[-1] for row in rows} == {"4 of 4"}
    assert (out / "figure_21.png").stat().st_size > 10_000


def test_a_layer_that_is_not_there_ends_with_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT))["main"](["--out", str(tmp_path), "--settings", "facts_trained", "--layers", "9"])
    assert stop.value.code == 2 and "--layers 9: valid are 1 to 7 in facts_trained" in capsys.readouterr().err
