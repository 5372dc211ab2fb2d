"""Laws of a run's folder: settings name it, batches are recorded as one, parts are merged by id, nothing of others is
touched."""

import gzip
import json
import os
from contextlib import suppress

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


BATCHES = [{"batch": number, "text": "\u2028 é"} for number in range(4)]
DETAILS = [{"traces": [trace(f"{n}a"), trace(f"{n}b")], "jsds": [trace(f"{n}c")] * (n > 1)} for n in range(4)]


def record(run: Run, numbers) -> None:
    for number in numbers:
        run.append(BATCHES[number], **DETAILS[number])


def recorded(run: Run) -> tuple[list, list, list]:
    return run.lines(), *([line["id"] for line in run.details(kind)] for kind in ("traces", "jsds"))


EVERYTHING = (BATCHES, [f"{n}{x}" for n in range(4) for x in "ab"], ["2c", "3c"])


@pytest.mark.parametrize("kind", ["predictions", "traces", "jsds"])
def test_a_part_cut_at_any_byte_costs_the_batches_behind_and_no_other(tmp_path, kind):
    whole = make_run(tmp_path / "whole")
    whole.prepare()
    ends = []  # of the part, after each batch
    for number in range(4):
        record(whole, [number])
        part = whole.folder / f"{kind}.0.jsonl"
        ends.append(part.stat().st_size if part.is_file() else 0)
    parts = {path.name: path.read_bytes() for path in whole.folder.glob("*.0.jsonl")}
    for size in {*range(0, ends[-1], 41), *ends, *(end - 1 for end in ends if end)}:
        run = make_run(tmp_path / f"{size}")
        run.folder.mkdir(parents=True)
        for name, data in parts.items():
            (run.folder / name).write_bytes(data[:size] if name == part.name else data)
        run.prepare()
        left = sum(end <= size for end in ends)
        assert run.lines() == BATCHES[:left], size
        record(run, range(left, 4))
        assert recorded(run) == EVERYTHING
        run.close()


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda folder: (folder / "traces.0.jsonl").unlink(), 0),
        (lambda folder: (folder / "predictions.0.jsonl").unlink(), 0),
        (lambda folder: (folder / "jsds.0.jsonl").unlink(), 2),
        (lambda folder: replace(folder / "traces.0.jsonl", b'"1b"', b'"1x"'), 1),
        (lambda folder: replace(folder / "traces.0.jsonl", b'"2a"', b'"2a'), 2),
        (lambda folder: replace(folder / "predictions.0.jsonl", b'"batch": 1', b'"batch" 1'), 1),
        (lambda folder: replace(folder / "predictions.0.jsonl", b'"details"', b'"before"'), 0),
        (lambda folder: replace(folder / "predictions.0.jsonl", b'{"batch": 2', b"[1]\n{"), 2),
        (lambda folder: replace(folder / "predictions.0.jsonl", b'"batch": 3', b"\xff"), 3),
        (lambda folder: (folder / "traces.0.jsonl").open("ab").write(b'{"id": "torn') and None, 4),
    ],
)
def test_what_is_lost_or_spoilt_in_a_part_is_decoded_again_and_said(tmp_path, caplog, damage, left):
    run = make_run(tmp_path)
    run.prepare()
    record(run, range(4))
    damage(run.folder)
    run.close()
    run.prepare()
    assert run.lines() == BATCHES[:left]
    assert "is cut behind its last whole batch" in caplog.text and str(run.folder) in caplog.text
    record(run, range(left, 4))
    assert recorded(run) == EVERYTHING


def replace(path, old: bytes, new: bytes) -> None:
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


def test_parts_of_other_processes_are_brought_back_too(tmp_path):
    runs = [make_run(tmp_path, process=process) for process in (0, 11)]
    runs[0].prepare()
    for run in runs:
        record(run, range(2))
    (runs[0].folder / "traces.11.jsonl").unlink()
    runs[0].close()
    again = make_run(tmp_path)
    again.prepare()
    assert again.lines() == BATCHES[:2] and [each["id"] for each in again.details("traces")] == EVERYTHING[1][:4]


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


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", "\xff", '{"eval_f1": 1.0', '{"eval_f1": 1.0}'),
        '{"eval_f1": 1.0, "eval_policy": {"threshold": 0.8, "split": "validation"}}',
        '{"predict_f1": 1.0, "predict_policy": {"threshold": 0.9, "split": "validation"}}',
    ],
)
@pytest.mark.parametrize("with_parts", [True, False])
def test_what_is_no_results_of_this_run_is_not_taken_for_them(tmp_path, caplog, text, with_parts):
    run = make_run(tmp_path)
    run.prepare()
    run.append({"batch": 1}, [trace("a"), trace("b")])
    parts = {path: path.read_bytes() for path in run.folder.glob("*.0.jsonl")}
    finish(run)
    run.close()
    for path, data in parts.items() if with_parts else ():
        path.write_bytes(data)
    (run.folder / "all_results.json").write_text(text, encoding="latin1")
    again = make_run(tmp_path)
    again.prepare()
    assert again.results is None and "is not the results of this run" in caplog.text
    assert again.lines() == [{"batch": 1}] * with_parts
    assert not (again.folder / "all_results.json").exists()


@pytest.mark.parametrize("name", ["predictions.jsonl", "generated_predictions.txt"])
def test_results_without_their_predictions_are_none(tmp_path, name):
    run = make_run(tmp_path)
    run.prepare()
    run.append({"batch": 1}, [trace("a"), trace("b")])
    finish(run)
    (run.folder / name).unlink()
    assert run.results is None


def test_a_process_killed_at_any_step_of_the_end_leaves_nothing_once_the_run_ends(tmp_path, monkeypatch):
    """Every call that renames, removes or syncs is the last one once."""
    calls = dict.fromkeys(("replace", "unlink", "fsync"), 0)
    plain = {name: getattr(os, name) for name in calls}
    left = 0

    def make(name):
        def call(*args, **more):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return plain[name](*args, **more)

        return call

    for name in calls:
        monkeypatch.setattr(os, name, make(name))
    files = None
    for steps in range(200):
        out = tmp_path / str(steps)
        left = 10**6
        run = make_run(out)
        run.prepare()
        run.append({"batch": 1}, [trace("a"), trace("b")])
        left = steps
        with suppress(Killed):
            finish(run)
        done = left >= 0
        left = 10**6
        run.close()
        again = make_run(out)
        again.prepare()
        again.publish() if again.results else finish(again)
        found = {path.relative_to(out).as_posix() for path in out.rglob("*")}
        files = files or found
        assert found == files and again.results["eval_f1"] == 1.0
        again.close()
        if done:
            break
    assert steps > 20 and not any("." in name.rpartition("/")[2][:1] for name in files if ".lock" not in name)


class Killed(BaseException):
    """Stands in for SIGKILL: whatever `finally` does fails too, since no call works any more."""


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
