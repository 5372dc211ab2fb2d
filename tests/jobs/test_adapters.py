"""Jobs that train adapters of low rank: saved alone, taken as a model, continued, and what is refused."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

import run_language_modeling
import run_question_answering
from models.lora import has_lora
from util import LanguageModelingArguments, QuestionAnsweringArguments, parse_arguments
from util.files import read_json, read_jsonl

SHORT = ["--max_seq_length", "64", "--doc_stride", "16", "--max_answer_length", "8", "--use_cpu"]
TRAINING = ["--do_train", "--max_steps", "4", "--save_steps", "2", "--logging_steps", "1", "--learning_rate", "1e-2"]
LORA = ["--use_lora", "--lora_rank", "2", "--lora_alpha", "4"]


def bytes_of(folder) -> dict:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def stored(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture
def answers(tiny_t5_dir, squad_file, tmp_path):
    """A question answering job: flags -> (trainer, metrics), in a folder of its own by default."""

    def run(*flags, model=tiny_t5_dir, out=tmp_path / "out"):
        words = ["--model_name_or_path", model, "--output_dir", out, "--train_file", squad_file]
        words += ["--validation_file", squad_file, "--max_eval_samples", "6", *SHORT, *flags]
        return run_question_answering.main(*parse_arguments(QuestionAnsweringArguments, list(map(str, words))))

    return run


def predictions(out) -> list[str]:
    (run,) = (out / "runs").iterdir()
    return [row["prediction"] for row in read_jsonl(run / "predictions.jsonl")]


def test_adapters_are_trained_saved_alone_and_taken_as_a_model(answers, tiny_t5_dir, tmp_path, caplog):
    before, out = bytes_of(tiny_t5_dir), tmp_path / "out"
    trainer, trained = answers(*TRAINING, *LORA, "--do_eval", "--intermediate_loss_fn", "weighted_ce")
    assert bytes_of(tiny_t5_dir) == before
    weights = load_file(tiny_t5_dir / "model.safetensors")
    own = trainer.model.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights if name in own)
    assert torch.equal(
        own["decoder.block.3.layer.0.SelfAttention.q.base_layer.weight"],
        weights["decoder.block.3.layer.0.SelfAttention.q.weight"],
    )
    assert not {"model.safetensors", "config.json"} & set(bytes_of(out))
    held = read_json(out / "adapter_config.json")
    assert (held["r"], held["lora_alpha"], set(held["target_modules"])) == (2, 4.0, {"q", "v"})
    assert held["base_model_name_or_path"] == str(tiny_t5_dir.resolve())
    (checkpoint,) = out.glob("checkpoint-*")
    assert len(stored(out)) == len(stored(checkpoint)) == 2 * 2 * (2 + 2 * 4)
    for flags in ((), ("--use_lora",)):
        again = tmp_path / f"again{len(flags)}"
        caplog.clear()
        reader, metrics = answers("--do_eval", *flags, model=out, out=again)
        assert metrics["eval_f1"] == pytest.approx(trained["eval_f1"]) and predictions(again) == predictions(out)
        assert f"The adapters of {out} are merged into the weights of {tiny_t5_dir.resolve()}." in caplog.text
        assert not has_lora(reader.model)
    exits = ("--use_early_exit", "True", "--exit_conf_threshold", "0.05", "--lossless", "True")
    _, lossless = answers("--do_eval", *exits, model=out, out=tmp_path / "lossless")
    assert lossless["eval_samples"] == 6 and lossless["eval_exit_histogram"]


def test_a_training_that_is_continued_ends_as_one_left_alone(answers, tmp_path):
    loss = ("--intermediate_loss_fn", "layerskip", "--eval_strategy", "no", "--save_total_limit", "5")
    whole, _ = answers(*TRAINING, *LORA, *loss, out=tmp_path / "whole")
    for steps in ("2", "3"):
        answers(*TRAINING, *LORA, *loss, "--save_steps", "1", "--max_steps", steps, "--lr_scheduler_type", "constant")
    answers(*TRAINING, *LORA, *loss, "--save_steps", "1", "--lr_scheduler_type", "constant")
    same, _ = answers(*TRAINING, *LORA, *loss, "--lr_scheduler_type", "constant", out=tmp_path / "same")
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [row["loss"] for row in history if "loss" in row] == [
        row["loss"] for row in same.state.log_history if "loss" in row
    ]
    for name, value in stored(tmp_path / "same").items():
        assert torch.equal(stored(tmp_path / "out")[name], value), name
    assert whole.state.global_step == 4


def test_another_rank_is_another_training(answers, caplog):
    answers(*TRAINING, *LORA, "--eval_strategy", "no")
    answers(*TRAINING, *LORA, "--eval_strategy", "no")
    assert "Training was complete already" in caplog.text
    with pytest.raises(ValueError, match=r"lora_rank was 2, is 3"):
        answers(*TRAINING, *LORA, "--eval_strategy", "no", "--lora_rank", "3")


def test_adapters_of_a_checkpoint_are_trained_on_and_the_best_are_loaded(answers, tiny_t5_dir, tmp_path, caplog):
    _, out = answers(*TRAINING, *LORA, "--eval_strategy", "no"), tmp_path / "out"
    first, on = stored(out), tmp_path / "on"
    trainer, _ = answers(*TRAINING, "--use_lora", "--save_total_limit", "9", model=out, out=on)
    assert f"The adapters of {out} are trained on" in caplog.text
    held = read_json(on / "adapter_config.json")
    assert held["r"] == 2 and held["base_model_name_or_path"] == str(tiny_t5_dir.resolve())
    assert first.keys() == stored(on).keys() and any(not torch.equal(first[name], stored(on)[name]) for name in first)
    best = on / f"checkpoint-{trainer.state.best_global_step}"
    assert all(torch.equal(value, stored(best)[name]) for name, value in stored(on).items())


def test_the_confidence_head_is_kept_with_the_adapters(answers, tiny_t5_dir, tmp_path):
    answers(*TRAINING, *LORA, "--eval_strategy", "no")
    head = tmp_path / "head"
    meta = ("--use_early_exit", "True", "--exit_conf_type", "meta", "--exit_conf_threshold", "0.2")
    trainer, trained = answers(
        *TRAINING, "--use_lora", "--train_meta_cm_head", "True", model=tmp_path / "out", out=head
    )
    assert {name.split(".")[0] for name, each in trainer.model.named_parameters() if each.requires_grad} == {"cm_head"}
    assert "base_model.model.cm_head.2.bias" in stored(head)
    before = stored(tmp_path / "out")
    assert all(torch.equal(stored(head)[name], value) for name, value in before.items())
    _, metrics = answers("--do_eval", *meta, model=head, out=tmp_path / "read")
    assert 1 <= metrics["eval_block_avg"] <= 4 and trained["train_loss"] > 0
    with pytest.raises(ValueError, match=r"meta needs a trained confidence head, which .* lacks"):
        answers("--do_eval", *meta, model=tmp_path / "out", out=tmp_path / "refused")


def test_a_decoder_and_its_perplexities(tiny_gpt2_dir, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("Arden is a town. Its tower is red. Ann: Where are you? Bob: In Arden.\n" * 12)
    words = ["--train_file", texts, "--validation_file", texts, "--use_cpu", "True", "--block_size", "32"]
    words += ["--prompt_length", "6", "--max_continuation_length", "5", "--do_eval"]

    def job(model, out, *flags):
        argv = ["--model_name_or_path", model, "--output_dir", out, *words, *flags]
        return run_language_modeling.main(*parse_arguments(LanguageModelingArguments, list(map(str, argv))))[1]

    plain = job(tiny_gpt2_dir, tmp_path / "plain")
    out = tmp_path / "out"
    loss = ("--intermediate_loss_fn", "layerskip", "--optim", "adamw_torch")
    trained = job(tiny_gpt2_dir, out, *TRAINING, "--max_steps", "12", *LORA, *loss)
    assert trained["eval_perplexity"] < plain["eval_perplexity"]
    read = job(out, tmp_path / "read")
    assert read["eval_perplexity_by_layer"] == pytest.approx(trained["eval_perplexity_by_layer"], rel=1e-4)


def test_targets_that_match_nothing_leave_no_folder(answers, tmp_path):
    with pytest.raises(ValueError, match=r"--lora_target_modules q_proj: valid are q, k, v, o, wi, wo in a t5"):
        answers(*TRAINING, *LORA, "--lora_target_modules", "q_proj")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_done_is_told_in_a_sentence(answers, tiny_t5_dir, tmp_path, caplog):
    with pytest.raises(
        ValueError, match=r"--use_lora without --do_train needs a checkpoint of adapters, which .* is not"
    ):
        answers("--do_eval", "--use_lora")
    with pytest.raises(ValueError, match=r"--output_dir .* holds the model that the adapters are of: give another"):
        answers(*TRAINING, *LORA, out=tiny_t5_dir)
    answers(*TRAINING, "--lora_rank", "4", "--eval_strategy", "no")
    assert "Without --use_lora True these flags have no effect: --lora_rank." in caplog.text


def test_a_quantised_model_is_refused(answers, tiny_t5_dir, tmp_path):
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    for path in tiny_t5_dir.iterdir():
        (quantised / path.name).write_bytes(path.read_bytes())
    config = read_json(quantised / "config.json")
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is quantised: .* give a checkpoint in fp32, bf16 or fp16"):
        answers(*TRAINING, *LORA, model=quantised)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peft_type": "IA3"}, "holds adapters of the kind IA3: valid is LORA"),
        ({"base_model_name_or_path": None}, "does not tell of which model"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "holds adapters of /nowhere/at/all, which is not there"),
        ({"r": 3}, "The adapters of .* cannot be read: the adapters do not fit this t5"),
    ],
)
def test_a_folder_of_adapters_that_cannot_be_used_is_refused(answers, tmp_path, changed, message):
    answers(*TRAINING, *LORA, "--eval_strategy", "no")
    path = tmp_path / "out" / "adapter_config.json"
    path.write_text(json.dumps(read_json(path) | changed))
    with pytest.raises(ValueError, match=message):
        answers("--do_eval", model=tmp_path / "out", out=tmp_path / "refused")
