"""Job commands written for FREE train and then decode as they are, with another model and other data in their place."""

import shlex

import pytest
import torch
from transformers import LongT5Config, MT5Config, T5Config

import run_question_answering
import run_summarization
import run_translation
from conftest import dialogues, questions, write_jsonl
from models import DEPLOYED
from util import QuestionAnsweringArguments, SummarizationArguments, TranslationArguments, parse_arguments

SHARED = "--overwrite_output_dir --predict_with_generate"
TRAIN = f"--do_train --do_eval {SHARED} --save_steps 5475 --learning_rate 1e-4"
EVALUATE = f"--do_eval --per_device_eval_batch_size 1 --deploy_scenario True --use_synchronize True {SHARED}"
FREE = "--output_hidden_states_decoder True --intermediate_loss_fn shallowdeep_kd_dyna --shallow_exit_layer 2 "
FREE += "--distill_layer_alpha 0.5 --do_layer_transformation False"
CALM = "--output_hidden_states_decoder True --intermediate_loss_fn weighted_ce"
LORA = "--bf16 --bf16_full_eval --use_lora --lora_rank 64 --lora_alpha 128 "
LORA += "--lora_target_modules 'q' 'k' 'v' 'o' 'wi' 'wo'"
# Way of training -> its flags, and flags under which the model is decoded then.
WAYS = {
    "plain": ("", "--static_exit_layer 2"),
    "CALM": (CALM, "--use_early_exit True --exit_conf_type softmax --exit_conf_threshold 0.9 --exit_min_layer 2"),
    "FREE": (
        FREE,
        "--use_shallow_deep True --shallow_exit_layer 2 --shallow2deep_conf_type softmax "
        "--shallow2deep_conf_threshold 0.9 --use_adap_threshold True",
    ),
    "LoRA": (LORA, "--use_lora"),
    "FREE, LoRA": (f"{FREE} {LORA}", "--use_lora --use_shallow_deep True --shallow_exit_layer 2"),
}
SUMMARIZE = '--source_prefix "summarize: "'
LONG = f"{SUMMARIZE} --max_source_length 2048 --max_target_length 512"
# Task -> script, model, flags of its jobs, columns that its data have, of which the first pair stands for others.
TASKS = {
    "squad": (
        "qa",
        "t5-large",
        "--context_column context --question_column question --answer_column answers --max_seq_length 512",
    ),
    "samsum": ("sum", "t5-large", SUMMARIZE),
    "cnndm": ("sum", "t5-large", SUMMARIZE),
    "multinews": ("sum", "google/long-t5-tglobal-base", LONG),
    "bigpatent": ("sum", "google/long-t5-tglobal-base", LONG),
    "iwslt": (
        "tr",
        "mt5-large",
        '--dataset_config_name iwslt2017-de-en --source_prefix "translate German to English: "',
    ),
}
SCRIPTS = {
    "qa": (run_question_answering, QuestionAnsweringArguments, "eval_f1"),
    "sum": (run_summarization, SummarizationArguments, "eval_rougeLsum"),
    "tr": (run_translation, TranslationArguments, "eval_bleu"),
}
SUMMARIES = {
    "samsum": ("dialogue", "summary"),
    "cnndm": ("article", "highlights"),
    "multinews": ("document", "summary"),
    "bigpatent": ("description", "abstract"),
}
CONFIGS = {"t5-large": T5Config, "mt5-large": MT5Config, "google/long-t5-tglobal-base": LongT5Config}
SWAPPED = (
    "--use_cpu True --max_steps 2 --save_steps 1 --max_eval_samples 3 --max_target_length 8 --max_source_length 64"
)
QA_SWAPPED = SWAPPED.replace("--max_target_length", "--max_answer_length").replace(
    "--max_source_length", "--doc_stride"
)


def records(task: str) -> list[dict]:
    if task == "squad":
        return questions(6)
    pairs = [(record["dialogue"], record["summary"]) for record in dialogues(6)]
    if task == "iwslt":
        return [{"translation": {"de": text, "en": summary}} for text, summary in pairs]
    return [dict(zip(SUMMARIES[task], pair, strict=True)) for pair in pairs]


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory, tiny_tokenizer):
    """Name in a job -> the folder of a tiny model of that architecture."""

    def make(name: str):
        folder = tmp_path_factory.mktemp("model")
        sizes = {"vocab_size": len(tiny_tokenizer), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}
        sizes |= {"num_layers": 2, "num_decoder_layers": 4, "decoder_start_token_id": 0}
        config = CONFIGS[name](**sizes, pad_token_id=0, eos_token_id=1)
        torch.manual_seed(0)
        DEPLOYED[config.model_type](config).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("task", TASKS)
def test_a_job_trains_and_its_model_is_decoded(task, way, tiny_of, tmp_path):
    script, model, flags = TASKS[task]
    if CONFIGS[model].model_type not in DEPLOYED:
        pytest.skip(f"{model} cannot be decoded here")
    module, data_class, score = SCRIPTS[script]
    file, out = write_jsonl(tmp_path / "data.jsonl", records(task)), tmp_path / "save"
    files = f"--train_file {file} --validation_file {file} --output_dir {out}"
    swapped = QA_SWAPPED if script == "qa" else SWAPPED
    training, decoding = WAYS[way]

    def run(command: str) -> dict:
        return module.main(*parse_arguments(data_class, shlex.split(command)))[1]

    metrics = run(f"--model_name_or_path {tiny_of(model)} {TRAIN} {flags} {training} {files} {swapped}")
    assert metrics["train_loss"] > 0 and metrics[score] >= 0
    assert (out / "adapter_model.safetensors").exists() == ("LoRA" in way)
    assert (out / "model.safetensors").exists() == ("LoRA" not in way)
    found = run(f"--model_name_or_path {out} {EVALUATE} {flags} {decoding} {files} {swapped}")
    assert found["eval_samples"] == 3 and 1 <= found["eval_block_avg"] <= 4 and found[score] >= 0
