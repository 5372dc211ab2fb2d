"""SIGKILL at any moment, thirty-five times: what was killed goes on and ends as if nothing had been."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import questions, write_jsonl

KILLING = Path(__file__).with_name("killing.py")
TIMES = ("runtime", "per_second", "time_", "starts", "environment")
RECORDING = ["Run.prepare", "Run.append", "Run.finish", "Run.publish"]
SAVING = [f"EarlyExitTrainer.{name}" for name in ("_save_checkpoint", "save_model", "save_state")]
SAVING += ["Job._show_training"]
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
        "generation": ["generate", prompts, ["OutputLines.__init__", "OutputLines.append"], 5, 3],
    }
    (folder / "plan.json").write_text(json.dumps(plan, default=str))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, KILLING, folder / "plan.json", tiny_t5_dir], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
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
