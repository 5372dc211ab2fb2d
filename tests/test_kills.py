"""SIGKILL at any moment, thirty-five times, and ten times a scheduler's SIGUSR1 before it: what was killed goes on and
ends as if nothing had been."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from conftest import dialogues, questions, write_jsonl
from support import alike, tiny_llama, tiny_t5

KILLING = Path(__file__).with_name("killing.py")
TIMES = ("runtime", "per_second", "time_", "starts", "environment")
RECORDING = [f"util.runs:Run.{name}" for name in ("prepare", "append", "finish", "publish")]
TRAINER = "training.trainer:EarlyExitTrainer"
SAVING = [f"{TRAINER}.{name}" for name in ("_save_checkpoint", "save_model", "save_state")]
SAVING += ["jobs.job:Job._show_training"]
WRITING = [f"jobs.output_lines:OutputLines.{name}" for name in ("__init__", "append")]
SHORT = ["--max_seq_length", "96", "--doc_stride", "16", "--max_answer_length", "8", "--use_cpu"]
EXITS = ["--use_early_exit", "True", "--exit_conf_threshold", "0.05"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory, tiny_t5_dir, tiny_gpt2_dir):
    """A folder with what each command of the plan left, by name."""
    folder = tmp_path_factory.mktemp("killed")
    file = write_jsonl(folder / "squad.jsonl", questions(10))
    (folder / "prompts.txt").write_text("The tower\nWhere are you?\nAnn:\nIt rains\nIn Elm\n")
    task = ["--model_name_or_path", tiny_t5_dir, "--validation_file", file, "--output_dir", "{out}", *SHORT]
    evaluation = [*task, "--do_eval", *EXITS, "--plotting_logits", "True", "--per_device_eval_batch_size", "2"]
    training = [*task, "--do_train", "--train_file", file, "--max_steps", "3", "--save_steps", "1"]
    training += ["--max_eval_samples", "2", "--logging_steps", "1"]
    prompts = ["--model_name_or_path", tiny_gpt2_dir, "--prompt_file", folder / "prompts.txt", "--device", "cpu"]
    prompts += ["--batch_size", "2", "-l", "8", "--strategy", "sample", "--out", "{out}"]
    plan = {
        "evaluation": ["question_answering", evaluation, [], 10, 0],
        "recording": ["question_answering", evaluation, RECORDING, 10, 1],
        "training": ["question_answering", training, SAVING, 10, 2],
        "generation": ["generate", prompts, WRITING, 5, 3],
    }
    carry_out(plan, folder, tiny_t5_dir)
    return folder


def carry_out(plan: dict, folder: Path, model: Path) -> None:
    (folder / "plan.json").write_text(json.dumps(plan, default=str))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, KILLING, folder / "plan.json", model], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def killed_in_an_epoch(tmp_path_factory, tiny_t5_dir, tiny_longt5_dir, tiny_gpt2_dir):
    """A folder with what trainings of three models left that were killed twice: five steps of two batches an epoch, a
    checkpoint every other step, and dropout of layers and of weights."""
    folder = tmp_path_factory.mktemp("killed_in_an_epoch")
    made = {"t5": (tiny_t5, tiny_t5_dir, "dropout_rate"), "llama": (tiny_llama, tiny_gpt2_dir, "attention_dropout")}
    for name, (build, like, dropout) in made.items():
        tokenizer = AutoTokenizer.from_pretrained(like)
        tokenizer.save_pretrained(folder / f"tiny_{name}")
        build(0, vocab_size=len(tokenizer), **{dropout: 0.1}).save_pretrained(folder / f"tiny_{name}")
    pairs = write_jsonl(folder / "dialogues.jsonl", dialogues(20))
    texts = folder / "texts.txt"
    texts.write_text("\n".join(each["dialogue"].replace("\n", " ") for each in dialogues(20)))
    shared = ["--output_dir", "{out}", "--do_train", "--max_steps", "12", "--save_steps", "2", "--logging_steps", "1"]
    shared += ["--eval_strategy", "no", "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
    shared += ["--intermediate_loss_fn", "layerskip", "--layer_dropout", "0.6", "--use_cpu", "--save_total_limit", "2"]
    sources = [*shared, "--train_file", pairs, "--max_source_length", "48", "--max_target_length", "16"]
    blocks = [*shared, "--train_file", texts, "--block_size", "32"]
    step = [f"{TRAINER}.training_step()"]
    commands = {
        "t5": ["summarization", ["--model_name_or_path", folder / "tiny_t5", *sources]],
        "longt5": ["summarization", ["--model_name_or_path", tiny_longt5_dir, *sources]],
        "llama": ["language_modeling", ["--model_name_or_path", folder / "tiny_llama", *blocks]],
    }
    # Of 24 batches the first kill comes at the 14th, and the next at the 18th: both in the middle of a step.
    carry_out({name: [*command, step, 2, 1173] for name, command in commands.items()}, folder, tiny_t5_dir)
    return folder


@pytest.fixture(scope="module")
def requeued(tmp_path_factory, tiny_t5_dir):
    """A folder with what a scheduler left that takes the node back again and again, as `killed` has it: of a training
    with dropout, of some steps an epoch, with what is evaluated in it and after it; and of an evaluation."""
    folder = tmp_path_factory.mktemp("requeued")
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_dir)
    tokenizer.save_pretrained(folder / "model")
    tiny_t5(0, vocab_size=len(tokenizer), dropout_rate=0.1).save_pretrained(folder / "model")
    file = write_jsonl(folder / "dialogues.jsonl", dialogues(12))
    # A run names the folder of its model, which is to be the same after every attempt.
    out = ["--output_dir", "{out}/trained"]
    shared = ["--model_name_or_path", folder / "model", "--validation_file", file, *out, "--do_eval"]
    shared += [
        "--max_source_length",
        "32",
        "--max_target_length",
        "8",
        "--use_cpu",
        "--per_device_eval_batch_size",
        "2",
    ]
    training = [*shared, "--do_train", "--train_file", file, "--max_steps", "8", "--save_steps", "3"]
    training += ["--per_device_train_batch_size", "2", "--logging_steps", "2", "--max_eval_samples", "6"]
    training += ["--intermediate_loss_fn", "weighted_ce", "--learning_rate", "1e-3"]
    plan = {
        "training": ["summarization", training, [], 7, 11, 400_000],
        "evaluation": ["summarization", [*shared, *EXITS], [], 3, 12, 20_000],
    }
    carry_out(plan, folder, tiny_t5_dir)
    return folder


def attempts(folder: Path) -> list[Path]:
    """What was killed and ended, at least one."""
    found = [path for path in folder.iterdir() if path.name.isdigit()]
    assert found
    return found


def names(folder: Path) -> set[str]:
    """Every file and folder below."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def results(path: Path) -> dict:
    """The numbers of a file that are no times."""
    return {key: value for key, value in json.loads(path.read_text()).items() if not any(word in key for word in TIMES)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluation", "recording"])
def test_a_killed_evaluation_ends_the_same(killed, name):
    whole = killed / name / "whole"
    (run,) = (whole / "runs").iterdir()
    for out in attempts(killed / name):
        assert names(out) == names(whole)
        for path in run.iterdir():
            same = out / "runs" / run.name / path.name
            if path.name.endswith("results.json"):
                assert results(same) == results(path)
            elif path.suffix == ".gz":
                assert gzip.decompress(same.read_bytes()) == gzip.decompress(path.read_bytes())
            else:
                assert same.read_bytes() == path.read_bytes(), path.name
        for path in ("all_results.json", "eval_results.json"):
            assert results(out / path) == results(whole / path)


@pytest.mark.slow
def test_a_killed_training_ends_the_same(killed):
    whole = killed / "training" / "whole"
    for out in attempts(killed / "training"):
        assert names(out) == names(whole)
        for path in whole.rglob("*.safetensors"):
            assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes()
        found, expected = results(out / "train_results.json"), results(whole / "train_results.json")
        assert found == pytest.approx(expected, rel=1e-6)
        assert losses(out) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "longt5", "llama"])
