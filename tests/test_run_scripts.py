"""The run scripts from end to end, on a tiny random model and small files."""

import copy
import errno
import gzip
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_question_answering
import run_summarization
import run_translation
from conftest import dialogues, questions, write_jsonl
from jobs.job import run_script
from support import ROOT, alike, shell
from util import QuestionAnsweringArguments, SummarizationArguments, TranslationArguments, parse_arguments

EXITS = ["--use_early_exit", "True", "--exit_conf_type", "softmax", "--exit_conf_threshold", "0.05"]
SHORT = ["--max_seq_length", "96", "--doc_stride", "16", "--max_answer_length", "10"]
TIMES = ("runtime", "per_second", "time_", "starts")
SCRIPTS = {
    "run_question_answering": (run_question_answering, QuestionAnsweringArguments),
    "run_summarization": (run_summarization, SummarizationArguments),
    "run_translation": (run_translation, TranslationArguments),
}


def call(script: str, *argv):
    """main() of a script on a command line."""
    module, data_class = SCRIPTS[script]
    return module.main(*parse_arguments(data_class, ["--use_cpu", "True", *map(str, argv)]))


def qa_flags(model, file, out, *more) -> list[str]:
    flags = ["--model_name_or_path", model, "--validation_file", file, "--output_dir", out, "--do_eval"]
    return [*map(str, flags), *EXITS, *SHORT, *more]


def results(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())


def counted(metrics: dict) -> dict:
    """The metrics that are no times, and the environment without its threads and processes."""
    kept = {name: value for name, value in metrics.items() if not any(word in name for word in TIMES)}
    return kept | {"environment": {**kept.get("environment", {}), "threads": None, "processes": None}}


def runs(out: Path) -> list[Path]:
    return sorted((out / "runs").iterdir())


def same_files(one: Path, other: Path) -> None:
    """Tokens, texts, depths and counts are the same; confidences and scores are alike."""
    for name in ("predictions.jsonl", "traces.jsonl.gz", "generated_predictions.txt"):
        first, second = ((folder / name).read_bytes() for folder in (one, other))
        if name.endswith(".gz"):
            first, second = gzip.decompress(first), gzip.decompress(second)
        if name.endswith(".txt"):
            assert first == second, name
            continue
        for mine, theirs in zip(first.splitlines(), second.splitlines(), strict=True):
            assert alike(json.loads(mine), json.loads(theirs)), name


def test_question_answering_writes_every_file_of_a_run(tiny_t5_dir, squad_file, tmp_path, capsys):
    out = tmp_path / "out"
    _, metrics = call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, out))
    (run,) = runs(out)
    assert run.name.startswith("squad-validation-softmax-0.05-min1-")
    wanted = {"settings.json", "predictions.jsonl", "traces.jsonl.gz", "all_results.json", "eval_results.json"}
    assert wanted <= {path.name for path in run.iterdir()}
    assert results(out) == results(run) == json.loads((out / "eval_results.json").read_text())
    assert {"eval_f1", "eval_exact_match", "eval_block_avg", "eval_samples", "environment"} <= set(metrics)
    assert 1 < metrics["eval_block_avg"] < 4
    assert metrics["eval_policy"]["threshold"] == 0.05 and metrics["eval_policy"]["generation"]["max_length"] == 10
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in predictions] == [record["id"] for record in questions(24)]
    assert sum(row["f1"] for row in predictions) / 24 == pytest.approx(metrics["eval_f1"])
    assert predictions[5]["window"] >= 0 and len({row["window"] for row in predictions}) >= 1
    shown = capsys.readouterr().out
    assert "eval_f1" in shown and str(run) in shown


PRUNED_JSD = ["--exit_conf_type", "JSD_contrastive_confidence", "--type_vocab_reduct", "fixed", "--k", "20"]


