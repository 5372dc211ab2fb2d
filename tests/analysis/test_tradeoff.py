"""The table and the figure come from run files alone."""

import pytest

from analysis.tradeoff import main, read_points, report, table
from util.files import write_json

POLICIES = {
    "full": {"method": "full"},
    "static": {"method": "static", "static_exit": 4},
    "strict": {"method": "early_exit", "confidence": "softmax", "threshold": 0.9, "temperature": None, "first_exit": 1},
    "decay": {"method": "early_exit", "confidence": "state", "threshold": 0.5, "temperature": 4.0, "first_exit": 2},
}


@pytest.fixture
def runs(tmp_path):
    for index, (name, policy) in enumerate(POLICIES.items()):
        results = {
            "eval_f1": 90.0 - index,
            "eval_block_avg": 8.0 - index,
            "eval_flops_decoder_per_sample": 100.0 - 10 * index,
            "eval_tokens_per_second": 50.0 + 5 * index,
            "eval_samples": 12,
            "eval_policy": {**policy, "task": "invented_facts", "split": "validation"},
        }
        write_json(tmp_path / "facts" / "runs" / name / "all_results.json", results)
    write_json(tmp_path / "facts" / "runs" / "beams" / "all_results.json", {"eval_f1": 1.0, "eval_policy": {}})
    return tmp_path


def test_points_are_the_finished_runs_with_exits(runs):
    points = read_points(runs)
    assert [point.label for point in points] == [
        "full depth",
        "static, layer 4",
        "softmax > 0.9",
        "state > 0.5, decay 4, from layer 2",
    ]
    assert points[0].score_name == "F1"
    assert points[0].folder.name == "full"


def test_numbers_are_relative_to_full_depth(runs):
    line = next(line for line in table(read_points(runs)).splitlines() if line.startswith("softmax"))
    assert line.split()[-4:] == ["88.00", "6.00", "0.80", "1.20"]


def test_speed_measured_in_alternation_takes_the_place_of_the_clocks(runs):
    labels = [point.label for point in read_points(runs)]
    speed = {"invented_facts": dict.fromkeys(labels, 0.5)}
    line = next(line for line in table(read_points(runs), speed).splitlines() if line.startswith("softmax"))
    assert line.split()[-1] == "0.50"


def test_report_writes_table_figure_and_the_runs_they_come_from(runs, tmp_path):
    out = tmp_path / "out"
    text = report(runs, out)
    written = (out / "table.txt").read_text()
    assert written.startswith(text)
    assert str(runs / "facts" / "runs" / "strict") in written
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_relative_numbers_need_a_run_at_full_depth(runs):
    (runs / "facts" / "runs" / "full" / "all_results.json").unlink()
    with pytest.raises(ValueError, match="full depth on invented_facts"):
        table(read_points(runs))


def test_a_folder_without_runs_is_refused_with_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--runs", str(tmp_path), "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no finished evaluation" in capsys.readouterr().err