def test_a_training_killed_twice_in_an_epoch_has_the_same_losses(killed_in_an_epoch, name):
    whole = killed_in_an_epoch / name / "whole"
    (out,) = attempts(killed_in_an_epoch / name)  # both kills met the one training
    assert results(out / "train_results.json") == pytest.approx(results(whole / "train_results.json"), rel=1e-6)
    assert len(losses(whole)) == 12 and losses(out) == pytest.approx(losses(whole), rel=1e-6)
    assert load_file(out / "model.safetensors").keys() == load_file(whole / "model.safetensors").keys()
    for key, weight in load_file(whole / "model.safetensors").items():
        torch.testing.assert_close(load_file(out / "model.safetensors")[key], weight)


@pytest.mark.slow
def test_a_training_that_a_scheduler_ends_again_and_again_ends_the_same(requeued):
    whole = requeued / "training" / "whole" / "trained"
    for out in (attempt / "trained" for attempt in attempts(requeued / "training")):
        assert names(out) == names(whole)
        assert losses(out) == pytest.approx(losses(whole), rel=1e-6)
        for path in whole.rglob("*"):
            same = out / path.relative_to(whole)
            if path.name.endswith("_results.json"):
                assert alike(results(same), results(path)), path.name
            elif path.suffix == ".gz":
                assert gzip.decompress(same.read_bytes()) == gzip.decompress(path.read_bytes())
            elif path.suffix in (".safetensors", ".jsonl", ".txt"):
                assert same.read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_an_evaluation_that_a_scheduler_ends_decodes_what_was_in_flight_again_and_no_more(requeued):
    whole = requeued / "evaluation" / "whole"
    for out in attempts(requeued / "evaluation"):
        assert names(out) == names(whole)
        found, expected = (results(each / "trained" / "eval_results.json") for each in (out, whole))
        assert found == expected
        begun = out.with_suffix(".decoded").read_text().split("\n")[:-1]
        batches = [line for line in begun if line != "start"]
        assert len(set(batches)) == 6 and len(batches) - 6 <= begun.count("start") - 1


def losses(out: Path) -> list[float]:
    """The loss of every step."""
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


@pytest.mark.slow
def test_a_killed_generation_ends_the_same(killed):
    whole = killed / "generation" / "whole"
    assert whole.read_bytes().count(b"\n") == 5
    for out in attempts(killed / "generation"):
        assert out.read_bytes() == whole.read_bytes()
