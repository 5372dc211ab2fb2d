"""Policies in turn: they say what an evaluation says, what is there is not decoded again, adaptive thresholds go on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from decoding.policy import Policy
from jobs import in_turn
from jobs.experiments import named
from jobs.in_turn import Prompts, Turns
from jobs.job import Job
from training.evaluation import decode_batch
from util import ModelArguments, QuestionAnsweringArguments, parse_arguments
from util.files import locked, read_jsonl

FREE = "--use_shallow_deep True --shallow_exit_layer 2 --shallow2deep_conf_threshold 0.1"
TEXTS = [
    "--static_exit_layer 2",
    "--use_early_exit True --exit_conf_threshold 0.1",
    f"{FREE} --use_adapt_threshold True",
]


@pytest.fixture
def job(tiny_t5_dir, squad_file, tmp_path):
    flags = ["--model_name_or_path", tiny_t5_dir, "--validation_file", squad_file, "--output_dir", tmp_path / "job"]
    flags += ["--do_eval", "--max_seq_length", "64", "--doc_stride", "16", "--max_answer_length", "6"]
    arguments = parse_arguments(QuestionAnsweringArguments, list(map(str, [*flags, "--max_eval_samples", "5"])))
    return Job("question_answering", *arguments)


def without_clock(pairs):
    """Of pairs what does not depend on the machine."""
    return [(each.decoded, each.tokens, each.threshold) for pair in pairs for each in pair]


def test_answers_are_those_of_a_batch_of_one_and_come_with_full_depths(job, tmp_path):
    prompts = Prompts.of_job(job)
    policies = named(TEXTS[:2], 4, 6)
    found = Turns(prompts, tmp_path / "answers.jsonl").decode(policies)
    full, static, softmax = found
    assert full == "full depth" and len(prompts.features) > 5 and prompts.windowed
    for name, pairs in found.items():
        assert len(pairs) == len(prompts.features)
        for feature, pair in zip(prompts.features, pairs, strict=True):
            options = replace(prompts.options, policy=policies[name])
            (decoded,), details, _ = decode_batch(prompts.model, prompts.tokenizer, [feature], options, True)
            assert pair.own.decoded == decoded and pair.own.tokens == details["traces"][0]["tokens"]
            assert pair.own.first_token > 0 and pair.own.seconds > 0
    for name in (static, softmax):
        assert [pair.full for pair in found[name]] == [pair.own for pair in found[full]], "of the same turn"


def test_data_are_called_by_their_file_or_by_its_folder(job, squad_file, tiny_t5_dir, tmp_path):
    assert Prompts.of_job(job).name == (Path(squad_file).stem, Path(tiny_t5_dir).name)
    job.data_args.validation_file = str(tmp_path / "dialogsum" / "validation.jsonl")
    assert Prompts.of_job(job).name[0] == "dialogsum"


def test_what_is_there_is_not_decoded_again_and_a_torn_line_is(job, tmp_path, monkeypatch):
    prompts, path, policies = Prompts.of_job(job), tmp_path / "answers.jsonl", named(TEXTS, 4, 6)
    whole = Turns(prompts, path).decode(policies)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    decoded = []
    monkeypatch.setattr(in_turn, "decode_batch", lambda *a: decoded.append(a[2][0].example_id) or decode_batch(*a))
    again = Turns(prompts, path).decode(policies)
    assert len(decoded) == (len(lines) - 3 + 1) * len(policies), "once more to warm up"
    assert {name: without_clock(pairs) for name, pairs in again.items()} == {
        name: without_clock(pairs) for name, pairs in whole.items()
    }, "of the adaptive threshold too"
    decoded.clear()
    Turns(prompts, path).decode(policies)
    assert not decoded


def test_a_later_policy_takes_its_turns_with_full_depth(job, tmp_path):
    prompts, path = Prompts.of_job(job), tmp_path / "answers.jsonl"
    Turns(prompts, path).decode(named(TEXTS[:1], 4, 6))
    found = Turns(prompts, path).decode(named(TEXTS[:2], 4, 6))
    lines = [line["answers"] for line in read_jsonl(path)]
    assert [len(line) for line in lines] == [2] * (2 * len(prompts.features))
    *_, softmax = found.values()
    assert softmax[0].full.seconds != next(iter(found.values()))[0].own.seconds, "it was timed again"


def test_answers_of_other_prompts_do_not_count(job, tmp_path):
    prompts, path = Prompts.of_job(job), tmp_path / "answers.jsonl"
    Turns(prompts, path).decode({"full": Policy()})
    held = [json.loads(line) | {"asked": "others"} for line in path.read_text().splitlines()]
    held.append({"of": "another form"})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in held))
    Turns(prompts, path).decode({"full": Policy()})
    assert len(read_jsonl(path)) == 2 * len(held) - 1


def test_more_examples_are_added_to_those_that_are_there(job, tmp_path):
    prompts, path = Prompts.of_job(job), tmp_path / "answers.jsonl"
    fewer = replace(prompts, features=prompts.features[:3])
    Turns(fewer, path).decode(named(TEXTS, 4, 6))
    found = Turns(prompts, path).decode(named(TEXTS, 4, 6))
    assert len(read_jsonl(path)) == len(prompts.features)
    whole = Turns(prompts, tmp_path / "whole.jsonl").decode(named(TEXTS, 4, 6))
    assert [without_clock(each) for each in found.values()] == [without_clock(each) for each in whole.values()]
    behind = replace(prompts, features=prompts.features[3:])
    found = Turns(behind, path).decode(named(TEXTS, 4, 6))
    alone = Turns(behind, tmp_path / "alone.jsonl").decode(named(TEXTS, 4, 6))
    assert [without_clock(each) for each in found.values()] == [without_clock(each) for each in alone.values()]
    assert len(read_jsonl(path)) == 2 * len(prompts.features) - 3, "an adaptive threshold has seen other prompts"


def test_what_is_asked_is_the_same_among_more_examples_and_another_by_other_flags(job, tmp_path):
    prompts = Prompts.of_job(job)
    job.splits["eval"] = replace(job.splits["eval"], examples=job.splits["eval"].examples.select(range(2)))
    among_fewer = Prompts.of_job(job)
    assert among_fewer.content == prompts.content
    job.trainer.decoding = job.trainer.decoding.with_generation({"max_new_tokens": 3})
    assert Prompts.of_job(job).content != prompts.content
    first, second = prompts.features[:2]
    assert prompts.asked(first) != prompts.asked(second) and among_fewer.asked(first) == prompts.asked(first)


def test_prompts_of_a_file(tiny_gpt2_dir, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("the cat\nthe dog sat\n")
    prompts = Prompts.of_file(ModelArguments(model_name_or_path=str(tiny_gpt2_dir)), str(file), 5, "float32", "cpu")
    (pairs,) = Turns(prompts, tmp_path / "answers.jsonl").decode({"full": Policy()}).values()
    assert [len(pair.own.tokens) <= 5 for pair in pairs] == [True, True] and prompts.name[0] == "prompts.txt"


def test_beams_leave_no_exit(job):
    job.trainer.decoding = job.trainer.decoding.with_generation({"num_beams": 2})
    with pytest.raises(ValueError, match="2 beams are asked for, which leave no exit: give --num_beams 1"):
        Prompts.of_job(job)


def test_another_process_at_the_file_is_told(job, tmp_path):
    path = tmp_path / "answers.jsonl"
    with locked(tmp_path / ".lock"), pytest.raises(ValueError, match="Another process is writing"):
        Turns(Prompts.of_job(job), path).decode({"full": Policy()})
    Turns(Prompts.of_job(job), path).decode({"full": Policy()})


def test_the_first_token_stands_before_the_last_and_policies_begin_in_turn(job, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(in_turn, "decode_batch", lambda *a: order.append(a[3].policy.exits) or decode_batch(*a))
    policies = named(TEXTS[:1], 4, 6)
    for pairs in Turns(Prompts.of_job(job), tmp_path / "answers.jsonl").decode(policies).values():
        assert all(0 < each.first_token <= each.seconds for pair in pairs for each in pair)
    assert order[:6] == [False, True, False, True, True, False], "behind the first two, which warm up"


def test_a_policy_that_has_two_names_is_decoded_once(job, tmp_path):
    policies = {"full": Policy(), "one": Policy(static_exit=2), "other": Policy(static_exit=2)}
    found = Turns(Prompts.of_job(job), tmp_path / "answers.jsonl").decode(policies)
    assert found["one"] == found["other"] and len(read_jsonl(tmp_path / "answers.jsonl")[0]["answers"]) == 2


def test_a_checkpoint_that_asks_for_drawn_tokens_is_decoded_greedily(job):
    job.trainer.decoding = job.trainer.decoding.with_generation({"do_sample": True, "temperature": 3.0})
    assert not Prompts.of_job(job).options.generation.do_sample


def test_a_flag_of_a_policy_that_changes_nothing_is_told():
    with pytest.raises(ValueError, match="--lossless"):
        named(["--lossless True"], 4, 6)
