"""Figures drawn from made-up run files: the numbers they show, the runs they name, and what is left out."""

import json
from contextlib import redirect_stdout
from io import StringIO
from itertools import product
from pathlib import Path

import pytest

from analysis.drawing import Runs, drawn_before
from analysis.figures import FIGURES, PAINTS, draw_all, main, read_all
from analysis.layer_figures import PRUNED, paint_pruning
from analysis.policy_figures import DEPTH, KINDS
from analysis.speed_figures import area_under
from analysis.tables import TABLES
from support_figures import problems
from support_runs import early, write_run
from util.files import read_json, write_json

JSD, WEIGHTED = "JSD_contrastive_confidence", "reweight_contrastive_decoding"
POST = Path(__file__).resolve().parents[2] / "blogpost_figures"
MODELS = ("t5_exits_trained", "t5_exits_untrained")
RECOMPUTED = {
    "free": {},
    "free_adaptive": {"adapts": True},
    "lossless2": {"verification": "exact", "num_speculations": 2},
    "lossless8": {"verification": "exact", "num_speculations": 8},
}
MEASURES = ("state", "meta", "oracle")
TASKS = {"invented_facts": "f1", "invented_dialogues": "rougeL"}
TRAININGS = ("plain", "weighted_ce")


def views(depth: int = 4) -> dict:
    """Two inputs of five tokens at full depth: ranks fall to 1, and the third token has three plausible ones."""
    ranks = [[1000 // 10**layer or 1 for layer in range(depth + 1)]] * 5
    divergence = [[0.1 * (i - j) ** 2 for j in range(i)] for i in range(depth + 1)]
    alone = {"measure": JSD, "amateur": None, "size": 1, "tokens": [7], "p": [0.9], "s": [1.0], "p_amateur": []}
    alone["texts"] = [" red"]
    several = {"measure": JSD, "amateur": 2, "size": 3, "tokens": [7, 8, 9], "p": [0.5, 0.3, 0.1], "s": [0.2, 0.1, 0.7]}
    several |= {"p_amateur": [0.3, 0.3, 0.01], "texts": [" red", "$", "<b>"]}
    common = {"window": 0, "tokens": [7] * 5, "texts": [" red"] * 5, "exit_layers": [depth] * 5}
    layers = [{"id": f"e{i}", **common, "rank": ranks} for i in range(2)]
    jsds = [
        {"id": f"e{i}", **common, "divergence": [divergence] * 5, "contrast": [alone, alone, several, alone, alone]}
        for i in range(2)
    ]
    return {"layers": layers, "jsds": jsds}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every kind of run the figures ask for, on two tasks and two models, and exits of two trainings on one."""
    root = tmp_path_factory.mktemp("runs")

    def make_run(name, *made, **more):
        write_run(root / more["model"] / "runs" / name, *made, **more)

    summary = [
        {"layer": n, "tokens": 10, "probability": 0.2 * n, "gap": 0.1 * n, "accuracy": 0.25 * n, "score": None}
        for n in range(5)
    ]
    for task, metric in TASKS.items():
        for model in MODELS:
            about = {"task": task, "model": model, "metric": metric}
            make_run(f"{task}-full", {"method": "full"}, [90.0, 80.0], [4, 4], details=views(), layers=summary, **about)
            for layer in range(1, 4):
                static = {"method": "static", "static_exit": layer}
                make_run(f"{task}-static{layer}", static, [20.0 * layer] * 2, [layer] * 2, **about)
                for name in ("softmax", WEIGHTED, "reweight_contrastive_text", JSD, "JSD_contrastive_text", *MEASURES):
                    scores = [70.0 + layer, 80.0]
                    make_run(f"{task}-{name}{layer}", early(name, layer), scores, [layer, 4], **about)
                for name in ("softmax", JSD):
                    for kind, kept in (("fixed", 40), ("decaying", 30), ("adaptive", 60)):
                        trace = {"id": "e0", "window": 0, "exit_layers": [4], "kept": [[0] * (layer - 1) + [100, kept]]}
                        policy = early(name, layer, kind)
                        more = {"details": {"traces": [trace]}, "flops": [10.0, 10.0], **about}
                        make_run(f"{task}-{name}-{kind}{layer}", policy, [70.0, 80.0], [layer, 4], **more)
                make_run(f"{task}-s{layer}", early(JSD, layer, emit="contrastive"), [1.0, 2.0], [1, 2], **about)
                policy = early(JSD, layer, "fixed", alpha=0.0)
                make_run(f"{task}-a{layer}", policy, [1.0, 2.0], [1, 2], **about)
                for name, recomputed in RECOMPUTED.items():
                    policy = early("softmax", layer, last_exit=layer, skipped="recompute", **recomputed)
                    make_run(f"{task}-{name}{layer}", policy, [60.0 + 10 * layer, 80.0], [layer, 4], **about)
            rows = [{"policy": {"method": "full"}, "relative": [1.0, 1.0]}]
            rows += [{"policy": early("softmax", n), "relative": [0.5, 0.75]} for n in (1, 2, 3)]
            held = {"task": task, "model": model, "settings": {"examples": 2, "repetitions": 2, "batch": 1}}
            write_json(root / model / task / "speed.json", {**held, "policies": rows})
    for model, layer in product(TRAININGS, range(1, 5)):
        policy = {"method": "static", "static_exit": layer} if layer < 4 else {"method": "full"}
        make_run(f"exit{layer}", policy, [20.0 * layer] * 2, [layer] * 2, model=model)
    ratios = {"weighted / softmax": {"median": 0.97, "min": 0.9, "max": 1.0}}
    about = {
        "size": "t5-base",
        "generated_tokens": 8,
        "repetitions": 9,
        "dtype": "float32",
        "device": "cpu",
        "threads": 2,
    }
    write_json(root / "benchmark.json", {**about, "batches": {"1": ratios, "8": ratios}})
    return root


@pytest.fixture(scope="module")
def drawn(runs, tmp_path_factory):
    """The folder of all figures and tables, and what was printed."""
    out, shown = tmp_path_factory.mktemp("out"), StringIO()
    with redirect_stdout(shown):
        main(["--runs", str(runs), "--out", str(out)])
    return out, shown.getvalue()


def held(out, name):
    return json.loads((out / f"{name}.json").read_text())


def values(out, name):
    return held(out, name)["values"]


def quantity(rows, label):
    return [row["quantities"][label] for row in rows if label in row["quantities"]]


def test_every_figure_and_table_is_drawn_and_names_its_runs(runs, drawn):
    out, shown = drawn
    missing = [line for line in shown.splitlines() if "not there" in line]
    assert missing == ["table_11: the runs it needs are not there"]  # which is of a benchmark on prompts
    for name in FIGURES:
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        kept = held(out, name)
        assert kept["title"].startswith("Figure ")
        folders = [folder for folder in kept["runs"] if not folder.startswith(runs.as_posix())]
        assert folders == [] and (kept["runs"] or name == "figure_17")
    for name in TABLES.keys() - {"table_11"}:
        assert (out / f"{name}.txt").read_text().startswith("Table ")
        assert held(out, name)["rows"] and (held(out, name)["runs"] or name == "table_6")


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_nothing_in_a_figure_hides_or_resembles_another(runs, name):
    assert problems(FIGURES[name](read_all(runs)).figure()) == []


@pytest.mark.parametrize("path", sorted(POST.rglob("figure_*.json")), ids=lambda path: path.stem)
def test_nothing_in_a_figure_of_the_post_does(path):
    drawing = drawn_before(path, PAINTS)
    assert problems(drawing.figure()) == [] and path.with_suffix(".png").is_file()


def test_a_figure_is_painted_anew_from_its_numbers_alone(drawn, tmp_path):
    for name in ("figure_09.json", "figure_20.json", "table_1.json"):
        (tmp_path / name).write_bytes((drawn[0] / name).read_bytes())
    main(["--redraw", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["figure_09.png", "figure_20.png"]
    for path in tmp_path.glob("figure*"):
        assert path.read_bytes() == (drawn[0] / path.name).read_bytes()


def test_what_is_painted_anew_has_to_be_there(tmp_path, capsys):
    for flags, told in ((["--redraw", str(tmp_path)], "holds no numbers"), (["--runs", str(tmp_path)], "needs --out")):
        with pytest.raises(SystemExit) as stop:
            main(flags)
        assert stop.value.code == 2 and told in capsys.readouterr().err


def test_what_looks_odd_has_a_word_why(runs, drawn):
    assert "Pruned lines end" not in held(drawn[0], "figure_12")["note"], "all lines end alike"
    made = read_all(runs)
    shorter = [run for run in made.runs if not (" + " in run.method and run.first_exit == 3)]
    note = FIGURES["figure_12"](Runs(shorter, made.speeds)).note
    assert "Pruned lines end at layer 2: " in note and "The oracle has no seconds" in note
    token = {"task": "t", "model": "m", "example": "e", "kept": {kind: [[1, 99]] for kind in PRUNED}, "rank": [9, 2, 1]}
    (panel,) = paint_pruning({"tokens": [token]}).axes
    assert "leaves at layer 1" in panel.texts[0].get_text()


def test_ranks_are_drawn_from_the_embedding_to_the_last_layer(drawn):
    found = values(drawn[0], "figure_02")["ranks"]
    assert [each["task"] for each in found] == ["invented_facts"] * 2 + ["invented_dialogues"] * 2
    assert [each["model"] for each in found[:2]] == ["t5_exits_untrained", "t5_exits_trained"]
    assert found[0]["percentile_50"] == [1000, 100, 10, 1, 1] and found[0]["tokens"] == 10


def test_confidence_stands_beside_the_score_of_the_static_exit_at_the_same_layer(drawn):
    for name, model in (("figure_03", "t5_exits_untrained"), ("figure_04", "t5_exits_trained")):
        panels = values(drawn[0], name)["panels"]
        assert [panel["model"] for panel in panels] == [model] * 2
        scores = [(row["layer"], row["value"], row["interval"]) for row in panels[0]["static_scores"]]
        assert scores[:3] == [(n, 20.0 * n, [20.0 * n] * 2) for n in (1, 2, 3)]
        assert scores[3] == (4, 85.0, [80.0, 90.0]), "the last layer counts"


def test_bars_are_of_the_published_layers(drawn):
    """Of 4 layers, 7/24 and 2/24 are layer 1."""
    bars = values(drawn[0], "figure_07")["rows"]
    assert {bar["first_exit"] for bar in bars} == {1} and {bar["task"] for bar in bars} == {"invented_facts"}
    softmax = [bar for bar in bars if bar["method"] == "softmax"]
    seconds = quantity(softmax, "seconds per token / full model")
    assert [each["value"] for each in seconds] == [0.625, 0.625] and seconds[0]["interval"] == [0.5, 0.75]
    assert [each["value"] for each in quantity(softmax, "F1 (%)")] == [75.5, 75.5]


def test_sweeps_have_a_point_per_layer_and_method(drawn):
    rows = values(drawn[0], "figure_10")["rows"]
    exits = [(row["first_exit"], row["quantities"][DEPTH]["value"]) for row in rows if row["method"] == "JSD"]
    assert exits[:3] == [(1, 2.5), (2, 3.0), (3, 3.5)]
    assert {row["method"] for row in rows} == {"softmax", "weighted", "JSD", "oracle", "full model"}
    timed = {row["method"] for row in rows if "seconds per token / full model" in row["quantities"]}
    assert timed == {"softmax", "full model"}, "an oracle has no seconds, and what was not timed has none"


def test_every_method_stands_with_static_exits_in_the_panel_of_its_kind(drawn):
    rows = values(drawn[0], "figure_23")["rows"]
    shown = {kind: {row["method"] for row in rows if row["kind"] == kind} for kind in KINDS}
    assert all(shown[kind] == {*names, "static", "oracle", "full model"} for kind, names in KINDS.items())
    free = [row["quantities"] for row in rows if row["method"] == "FREE"]
    assert {each["layers in turn (per token)"]["value"] for each in free} == {2.0}, "not the 2.5 to 3.5 it leaves after"
    assert not any(row["model"] in TRAININGS for row in rows), "which have static exits only"


def test_what_is_contrasted_is_the_first_token_with_some_plausible_ones(drawn):
    first = values(drawn[0], "figure_05")["tokens"][0]
    assert (first["example"], first["token"], first["layer"], first["amateur"]) == ("e0", 3, 4, 2)


def test_divergence_is_discounted_by_distance(drawn):
    panel = values(drawn[0], "figure_06")["panels"][0]
    column = [row[0] for row in panel["discounted"]]
    assert column == pytest.approx([0.4, 0.3, 0.2, 0.1]), "0.1 (i - j)^2 / (i - j) at i = 4"
    assert panel["mean_pairs"][0][1:] == pytest.approx([0.1, 0.4, 0.9, 1.6])


def test_score_is_drawn_against_speed_with_the_area_under_it(drawn):
    found = values(drawn[0], "figure_20")["tradeoffs"]
    assert {each["axis"] for each in found} == {"times as fast", "times fewer layers in turn"}
    (softmax,) = (
        each
        for each in found
        if (each["task"], each["model"], each["method"], each["axis"])
        == ("invented_facts", "t5_exits_trained", "softmax", "times as fast")
    )
    assert [point["speed"]["value"] for point in softmax["points"]] == [1.0, 1.6, 1.6, 1.6]
    assert softmax["points"][1]["speed"]["interval"] == pytest.approx([1 / 0.75, 1 / 0.5])
    assert softmax["area"] == pytest.approx(76.5), "the best of three scores at the one speed, 1 / 0.625"
    rows = held(drawn[0], "table_7")["rows"]
    (row,) = (row for row in rows if row[:4] == ["invented_facts", "t5_exits_trained", "softmax", "times as fast"])
    assert row[4:] == ["76.50", "85.00", "1.00", "1.60"]


def test_the_area_is_under_the_best_score_at_a_speed_or_above():
    points = [(1.0, 90.0), (1.5, 60.0), (2.0, 80.0), (0.5, 99.0)]
    assert area_under(points, 2.0) == pytest.approx(80.0), "nobody takes the slower and worse one"
    assert area_under(points, 3.0) == pytest.approx(40.0), "nothing of it is as fast as three"
    assert area_under([*points, (4.0, 10.0)], 3.0) == pytest.approx((80 + 10) / 2)
    assert area_under(points, 1.0) is None


def test_a_figure_without_its_runs_is_left_out_with_a_line(make_run, tmp_path, capsys):
    make_run("full", {"method": "full"}, [1.0, 2.0], [4, 4])
    assert [path.name for path in draw_all(make_run.root, tmp_path / "out")] == ["table_5.txt"], "the table of all runs"
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(FIGURES) + len(TABLES) - 1 and all("are not there" in line for line in shown)


def test_a_benchmark_alone_is_drawn(tmp_path, capsys):
    ratios = {"full depth / hf generate": {"median": 2.0, "min": 1.5, "max": 2.5}}
    about = {"size": "t5-base", "generated_tokens": 8, "dtype": "float32", "device": "cpu", "repetitions": 3}
    write_json(tmp_path / "benchmark.json", {**about, "threads": 2, "batches": {"1": ratios, "16": ratios}})
    assert [path.name for path in draw_all(tmp_path, tmp_path / "out")] == ["figure_17.png", "table_6.txt"]
    table = read_json(tmp_path / "out" / "table_6.json")
    assert table["head"] == ["figure", "batch 1", "batch 16"]
    assert table["rows"] == [["full depth / hf generate", *["2.00 (1.50 to 2.50)"] * 2]]


def test_a_folder_without_runs_ends_with_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--runs", str(tmp_path), "--out", str(tmp_path)])
    assert stop.value.code == 2 and "holds no finished evaluation" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_groups_put_questions_and_untrained_exits_first(runs):
    assert read_all(runs).groups == [
        ("invented_facts", "t5_exits_untrained"),
        *(("invented_facts", name) for name in ("plain", "t5_exits_trained", "weighted_ce")),
        ("invented_dialogues", "t5_exits_untrained"),
        ("invented_dialogues", "t5_exits_trained"),
    ]
