"""The trainer: our decoding within the library's training, checkpoints without a policy, batches for the loss."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

import run_question_answering
from training.trainer import TrainingCollator
from util import AdditionalArguments, QuestionAnsweringArguments, TrainingArguments, update_autoconfig
from util.arguments import ModelArguments


@pytest.fixture
def train(tiny_t5_dir, squad_file, tmp_path):
    """Train a few steps with the flags given; returns (trainer, metrics, output folder)."""

    def run(additional: dict | None = None, **flags):
        out = tmp_path / "out"
        settings = {"max_steps": 4, "save_steps": 2, "logging_steps": 2, "learning_rate": 1e-3, "use_cpu": True}
        arguments = TrainingArguments(output_dir=str(out), do_train=True, **{**settings, **flags})
        files = {"train_file": str(squad_file), "validation_file": str(squad_file)}
        data = QuestionAnsweringArguments(
            **files, max_seq_length=64, doc_stride=16, max_answer_length=8, max_eval_samples=4
        )
        model = ModelArguments(model_name_or_path=str(tiny_t5_dir))
        extra = AdditionalArguments(**(additional or {}))
        return (*run_question_answering.main(model, data, arguments, extra), out)

    return run


def test_training_evaluates_by_decoding_keeps_the_best_and_leaves_no_runs(train):
    exits = {"use_early_exit": True, "exit_conf_type": "softmax", "exit_conf_threshold": 0.05}
    trainer, metrics, out = train({"intermediate_loss_fn": "weighted_ce", **exits})
    assert {"train_loss", "train_runtime", "train_samples"} <= set(metrics)
    evaluations = [entry for entry in trainer.state.log_history if "eval_f1" in entry]
    assert [entry["step"] for entry in evaluations] == [2, 4]
    assert trainer.state.best_metric == max(entry["eval_f1"] for entry in evaluations)
    assert not (out / "runs").exists()
    assert json.loads((out / "train_results.json").read_text())["train_loss"] == metrics["train_loss"]
    config = AutoConfig.from_pretrained(out)
    assert not hasattr(config, "use_early_exit") and not hasattr(config, "exit_conf_threshold")
    assert trainer.model.config.use_early_exit  # the model in hand keeps its policy


def test_the_meta_head_is_trained_alone_and_saved(train, tiny_t5_dir):
    _, _, out = train({"train_meta_cm_head": True}, eval_strategy="no")
    before, after = load_file(tiny_t5_dir / "model.safetensors"), load_file(out / "model.safetensors")
    assert {name for name in after if name not in before} == {
        "cm_head.0.weight",
        "cm_head.0.bias",
        "cm_head.2.weight",
        "cm_head.2.bias",
    }
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert AutoConfig.from_pretrained(out).has_cm_head
    assert not hasattr(AutoConfig.from_pretrained(out), "train_meta_cm_head")


def test_training_continues_from_the_last_checkpoint(train, caplog):
    _, _, out = train(max_steps=2, save_total_limit=2)
    again, _, _ = train(max_steps=4, save_total_limit=2)
    assert again.state.global_step == 4
    assert "Training continues from" in caplog.text
    results = (out / "train_results.json").read_text()
    train(max_steps=4, save_total_limit=2)
    assert "Training was complete already" in caplog.text
    assert (out / "train_results.json").read_text() == results
    with pytest.raises(ValueError, match="intermediate_loss_fn was None, is ce"):
        train({"intermediate_loss_fn": "ce"}, max_steps=4, save_total_limit=2)
    with pytest.raises(ValueError, match="no checkpoint that training could continue from"):
        train(resume_from_checkpoint=str(out / "absent"))


def test_the_loss_alone_can_be_evaluated(train):
    _, metrics, out = train(predict_with_generate=False, do_eval=True)
    assert metrics["eval_loss"] > 0 and "eval_f1" not in metrics and metrics["eval_samples"] == 4
    assert json.loads((out / "eval_results.json").read_text())["eval_loss"] == metrics["eval_loss"]


@pytest.mark.parametrize(
    ("flags", "valid"),
    [({"metric_for_best_model": "eval_loss"}, "exact_match, f1"), ({"predict_with_generate": False}, "loss")],
)
def test_a_metric_that_is_not_measured_chooses_no_checkpoint(train, tmp_path, flags, valid):
    with pytest.raises(ValueError, match=f"is not measured here: valid are {valid}"):
        train(**{"metric_for_best_model": "rouge7", **flags})
    assert not (tmp_path / "out").exists()


def test_accumulation_does_not_change_the_loss(train):
    _, one, _ = train(max_steps=1, per_device_train_batch_size=8, eval_strategy="no", overwrite_output_dir=True)
    _, two, _ = train(
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        eval_strategy="no",
        overwrite_output_dir=True,
    )
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.1)


@pytest.mark.parametrize(("label_pad", "pad_to", "width"), [(-100, None, 3), (0, 6, 6)])
def test_the_collator_pads_inputs_and_labels(tiny_t5_dir, label_pad, pad_to, width):
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_dir)
    rows = [
        {"input_ids": [5, 6, 1], "attention_mask": [1, 1, 1], "labels": [7, 1]},
        {"input_ids": [5, 1], "attention_mask": [1, 1], "labels": [1]},
    ]
    batch = TrainingCollator(tokenizer, None, label_pad, pad_to)(rows)
    assert batch["input_ids"].shape == (2, width)
    assert batch["attention_mask"].sum(1).tolist() == [3, 2]
    assert batch["labels"].tolist() == [[7, 1], [1, label_pad]]


def test_flags_of_a_config_are_overruled():
    config = update_autoconfig(
        AutoConfig.for_model("t5", num_decoder_layers=4, use_early_exit=True), AdditionalArguments()
    )
    assert config.use_early_exit is False


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"resume_from_checkpoint": "nowhere"}, "nowhere is no checkpoint"),
        ({"generation_config": "./nowhere"}, "nowhere"),
    ],
)
def test_what_is_refused_before_training_leaves_no_folder(train, tmp_path, flags, told):
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ValueError, OSError), match=told):
        train(**flags)
    assert sorted(tmp_path.iterdir()) == before
