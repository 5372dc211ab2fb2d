"""Jobs that train exit translators of a model that stays as it is: what is saved, continued, and refused."""

import copy
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

import run_language_modeling
import run_question_answering
from models import DeployT5ForConditionalGeneration
from models.translators import MODULE, prepare_translators, save_translators
from support import random_translators, shell, tiny_gpt2, tiny_t5
from util import LanguageModelingArguments, QuestionAnsweringArguments, parse_arguments
from util.files import read_json

SHORT = ["--max_seq_length", "64", "--doc_stride", "16", "--max_answer_length", "8", "--use_cpu"]
TRAINING = ["--do_train", "--train_exit_translators", "True", "--max_steps", "4", "--learning_rate", "1e-2"]
TRAINING += ["--save_steps", "2", "--logging_steps", "1", "--eval_strategy", "no"]


@pytest.fixture
def words(tiny_t5_dir, squad_file, tmp_path):
    """The flags of a question answering job: flags -> all of them, into a folder of its own by default."""

    def make(*flags, model=tiny_t5_dir, out=tmp_path / "out"):
        found = ["--model_name_or_path", model, "--output_dir", out, "--train_file", squad_file]
        found += ["--validation_file", squad_file, "--max_eval_samples", "6", *SHORT, *flags]
        return list(map(str, found))

    return make


@pytest.fixture
def answers(words):
    """The job itself: flags -> (trainer, metrics)."""

    def run(*flags, **where):
        return run_question_answering.main(*parse_arguments(QuestionAnsweringArguments, words(*flags, **where)))

    return run


