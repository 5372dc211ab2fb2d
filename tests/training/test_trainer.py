"""The trainer: our decoding within the library's training, checkpoints without a policy, nothing saved that is not
finite, batches for the loss."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer
from transformers.trainer_callback import DefaultFlowCallback

import run_question_answering
from training.checkpoints import SIZES, last_whole
from training.trainer import EarlyExitTrainer, TrainingCollator
from util import AdditionalArguments, QuestionAnsweringArguments, TrainingArguments, update_autoconfig
from util.arguments import ModelArguments


@pytest.fixture
def train(tiny_t5_dir, squad_file, tmp_path):
    """Train a few steps with the flags given; returns (trainer, metrics, output folder)."""

    def run(additional: dict | None = None, out=tmp_path / "out", **flags):
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
    assert trainer.model.config.use_early_exit  # the loaded model keeps its policy


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


def test_what_training_left_unfinished_is_passed_over_and_done_again(train, tmp_path, caplog):
    """The last checkpoint torn, the model in the folder torn, something aside: the end is the undisturbed one's."""
    _, metrics, whole = train(out=tmp_path / "whole", save_total_limit=2, save_steps=1, eval_strategy="no")
    _, _, out = train(save_total_limit=2, save_steps=1, eval_strategy="no")
    weights = (whole / "model.safetensors").read_bytes()
    names = {path.relative_to(whole) for path in whole.rglob("*")}
    (out / "checkpoint-4" / "trainer_state.json").unlink()
    (out / "model.safetensors").write_bytes(weights[:1000])
    (out / ".saving" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"checkpoint-4 is no checkpoint that .*continue from: it has no trainer_st"):
        train(resume_from_checkpoint=str(out / "checkpoint-4"))
    trainer, again, _ = train(save_total_limit=2, save_steps=1, eval_strategy="no")
    assert "checkpoint-4 is passed over: it has no trainer_state.json" in caplog.text
    assert f"Training continues from {out / 'checkpoint-3'}" in caplog.text
    assert (out / "model.safetensors").read_bytes() == weights
    assert {path.relative_to(out) for path in out.rglob("*")} == names
    assert again["train_loss"] == pytest.approx(metrics["train_loss"]) and trainer.state.global_step == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-1]),
        lambda out: (out / "model.safetensors").unlink(),
        lambda out: (out / "trainer_state.json").write_text("{"),
        lambda out: (out / "train_results.json").write_text("{}"),
        lambda out: (out / "train_results.json").unlink(),
    ],
)
def test_a_training_that_did_not_save_its_model_whole_is_not_complete(train, caplog, damage):
    _, metrics, out = train(eval_strategy="no")
    weights = (out / "model.safetensors").read_bytes()
    damage(out)
    _, again, _ = train(eval_strategy="no")
    assert "Training was complete already" not in caplog.text
    assert again["train_loss"] == pytest.approx(metrics["train_loss"])
    assert (out / "model.safetensors").read_bytes() == weights
    train(eval_strategy="no")
    assert "Training was complete already" in caplog.text


def test_a_best_checkpoint_that_is_torn_is_left_out(train, caplog):
    best = {"metric_for_best_model": "f1", "greater_is_better": False, "save_total_limit": 3}
    trainer, _, out = train(max_steps=2, save_steps=1, **best)
    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-1")
    (out / "checkpoint-1" / "model.safetensors").write_bytes(b"")
    trainer, _, _ = train(max_steps=4, save_steps=1, **best)
    assert "the best checkpoint so far, is left out: its model.safetensors" in caplog.text
    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-3")


def test_a_moved_folder_keeps_its_best_checkpoint(train, tmp_path):
    best = {"metric_for_best_model": "f1", "greater_is_better": False}
    _, _, out = train(max_steps=2, save_steps=1, save_total_limit=3, **best)
    os.rename(out, tmp_path / "moved")
    trainer, _, _ = train(out=tmp_path / "moved", max_steps=4, save_steps=1, save_total_limit=3, **best)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "moved" / "checkpoint-1")


