"""Runs read from files: what they are called, how they are found, and their seconds."""

import pytest

from analysis.runs import Speed, read_runs, read_speeds, scaled, where
from decoding import naming
from jobs.experiments import exit_flag, policy_arguments, read_methods, read_settings
from support_runs import early
from util.files import write_json

METHODS = read_methods()


def test_every_method_of_the_experiments_has_a_name_of_its_own():
    setting = read_settings()["facts_trained"]
    asked = [
        [*flags, exit_flag(flags) or "--use_early_exit", "2" if exit_flag(flags) else "False"]
        for flags in METHODS.values()
    ]
    names = [policy_arguments(setting, flags).policy().method for flags in asked]
    assert len(set(names)) == len(METHODS)
    assert {"full model", "softmax + decaying", "JSD (text)", "JSD + adaptive (capped)", "JSD, token from s"} <= set(
        names
    )
    assert "JSD + fixed, alpha 0" in names and "oracle" in names


def test_runs_are_found_by_what_they_are(make_run):
    make_run("b", early("softmax", 3), [1.0, 0.0], [3, 4])
    make_run("a", early("softmax", 1), [1.0, 0.0], [1, 4])
    make_run("full", {"method": "full"}, [1.0, 1.0], [4, 4])
    runs = read_runs(make_run.root)
    assert [run.first_exit for run in where(runs, method="softmax")] == [1, 3]
    (run,) = where(runs, method="softmax", first_exit=1)
    assert (run.score, run.mean_exit, run.samples, run.score_name, run.num_layers) == (0.5, 2.5, 2, "F1", 4)
    assert [*run.example_scores.values()] == [1.0, 0.0] and run.layers is None and list(run.details("jsds")) == []


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished evaluation"):
        read_runs(tmp_path)


def test_layers_of_the_published_decoder_in_another():
    assert [scaled(layer, 8) for layer in (2, 7, 15, 19, 24)] == [1, 2, 5, 6, 8]
    assert [scaled(layer, 24) for layer in (2, 7, 19)] == [2, 7, 19]


def test_seconds_are_relative_to_the_full_model_of_the_same_repetition(make_run):
    make_run("a", early("softmax", 1), [1.0], [1])
    make_run("b", early("softmax", 2), [1.0], [1])
    held = {"task": "invented_facts", "model": "t5_exits_trained", "settings": {}}
    for name, policy, relative in (("x", {"method": "full"}, [1.0, 1.0]), ("y", early("softmax", 1), [0.5, 0.25])):
        write_json(
            make_run.root / name / "speed.json", {**held, "policies": [{"policy": policy, "relative": relative}]}
        )
    (speed,) = read_speeds(make_run.root).values()
    assert isinstance(speed, Speed) and len(speed.rows) == 2, "of all files"
    timed, untimed = where(read_runs(make_run.root), method="softmax")
    assert speed.relative(timed) == [0.5, 0.25] and speed.relative(untimed) is None


def test_recomputing_is_in_the_name_of_a_method():
    recomputed = {"skipped": "recompute"}
    one = {**recomputed, "last_exit": 2}
    names = {
        "FREE": one,
        "FREE + adaptive threshold": {**one, "adapts": True},
        "FREE + rollback": {**one, "verification": "rollback", "rollback_threshold": 2.0},
        "lossless": {**one, "verification": "exact", "num_speculations": 8},
        "softmax, recomputed": recomputed,
        "softmax, lossless": {**recomputed, "verification": "exact"},
        "softmax, one exit": {"last_exit": 2},
    }
    for name, settings in names.items():
        assert naming.method(early("softmax", 2, **settings)) == name
    assert naming.method(early("JSD_contrastive_confidence", 2, **one)) == "FREE (JSD)"
    assert naming.method(early("softmax", 2, "adaptive", **recomputed)) == "softmax + adaptive, recomputed"


def test_the_same_output_is_counted_by_example(make_run):
    make_run("a", {"method": "full"}, [1.0, 0.0], [4, 4])
    make_run("b", early("softmax", 1), [1.0, 0.5], [1, 4])
    full, early_exit = where(read_runs(make_run.root))
    assert full.same_output(full) == 2 and early_exit.same_output(full) == 1
