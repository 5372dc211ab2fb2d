"""Runs read from files: what they are called, how they are found, and their seconds."""

import pytest

from analysis.runs import Speed, method_of, read_runs, read_speeds, scaled, where
from decoding.policy import Policy
from jobs.experiments import policy_arguments, read_methods, read_settings
from support_runs import early
from util.files import write_json

METHODS = read_methods()


def test_every_method_of_the_experiments_has_a_name_of_its_own():
    setting = read_settings()["facts_trained"]
    names = [method_of(Policy.from_config(policy_arguments(setting, flags)).describe()) for flags in METHODS.values()]
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
    assert run.example_scores == [1.0, 0.0] and run.layers is None and list(run.details("jsds")) == []


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no finished evaluation"):
        read_runs(tmp_path)


def test_layers_of_the_published_decoder_in_another():
    assert [scaled(layer, 8) for layer in (2, 7, 15, 19, 24)] == [1, 2, 5, 6, 8]
    assert [scaled(layer, 24) for layer in (2, 7, 19)] == [2, 7, 19]


def test_seconds_are_relative_to_the_full_model_of_the_same_repetition(make_run):
    make_run("a", early("softmax", 1), [1.0], [1])
    make_run("b", early("softmax", 2), [1.0], [1])
    rows = [
        {"policy": {"method": "full"}, "seconds_per_token": [2.0, 4.0]},
        {"policy": early("softmax", 1), "seconds_per_token": [1.0, 1.0]},
    ]
    held = {"task": "invented_facts", "model": "t5_exits_trained", "settings": {}, "policies": rows}
    write_json(make_run.root / "speed.json", held)
    (speed,) = read_speeds(make_run.root).values()
    assert isinstance(speed, Speed)
    timed, untimed = where(read_runs(make_run.root), method="softmax")
    assert speed.relative(timed) == [0.5, 0.25] and speed.relative(untimed) is None
