"""run_language_modeling.py from its command line: evaluation under a policy, training, and what is refused."""

import json

import pytest

import run_language_modeling
from util import LanguageModelingArguments, parse_arguments
from util.files import read_json, read_jsonl


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "texts.txt"
    places = ("Arden", "Brix", "Colmar", "Dover")
    path.write_text("".join(f"{p} is a town. Its tower is red. Ann: Where are you? Bob: In {p}.\n" for p in places * 3))
    return path


def job(folder, out, *flags):
    argv = ["--model_name_or_path", folder, "--output_dir", out, "--use_cpu", "True", "--block_size", "32"]
    argv += ["--prompt_length", "6", "--max_continuation_length", "7", *flags]
    return run_language_modeling.main(*parse_arguments(LanguageModelingArguments, list(map(str, argv))))


def test_perplexity_of_every_layer_and_continuations_under_a_policy(tiny_gpt2_dir, text_file, tmp_path, capsys):
    flags = ("--do_eval", "--validation_file", text_file, "--use_early_exit", "True", "--exit_conf_threshold", "0.2")
    _, metrics = job(tiny_gpt2_dir, tmp_path / "out", *flags)
    assert list(metrics["eval_perplexity_by_layer"]) == ["1", "2", "3", "4"]
    assert metrics["eval_perplexity"] == metrics["eval_perplexity_by_layer"]["4"] > 1
    assert metrics["eval_samples"] == 12 and metrics["eval_generated_tokens"] == 12 * 7
    assert metrics["eval_block_avg"] < 4 and "perplexity by layer: 1: " in capsys.readouterr().out
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    assert read_json(folder / "all_results.json")["eval_perplexity"] == metrics["eval_perplexity"]
    first = read_jsonl(folder / "predictions.jsonl")[0]
    assert first["tokens"] == 7 and first["references"][0]
    _, again = job(tiny_gpt2_dir, tmp_path / "out", *flags)
    assert "complete already" in capsys.readouterr().out and again["eval_rougeL"] == metrics["eval_rougeL"]


@pytest.mark.parametrize("policy", [("--lossless", "True", "--use_early_exit", "True"), ("--static_exit_layer", "4")])
def test_lossless_continues_as_the_full_model_at_any_batch(tiny_gpt2_dir, text_file, tmp_path, policy, decided):
    shared = ("--do_eval", "--validation_file", text_file, "--overwrite_output_dir", "True")
    texts = []
    for flags in (("--per_device_eval_batch_size", "1"), (*policy, "--per_device_eval_batch_size", "5")):
        job(tiny_gpt2_dir, tmp_path / "out", *shared, *flags, "--exit_conf_threshold", "0.1")
        newest = max((tmp_path / "out" / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
        texts.append([row["prediction"] for row in read_jsonl(newest / "predictions.jsonl")])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("loss", ["weighted_ce", None])
def test_training_lowers_the_perplexity_and_the_model_is_reloaded(tiny_gpt2_dir, text_file, tmp_path, loss):
    out = tmp_path / "trained"
    files = ("--train_file", text_file, "--validation_file", text_file)
    _, before = job(tiny_gpt2_dir, tmp_path / "before", "--do_eval", *files)
    flags = ["--do_train", "--do_eval", *files, "--max_steps", "12", "--eval_steps", "6", "--save_steps", "6"]
    flags += ["--learning_rate", "5e-3", "--optim", "adamw_torch", "--report_to", "none"]
    flags += ["--intermediate_loss_fn", loss] if loss else []
    trainer, metrics = job(tiny_gpt2_dir, out, *flags)
    assert metrics["eval_perplexity"] < before["eval_perplexity"]
    assert trainer.args.metric_for_best_model == "perplexity" and not trainer.args.greater_is_better
    held = read_json(out / "config.json")
    assert "intermediate_loss_fn" not in held and "use_early_exit" not in held
    _, again = job(out, tmp_path / "again", "--do_eval", *files)
    assert again["eval_perplexity"] == pytest.approx(metrics["eval_perplexity"], rel=1e-4)


def test_prompts_are_continued_and_masked(tiny_gpt2_dir, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"q": f"Where is {n}? ", "a": "In Elm, by the river."}) + "\n" for n in "ABC"))
    flags = ("--do_eval", "--validation_file", path, "--prompt_column", "q", "--text_column", "a")
    _, metrics = job(tiny_gpt2_dir, tmp_path / "out", *flags)
    assert metrics["eval_samples"] == 3


def test_the_loss_alone(tiny_gpt2_dir, text_file, tmp_path):
    flags = ("--do_eval", "--validation_file", text_file, "--predict_with_generate", "False")
    _, metrics = job(tiny_gpt2_dir, tmp_path / "out", *flags)
    assert metrics["eval_loss"] > 0 and "eval_perplexity" not in metrics


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--block_size", "4096"), "--block_size is 4096, but the model was made for 128 tokens"),
        (("--label_smoothing_factor", "0.1"), "--label_smoothing_factor is not there for language modeling"),
        (("--prompt_length", "100"), "No text is longer than --prompt_length 100"),
        (("--static_exit_layer", "9"), "static_exit_layer is 9: valid are 1 to 4"),
    ],
)
def test_what_cannot_be_done_is_refused(tiny_gpt2_dir, text_file, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        job(tiny_gpt2_dir, tmp_path / "out", "--do_eval", "--validation_file", text_file, *flags)


def test_a_model_with_an_encoder_is_refused(tiny_t5_dir, text_file, tmp_path):
    with pytest.raises(ValueError, match="is a t5: this script needs a decoder alone, such as gpt2 or llama"):
        job(tiny_t5_dir, tmp_path / "out", "--do_eval", "--validation_file", text_file)
