"""A training that is told to leave saves at its next step, and ends as one that never left."""

import interrupts

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, TrainerCallback

import run_summarization
from conftest import dialogues, write_jsonl
from support import tiny_t5
from training import evaluation
from training.checkpoints import last_whole
from training.trainer import EarlyExitTrainer
from util import AdditionalArguments, SummarizationArguments, TrainingArguments
from util.arguments import ModelArguments

# What of a log depends on the clock, or on where a training began.
CLOCK = ("runtime", "per_second", "time_", "environment", "starts", "train_loss")

LAUNCH = Path(__file__).resolve().parents[2] / "src" / "scripts" / "cluster" / "launch.py"


class TellAt(TrainerCallback):
    """Tells the training to leave when it has made a step, or where its first epoch ends."""

    def __init__(self, step: int | None, at_end: bool):
        self.step, self.at_end = step, at_end

    def on_step_end(self, args, state, control, **kwargs) -> None:
        interrupts.Told.asked = interrupts.Told.asked or state.global_step == self.step

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        interrupts.Told.asked = interrupts.Told.asked or self.at_end


@pytest.fixture(autouse=True)
def untold():
    interrupts.Told.asked = False
    yield
    interrupts.Told.asked = interrupts.Told.held = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_t5_dir):
    """Ten dialogues, and a T5 with dropout."""
    folder = tmp_path_factory.mktemp("leaving")
    write_jsonl(folder / "dialogues.jsonl", dialogues(10))
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_dir)
    tokenizer.save_pretrained(folder / "model")
    tiny_t5(0, vocab_size=len(tokenizer), dropout_rate=0.1, layers=3).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def train(folder, tmp_path, monkeypatch):
    """Train seven steps, five an epoch, with the flags given, told to leave after a step or a batch of evaluations;
    returns the folder."""

    def run(name: str, step: int | None = None, batch: int | None = None, at_end: bool = False, **flags):
        interrupts.Told.asked = False
        settings = {"max_steps": 7, "logging_steps": 3, "learning_rate": 1e-2, "use_cpu": True, "do_train": True}
        settings |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 1, "save_total_limit": None}
        arguments = TrainingArguments(output_dir=str(tmp_path / name), **{**settings, **flags})
        file = str(folder / "dialogues.jsonl")
        data = SummarizationArguments(train_file=file, validation_file=file, max_eval_samples=3, max_source_length=32)
        data.max_target_length = data.val_max_target_length = 6
        with monkeypatch.context() as patched:
            make = EarlyExitTrainer.__init__
            decode, decoded = evaluation.decode_batch, iter(range(1000))

            def tell(trainer, *args, **kwargs) -> None:
                make(trainer, *args, **kwargs)
                trainer.add_callback(TellAt(step, at_end))

            def counted(*args):
                interrupts.Told.asked = interrupts.Told.asked or next(decoded) == batch
                return decode(*args)

            patched.setattr(EarlyExitTrainer, "__init__", tell)
            patched.setattr(evaluation, "decode_batch", counted)
            model = ModelArguments(model_name_or_path=str(folder / "model"))
            run_summarization.main(model, data, arguments, AdditionalArguments(intermediate_loss_fn="weighted_ce"))
        return tmp_path / name

    return run


def leave(train, name: str, **how):
    with pytest.raises(interrupts.Leave) as left:
        train(name, **how)
    assert left.value.code == interrupts.REQUEUE == 75


def history(out) -> list[dict]:
    rows = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [{key: held for key, held in row.items() if not any(word in key for word in CLOCK)} for row in rows]


def loss(out) -> float:
    return json.loads((out / "train_results.json").read_text())["train_loss"]


def assert_same(out, whole) -> None:
    """Logs, results, weights and checkpoints are those of an undisturbed training."""
    assert [row.keys() for row in history(out)] == [row.keys() for row in history(whole)]
    for found, expected in zip(history(out), history(whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-5), expected["step"]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert loss(out) == pytest.approx(loss(whole), rel=1e-5)
    for path in [whole, *whole.glob("checkpoint-*")]:
        found, expected = (load_file(each / "model.safetensors") for each in (out / path.relative_to(whole), path))
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], msg=f"{path.name} {name}")
    assert "left" not in json.loads((out / "trainer_state.json").read_text())["stateful_callbacks"]


