"""Exit translators of a file of their own, in jobs and scripts: used, recorded, kept, refused of another model."""

import json

import pytest
import torch

import generate
import run_question_answering
from analysis import exit_quality
from jobs.loading import load_config, load_model
from models import DeployGPT2LMHeadModel, DeployT5ForConditionalGeneration
from models.translators import save_translators
from support import random_translators
from util import DecoderArguments, QuestionAnsweringArguments, parse_arguments

STATIC = ["--static_exit_layer", "2"]


@pytest.fixture
def made(tiny_t5_dir, tmp_path):
    """A file of translators of the tiny T5, after its first two layers."""
    path = tmp_path / "made.safetensors"
    save_translators(
        path, random_translators((1, 2), 32), DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir)
    )
    return path


def answers(model, file, out, *flags) -> dict:
    words = ["--model_name_or_path", model, "--validation_file", file, "--train_file", file, "--output_dir", out]
    words += ["--do_eval", "--max_eval_samples", "3", "--max_seq_length", "64", "--doc_stride", "16", "--use_cpu"]
    words += ["--max_answer_length", "8", *STATIC, *flags]
    return run_question_answering.main(*parse_arguments(QuestionAnsweringArguments, list(map(str, words))))[1]


def test_a_run_with_them_is_another_and_says_so(tiny_t5_dir, squad_file, made, tmp_path):
    out = tmp_path / "out"
    plain = answers(tiny_t5_dir, squad_file, out)
    found = answers(tiny_t5_dir, squad_file, out, "--exit_translators", made)
    assert len(list((out / "runs").iterdir())) == 2
    assert found["eval_policy"]["exit_translators"].startswith("made-")
    assert found["eval_policy"]["model_fingerprint"] != plain["eval_policy"]["model_fingerprint"]
    assert plain["eval_flops_total_exit_translators"] == 0
    assert found["eval_flops_total_exit_translators"] == 2 * 32 * 32 * found["eval_generated_tokens"]


def test_a_training_keeps_them_in_its_checkpoint(tiny_t5_dir, squad_file, made, tmp_path):
    flags = ["--do_train", "--max_steps", "2", "--intermediate_loss_fn", "ce", "--exit_translators", made]
    metrics = answers(tiny_t5_dir, squad_file, tmp_path / "out", *flags)
    assert metrics["eval_flops_total_exit_translators"] > 0 and "exit_translators" not in metrics["eval_policy"]
    again = DeployT5ForConditionalGeneration.from_pretrained(tmp_path / "out")
    before = DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir)
    assert again.exit_translators.layers == (1, 2) and not hasattr(before, "exit_translators")
    assert json.loads((tmp_path / "out" / "training_settings.json").read_text())["exit_translators"][:5] == "made-"


def test_another_models_are_refused_by_every_script(tiny_gpt2_dir, made, tmp_path, capsys):
    """With exit code 2 and a sentence; what fits is taken in any dtype, in the place of those in the checkpoint."""
    model = ["--model_name_or_path", str(tiny_gpt2_dir), "--exit_translators"]
    for call in (lambda flags: generate.main(["-p", "Ann", *flags]), exit_quality.main):
        for path, words in ((made, "is for states of width 32, and this model has 24"), ("none", "no such file")):
            with pytest.raises(SystemExit) as stop:
                call([*model, str(path)])
            assert stop.value.code == 2 and words in capsys.readouterr().err
    gpt2 = DeployGPT2LMHeadModel.from_pretrained(tiny_gpt2_dir)
    own, path = random_translators((1, 3), 24), tmp_path / "own.safetensors"
    save_translators(path, own, gpt2)
    prompt = ["-p", "Ann", "-l", "6", "--static_exit_layer", "3"]
    (found,), (plain,) = generate.main([*prompt, *model, str(path)]), generate.main([*prompt, *model[:2]])
    assert found.tokens != plain.tokens
    args = DecoderArguments(model_name_or_path=str(tiny_gpt2_dir), exit_translators=str(path))
    half = load_model(args, load_config(args, encoder=False), torch.bfloat16)
    assert torch.equal(half.exit_translators["3"].weight, own["3"].weight.bfloat16())
