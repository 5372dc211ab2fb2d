"""The benchmark on a task: both embedded families, what is written, a difference of verified drafts, and bad input."""

import csv

import pytest

from analysis import task_benchmark
from decoding import verification
from decoding.verification import Verdict, Verification
from scripts import benchmark_task
from util.arguments import EMBEDDED_DECODER, EMBEDDED_MODEL
from util.files import read_json

TASKS = {
    "summarization": ["--model_name_or_path", EMBEDDED_MODEL, "--dataset_name", "invented_dialogues"],
    "question_answering": ["--model_name_or_path", EMBEDDED_MODEL, "--dataset_name", "invented_facts"],
    "language_modeling": ["--model_name_or_path", EMBEDDED_DECODER, "--dataset_name", "invented_stories"],
}
UNTRAINED = EMBEDDED_MODEL.with_name("t5_exits_untrained")
LOSSLESS = "--use_shallow_deep True --shallow_exit_layer 3 --lossless True --shallow2deep_conf_threshold 0.2"


@pytest.fixture
def run(tmp_path):
    """The benchmark of a task on a few examples; the rows of its CSV file by policy."""

    def call(task: str, *flags: str) -> dict[str, dict[str, str]]:
        shared = ["--task", task, *TASKS[task], "--max_eval_samples", 3, "--out", tmp_path / "out", "--use_cpu", "True"]
        benchmark_task.main([str(word) for word in (*shared, *flags)])
        with (tmp_path / "out" / "table.csv").open(newline="") as file:
            return {row["policy"]: row for row in csv.DictReader(file)}

    return call


@pytest.mark.slow
@pytest.mark.parametrize("task", ["summarization", "language_modeling"])
def test_every_policy_is_scored_and_timed_and_drafts_say_what_full_depth_says(task, run, tmp_path, capsys):
    length = {"summarization": "--max_target_length", "language_modeling": "--max_continuation_length"}[task]
    flags = [length, "12", "--policy", "--static_exit_layer 1", "--policy", LOSSLESS]
    rows = run(task, *flags)
    full, static, lossless = rows.values()
    assert lossless["other"] == full["other"] == "0" and int(static["other"]) > 0
    assert full["speed"] == "1.0" and full["change"] == "" and lossless["change"] == "0.0"
    assert lossless["score"] == full["score"] and float(static["mean_exit"]) < float(full["mean_exit"]) == 8
    for row in rows.values():
        assert float(row["speed_low"]) <= float(row["speed"]) <= float(row["speed_high"])
        assert float(row["first_token"]) > 0 and float(row["wait"]) > 0 and row["prompts"] == row["examples"] == "3"
    table = read_json(tmp_path / "out" / "table.json")
    assert [row[0] for row in table["rows"]] == list(rows) and len(table["head"]) == len(table["rows"][0])
    assert (tmp_path / "out" / "benchmark_task.png").stat().st_size > 10_000
    assert "other answers" in capsys.readouterr().out
    before = (tmp_path / "out" / "answers.jsonl").read_bytes()
    assert run(task, *flags) == rows and (tmp_path / "out" / "answers.jsonl").read_bytes() == before


def test_answers_of_one_token(run, tmp_path, recwarn):
    rows = run("summarization", "--max_target_length", "2", "--policy", "--static_exit_layer 1")
    assert [row["tokens"] for row in rows.values()] == ["1.0", "1.0"] and {
        row["later_speed"] for row in rows.values()
    } == {""}
    assert (tmp_path / "out" / "benchmark_task.png").exists() and not [w for w in recwarn if "scipy" in str(w.category)]


def test_without_policies_the_usual_ones_are_taken(run):
    names = list(run("summarization", "--max_target_length", "4", "--layer", "2"))
    assert names == [
        "full depth",
        "static, layer 2",
        "softmax > 0.9, from layer 2",
        "FREE > 0.9, from layer 2",
        "lossless > 0.5, from layer 2",
    ]


def test_drafts_that_say_something_else_are_shown_and_end_it_with_1(run, monkeypatch, capsys):
    def gullible(draft, threshold):
        return Verdict(len(draft.tokens), None)

    monkeypatch.setitem(verification.VERIFICATIONS, "exact", Verification(gullible, exact=True))
    monkeypatch.setattr(benchmark_task, "VERIFICATIONS", verification.VERIFICATIONS)
    with pytest.raises(SystemExit) as stop:
        run("summarization", "--model_name_or_path", str(UNTRAINED), "--max_target_length", "8", "--policy", LOSSLESS)
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "says something else than full depth, first in prompt" in said and "at token" in said


def test_an_example_of_several_windows_counts_as_so_many_prompts(run, tmp_path):
    flags = ["--max_seq_length", "40", "--doc_stride", "8", "--max_answer_length", "4"]
    rows = run("question_answering", *flags, "--policy", "--static_exit_layer 1")
    static = rows["static, layer 1"]
    assert static["examples"] == "3" and int(static["prompts"]) > 3 >= 1
    shown = read_json(tmp_path / "out" / "benchmark_task.json")["values"]["rows"][1]
    assert shown["other"] == 100 * int(static["other"]) / int(static["prompts"])


def test_the_first_difference_may_be_an_end(monkeypatch):
    class Given:
        def __init__(self, tokens):
            self.tokens, self.decoded = tokens, self
            self.id, self.text = "a", str(tokens)

    pairs = [task_benchmark.Pair(Given([1, 2]), Given([1, 2])), task_benchmark.Pair(Given([1]), Given([1, 2]))]
    assert "at token 2" in task_benchmark.first_difference(pairs, "drafts")
    assert task_benchmark.first_difference(pairs[:1], "drafts") is None


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--layer", "8"], "valid are 1 to 7"),
        (["--layer", "0"], "valid are 1"),
        (["--layer", "2", "--policy", LOSSLESS], "--layer 2 is of the policies that are timed where no --policy is"),
        (["--use_early_exit", "True"], "Flags of a policy are given together"),
        (["--do_train"], "--do_train: the validation split is decoded"),
        (["--predict_with_generate", "False"], "decodes nothing that could be timed"),
        (["--policy", "--no_such_flag 2"], "--no_such_flag"),
        (["--no_such_flag", "2"], "--no_such_flag"),
        (["--num_beams", "2"], "give --num_beams 1"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_nothing_written(run, tmp_path, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stop:
        run("summarization", *flags)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err and not (tmp_path / "out").exists()