def test_views_and_counts_of_a_pruned_contrastive_run(tiny_t5_dir, squad_file, tmp_path, capsys):
    out = tmp_path / "out"
    flags = qa_flags(tiny_t5_dir, squad_file, out, *PRUNED_JSD, "--exit_conf_threshold", "0.5", "--count_flops", "True")
    _, metrics = call("run_question_answering", *flags, "--plotting_logits", "True", "--render_jsds", "True")
    (run,) = runs(out)
    assert run.name.startswith("squad-validation-JSD_contrastive_confidence-0.5-fixed-min1-")
    inputs = {}
    for kind in ("traces", "layers", "jsds"):
        lines = [json.loads(line) for line in gzip.decompress((run / f"{kind}.jsonl.gz").read_bytes()).splitlines()]
        inputs[kind] = [(line["id"], line["window"], line["tokens"]) for line in lines]
    assert inputs["traces"] == inputs["layers"] == inputs["jsds"] and len(inputs["traces"]) >= 24
    layers = json.loads((run / "layers.json").read_text())
    assert [row["layer"] for row in layers] == [0, 1, 2, 3, 4]
    assert layers[0]["tokens"] == metrics["eval_generated_tokens"] and 0 <= layers[4]["accuracy"] <= 1
    counts = metrics["eval_exit_counts"]
    vocabulary = json.loads((tiny_t5_dir / "config.json").read_text())["vocab_size"]
    assert counts["kept_later"] == 20 * counts["later"] > 0 and counts["rows_first"] == vocabulary * counts["first"]
    assert 0 < counts["single"] <= counts["compared"] == counts["first"] + counts["later"]
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert sum(row["layers"] for row in predictions) / sum(row["tokens"] for row in predictions) == pytest.approx(
        metrics["eval_block_avg"]
    )
    total = sum(row["flops_confidence"] for row in predictions)
    assert total == pytest.approx(metrics["eval_flops_total_confidence"])
    shown = capsys.readouterr().out
    assert "eval_flops_confidence_per_sample" in shown and "eval_flops_kv_fill_per_sample" in shown


def test_runs_with_views_or_another_batch_of_a_pruned_policy_are_runs_of_their_own(tiny_t5_dir, squad_file, tmp_path):
    flags = qa_flags(tiny_t5_dir, squad_file, tmp_path / "out", *PRUNED_JSD, "--max_eval_samples", "4")
    for more in ([], ["--plotting_logits", "True"], ["--per_device_eval_batch_size", "2"]):
        call("run_question_answering", *flags, *more)
    assert len(runs(tmp_path / "out")) == 3


def test_per_example_scores_average_to_the_runs(tiny_t5_dir, dialogue_file, tmp_path):
    out = tmp_path / "out"
    flags = ["--model_name_or_path", tiny_t5_dir, "--validation_file", dialogue_file, "--output_dir", out, "--do_eval"]
    _, metrics = call("run_summarization", *flags, "--max_source_length", "96", "--max_target_length", "12")
    predictions = [json.loads(line) for line in next(iter(runs(out))).joinpath("predictions.jsonl").open()]
    mean = sum(row["rougeL"] for row in predictions) / len(predictions)
    assert mean == pytest.approx(metrics["eval_rougeL"], abs=1e-4)


def test_a_complete_run_is_not_computed_again(tiny_t5_dir, squad_file, tmp_path, capsys, monkeypatch):
    flags = qa_flags(tiny_t5_dir, squad_file, tmp_path / "out")
    _, first = call("run_question_answering", *flags)
    monkeypatch.setattr("training.evaluation.decode_batch", None)
    _, second = call("run_question_answering", *flags, "--per_device_eval_batch_size", "2")
    assert first == second
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(TypeError):
        call("run_question_answering", *flags, "--overwrite_output_dir")


@pytest.mark.parametrize("text", ["{}", "[]", '{"eval_f1": 99.0', '{"eval_f1": 99.0, "eval_policy": {}}'])
def test_what_is_no_results_of_a_run_is_not_published(tiny_t5_dir, squad_file, tmp_path, text):
    flags = qa_flags(tiny_t5_dir, squad_file, tmp_path / "out", "--max_eval_samples", "4")
    _, first = call("run_question_answering", *flags)
    (run,) = runs(tmp_path / "out")
    (run / "all_results.json").write_text(text)
    _, second = call("run_question_answering", *flags)
    assert counted(second) == counted(first)
    assert counted(results(tmp_path / "out")) == counted(results(run)) == counted(second)


