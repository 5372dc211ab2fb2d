"""Input that no script can do anything with: one line on stderr, code 2, no model loaded and nothing written."""

import runpy
import shlex
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from util import LanguageModelingArguments, QuestionAnsweringArguments, SummarizationArguments, parse_arguments

SRC = Path(__file__).resolve().parents[2] / "src"


@cache
def loaded(path):
    return runpy.run_path(str(SRC / path))


def entry(script):
    """What a script does with a command line, as far as it gets before a model is loaded."""
    classes = {
        "run_question_answering.py": QuestionAnsweringArguments,
        "run_summarization.py": SummarizationArguments,
        "run_language_modeling.py": LanguageModelingArguments,
    }
    if script in classes:
        return partial(parse_arguments, classes[script])
    return loaded(script)["parse_arguments" if script.endswith("build_assets.py") else "main"]


GENERATE, LENS, BENCHMARK = "generate.py", "analysis/prompt_lens.py", "scripts/benchmark_decoding.py"
GRID, QUICK = "scripts/local_grid.py", "scripts/quickstart.py"
GPT2, ASSETS, PAIRS = "scripts/build_gpt2.py", "scripts/build_assets.py", "scripts/build_translation.py"
QUESTIONS, SUMMARIES, TEXTS = "run_question_answering.py", "run_summarization.py", "run_language_modeling.py"

