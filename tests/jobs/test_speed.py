"""Policies timed in turn: what is returned, not how fast it was."""

import run_question_answering
from decoding.policy import Policy
from jobs.speed import relative, seconds_per_token
from util import AdditionalArguments, QuestionAnsweringArguments, parse_arguments


def test_every_policy_is_timed_on_the_same_inputs(tiny_t5_dir, squad_file, tmp_path):
    flags = [
        "--model_name_or_path",
        tiny_t5_dir,
        "--validation_file",
        squad_file,
        "--output_dir",
        tmp_path,
        "--do_eval",
    ]
    flags += [
        "--max_seq_length",
        "96",
        "--doc_stride",
        "16",
        "--max_answer_length",
        "6",
        "--use_cpu",
        "True",
        "--max_eval_samples",
        "6",
    ]
    arguments = parse_arguments(QuestionAnsweringArguments, list(map(str, flags)))
    trainer, _ = run_question_answering.main(*arguments)
    policies = [AdditionalArguments(), AdditionalArguments(static_exit_layer=2)]
    found = seconds_per_token(trainer, policies, examples=3, repetitions=2, max_answer_length=6)
    assert [row["policy"] for row in found] == [Policy().describe(), Policy(static_exit=2).describe()]
    for row in found:
        assert len(row["seconds_per_token"]) == 2 and min(row["seconds_per_token"]) > 0 and row["tokens"] > 0


def test_ratios_are_taken_within_a_repetition():
    rows = [
        {"policy": {"method": "full"}, "seconds_per_token": [2.0, 4.0]},
        {"policy": {"method": "static", "static_exit": 1}, "seconds_per_token": [1.0, 3.0]},
    ]
    assert relative(rows, {"method": "full"}) == [[1.0, 1.0], [0.5, 0.75]]