def test_other_settings_are_another_run(tiny_t5_dir, squad_file, tmp_path):
    out = tmp_path / "out"
    other_config = tmp_path / "config"
    shutil.copytree(tiny_t5_dir, other_config)
    _edit_config(layer_norm_epsilon=0.1)(other_config)
    call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, out))
    for more in (
        ["--exit_min_layer", "2"],
        ["--max_eval_samples", "5"],
        ["--bf16_full_eval"],
        ["--num_beams", "1"],
        ["--n_best_size", "5"],
        ["--config_name", str(other_config)],
    ):
        before = len(runs(out))
        call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, out, *more))
        assert len(runs(out)) == before + (more[0] not in ("--num_beams", "--n_best_size")), more


@pytest.mark.parametrize("more", [[], ["--overwrite_output_dir"]])
def test_a_checkpoint_in_the_output_dir_is_left_as_it_is(tiny_t5_dir, squad_file, tmp_path, more):
    out = tmp_path / "model"
    shutil.copytree(tiny_t5_dir, out)
    (out / "trainer_state.json").write_text('{"global_step": 1}')
    (out / "all_results.json").write_text('{"train_loss": 1.5, "eval_f1": -1.0, "eval_bleu": 3}')
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in out.iterdir()}
    for _ in range(2):
        call("run_question_answering", *qa_flags(out, squad_file, out, *more))
    del before[out / "all_results.json"]
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in before} == before
    assert results(out)["train_loss"] == 1.5
    assert results(out)["eval_f1"] >= 0 and "eval_bleu" not in results(out)
    assert len(runs(out)) == 1


def test_summarization_evaluates_and_predicts(tiny_t5_dir, dialogue_file, tmp_path):
    unlabelled = [{"dialogue": record["dialogue"]} for record in dialogues(5)]
    test_file = write_jsonl(tmp_path / "unlabelled.jsonl", unlabelled)
    out = tmp_path / "out"
    flags = ["--model_name_or_path", tiny_t5_dir, "--output_dir", out, "--do_eval", "--do_predict"]
    flags += ["--validation_file", dialogue_file, "--test_file", test_file, "--max_target_length", "10"]
    _, metrics = call("run_summarization", *flags, "--text_column", "dialogue", "--summary_column", "summary", *EXITS)
    assert {"eval_rougeLsum", "predict_samples"} <= set(metrics) and "predict_rougeLsum" not in metrics
    assert metrics["predict_samples"] == 5
    assert results(out).items() >= json.loads((out / "eval_results.json").read_text()).items()
    assert (out / "predict_results.json").is_file()
    assert len((out / "generated_predictions.txt").read_text().splitlines()) == 5
    assert len(runs(out)) == 2


def test_questions_without_answers_column_are_predicted(tiny_t5_dir, tmp_path):
    unlabelled = [{name: record[name] for name in ("context", "question")} for record in questions(3)]
    flags = ["--model_name_or_path", tiny_t5_dir, "--output_dir", tmp_path / "out", "--do_predict", *SHORT]
    flags += ["--test_file", write_jsonl(tmp_path / "unlabelled.jsonl", unlabelled)]
    _, metrics = call("run_question_answering", *flags, "--version_2_with_negative", "True", *EXITS)
    assert metrics["predict_samples"] == 3 and "predict_f1" not in metrics


def test_translation_trains_and_evaluates(tiny_t5_dir, tmp_path):
    """A record without a translation is left out of training too; what was learned shows, and is reloaded."""
    rows = [{"translation": {"de": f"Der Turm {i}", "en": f"The tower {i}"}} for i in range(4)]
    rows.append({"translation": {"de": "Das Tor", "en": ""}})
    file = write_jsonl(tmp_path / "pairs.jsonl", rows)
    flags = ["--model_name_or_path", tiny_t5_dir, "--output_dir", tmp_path / "out", "--source_lang", "de"]
    flags += ["--target_lang", "en", "--validation_file", file, "--max_target_length", "8"]
    _, metrics = call("run_translation", *flags, "--do_eval", "--static_exit_layer", "2")
    assert metrics["eval_bleu"] >= 0 and metrics["eval_block_avg"] == 2
    flags += ["--source_prefix", "translate German to English: ", "--optim", "adamw_torch", "--learning_rate", "1e-2"]
    training = ["--do_train", "--train_file", file, "--max_steps", "12", "--save_steps", "6", "--do_eval"]
    training += ["--intermediate_loss_fn", "weighted_ce", "--logging_steps", "1"]
    trainer, trained = call("run_translation", *flags, *training)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert trained["train_samples"] == 4 and losses[-1] < losses[0]
    assert trainer.args.metric_for_best_model == "bleu" and trainer.state.best_metric >= trained["eval_bleu"] - 1e-6
    learned = trainer.train_dataset[1]
    tokenizer = trainer.processing_class
    assert tokenizer.decode(learned["input_ids"], skip_special_tokens=True).strip() == (
        "translate German to English: Der Turm 1"
    )
    assert tokenizer.decode(learned["labels"], skip_special_tokens=True).strip() == "The tower 1"
    flags[1], flags[3] = tmp_path / "out", tmp_path / "again"
    assert call("run_translation", *flags, "--do_eval")[1]["eval_bleu"] == pytest.approx(trained["eval_bleu"])


