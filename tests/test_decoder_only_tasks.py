"""The scripts of the tasks with a model without an encoder: prompts, shots, stop strings, training, runs."""

import json
import shutil
import sys

import pytest
import torch

from conftest import PLACES, dialogues, questions, write_jsonl
from losses.layers import IGNORED_LABEL
from support import alike, plain_generate, shell
from test_run_scripts import call, counted, results, runs, same_files
from util.files import read_json, read_jsonl

EXITS = ["--use_early_exit", "True", "--exit_conf_threshold", "0.2"]
SHORT = "{question} {context}\nA: {answer}"
TEMPLATES = {
    "run_question_answering": SHORT,
    "run_summarization": "Say it.\n---\n{text}\nSo: {answer}",
    "run_translation": "{source_lang}: {source}\n{target_lang}: {answer}",
}


@pytest.fixture
def job(tiny_gpt2_dir, tmp_path):
    """Function (script, *flags, out, file) -> (trainer, metrics) of a script with a template on its kind of file."""
    pairs = [{"id": f"p{name}", "de": f"Der Turm von {name}", "en": f"The tower of {name}"} for name in PLACES]
    files = {
        "run_question_answering": write_jsonl(tmp_path / "questions.jsonl", questions(9)),
        "run_summarization": write_jsonl(tmp_path / "dialogues.jsonl", dialogues(7)),
        "run_translation": write_jsonl(tmp_path / "pairs.jsonl", pairs),
    }
    own = {
        "run_question_answering": ["--max_answer_length", "6"],
        "run_summarization": ["--max_target_length", "6"],
        "run_translation": ["--max_target_length", "6", "--source_lang", "de", "--target_lang", "en"],
    }
    for script, text in TEMPLATES.items():
        (tmp_path / script).write_text(text)

    def flags_of(script, *flags, out="out", stages=("--do_eval",)):
        flags = ["--template", tmp_path / script, *own[script], *flags, *stages, "--output_dir", tmp_path / out]
        for split in ("train", "validation", "test"):
            flags += [f"--{split}_file", files[script]]
        return ["--model_name_or_path", tiny_gpt2_dir, *flags]

    def run(script, *flags, **how):
        return call(script, *flags_of(script, *flags, **how))

    run.flags, run.files = flags_of, files
    return run


@pytest.mark.parametrize("script", TEMPLATES)
def test_evaluates_and_predicts_with_shots(job, tmp_path, script):
    """A run is what it is of a T5: its files, its keys; and every prompt shows two others, however many rows the
    files share."""
    trainer, metrics = job(script, "--n_shot", "2", *EXITS, stages=("--do_eval", "--do_predict"))
    data, tokenizer = trainer.eval_dataset, trainer.processing_class
    assert metrics["eval_samples"] == metrics["predict_samples"] == len(data) and metrics["eval_block_avg"] <= 4
    prompts = metrics["eval_policy"]["prompts"]
    assert (prompts["n_shot"], prompts["chat_template"]) == (2, False)
    cue = {"run_question_answering": "A:", "run_summarization": "So:", "run_translation": "English:"}[script]
    for example, feature in zip(data.examples, data.features, strict=True):
        text = tokenizer.decode(feature.input_ids)
        assert len(feature.input_ids) <= 128 - 6 and text.endswith(f"\n{cue}")
        blocks = text.split("\n\n")[-3:]
        assert [block.count(f"\n{cue}") for block in blocks] == [1, 1, 1], text
        own = f"{example['question']} {example['source']}".strip()
        assert blocks[-1].endswith(f"{own[-12:]}\n{cue}") and not any(own in block for block in blocks[:-1])
    for run in runs(tmp_path / "out"):
        names = {path.name for path in run.iterdir()}
        assert {"predictions.jsonl", "traces.jsonl.gz", "all_results.json", "settings.json"} <= names
        rows = read_jsonl(run / "predictions.jsonl")
        assert [row["id"] for row in rows] == data.examples["id"][:]
        assert all(0 < row["tokens"] <= 6 and row["references"] for row in rows)


