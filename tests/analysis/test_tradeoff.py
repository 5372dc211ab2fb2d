"""The table and the figure come from run files alone."""

import pytest

from analysis.drawing import drawn_before
from analysis.figures import PAINTS
from analysis.runs import read_runs, read_speeds, refuse_mixtures
from analysis.tradeoff import draw, main, read_points, report, table
from support_figures import problems
from support_runs import early
from util.files import read_json, write_json

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
    assert points[0].run.score_name == "F1"
    assert points[0].run.folder.name == "full"


def line_of(text, label):
    return next(line for line in text.splitlines() if line.startswith(label)).split()


def test_numbers_are_relative_to_full_depth(runs):
    assert line_of(table(read_points(runs)), "softmax")[-6:] == ["88.00", "6.00", "6.00", "-", "0.80", "1.20"]


def change(runs, name, policy=None, **results):
    """Another value in a run's results, or in its settings."""
    path = runs / "facts" / "runs" / name / "all_results.json"
    held = read_json(path) | results
    held["eval_policy"] |= policy or {}
    write_json(path, held)


def test_a_lossless_run_shows_what_ran_and_what_was_accepted(runs):
    change(runs, "strict", eval_layers_run=8.5, eval_acceptance_rate=0.75)
    assert line_of(table(read_points(runs)), "softmax")[-5:-2] == ["6.00", "8.50", "75%"]


def test_speed_measured_in_alternation_takes_the_place_of_the_clocks(runs):
    timed = [{"policy": POLICIES["full"], "relative": [1.0] * 3}]
    timed += [{"policy": POLICIES["strict"], "relative": [0.4, 0.5, 0.9]}]
    settings = {"batch": 1, "examples": 4, "repetitions": 3}
    held = {"task": "invented_facts", "model": "model", "settings": settings, "policies": timed}
    write_json(runs / "facts" / "speed.json", held)
    text = table(read_points(runs), read_speeds(runs))
    assert line_of(text, "softmax")[-4:] == ["2.00", "(1.11", "to", "2.50)"] and line_of(text, "static")[-1] == "-"
    assert "all policies in turn on 4 examples, median of 3 repetitions" in text
    write_json(runs / "facts" / "speed.json", held | {"model_fingerprint": "of another"})
    change(runs, "strict", {"model_fingerprint": "its own"})
    assert read_speeds(runs)["invented_facts", "model"].relative(read_runs(runs)[-1]) is None


@pytest.mark.parametrize("name", ["batch_size", "threads", "device", "processes"])
def test_clocks_that_ran_otherwise_are_not_compared(runs, name):
    change(runs, "full", environment={name: 1})
    change(runs, "strict", environment={name: 2})
    change(runs, "static", environment={name: 1})
    text = table(read_points(runs))
    assert line_of(text, "softmax")[-1] == "-" and line_of(text, "static")[-1] == "1.10"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": "other", "model_fingerprint": "b"}, 'model "other", model_fingerprint "b"'),
        ({"examples": 99}, "examples 99"),
        ({"data_fingerprint": "f"}, 'data_fingerprint "f"'),
        ({"generation": {"num_beams": 1, "repetition_penalty": 1.2}}, "generation.repetition_penalty 1.2"),
        ({"dtype": "bfloat16"}, 'dtype "bfloat16"'),
        ({"data": {"rouge_tokenizer": "unicode"}}, 'data.rouge_tokenizer "unicode"'),
    ],
)
def test_runs_that_are_not_comparable_stand_apart_or_are_refused(runs, settings, told):
    first = read_points(runs)
    for name in ("full", "strict"):
        held = read_json(runs / "facts" / "runs" / name / "all_results.json")
        held["eval_policy"] |= settings
        held["eval_f1"] = 10.0
        write_json(runs / "others" / "runs" / name / "all_results.json", held)
    points = read_points(runs)
    assert len({point.group for point in points}) == 2 and len(points) == len(first) + 2
    text = table(points)
    (apart,) = [block for block in text.split("\n\n") if told in block.splitlines()[0]]
    assert line_of(apart, "full depth")[2] == "10.00" and "static" not in apart
    if "model" not in settings:  # figures tell models apart by name
        with pytest.raises(ValueError, match="not comparable, such as"):
            refuse_mixtures(read_runs(runs))
    (runs / "others" / "runs" / "full" / "all_results.json").unlink()
    with pytest.raises(ValueError, match="No run at full depth on invented_facts, validation, "):
        read_points(runs)


def test_report_writes_table_figure_and_the_runs_they_come_from(runs, tmp_path):
    out = tmp_path / "out"
    text = report(runs, out)
    written = (out / "table.txt").read_text()
    assert written.startswith(text)
    assert str(runs / "facts" / "runs" / "strict") in written
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    drawing = drawn_before(out / "figure.json", PAINTS)
    assert problems(drawing.figure()) == [] and len(drawing.runs) == len(POLICIES)


def test_scores_are_drawn_with_their_intervals_and_thresholds_from_left_to_right(make_run):
    make_run("full", {"method": "full"}, [90.0, 70.0], [4, 4])
    for threshold, layer in ((0.9, 3), (0.5, 1)):
        make_run(f"t{threshold}", early("softmax", 1) | {"threshold": threshold}, [80.0, 20.0], [layer, layer])
    drawing = draw(read_points(make_run.root))
    assert [point["score"]["interval"] for point in drawing.values["points"]] == [(70.0, 90.0)] + [(20.0, 80.0)] * 2
    labels = drawing.figure().axes[0].get_legend_handles_labels()[1]
    assert labels == ["full model", "softmax (0.5, 0.9)"]


def test_relative_numbers_need_a_run_at_full_depth(runs):
    (runs / "facts" / "runs" / "full" / "all_results.json").unlink()
    with pytest.raises(ValueError, match="full depth on invented_facts"):
        table(read_points(runs))


def test_a_folder_without_runs_is_refused_with_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--runs", str(tmp_path), "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no finished evaluation" in capsys.readouterr().err