def test_another_tokenizer_of_the_score_is_another_run(tiny_t5_dir, tmp_path):
    rows = [{"translation": {"de": "Der Turm ist rot.", "zh": "那座塔是红色的。"}}] * 2
    out, file = tmp_path / "out", write_jsonl(tmp_path / "pairs.jsonl", rows)
    flags = ["--model_name_or_path", tiny_t5_dir, "--output_dir", out, "--source_lang", "de", "--target_lang", "zh"]
    flags += ["--validation_file", file, "--max_target_length", "8", "--do_eval", "--plotting_logits", "True"]
    found = [call("run_translation", *flags, *more)[1] for more in ([], ["--bleu_tokenizer", "zh"])]
    assert len(runs(out)) == 1 and found[0] == found[1], "the same tokenizer, whoever chose it"
    assert "tok:zh|" in results(out)["eval_bleu_signature"] and found[0]["eval_policy"]["score_tokenizer"] == "zh"
    assert json.loads((runs(out)[0] / "layers.json").read_text())[1]["score"].keys() == {"bleu", "bleu_signature"}
    _, plain = call("run_translation", *flags, "--bleu_tokenizer", "13a")
    assert len(runs(out)) == 2 and "tok:13a|" in plain["eval_bleu_signature"]
    assert "score_tokenizer" not in plain["eval_policy"], "runs of earlier versions keep their folders"


def test_the_tokenizer_of_rouge_is_part_of_the_run(tiny_t5_dir, tmp_path):
    rows = [{"dialogue": "Аня: где ты?", "summary": "Аня ищет Боба."}]
    flags = ["--model_name_or_path", tiny_t5_dir, "--output_dir", tmp_path / "out", "--max_target_length", "8"]
    flags += ["--validation_file", write_jsonl(tmp_path / "dialogues.jsonl", rows), "--do_eval"]
    call("run_summarization", *flags)
    _, metrics = call("run_summarization", *flags, "--rouge_tokenizer", "unicode")
    assert len(runs(tmp_path / "out")) == 2 and metrics["eval_policy"]["score_tokenizer"] == "unicode"


def test_beams_run_without_exits(tiny_t5_dir, dialogue_file, tmp_path):
    flags = ["--model_name_or_path", tiny_t5_dir, "--output_dir", tmp_path / "out", "--do_eval", "--num_beams", "2"]
    _, metrics = call("run_summarization", *flags, "--validation_file", dialogue_file, "--max_target_length", "8")
    assert "eval_rougeL" in metrics and "eval_block_avg" not in metrics
    assert metrics["eval_policy"]["generation"]["num_beams"] == 2


def test_without_traces_the_numbers_are_the_same(tiny_t5_dir, squad_file, tmp_path):
    _, kept = call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, tmp_path / "a"))
    more = ["--save_traces", "False"]
    _, dropped = call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, tmp_path / "b", *more))
    kept["eval_policy"]["save_traces"] = False
    assert counted(kept) == counted(dropped)
    (run,) = runs(tmp_path / "b")
    assert not (run / "traces.jsonl.gz").exists()


def test_tensorboard_gets_metrics_and_policy(tiny_t5_dir, squad_file, tmp_path):
    out = tmp_path / "out"
    more = ["--report_to", "tensorboard"]
    _, metrics = call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, out, *more))
    (run,) = runs(out)
    events = EventAccumulator(str(out / "tensorboard" / run.name)).Reload()
    assert events.Scalars("eval/f1")[0].value == pytest.approx(metrics["eval_f1"])
    assert "eval_policy/text_summary" in events.Tags()["tensors"]