# Script -> how its command begins, and what goes wrong behind it -> what the sentence has to say.
BAD = {
    GENERATE: (
        "-p Once",
        {
            "--device tpu9": "--device tpu9 is not there: valid on this machine are cpu",
            "--device meta": "--device meta is not there",
            "--device cuda:99": "--device cuda:99 is not there",
            "--batch_size 0": "--batch_size 0: valid are 1 and above",
            "--seed -1": "--seed -1: valid are 0 to 4294967295",
            "--seed 99999999999": "--seed 99999999999: valid are 0 to 4294967295",
            "--strategy sample --top_p 2": "--top_p 2.0: valid are numbers above 0 up to 1",
            "--strategy sample --top_p 0": "--top_p 0.0",
            "--strategy sample --top_k -1": "--top_k -1: valid are 0 and above",
            "--strategy sample --temperature nan": "--temperature nan",
            "--strategy sample --temperature 1e-300": "--temperature 1e-300",
            "--strategy beam --beam_size 0": "--beam_size 0: valid are 1 and above",
            "--strategy beam --beam_size 99999999999999999999": "valid are numbers below 4294967296",
            "--strategy acd --alpha nan": "--alpha nan: valid are 0 to 1",
            "--strategy contrastive --coefficient inf": "--coefficient inf: valid are numbers from -100 to 100",
            "--strategy contrastive -t 0": "--amateur_temperature 0.0",
            "--strategy acd -i -3": "--intermediate_layer -3: valid are 0 and above",
            "--strategy acd -i 9": "--intermediate_layer 9: Layer 9 cannot be contrasted with layer 8",
            "--strategy acd --upper_layer 9": "--upper_layer 9: The contrasted layer is 9: valid are 1 to 8",
            "--strategy dola --early_exit_layers 2,99": "--early_exit_layers 2,99: The contrasted layer is 99",
            "--early_exit_layers 0,x": "--early_exit_layers 0,x: valid are lists such as 16,32",
            "--repetition_penalty inf": "--repetition_penalty inf: valid are finite numbers above 0",
            "--contrastive_alpha nan": "--contrastive_alpha nan: valid are 0 to 1",
            "-l x": "argument --max_new_tokens: invalid int value: 'x'",
            "--use_early_exit True --type_vocab_reduct fixed --k 5000": "k is 5000, but the model knows 2048 tokens",
            "--use_early_exit True --type_vocab_reduct decaying --k_min 3000": "k_min is 3000, but the model",
            "--use_shallow_deep True --shallow_exit_layer 8": "shallow_exit_layer is 8, but the decoder has 8 layers",
            "--out folder/x -p x --prompt_file nowhere.txt": "--prompt_file nowhere.txt: there is no such file",
        },
    ),
    LENS: (
        "-p Once",
        {
            "--top_k 999999": "--top_k 999999: valid are 1 to 2048",
            "--top_k 0": "--top_k 0: valid are 1 and above",
            "--tokens -1": "--tokens -1: valid are 1 and above",
        },
    ),
    BENCHMARK: (
        "--size tiny",
        {
            "--repetitions 0": "argument --repetitions: invalid value '0': valid are 1 and above",
            "--tokens 0": "argument --tokens: invalid value '0'",
            "--batch 4 -1": "argument --batch: invalid value '-1'",
            "--source 0": "argument --source: invalid value '0'",
            "--several 0": "argument --several: invalid value '0': valid are numbers above 0 and below 1",
            "--several 1": "argument --several: invalid value '1'",
            "--several 2": "argument --several: invalid value '2'",
            "--several nan": "argument --several: invalid value 'nan'",
            "--device tpu9": "--device tpu9 is not there",
            "--of search": "--of search needs a decoder-only size",
            "--size gpt2 --tokens 1000": "more than the 1024 positions of gpt2",
        },
    ),
    GRID: (
        "--out grid",
        {
            "--layers 2 99": "--layers 99: valid are 1 to 7 in facts_untrained",
            "--layers 0": "--layers 0: valid are 1 to 7",
            "--layers 7 --methods softmax_fixed": "--layers 7: valid are 1 to 6",
            "--layers 2 --methods full": "--layers 2: full has no exit",
            "--examples 0": "argument --examples: invalid value '0'",
            "--speed-examples -1": "argument --speed-examples: invalid value '-1'",
            "--processes 0": "argument --processes: invalid value '0'",
            "--settings facts": "facts: no such setting",
        },
    ),
    QUICK: ("--out quick", {"--examples 0": "--examples: invalid value '0'", "--repetitions x": "invalid value 'x'"}),
    GPT2: (
        "--out gpt2",
        {
            "--length 5000": "argument --length: invalid value '5000': valid are 2 to 512",
            "--width 33": "argument --width: invalid value '33': valid are multiples of 32",
            "--learning-rate inf": "argument --learning-rate: invalid value 'inf'",
        },
    ),
    ASSETS: (
        "--out assets --exits trained",
        {"--steps 0": "--steps 0: valid are 1 and above", "--learning_rate nan": "--learning_rate nan"},
    ),
    PAIRS: (
        "--out pairs --exits trained --train_file nowhere.jsonl --validation_file nowhere.jsonl",
        {
            "--steps 3": "nowhere.jsonl",
            "--hours 0": "argument --hours: invalid value '0': valid are finite numbers above 0",
            "--width 33": "argument --width: invalid value '33': valid are multiples of 32",
            "--exits half": "argument --exits: invalid choice: 'half'",
        },
    ),
    QUESTIONS: (
        "--do_train --do_eval --dataset_name squad --output_dir out",
        {
            "--learning_rate nan": "--learning_rate nan: valid are finite numbers from 0",
            "--learning_rate -1": "--learning_rate -1.0",
            "--num_train_epochs 0": "--num_train_epochs 0.0: valid are finite numbers above 0",
            "--num_train_epochs -1": "--num_train_epochs -1.0",
            "--max_steps 0": "--max_steps 0: valid are 1 and above, or -1 for none",
            "--max_steps -7": "--max_steps -7",
            "--warmup_steps inf": "--warmup_steps inf",
            "--warmup_steps 1.5": "--warmup_steps 1.5: valid are 0, whole numbers from 1, or a share",
            "--warmup_ratio nan": "--warmup_ratio nan: valid are 0 to 1",
            "--save_steps 0": "--save_steps 0.0",
            "--adam_beta2 1": "--adam_beta2 1.0: valid are numbers from 0 and below 1",
            "--weight_decay -inf": "--weight_decay",
            "--label_smoothing_factor 2": "--label_smoothing_factor 2.0: valid are 0 to 1",
            "--per_gpu_eval_batch_size 0": "--per_gpu_eval_batch_size 0: valid are 1 and above",
            "--ddp_timeout 99999999999999999999": "valid are numbers below 4294967296",
            "--fp16": "--fp16 needs a GPU",
            "--fp16 --use_cpu": "--fp16 needs a GPU",
            "--bf16": "--bf16 needs a GPU that calculates in bfloat16, or --use_cpu",
            "--bf16_full_eval": "--bf16_full_eval needs a GPU",
            "--deepspeed ds.json": "--deepspeed ds.json is not there: valid is a JSON file",
            "--use_liger_kernel": "--use_liger_kernel needs the package liger-kernel",
            "--optim adamw_bnb_8bit": "--optim adamw_bnb_8bit needs the package bitsandbytes",
            "--optim galore_adamw": "--optim galore_adamw needs the package galore-torch",
            "--optim sgd --optim_args momentum=x": "--optim sgd with --optim_args momentum=x cannot be had",
            "--optim sgd --optim_args momentum": "--optim sgd with --optim_args momentum cannot be had",
            "--lr_scheduler_type warmup_stable_decay": "--lr_scheduler_type warmup_stable_decay with",
            "--lr_scheduler_type cosine_with_restarts --lr_scheduler_kwargs '{\"a\": 1}'": "--lr_scheduler_kwargs",
            "--accelerator_config '{\"a\": 1}'": "unexpected keyword argument 'a'",
            "--accelerator_config '{\"a\"'": "argument --accelerator_config: not valid JSON",
            "--accelerator_config nowhere.json": "nowhere.json cannot be read or written: No such file",
            "--torch_compile_backend fast": "--torch_compile_backend fast: valid are no, eager",
            "--null_score_diff_threshold nan": "--null_score_diff_threshold nan",
            "--max_answer_length 1": "error: --max_answer_length 1 leaves no room",
            "--val_max_answer_length 1": "error: --val_max_answer_length 1 leaves no room",
            "--exit_conf_thresh 7": "--exit_conf_threshold 7.0: valid are 0 to 1",
            "--exit-conf-threshold x": "argument --exit_conf_threshold: invalid float value: 'x'",
        },
    ),
    SUMMARIES: (
        "--do_eval --dataset_name samsum --output_dir out",
        {
            "--repetition_penalty nan": "--repetition_penalty nan: valid are finite numbers above 0",
            "--length_penalty inf": "--length_penalty inf",
            "--use_early_exit True --generation_num_beams 4": "--generation_num_beams 4 with --use_early_exit True",
            "--rollback_conf_threshold inf": "--rollback_conf_threshold inf: valid are finite numbers from 0",
            "--use_shallow_deep True --shallow_exit_layer 2 --emit contrastive": "a contrastive shallow2deep_conf_type",
            "--use_shallow_deep True --shallow_exit_layer 2 --shallow2deep_conf_threshold 7": (
                "error: --shallow2deep_conf_threshold 7.0: valid are 0 to 1"
            ),
        },
    ),
    TEXTS: (
        "--do_eval --dataset_name wikitext --output_dir out",
        {"--block_size 1": "--block_size 1: valid are 2 and above", "--prompt_length 0": "--prompt_length 0"},
    ),
    "analysis/figures.py": ("--out figures", {"--runs nowhere": "nowhere holds no finished evaluation"}),
    "analysis/tradeoff.py": ("--out table", {"--runs nowhere": "nowhere holds no finished evaluation"}),
    "analysis/post.py": ("", {"--post nowhere.md": "nowhere.md cannot be read: No such file"}),
}
CASES = [(script, f"{start} {line}", told) for script, (start, bad) in BAD.items() for line, told in bad.items()]
# What only this machine lacks.
LACKS_GPU = ("--fp16", "--bf16", "--bf16_full_eval")


