"""run_completion.py: prompts as they are, completions as another program reads them, and nothing that is run."""

import gzip
import json

import pytest
from transformers import AutoTokenizer

import run_completion
from conftest import write_jsonl
from test_run_scripts import runs
from util import CompletionArguments, parse_arguments
from util.files import read_jsonl

PROMPTS = ["def red(a):\n    ", "def wide(river):\n", "class Tower:\n    ", " In Elm"]


@pytest.fixture
def file(tmp_path):
    records = [{"task_id": f"Tiny/{i}", "prompt": text, "solution": "return 1\n"} for i, text in enumerate(PROMPTS)]
    return write_jsonl(tmp_path / "prompts.jsonl", records)


def job(folder, out, *flags):
    argv = ["--model_name_or_path", folder, "--output_dir", out, "--use_cpu", "True", "--max_completion_length", "8"]
    return run_completion.main(*parse_arguments(CompletionArguments, list(map(str, [*argv, *flags]))))


def test_prompts_are_continued_as_they_are(tiny_gpt2_dir, file, tmp_path, decided):
    flags = ("--do_predict", "--test_file", file, "--use_early_exit", "True", "--exit_conf_threshold", "0.2")
    _, metrics = job(tiny_gpt2_dir, tmp_path / "out", *flags, "--stop", "\\nnever")
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2_dir)
    assert metrics["predict_samples"] == 4 and "predict_rougeL" not in metrics
    (run,) = runs(tmp_path / "out")
    rows, lines = read_jsonl(run / "predictions.jsonl"), read_jsonl(run / "completions.jsonl")
    traces = map(json.loads, gzip.decompress((run / "traces.jsonl.gz").read_bytes()).splitlines())
    tokens = {line["id"]: line["tokens"] for line in traces}
    for index, (row, line) in enumerate(zip(rows, lines, strict=True)):
        assert line == {"task_id": f"Tiny/{index}", "completion": row["prediction"]}
        ids = tokenizer(PROMPTS[index])["input_ids"]
        whole = tokenizer.decode([*ids, *tokens[row["id"]]], skip_special_tokens=True)
        assert whole == tokenizer.decode(ids) + line["completion"], "white space and all"
    (run / "completions.jsonl").unlink()
    job(tiny_gpt2_dir, tmp_path / "out", *flags, "--stop", "\\nnever")
    assert read_jsonl(run / "completions.jsonl") == lines, "also of a run that is complete already"


def test_solutions_are_learned(tiny_gpt2_dir, file, tmp_path):
    flags = ["--do_train", "--train_file", file, "--max_steps", "2", "--solution_column", "solution"]
    flags += ["--max_completion_length", "20"]
    trainer, metrics = job(tiny_gpt2_dir, tmp_path / "out", *flags, "--report_to", "none")
    row = trainer.train_dataset[0]
    learned = [label for label in row["labels"] if label >= 0]
    assert trainer.processing_class.decode(learned) == "return 1\n</s>" and metrics["train_samples"] == 4


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--do_eval", "--validation_file"], "choose one with --solution_column"),
        (["--do_predict", "--prompt_column", "absent", "--test_file"], "no column 'absent' for the prompt"),
    ],
)
def test_what_is_missing_is_a_sentence(tiny_gpt2_dir, file, tmp_path, flags, told):
    with pytest.raises(ValueError, match=told):
        job(tiny_gpt2_dir, tmp_path / "out", *flags, file)


def test_a_model_with_an_encoder_is_refused(tiny_t5_dir, file, tmp_path):
    with pytest.raises(ValueError, match="is a t5: this script needs a decoder alone, such as gpt2 or llama"):
        job(tiny_t5_dir, tmp_path / "out", "--do_predict", "--test_file", file)