@pytest.mark.parametrize("shots", ["0", "2"])
def test_any_batch_and_a_run_that_was_stopped_give_the_same(job, tmp_path, monkeypatch, decided, shots):
    flags = ("run_summarization", "--n_shot", shots, *EXITS)
    _, alone = job(*flags, "--per_device_eval_batch_size", "1", out="alone")
    decode, done = sys.modules["training.evaluation"].decode_batch, []

    def breaking(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(decode(*args))
        return done[-1]

    monkeypatch.setattr("training.evaluation.decode_batch", breaking)
    with pytest.raises(KeyboardInterrupt):
        job(*flags, "--per_device_eval_batch_size", "2")
    monkeypatch.setattr("training.evaluation.decode_batch", decode)
    _, continued = job(*flags, "--per_device_eval_batch_size", "2")
    assert continued["eval_starts"] == 2
    same_files(*runs(tmp_path / "alone"), *runs(tmp_path / "out"))
    assert alone["eval_rougeL"] == continued["eval_rougeL"]


@pytest.mark.slow
def test_two_processes_agree_with_one(job, tmp_path, decided):
    flags = ("run_question_answering", "--n_shot", "1", *EXITS)
    _, metrics = job(*flags, out="one")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "src/run_question_answering.py"]
    process = shell(sys.executable, *launcher, *map(str, job.flags(*flags, out="two")))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert alike(counted(results(tmp_path / "two")), counted(metrics))
    same_files(*runs(tmp_path / "one"), *runs(tmp_path / "two"))


def test_full_depth_says_what_the_library_says_up_to_a_stop_string(job, tmp_path, decided):
    trainer, _ = job("run_translation", out="whole")
    whole = read_jsonl(runs(tmp_path / "whole")[0] / "predictions.jsonl")
    tokenizer = trainer.processing_class
    first = trainer.eval_dataset.features[0].input_ids
    said = plain_generate(trainer.model, input_ids=torch.tensor([first]), max_new_tokens=6)[0][len(first) :]
    assert whole[0]["prediction"] == tokenizer.decode(said, skip_special_tokens=True).split("\n")[0].strip()
    text = next(row["prediction"] for row in whole if len(row["prediction"]) > 3)
    stop = text[2]
    _, metrics = job("run_translation", "--stop", stop, out="stopped")
    assert metrics["eval_policy"]["prompts"]["stop"] == [stop]
    for row, cut in zip(whole, read_jsonl(runs(tmp_path / "stopped")[0] / "predictions.jsonl"), strict=True):
        if "\n" not in row["prediction"]:
            assert cut["prediction"] == row["prediction"].split(stop)[0].strip() and cut["tokens"] <= row["tokens"]
    assert read_json(runs(tmp_path / "whole")[0] / "settings.json")["prompts"]["stop"] == ["\n"]


def test_other_prompts_are_other_runs_and_a_copied_template_is_not(job, tmp_path):
    flags = ("run_translation", "--max_eval_samples", "2")
    for more in ([], ["--n_shot", "1"], ["--n_shot", "1", "--seed", "7"], ["--stop", "a", "\\n"]):
        before = len(runs(tmp_path / "out")) if more else 0
        job(*flags, *more)
        assert len(runs(tmp_path / "out")) == before + 1, more
    shutil.copy(tmp_path / "run_translation", tmp_path / "copy")
    job(*flags, "--template", tmp_path / "copy")
    assert len(runs(tmp_path / "out")) == 4