def stored(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def losses(trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def apart(folder) -> tuple[dict, dict]:
    """A checkpoint's own weights, and its translators."""
    held = stored(folder)
    translators = {name: held.pop(name) for name in list(held) if name.startswith(f"{MODULE}.")}
    return held, translators


def same_bytes(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


WAYS = {
    "plain": [],
    "bf16": ["--bf16", "True"],
    "checkpointing and accumulation": ["--gradient_checkpointing", "True", "--gradient_accumulation_steps", "2"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_divergence_falls_and_the_weights_keep_their_bytes(answers, tiny_t5_dir, tmp_path, way):
    trainer, metrics = answers(*TRAINING, "--max_steps", "30", *WAYS[way], "--do_eval", "--static_exit_layer", "2")
    found = losses(trainer)
    assert sum(found[-5:]) < 0.8 * sum(found[:5]) and metrics["eval_flops_total_exit_translators"] > 0
    own, translators = apart(tmp_path / "out")
    assert same_bytes(own, stored(tiny_t5_dir))
    assert {name.split(".")[1] for name in translators} == {"1", "2", "3"}
    assert all(value.dtype == torch.float32 and value.any() for value in translators.values())
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.translated_layers == [1, 2, 3] and not hasattr(config, "train_exit_translators")
    _, again = answers("--do_eval", "--static_exit_layer", "2", model=tmp_path / "out", out=tmp_path / "again")
    assert again["eval_f1"] == metrics["eval_f1"]
    alone = load_file(tmp_path / "out" / "exit_translators.safetensors")
    assert same_bytes(alone, translators)
    assert again["eval_flops_total_exit_translators"] == metrics["eval_flops_total_exit_translators"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_stay_so(answers, tiny_t5_dir, tmp_path, dtype):
    half = tmp_path / "half"
    DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir, dtype=dtype).save_pretrained(half)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (half / name).write_bytes((tiny_t5_dir / name).read_bytes())
    answers(*TRAINING, model=half)
    own, translators = apart(tmp_path / "out")
    assert same_bytes(own, stored(half)) and {each.dtype for each in translators.values()} == {torch.float32}


def test_a_training_that_is_continued_ends_as_one_left_alone(answers, tmp_path):
    constant = ("--lr_scheduler_type", "constant", "--save_steps", "1")
    for steps in ("2", "4"):
        continued, _ = answers(*TRAINING, *constant, "--max_steps", steps)
    answers(*TRAINING, *constant, out=tmp_path / "whole")
    assert continued.state.global_step == 4
    assert same_bytes(stored(tmp_path / "out"), stored(tmp_path / "whole"))


def test_the_last_checkpoint_is_kept_where_evaluations_cannot_tell_them_apart(answers, tmp_path, caplog):
    every = ("--eval_strategy", "steps", "--eval_steps", "2", "--save_total_limit", "9")
    trainer, _ = answers(*TRAINING, *every)
    assert "Translators do not change what full depth says, so the last checkpoint is kept" in caplog.text
    assert trainer.state.best_model_checkpoint is None
    held = apart(tmp_path / "out")[1]
    assert same_bytes(held, apart(tmp_path / "out" / "checkpoint-4")[1])
    caplog.clear()
    trainer, _ = answers(*TRAINING, *every, "--predict_with_generate", "False", out=tmp_path / "chosen")
    assert trainer.state.best_global_step == 4 and "Translators do not" not in caplog.text


def test_it_starts_from_a_file_and_from_a_checkpoint(answers, tiny_t5_dir, tmp_path):
    model = DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir)
    made, path = random_translators((1, 3), 32), tmp_path / "made.safetensors"
    save_translators(path, made, model)
    still = (*TRAINING, "--learning_rate", "0")
    answers(*still, "--exit_translators", path)
    held = apart(tmp_path / "out")[1]
    assert same_bytes(held, {f"{MODULE}.{name}": value for name, value in made.state_dict().items()})
    assert read_json(tmp_path / "out" / "training_settings.json")["exit_translators"][:5] == "made-"
    answers(*still, model=tmp_path / "out", out=tmp_path / "on")
    assert same_bytes(apart(tmp_path / "on")[1], held)


def test_a_decoder_learns_from_texts_alone(tiny_gpt2_dir, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("Arden is a town. Its tower is red. Ann: Where are you? Bob: In Arden.\n" * 12)
    flags = ["--model_name_or_path", tiny_gpt2_dir, "--output_dir", tmp_path / "out", "--use_cpu", "True"]
    flags += ["--train_file", texts, "--block_size", "32", *TRAINING, "--max_steps", "30"]
    trainer, _ = run_language_modeling.main(*parse_arguments(LanguageModelingArguments, list(map(str, flags))))
    found = losses(trainer)
    assert sum(found[-5:]) < 0.8 * sum(found[:5])
    assert same_bytes(apart(tmp_path / "out")[0], stored(tiny_gpt2_dir))


def test_the_model_is_looked_at_as_it_will_be_in_use_without_dropout():
    model = tiny_t5(0, dropout_rate=0.5, train_exit_translators=True)
    prepare_translators(model)
    model.train()
    inputs = {"input_ids": torch.arange(2, 12)[None], "labels": torch.arange(5, 11)[None]}
    one, two = (model(**inputs) for _ in range(2))
    assert one.loss.item() == two.loss.item() and one.logits is None and model.training
    other = copy.deepcopy(model).eval()
    torch.testing.assert_close(other(**inputs).loss, one.loss)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--intermediate_loss_fn", "ce"], "and --intermediate_loss_fn ce exclude each other"),
        (["--train_meta_cm_head", "True"], "and --train_meta_cm_head exclude each other"),
        (["--use_lora", "True"], "and --use_lora exclude each other"),
        (["--label_smoothing_factor", "0.1"], "would train the last layer in the place of --train_exit_translators"),
    ],
)
def test_nothing_else_is_trained_at_once(answers, tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        answers(*TRAINING, *flags)
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_of_one_layer_has_no_exit_to_train():
    with pytest.raises(ValueError, match="one layer, so there is no exit below its last"):
        prepare_translators(tiny_gpt2(0, n_layer=1))


@pytest.mark.slow
def test_two_processes_train_to_the_translators_of_one(answers, words, tmp_path):
    answers(*TRAINING, "--per_device_train_batch_size", "4")
    command = words(*TRAINING, "--per_device_train_batch_size", "2", out=tmp_path / "two")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "src/run_question_answering.py"]
    process = shell(sys.executable, *launcher, *command)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    one, two = stored(tmp_path / "out"), stored(tmp_path / "two")
    own = apart(tmp_path / "two")[0]
    assert all(torch.equal(value, one[name]) for name, value in own.items())
    for name in one.keys() - own.keys():
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-2)