# ------------------------------------------------------------------------------------------------------- not finite
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_checkpoint(train, monkeypatch, value, accumulated):
    plain, losses = EarlyExitTrainer.compute_loss, []

    def compute_loss(self, *args, **kwargs):
        losses.append(plain(self, *args, **kwargs))
        return losses[-1] * (value if len(losses) == 2 * accumulated + 1 else 1)

    monkeypatch.setattr(EarlyExitTrainer, "compute_loss", compute_loss)
    with pytest.raises(ValueError, match=f"loss of step 3 is {value}.*last good checkpoint is .*checkpoint-2"):
        train(eval_strategy="no", gradient_accumulation_steps=accumulated)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"max_steps": 1}, "after step 1 weights are not finite"),  # found before they are evaluated
        ({"max_steps": 1, "eval_strategy": "no"}, "after step 1 weights are not finite"),
        ({"max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}, "after step 1 weights are not finite"),
        ({"max_steps": 4, "eval_strategy": "no", "save_strategy": "no"}, "the loss of step 2 is nan"),
    ],
)
def test_weights_that_are_not_finite_are_never_saved(train, tmp_path, monkeypatch, flags, told):
    def spoil(self, args, state, control, model, **_):
        model.decoder.final_layer_norm.weight.data[3] = float("nan")

    monkeypatch.setattr(DefaultFlowCallback, "on_optimizer_step", spoil)
    with pytest.raises(ValueError, match=rf"Training was stopped: {told} .*There is no checkpoint yet"):
        train(save_steps=1, **flags)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


SPOILED = """
import os
from jobs.job import run_script
from run_question_answering import main
from training.trainer import EarlyExitTrainer
from util import QuestionAnsweringArguments

plain = EarlyExitTrainer.compute_loss
def compute_loss(self, *args, **kwargs):
    spoiled = self.state.global_step == 2 and os.environ["RANK"] == "1"
    return plain(self, *args, **kwargs) * (float("nan") if spoiled else 1)
EarlyExitTrainer.compute_loss = compute_loss
run_script(QuestionAnsweringArguments, main)
"""


@pytest.mark.slow
def test_two_processes_save_together_and_stop_together(tiny_t5_dir, squad_file, tmp_path):
    script = tmp_path / "spoiled.py"
    script.write_text(SPOILED)
    flags = {"model_name_or_path": tiny_t5_dir, "train_file": squad_file, "output_dir": tmp_path / "out"}
    flags |= {"max_steps": 4, "save_steps": 1, "per_device_train_batch_size": 2, "eval_strategy": "no"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", script, "--do_train"]
    command += [word for name, value in flags.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    for reason in ("nan", "not finite in another process"):
        assert f"error: Training was stopped: the loss of step 3 is {reason}" in done.stderr
    checkpoint = last_whole(tmp_path / "out")
    assert checkpoint.name == "checkpoint-2" and not (tmp_path / "out" / ".saving").exists()
    assert {"rng_state_0.pth", "rng_state_1.pth", SIZES} <= {path.name for path in checkpoint.iterdir()}
    assert not (tmp_path / "out" / "checkpoint-1").exists()


def test_no_token_reaches_a_file(train, monkeypatch):
    secrets = {"HF_TOKEN": "hf_fromtheenvironment", "WANDB_API_KEY": "fromtheenvironmenttoo"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    trainer, _, out = train(hub_token="hf_ofthecommandline", report_to="tensorboard", do_eval=True)
    for path in out.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(secret.encode() in data for secret in ("hf_ofthecommandline", *secrets.values())), path
    assert trainer.args.hub_token == "hf_ofthecommandline"
    saved = torch.load(out / "training_args.bin", weights_only=False)
    assert saved.hub_token is None and saved.learning_rate == 1e-3


def test_the_old_flag_of_a_token_is_as_secret(train):
    _, _, out = train(push_to_hub_token="hf_ofthecommandline", eval_strategy="no")
    assert not any(b"hf_ofthecommandline" in path.read_bytes() for path in out.rglob("*") if path.is_file())


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


@pytest.mark.parametrize("loss", [None, "weighted_ce", "shallowdeep_kd_dyna", "layerskip"])
def test_accumulation_does_not_change_the_loss(train, loss):
    exits = {"intermediate_loss_fn": loss, "shallow_exit_layer": 2 if loss == "shallowdeep_kd_dyna" else None}
    _, one, _ = train(exits, max_steps=1, per_device_train_batch_size=8, eval_strategy="no", overwrite_output_dir=True)
    _, two, _ = train(
        exits,
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        eval_strategy="no",
        overwrite_output_dir=True,
    )
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)  # though answers differ in length


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