@pytest.mark.parametrize("loss", [None, "weighted_ce", "layerskip", "shallowdeep_kd_dyna", "one_exit"])
def test_training_learns_the_answer_behind_its_prompt(job, tmp_path, loss):
    flags = ["--max_steps", "8", "--eval_steps", "8", "--save_steps", "8", "--report_to", "none"]
    flags += ["--optim", "adamw_torch"]
    flags += ["--learning_rate", "1e-2", "--logging_steps", "1", "--n_shot", "1", "--eval_exit_layers", "all"]
    flags += [] if loss is None else ["--intermediate_loss_fn", loss, "--shallow_exit_layer", "2"]
    trainer, metrics = job("run_translation", *flags, stages=("--do_train", "--do_eval"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-2:]) < sum(losses[:2]) and trainer.args.metric_for_best_model == "bleu"
    assert metrics["eval_loss_layer_4"] > 0 and "eval_bleu" in metrics
    tokenizer = trainer.processing_class
    for row, example in zip(trainer.train_dataset, trainer.eval_dataset.examples, strict=True):
        learned = [label for label in row["labels"] if label != IGNORED_LABEL]
        assert tokenizer.decode(learned) == f" {example['target']}</s>"
        assert row["labels"][-len(learned) :] == learned == row["input_ids"][-len(learned) :]
        assert row["labels"][: -len(learned)] == [IGNORED_LABEL] * (len(row["input_ids"]) - len(learned))
    held = read_json(tmp_path / "out" / "training_settings.json")
    assert held["prompts"]["n_shot"] == 1
    with pytest.raises(ValueError, match=r"are of a training with other settings .*prompts was"):
        job("run_translation", *flags, "--n_shot", "0", stages=("--do_train",))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--apply_chat_template"], "--apply_chat_template: the tokenizer of .* has no chat template"),
        (["--n_shot", "30"], "--n_shot 30 needs as many different examples with an answer, and the train split has 6"),
        (["--max_prompt_length", "3"], "tokens without its text, and there is room for 3"),
        (["--max_target_length", "128"], "--max_target_length 128 leaves no room for a prompt in 128 tokens"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor is not there for models without an encoder"),
    ],
)
def test_what_cannot_be_done_is_refused(job, tmp_path, flags, told):
    with pytest.raises(ValueError, match=told):
        job("run_translation", *flags)
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--n_shot", "2"], "--n_shot 2 shows examples of the train split: give --train_file or --dataset_name."),
        (["--n_shot", "-1"], "--n_shot -1: "),
        (["--template", "absent.txt"], "--template absent.txt: there is no such file."),
        (["--stop", ""], "--stop is empty: every answer would end at once."),
    ],
)
def test_flags_that_cannot_be_are_a_sentence_and_code_2(tmp_path, capsys, flags, told):
    file = write_jsonl(tmp_path / "dialogues.jsonl", dialogues(2))
    with pytest.raises(SystemExit) as ended:
        call("run_summarization", "--validation_file", file, "--do_eval", "--output_dir", tmp_path / "out", *flags)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_template_without_what_the_task_needs(job, tmp_path):
    (tmp_path / "run_question_answering").write_text("{context}\nA: {answer}")
    with pytest.raises(ValueError, match=r"--template .* lacks \{question\}"):
        job("run_question_answering")


def test_a_source_prefix_has_no_effect_and_it_is_said(job, caplog):
    job("run_summarization", "--source_prefix", "summarize: ", "--max_eval_samples", "1")
    assert "--source_prefix has no effect" in caplog.text


def test_questions_that_have_no_answer_are_shown_learned_and_scored(job, tmp_path, caplog):
    records = [record | {"answers": {"text": [], "answer_start": []}} for record in questions(9)]
    file = write_jsonl(tmp_path / "unanswerable.jsonl", records)
    flags = job.flags("run_question_answering", "--version_2_with_negative", "True", "--n_shot", "2")
    flags += ["--validation_file", file, "--train_file", file]
    call("run_question_answering", *flags, "--max_eval_samples", "1")
    assert "which a question without an answer is answered with, has" in caplog.text and "is 6: raise it" in caplog.text
    flags += ["--max_answer_length", "30"]
    trainer, metrics = call("run_question_answering", *flags)
    asked = trainer.processing_class.decode(trainer.eval_dataset.features[0].input_ids)
    assert asked.count("A: unanswerable\n") == 2 and metrics["eval_f1"] == 0
    assert metrics["eval_policy"]["prompts"]["silence"] == "unanswerable"
    flags += [
        "--do_train",
        "--max_steps",
        "60",
        "--learning_rate",
        "3e-2",
        "--n_shot",
        "0",
        "--max_prompt_length",
        "60",
    ]
    trainer, metrics = call("run_question_answering", *flags, "--optim", "adamw_torch", "--output_dir", tmp_path / "on")
    learned = [label for label in trainer.train_dataset[0]["labels"] if label != IGNORED_LABEL]
    assert trainer.processing_class.decode(learned) == " unanswerable</s>"
    assert metrics["eval_f1"] == metrics["eval_NoAns_f1"] == 100
    (run,) = runs(tmp_path / "on")
    assert {row["prediction"] for row in read_jsonl(run / "predictions.jsonl")} == {""}


def test_questions_without_answers_are_predicted(job, tmp_path):
    unlabelled = [{name: record[name] for name in ("context", "question")} for record in questions(3)]
    file = write_jsonl(tmp_path / "unlabelled.jsonl", unlabelled)
    flags = job.flags("run_question_answering", stages=("--do_predict",))
    _, metrics = call("run_question_answering", *flags, "--test_file", file)
    assert metrics["predict_samples"] == 3 and "predict_f1" not in metrics
    (run,) = runs(tmp_path / "out")
    assert all("prediction" in json.loads(line) for line in (run / "predictions.jsonl").open())