# ---------------------------------------------------------------------------------------------------------- bad input
def test_a_tracker_that_is_not_installed_is_a_sentence(tiny_t5_dir, squad_file, tmp_path, monkeypatch):
    monkeypatch.setattr("util.packages.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install wandb"):
        call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, tmp_path / "out", "--report_to", "wandb"))


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def _edit_config(**changes):
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("decoder.final_layer_norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _ask_for_beams(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_beams": 4}))


def _pickle_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"shared.weight": Path}, folder / "pytorch_model.bin")


def _without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*.json"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "flags", "message"),
    [
        (_truncate, [], "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), [], "no file named model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), [], "config of .* cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), [], "has no config.json"),
        (_edit_config(num_heads="four"), [], "Validation error for field 'num_heads': .*four"),
        (_pickle_code, [], "holds other things than tensors"),
        (_without_tokenizer, [], "has no vocabulary .*spiece.model.*--tokenizer_name"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), [], "tokenizer of .* cannot be read"),
        (_edit_config(d_ff=128), [], "does not fit its config"),
        (_edit_config(model_type="bert"), [], "model_type is 'bert'"),
        (_edit_config(), ["--n_shot", "1", "--dataset_name", "squad"], "--n_shot: prompts are for models without"),
        (_edit_config(), ["--stop", "a", "--apply_chat_template"], "--apply_chat_template, --stop: prompts are for"),
        (_edit_config(num_decoder_layers=2), [], "more layers than its config: decoder.block.2"),
        (_drop_weight, [], "lacks weights .*final_layer_norm"),
        (_ask_for_beams, [], "generation_config.json asks for 4 beams"),
        (_edit_config(), ["--exit_conf_type", "meta"], "needs a trained confidence head"),
        (_edit_config(), ["--exit_min_layer", "4"], "exit_min_layer is 4"),
        (_edit_config(), ["--context_column", "absent"], "no column 'absent'"),
        (_edit_config(), ["--forced_bos_token", "absent"], "no token of this tokenizer"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(tiny_t5_dir, squad_file, tmp_path, damage, flags, message):
    model = tmp_path / "model"
    shutil.copytree(tiny_t5_dir, model)
    damage(model)
    with pytest.raises(ValueError, match=message) as caught:
        call("run_question_answering", *qa_flags(model, squad_file, tmp_path / "out", *flags))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "runs").exists()


def test_a_tokenizer_larger_than_the_model_is_refused(tiny_t5_dir, tiny_tokenizer, squad_file, tmp_path):
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_tokens([f"<extra{i}>" for i in range(8)])
    larger.save_pretrained(tmp_path / "tokenizer")
    more = ["--tokenizer_name", str(tmp_path / "tokenizer")]
    with pytest.raises(ValueError, match="do not belong together"):
        call("run_question_answering", *qa_flags(tiny_t5_dir, squad_file, tmp_path / "out", *more))


