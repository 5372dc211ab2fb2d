"""The local grid from end to end: a few methods of the embedded model, a few examples, the figures they allow."""

import runpy
from pathlib import Path

import pytest

from util.files import read_json

SCRIPT = Path(__file__).parents[2] / "src" / "scripts" / "local_grid.py"


@pytest.fixture(scope="module")
def grid():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.slow
def test_runs_seconds_and_figures_and_nothing_twice(grid, tmp_path, capsys):
    out = tmp_path / "grid"
    arguments = ["--out", str(out), "--examples", "3", "--layers", "2", "6", "--settings", "facts_trained"]
    arguments += ["--methods", "full", "softmax", "JSD", "softmax_fixed", "oracle", "--repetitions", "1"]
    arguments += ["--speed-examples", "1"]
    grid["main"](arguments)
    folders = sorted(path.name for path in (out / "facts_trained" / "runs").iterdir())
    assert len(folders) == 1 + 7 + 2 * 4
    speed = read_json(out / "facts_trained" / "speed.json")
    assert len(speed["policies"]) == len(folders) and speed["model"] == "t5_exits_trained"
    assert {path.stem for path in (out / "figures").glob("*.png")} >= {"figure_02", "figure_04", "figure_06"}
    assert "facts_trained 16/16" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in out.rglob("predictions.jsonl")}
    written[out / "facts_trained" / "speed.json"] = (out / "facts_trained" / "speed.json").stat().st_mtime_ns
    grid["main"](arguments)
    assert written == {path: path.stat().st_mtime_ns for path in written}


@pytest.mark.slow
def test_settings_side_by_side_and_what_waits_against_speed(grid, tmp_path):
    out = tmp_path / "grid"
    arguments = ["--out", str(out), "--examples", "2", "--layers", "2", "--settings", "facts_trained"]
    arguments += ["dialogues_trained", "--methods", "full", "softmax", "FREE", "lossless", "--repetitions", "1"]
    grid["main"]([*arguments, "--speed-examples", "1", "--processes", "2"])
    found = read_json(out / "figures" / "figure_20.json")["values"]["tradeoffs"]
    assert {(each["task"], each["method"]) for each in found} == {
        (task, method)
        for task in ("invented_facts", "invented_dialogues")
        for method in ("static", "softmax", "FREE", "lossless")
    }


def test_a_process_that_fails_ends_the_grid_with_code_2(grid, tmp_path, capfd):
    arguments = ["--out", str(tmp_path / "out"), "--layers", "2", "--methods", "softmax", "--examples", "2"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "facts_trained").write_text("a file where the folder should be")
    with pytest.raises(SystemExit) as stop:
        grid["main"]([*arguments, "--settings", "facts_trained", "dialogues_trained", "--processes", "2"])
    assert stop.value.code == 2 and "A process of the grid failed" in capfd.readouterr().err


def test_every_run_of_a_grid_is_another(grid):
    methods = {name: grid["read_methods"]()[name] for name in ("full", "softmax", "JSD", "JSD_fixed")}
    runs = grid["points"](methods, 8, None)
    assert len(runs) == len(set(map(tuple, runs))) == 1 + 7 + 7 + 7 + 6
    viewed = [flags for flags in runs if "--plotting_logits" in flags]
    assert len(viewed) == 2 and "2" in viewed[1]
    assert len(grid["points"](methods, 8, [3])) == 1 + 7 + 3


def test_an_unknown_method_is_refused_with_code_2(grid, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        grid["main"](["--out", str(tmp_path / "out"), "--methods", "softmx"])
    assert stop.value.code == 2 and "softmx: no such method" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
