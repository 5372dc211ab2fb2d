"""Policies timed in turn: what is returned, not how fast it was."""

from decoding.policy import Policy
from jobs import speed
from jobs.job import Job
from jobs.speed import Speeds, seconds_per_token
from training.evaluation import decode_batch
from util import QuestionAnsweringArguments, parse_arguments
from util.files import read_json

POLICIES = Policy(), Policy(static_exit=2), Policy(confidence="softmax", threshold=0.5)


def arguments_of(model, data, output_dir):
    flags = ["--model_name_or_path", model, "--validation_file", data, "--output_dir", output_dir, "--do_eval"]
    flags += ["--max_seq_length", "96", "--doc_stride", "16", "--max_answer_length", "6", "--use_cpu", "True"]
    return parse_arguments(QuestionAnsweringArguments, list(map(str, [*flags, "--max_eval_samples", "6"])))


def test_every_policy_is_timed_on_the_same_inputs(tiny_t5_dir, squad_file, tmp_path):
    job = Job("question_answering", *arguments_of(tiny_t5_dir, squad_file, tmp_path))
    trainer = job.trainer
    policies = [Policy(), Policy(static_exit=2)]
    found = seconds_per_token(trainer, policies, examples=3, repetitions=2)
    assert [row["policy"] for row in found] == [Policy().describe(), Policy(static_exit=2).describe()]
    for row in found:
        assert len(row["seconds_per_token"]) == 2 and min(row["seconds_per_token"]) > 0 and row["tokens"] > 0
        assert len(row["relative"]) == 2
    full, static = found
    assert full["relative"] == [1.0, 1.0]
    ratios = [a / b for a, b in zip(static["seconds_per_token"], full["seconds_per_token"], strict=True)]
    assert static["relative"] == ratios, "within a repetition"
    found = seconds_per_token(trainer, policies[1:], examples=1, repetitions=1)
    assert [row["policy"]["method"] for row in found] == ["full", "static"], "the full model is timed in any case"


def test_speeds_are_kept_and_what_is_there_is_not_timed_again(tiny_t5_dir, squad_file, tmp_path, monkeypatch):
    job = Job("question_answering", *arguments_of(tiny_t5_dir, squad_file, tmp_path))
    full, static, early = POLICIES
    path = tmp_path / "speed.json"
    (first,) = Speeds(job, path, 1, 1).of([static])
    timed = []
    monkeypatch.setattr(speed, "decode_batch", lambda *a, **k: timed.append(1) or decode_batch(*a, **k))
    rows = Speeds(job, path, 1, 1).of([static, full])
    assert rows[0] == first and rows[1]["policy"] == {"method": "full"} and timed == []
    Speeds(job, path, 1, 1).of([full, static, early])
    assert len(timed) == 2 * 2, "the new one and the full model, warm-up included"
    assert [row["policy"]["method"] for row in read_json(path)["policies"]] == ["full", "static", "early_exit"]
    Speeds(job, path, 1, 2).of([static])
    assert len(read_json(path)["policies"]) == 2, "other sizes start over"