def test_a_checkpoint_of_the_reference_loads(tiny_t5_dir, squad_file, tmp_path, caplog):
    old = tmp_path / "old"
    shutil.copytree(tiny_t5_dir, old)
    weights = load_file(old / "model.safetensors")
    (old / "model.safetensors").unlink()
    extra = {"cm_head.0.weight": torch.ones(32, 32), "cm_head.2.weight": torch.ones(2, 32)}
    extra |= {"layer_transformation.weight": torch.ones(32, 32), "decoder.lm_head.weight": torch.ones(4, 32)}
    torch.save(weights | extra, old / "pytorch_model.bin")
    _edit_config(use_early_exit=True, exit_conf_type="softmax", exit_conf_threshold=0.1, use_shallow_deep=False)(old)
    meta = ["--exit_conf_type", "meta", "--exit_conf_threshold", "0.4"]
    trainer, metrics = call("run_question_answering", *qa_flags(old, squad_file, tmp_path / "out", *meta))
    assert metrics["eval_policy"]["confidence"] == "meta" and metrics["eval_policy"]["threshold"] == 0.4
    assert trainer.model.cm_head[0].bias.abs().sum() == 0
    assert caplog.text.count("layer_transformation") == 1 and "Not used of the checkpoint" not in caplog.text
    assert "config.json asks for another" in caplog.text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("no such thing."), "error: no such thing."),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device."),
        (
            OSError(errno.EISDIR, "Is a directory", "a", None, "b"),
            "error: b cannot be read or written: Is a directory.",
        ),
    ],
)
def test_what_ends_a_job_is_a_sentence_and_code_2(tiny_t5_dir, tmp_path, monkeypatch, capsys, error, told):
    def main(*_):
        raise error

    flags = ["--model_name_or_path", tiny_t5_dir, "--do_eval", "--dataset_name", "samsum", "--output_dir", tmp_path]
    monkeypatch.setattr(sys, "argv", ["run_summarization.py", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        run_script(SummarizationArguments, main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"run_summarization.py: {told}\n"


# ---------------------------------------------------------------------------------------------------- whole processes
# At this threshold no decision of the tiny model about these questions is near a tie; about the seventh one is.
CLEAR = ["--exit_conf_threshold", "0.14"]
QUESTIONS = [question for index, question in enumerate(questions(24)) if index != 6]
ROUNDS = 17  # so that a run takes long enough to be killed in its middle


@pytest.mark.slow
def test_a_killed_run_continues_and_ends_with_the_same_numbers(tiny_t5_dir, tmp_path, decided):
    file = write_jsonl(tmp_path / "squad.jsonl", [each | {"id": f"q{i}"} for i, each in enumerate(QUESTIONS * ROUNDS)])
    more = ["--per_device_eval_batch_size", "1", "--use_cpu", "True", *CLEAR]
    out, whole = tmp_path / "out", tmp_path / "whole"
    polite = ["nice", "-n", "10"]  # on a busy machine, this process sees in time how far that one is
    process = shell(*polite, sys.executable, "src/run_question_answering.py", *qa_flags(tiny_t5_dir, file, out, *more))
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        parts = list(out.glob("runs/*/predictions.0.jsonl"))
        if parts and parts[0].read_bytes().count(b"\n") > 20:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
    done = parts[0].read_bytes().count(b"\n")
    assert 20 < done < len(QUESTIONS) * ROUNDS
    with parts[0].open("ab") as part:
        part.write(b'{"session": 1, "torn')
    _, continued = call("run_question_answering", *qa_flags(tiny_t5_dir, file, out, *more))
    _, uninterrupted = call("run_question_answering", *qa_flags(tiny_t5_dir, file, whole, *more))
    assert alike(counted(continued), counted(uninterrupted))
    assert continued["eval_starts"] == 2
    same_files(*runs(out), *runs(whole))


# Both at a port that is free: their usual one may be another test's.
ACCELERATE = ["accelerate.commands.launch", "--main_process_port", "0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
        [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_two_processes_agree_with_one(tiny_t5_dir, tmp_path, decided, launcher):
    file = write_jsonl(tmp_path / "squad.jsonl", QUESTIONS)
    one, two = tmp_path / "one", tmp_path / "two"
    _, metrics = call("run_question_answering", *qa_flags(tiny_t5_dir, file, one, *CLEAR))
    process = shell(
        sys.executable,
        "-m",
        *launcher,
        "src/run_question_answering.py",
        *qa_flags(tiny_t5_dir, file, two, *CLEAR),
        *([] if launcher[0].startswith("torch") else ["--use_cpu"]),
    )
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert alike(counted(results(two)), counted(metrics))
    same_files(*runs(one), *runs(two))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "cwd"),
    [
        (["src/run_summarization.py"], ROOT),
        (["run_summarization.py"], ROOT / "src"),
        (["-m", "src.run_summarization"], ROOT),
        (["-m", "run_summarization"], ROOT / "src"),
    ],
)
def test_a_script_runs_from_anywhere_and_says_what_is_wrong(tiny_t5_dir, tmp_path, command, cwd):
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    flags = ["--model_name_or_path", tiny_t5_dir, "--validation_file", empty, "--do_eval", "--output_dir", tmp_path]
    process = shell(sys.executable, *command, *flags, "--use_cpu", cwd=cwd)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "empty.jsonl is empty" in errors and "Traceback" not in errors
