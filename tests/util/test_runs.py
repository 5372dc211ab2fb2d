"""Laws of a run's folder: settings name it, parts are merged by id, nothing of others is touched."""

import gzip
import json

import pytest

from util.runs import Run, digest, drop_torn_line, fingerprint_model, merge_results, slug

SETTINGS = {"policy": {"threshold": 0.9}, "split": "validation"}


def make_run(folder, settings=SETTINGS, **more) -> Run:
    return Run(folder, "squad-validation-softmax-0.9", settings, "eval", **more)


def finish(run: Run, ids=("a", "b")) -> None:
    predictions = [{"id": name, "prediction": f"answer\n{name}"} for name in ids]
    run.finish({"eval_f1": 1.0, "time_decoder_forward": 2.0}, predictions, [(name, 0) for name in ids])


def trace(name: str) -> dict:
    return {"id": name, "window": 0, "tokens": [1]}


def test_the_folder_depends_on_the_settings_and_not_on_the_order_of_keys():
    reordered = {"split": "validation", "policy": {"threshold": 0.9}}
    assert digest(SETTINGS) == digest(reordered) != digest(SETTINGS | {"split": "test"})
    assert slug("squad v2/main-softmax-0.9") == "squad-v2-main-softmax-0.9"


def test_parts_of_all_processes_are_merged_in_the_order_wanted(tmp_path):
    first, second = make_run(tmp_path), make_run(tmp_path, process=1)
    first.prepare()
    second.append({"batch": 1}, [trace("a")])
    first.append({"batch": 2}, [trace("b")])
    first.append({"batch": 3}, [trace("a") | {"tokens": [9]}])  # decoded twice: the first recorded counts
    assert [line["batch"] for line in first.lines()] == [2, 3, 1]
    finish(first)
    with gzip.open(first.folder / "traces.jsonl.gz", "rt") as file:
        traces = [json.loads(line) for line in file]
    assert [each["id"] for each in traces] == ["a", "b"]
    assert (first.folder / "generated_predictions.txt").read_text() == "answer a\nanswer b\n"
    assert not list(first.folder.glob("*.[0-9].jsonl"))


def test_a_torn_last_line_is_dropped_and_the_rest_kept(tmp_path):
    run = make_run(tmp_path)
    run.prepare()
    run.append({"batch": 1})
    run.append({"batch": 2})
    run.close()
    part = run.folder / "predictions.0.jsonl"
    part.write_bytes(part.read_bytes()[:-5])
    again = make_run(tmp_path)
    again.prepare()
    assert again.lines() == [{"batch": 1}]
    again.append({"batch": 2})
    assert again.lines() == [{"batch": 1}, {"batch": 2}]


@pytest.mark.parametrize(("before", "after"), [(b"", b""), (b"{}\n", b"{}\n"), (b"{", b""), (b"{}\n{", b"{}\n")])
def test_drop_torn_line(tmp_path, before, after):
    path = tmp_path / "part.jsonl"
    path.write_bytes(before)
    drop_torn_line(path)
    assert path.read_bytes() == after


def test_results_are_there_only_when_the_run_is_complete(tmp_path):
    run = make_run(tmp_path)
    run.prepare()
    assert run.results is None
    run.append({"batch": 1}, [trace("a"), trace("b")])
    finish(run)
    assert run.results["eval_f1"] == 1.0
    run.close()
    again = make_run(tmp_path)
    again.prepare(overwrite=True)
    assert again.results is None and again.lines() == []


def test_only_results_are_written_beside_the_runs(tmp_path):
    (tmp_path / "config.json").write_text("theirs")
    run = make_run(tmp_path)
    run.prepare()
    run.append({"batch": 1}, [trace("a"), trace("b")])
    finish(run)
    run.close()
    make_run(tmp_path).prepare(overwrite=True)
    assert (tmp_path / "config.json").read_text() == "theirs"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "runs", "all_results.json", "eval_results.json"}


def test_runs_of_other_settings_share_an_output_dir(tmp_path):
    runs = [make_run(tmp_path), make_run(tmp_path, SETTINGS | {"split": "test"})]
    for run in runs:
        run.prepare()
    for run in runs:
        run.append({"of": run.folder.name}, [trace("a"), trace("b")])
    for run in runs:
        assert run.lines() == [{"of": run.folder.name}]
        finish(run)
    assert all(run.results for run in runs)


def test_two_processes_at_the_same_run_at_once_are_refused(tmp_path):
    run = make_run(tmp_path)
    run.prepare()
    with pytest.raises(ValueError, match="Another process is writing"):
        make_run(tmp_path).prepare()
    run.close()
    make_run(tmp_path).prepare()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(ValueError, match="cannot be written"):
        make_run(tmp_path).prepare()


def test_results_of_other_stages_stay_and_stale_ones_go(tmp_path):
    merge_results(tmp_path, "train", {"train_loss": 1.0, "epoch": 2.0})
    merge_results(tmp_path, "eval", {"eval_f1": 1.0, "eval_block_avg": 3.0, "time_decoder_forward": 1.0})
    merge_results(tmp_path, "eval", {"eval_f1": 2.0, "time_decoder_forward": 2.0})
    merge_results(tmp_path, "predict", {"predict_f1": 3.0, "time_decoder_forward": 3.0})
    assert json.loads((tmp_path / "all_results.json").read_text()) == {
        "train_loss": 1.0,
        "epoch": 2.0,
        "eval_f1": 2.0,
        "time_decoder_forward": 2.0,
        "predict_f1": 3.0,
    }


@pytest.mark.parametrize("text", ["[1]", "{", "null"])
def test_what_is_no_file_of_results_is_replaced(tmp_path, text):
    (tmp_path / "all_results.json").write_text(text)
    merge_results(tmp_path, "eval", {"eval_f1": 1.0})
    assert json.loads((tmp_path / "all_results.json").read_text()) == {"eval_f1": 1.0}


def test_a_fingerprint_follows_the_content_and_not_the_time(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(1000))
    before = fingerprint_model(tmp_path)
    weights.write_bytes(bytes(1000))
    (tmp_path / "all_results.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"x")
    assert fingerprint_model(tmp_path) == before
    weights.write_bytes(bytes(999) + b"x")
    assert fingerprint_model(tmp_path) != before


def test_a_large_file_of_weights_is_read_in_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("util.runs.WHOLE_UP_TO", 100)
    monkeypatch.setattr("util.runs.SAMPLED_EVERY", 1000)
    monkeypatch.setattr("util.runs.SAMPLED", 10)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(5000))
    before = fingerprint_model(tmp_path)
    weights.write_bytes(bytes(3000) + bytes(range(100)) + bytes(1900))
    assert fingerprint_model(tmp_path) != before