@pytest.fixture(autouse=True)
def no_model(monkeypatch, tmp_path):
    def refuse(self, *args, **kwargs):
        raise AssertionError("a model was made")

    monkeypatch.setattr(PreTrainedModel, "__init__", refuse)
    monkeypatch.setattr("util.packages.find_spec", lambda module: None)
    monkeypatch.chdir(tmp_path)


def refused(script, line, capsys):
    """The line on stderr."""
    with pytest.raises(SystemExit) as stop:
        entry(script)(shlex.split(line))
    shown = capsys.readouterr()
    assert stop.value.code == 2 and shown.out == ""
    assert shown.err.count("\n") == 1 and "Traceback" not in shown.err
    return shown.err


@pytest.mark.parametrize(("script", "line", "told"), CASES, ids=[f"{script} {line}" for script, line, _ in CASES])
def test_what_cannot_be_done_is_one_line_and_code_2(script, line, told, capsys, tmp_path):
    if line.endswith(LACKS_GPU) and torch.accelerator.is_available():
        pytest.skip("this machine has a GPU")
    assert told in refused(script, line, capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_is_no_text_is_refused(capsys):
    assert "--prompt is not UTF-8 text" in refused(GENERATE, "-p 'Once \udce9'", capsys)


def test_problems_are_told_together(capsys):
    told = refused(GENERATE, "-p a --top_p 2 --device tpu9 --k 1", capsys)
    assert all(name in told for name in ("--top_p 2.0", "--device tpu9", "--k 1"))


def test_every_script_outlives_the_terminal_it_is_started_from():
    scripts = [path for path in SRC.rglob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]
    assert len(scripts) >= 15
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        end = text[text.find("def command()") :] if "def command()" in text else text.split('__name__ == "__main__"')[1]
        assert "with terminal():" in end or "run_script(" in end, path.name