# How checkpoints are saved, and steps after which the training is left: between them, at one, at an epoch's end, at the
# end of all.
STRATEGIES = {
    "steps": ({"save_steps": 3}, (2, 3, 5)),
    "epochs": ({"save_strategy": "epoch", "logging_strategy": "epoch"}, (4, 5, 7)),
    "loss": ({"save_steps": 5, "predict_with_generate": False}, (5,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_left_after_any_step_a_training_ends_the_same(train, strategy):
    flags, steps = STRATEGIES[strategy]
    whole = train("whole", **flags)
    for step in steps:
        name = f"left_{step}"
        leave(train, name, step=step, **flags)
        assert last_whole(whole.parent / name).name == f"checkpoint-{step}"
        assert_same(train(name, **flags), whole)


def test_left_between_a_checkpoint_and_the_end_of_its_epoch_a_training_ends_the_same(train):
    flags = {"save_steps": 5, "logging_strategy": "epoch", "save_total_limit": 1}
    whole = train("whole", **flags)
    leave(train, "left", at_end=True, **flags)
    assert last_whole(whole.parent / "left").name == "checkpoint-5"
    assert_same(train("left", **flags), whole)


@pytest.mark.parametrize("limit", [1, None])
def test_left_in_an_evaluation_twice_a_training_ends_the_same(train, limit):
    flags = {"save_steps": 5, "save_total_limit": limit, "do_eval": True}
    whole = train("whole", **flags)
    leave(train, "left", batch=1, **flags)
    saved = last_whole(whole.parent / "left")
    assert saved.name == "checkpoint-5"
    before = (saved / "trainer_state.json").stat().st_mtime_ns
    leave(train, "left", batch=0, **flags)
    assert (saved / "trainer_state.json").stat().st_mtime_ns == before  # nothing was done since
    assert_same(train("left", **flags), whole)


def test_left_again_and_again_a_training_ends_the_same(train):
    whole = train("whole", save_steps=3)
    for step in (1, 2, 5, 7):  # of which the fifth ends an epoch
        leave(train, "left", step=step, save_steps=3)
    assert_same(train("left", save_steps=3), whole)


def test_without_checkpoints_one_is_saved_that_is_continued_from(train):
    whole = train("whole", save_strategy="no", eval_strategy="no")
    leave(train, "left", step=4, save_strategy="no", eval_strategy="no")
    assert loss(train("left", save_strategy="no", eval_strategy="no")) == pytest.approx(loss(whole), rel=1e-5)


ONE_OF_TWO = """
import interrupts, os, signal
from training.trainer import EarlyExitTrainer
from run_summarization import command
interrupts.install()
plain = EarlyExitTrainer.training_step
def training_step(self, *args, **kwargs):
    if self.state.global_step == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGUSR1)
    return plain(self, *args, **kwargs)
EarlyExitTrainer.training_step = training_step
command()
"""


@pytest.mark.slow
def test_two_processes_of_which_one_is_told_leave_together_and_the_launcher_says_so(folder, tmp_path):
    script = tmp_path / "told.py"
    script.write_text(ONE_OF_TWO)
    flags = {"model_name_or_path": folder / "model", "train_file": folder / "dialogues.jsonl", "max_steps": 4}
    flags |= {"output_dir": tmp_path / "out", "eval_strategy": "no", "save_steps": 4, "max_source_length": 32}
    command = [sys.executable, LAUNCH, "--processes", "2", script, "--do_train", "--use_cpu"]
    command += [word for name, value in flags.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == interrupts.REQUEUE, done.stderr
    saved = last_whole(tmp_path / "out")
    assert saved.name == "checkpoint-2" and {"rng_state_0.pth", "rng_state_1.pth"} <= set(os.listdir(saved))
    assert "SIGUSR1: it ends when it can be continued, with exit code 75" in done.stderr
