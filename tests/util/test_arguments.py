import json
import shlex

import pytest

from util import (
    QuestionAnsweringArguments,
    SummarizationArguments,
    TrainingArguments,
    TranslationArguments,
    parse_arguments,
)
from util.arguments import hub_name
from util.legacy_flags import LEGACY


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")  # --logging_dir writes it; restored afterwards
    for name in ("a.json", "a.jsonl", "a.csv"):
        (tmp_path / name).write_text("")


def parse(line, data_class=SummarizationArguments):
    start = "--model_name_or_path t5-large --do_eval --dataset_name samsum"
    return parse_arguments(data_class, shlex.split(f"{start} {line}"))


def refused(capsys, line, data_class=SummarizationArguments, start=None):
    """The sentence on stderr of a command that ends with code 2."""
    with pytest.raises(SystemExit) as ended:
        parse(line, data_class) if start is None else parse_arguments(data_class, shlex.split(f"{start} {line}"))
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert "Traceback" not in err
    return err


# flag as a job writes it -> the field and the value it ends in
POLICY = {
    "--deploy_scenario True": ("deploy_scenario", True),
    "--deploy_scenario": ("deploy_scenario", True),
    "--deploy_scenario False": ("deploy_scenario", False),
    "--use_synchronize False": ("use_synchronize", False),
    "--type_vocab_reduct False": ("type_vocab_reduct", None),
    "--plotting_logits False": ("plotting_logits", False),
    "--count_flops True": ("count_flops", True),
    "--final_flops True": ("count_flops", True),
    "--render_jsds False": ("render_jsds", False),
    "--use_adap_threshold False": ("use_adapt_threshold", False),
    "--use_adapt_threshold False": ("use_adapt_threshold", False),
    "--output_hidden_states_decoder True": ("output_hidden_states_decoder", True),
    "--ouput_hidden_states_decoder True": ("output_hidden_states_decoder", True),
    "--intermediate_loss_fn weighted_ce": ("intermediate_loss_fn", "weighted_ce"),
    "--do_layer_transformation False": ("do_layer_transformation", False),
    "--train_meta_cm_head True": ("train_meta_cm_head", True),
    "--static_exit_layer 6": ("static_exit_layer", 6),
    "--use_early_exit True": ("use_early_exit", True),
    "--exit_conf_type state": ("exit_conf_type", "state"),
    "--exit_conf_threshold 0.9": ("exit_conf_threshold", 0.9),
    "--exit_position_temp 4": ("exit_position_temp", 4.0),
    "--exit_min_layer 4": ("exit_min_layer", 4),
    "--use_shallow_deep False": ("use_shallow_deep", False),
    "--shallow2deep_conf_threshold 1.0": ("shallow2deep_conf_threshold", 1.0),
    "--parallel_gen_token True": ("parallel_gen_token", True),
    "--copy_skipped_hidden_states False": ("copy_skipped_hidden_states", False),
    "--parallel_causal_mask True": ("parallel_causal_mask", True),
    "--use_lora False": ("use_lora", False),
    "--lora_rank 8": ("lora_rank", 8),
    "--lora_alpha 8": ("lora_alpha", 8.0),
    "--lora_dropout 0.1": ("lora_dropout", 0.1),
    "--use_lora": ("use_lora", True),
    "--lora_target_modules q k v": ("lora_target_modules", ["q", "k", "v"]),
    "--exit_conf_type JSD_contrastive_confidence": ("exit_conf_type", "JSD_contrastive_confidence"),
    "--type_vocab_reduct adaptive": ("type_vocab_reduct", "adaptive"),
    "--type_vocab_reduct True --k 256": ("type_vocab_reduct", "fixed"),
    "--k 256": ("k", 256),
    "--k_min 10": ("k_min", 10),
    "--k_max 100": ("k_max", 100),
    "--contrastive_alpha 0.2": ("contrastive_alpha", 0.2),
    "--adaptive_scale 0.8": ("adaptive_scale", 0.8),
    "--adaptive_cap True": ("adaptive_cap", True),
    "--copy_share 0.5": ("copy_share", 0.5),
    "--use_early_exit --exit_conf_type contrastive_decoding --emit contrastive": ("emit", "contrastive"),
    "--use_shallow_deep True --shallow_exit_layer 2 --use_adap_threshold True": ("use_adapt_threshold", True),
    "--use_shallow_deep True --shallow_exit_layer 2": ("shallow_exit_layer", 2),
    "--shallow2deep_conf_type softmax": ("shallow2deep_conf_type", "softmax"),
    "--use_shallow_deep --shallow_exit_layer 2 --rollback_conf_threshold 1.0": ("rollback_conf_threshold", 1.0),
    "--use_early_exit --lossless True --num_speculations 4": ("num_speculations", 4),
    "--use_early_exit --skipped_states recompute": ("skipped_states", "recompute"),
    "--parallel_causal_mask False": ("parallel_causal_mask", False),
    "--plotting_logits True": ("plotting_logits", True),
    "--render_jsds True": ("render_jsds", True),
    "--save_traces False": ("save_traces", False),
    "--time_breakdown False": ("time_breakdown", False),
}
LATER = ["--time_breakdown"]
MODEL = {
    "--config_name a": ("config_name", "a"),
    "--tokenizer_name a": ("tokenizer_name", "a"),
    "--cache_dir a": ("cache_dir", "a"),
    "--use_fast_tokenizer False": ("use_fast_tokenizer", False),
    "--no_use_fast_tokenizer": ("use_fast_tokenizer", False),
    "--model_revision v1": ("model_revision", "v1"),
    "--use_auth_token True": ("token", True),
    "--resize_position_embeddings True": ("resize_position_embeddings", True),
}
DATA = {
    "--dataset_name xsum": ("dataset_name", "xsum"),
    "--dataset_config_name 3.0.0": ("dataset_config_name", "3.0.0"),
    "--train_file a.json": ("train_file", "a.json"),
    "--validation_file a.jsonl": ("validation_file", "a.jsonl"),
    "--test_file a.csv": ("test_file", "a.csv"),
    "--pad_to_max_length": ("pad_to_max_length", True),
    "--max_train_samples 3": ("max_train_samples", 3),
    "--max_eval_samples 3": ("max_eval_samples", 3),
    "--max_predict_samples 3": ("max_predict_samples", 3),
    "--preprocessing_num_workers 2": ("preprocessing_num_workers", 2),
    "--num_beams 4": ("num_beams", 4),
    "--ignore_pad_token_for_loss False": ("ignore_pad_token_for_loss", False),
    "--overwrite_cache": ("overwrite_cache", True),
    "--repetition_penalty 1.2": ("repetition_penalty", 1.2),
    "--no_repeat_ngram_size 3": ("no_repeat_ngram_size", 3),
    "--length_penalty 0.8": ("length_penalty", 0.8),
    "--forced_bos_token de": ("forced_bos_token", "de"),
}
QUESTIONS = {
    "--context_column context": ("context_column", "context"),
    "--question_column question": ("question_column", "question"),
    "--answer_column answers": ("answer_column", "answers"),
    "--max_seq_length 512": ("max_seq_length", 512),
    "--max_answer_length 20": ("val_max_answer_length", 20),
    "--val_max_answer_length 10": ("val_max_answer_length", 10),
    "--doc_stride 64": ("doc_stride", 64),
    "--n_best_size 5": ("n_best_size", 5),
    "--null_score_diff_threshold -0.5": ("null_score_diff_threshold", -0.5),
    "--version_2_with_negative": ("version_2_with_negative", True),
}
TEXTS = {
    "--source_prefix 'summarize: '": ("source_prefix", "summarize: "),
    "--max_source_length 256": ("max_source_length", 256),
    "--max_target_length 64": ("val_max_target_length", 64),
    "--val_max_target_length 32": ("val_max_target_length", 32),
}
SUMMARIES = {
    "--text_column a": ("text_column", "a"),
    "--summary_column b": ("summary_column", "b"),
    "--lang en": ("lang", "en"),
}
LANGUAGES = {"--source_lang de": ("source_lang", "de"), "--target_lang en": ("target_lang", "en")}


@pytest.mark.parametrize(("line", "field"), POLICY.items())
def test_flags_of_exits_parse(line, field):
    assert getattr(parse(line)[3], field[0]) == field[1]


@pytest.mark.parametrize("line", LATER)
def test_a_missing_feature_is_refused_by_name(capsys, line):
    assert line.split()[0].replace("adap_", "adapt_") in refused(capsys, line)


@pytest.mark.parametrize(("line", "field"), MODEL.items())
def test_flags_of_the_model_parse(line, field):
    assert getattr(parse(line)[0], field[0]) == field[1]


@pytest.mark.parametrize(
    ("data_class", "line", "field"),
    [
        (data_class, line, field)
        for data_class, tables in {
            QuestionAnsweringArguments: (DATA, QUESTIONS),
            SummarizationArguments: (DATA, TEXTS, SUMMARIES),
            TranslationArguments: (DATA, TEXTS, LANGUAGES),
        }.items()
        for table in tables
        for line, field in table.items()
    ],
)
def test_flags_of_the_data_parse(data_class, line, field):
    assert getattr(parse(line, data_class)[1], field[0]) == field[1]


@pytest.mark.parametrize(
    ("data_class", "defaults"),
    [
        (
            QuestionAnsweringArguments,
            {"max_seq_length": 384, "max_answer_length": 30, "val_max_answer_length": 30, "doc_stride": 128},
        ),
        (SummarizationArguments, {"max_source_length": 512, "max_target_length": 128, "val_max_target_length": 128}),
        (TranslationArguments, {"max_source_length": 1024, "max_target_length": 128, "val_max_target_length": 128}),
    ],
)
def test_defaults_of_the_tasks(data_class, defaults):
    model_args, data_args, training_args, _ = parse("", data_class)
    assert {name: getattr(data_args, name) for name in defaults} == defaults
    assert data_args.repetition_penalty == 1.0
    assert model_args.model_name_or_path == "google-t5/t5-large"
    assert training_args.output_dir == data_class.default_output_dir
    assert training_args.predict_with_generate
    assert training_args.report_to == []
    assert (training_args.eval_strategy, training_args.load_best_model_at_end) == ("no", False)


# Every flag of Seq2SeqTrainingArguments in transformers 4.28, with its default there or, after a star, another value.
FLAGS_OF_4_28 = """
overwrite_output_dir False | do_train False | do_predict False | evaluation_strategy no | prediction_loss_only False
per_device_train_batch_size 8 | per_device_eval_batch_size 8 | per_gpu_train_batch_size *4 | per_gpu_eval_batch_size *4
gradient_accumulation_steps 1 | eval_accumulation_steps *4 | eval_delay 0 | learning_rate 5e-05 | weight_decay 0.0
adam_beta1 0.9 | adam_beta2 0.999 | adam_epsilon 1e-08 | max_grad_norm 1.0 | num_train_epochs 3.0 | max_steps -1
lr_scheduler_type linear | warmup_ratio 0.0 | warmup_steps 0 | log_level passive | log_level_replica warning
log_on_each_node True | logging_dir *logs | logging_strategy steps | logging_first_step False | logging_steps 500
logging_nan_inf_filter True | save_strategy steps | save_steps 500 | save_total_limit *2 | save_safetensors False
save_on_each_node False | no_cuda False | use_mps_device False | seed 42 | data_seed *1 | jit_mode_eval False
use_ipex False | bf16 False | fp16 False | fp16_opt_level O1 | half_precision_backend auto | bf16_full_eval False
fp16_full_eval False | tf32 *False | local_rank -1 | xpu_backend *gloo | tpu_metrics_debug False | debug ""
dataloader_drop_last False | eval_steps *100 | dataloader_num_workers 0 | past_index -1 | run_name *name
disable_tqdm *True | remove_unused_columns True | label_names *labels | load_best_model_at_end False
metric_for_best_model *f1 | greater_is_better *True | ignore_data_skip False | sharded_ddp "" | fsdp ""
fsdp_min_num_params 0 | fsdp_transformer_layer_cls_to_wrap *T5Block | label_smoothing_factor 0.0 | optim adamw_hf
optim_args *a=1 | adafactor False | group_by_length False | length_column_name length | report_to *tensorboard
ddp_find_unused_parameters *False | ddp_bucket_cap_mb *25 | dataloader_pin_memory True | skip_memory_metrics True
use_legacy_prediction_loop False | push_to_hub False | resume_from_checkpoint *a | hub_model_id *a
hub_strategy every_save | hub_token *a | hub_private_repo False | gradient_checkpointing False
include_inputs_for_metrics False | fp16_backend auto | push_to_hub_model_id *a | push_to_hub_organization *a
push_to_hub_token *a | mp_parameters "" | auto_find_batch_size False | full_determinism False | ray_scope last
ddp_timeout 1800 | torch_compile False | sortish_sampler False | predict_with_generate False
generation_max_length *20 | generation_num_beams *2 | generation_config *a
"""
OLD_TRAINER_FLAGS = [each.replace("*", "") for row in FLAGS_OF_4_28.split("\n") for each in row.split(" | ") if each]
BARE = [each.split()[0] for each in OLD_TRAINER_FLAGS if each.endswith(("True", "False"))]
# Not on every machine, refused, or nothing by itself.
NOT_BARE = ("fp16", "bf16", "tf32", "jit", "use_ipex", "use_legacy", "use_mps", "torch_compile", "push_to", "load_best")


@pytest.mark.parametrize("line", OLD_TRAINER_FLAGS)
def test_trainer_flags_of_2023_parse(line):
    parse(f"--{line}")


def test_trainer_flags_of_2023_parse_together():
    apart = ("do_train", "load_best", "generation_num_beams", "predict_with")
    parse(" ".join(f"--{each}" for each in OLD_TRAINER_FLAGS if not each.startswith(apart)))


@pytest.mark.parametrize("name", [name for name in BARE if not name.startswith(NOT_BARE)])
def test_a_boolean_flag_may_stand_bare(name):
    parse(f"--{name}", QuestionAnsweringArguments)


# An old flag -> the modern field and what it holds then.
TRANSLATED = {
    "--evaluation_strategy steps": ("eval_strategy", "steps"),
    "--per_gpu_train_batch_size 3": ("per_device_train_batch_size", 3),
    "--per_gpu_eval_batch_size 3": ("per_device_eval_batch_size", 3),
    "--warmup_ratio 0.1": ("warmup_steps", 0.1),
    "--warmup_ratio 0.1 --warmup_steps 7": ("warmup_steps", 7),
    "--no_cuda": ("use_cpu", True),
    "--adafactor": ("optim", "adafactor"),
    "--optim adamw_hf": ("optim", "adamw_torch"),
    "--group_by_length True": ("train_sampling_strategy", "group_by_length"),
    "--include_inputs_for_metrics True": ("include_for_metrics", ["inputs"]),
    "--include_tokens_per_second": ("include_num_input_tokens_seen", "all"),
    "--include_num_input_tokens_seen True": ("include_num_input_tokens_seen", "all"),
    "--include_num_input_tokens_seen non_padding": ("include_num_input_tokens_seen", "non_padding"),
    "--tpu_metrics_debug --debug underflow_overflow": ("debug", ["underflow_overflow", "tpu_metrics_debug"]),
    "--gradient_checkpointing": ("activation_checkpointing", True),
    "--push_to_hub_model_id x": ("hub_model_id", "x"),
    "--push_to_hub_model_id x --push_to_hub_organization me": ("hub_model_id", "me/x"),
    "--push_to_hub_organization me --output_dir save/x": ("hub_model_id", "me/x"),
    "--push_to_hub_token x": ("hub_token", "x"),
    "--fsdp_transformer_layer_cls_to_wrap T5Block --fsdp_min_num_params 3": (
        "fsdp_config",
        {"min_num_params": 3, "transformer_layer_cls_to_wrap": "T5Block"},
    ),
    "--report_to wandb tensorboard": ("report_to", ["wandb", "tensorboard"]),
    "--report_to all_of_them": ("report_to", ["all_of_them"]),
    "--eval_strat epoch": ("eval_strategy", "epoch"),
    "--output-dir save/y": ("output_dir", "save/y"),
    "--local-rank=-1": ("local_rank", -1),
    "--overwrite_output_dir": ("overwrite_output_dir", True),
}


@pytest.mark.parametrize(("line", "field"), TRANSLATED.items())
def test_old_names_do_what_they_say(line, field):
    training_args = parse(line)[2]
    assert getattr(training_args, field[0]) == field[1]
    assert all(getattr(training_args, name) is None for name in LEGACY)


@pytest.mark.parametrize("flag", ["xpu_backend", "ddp_backend"])
def test_one_process_needs_no_backend(flag):
    assert parse(f"--{flag} gloo")[2].ddp_backend is None


def test_split_batches_reach_the_accelerator():
    assert parse("--split_batches --dispatch_batches False")[2].accelerator_config.split_batches is True


def test_a_whole_warmup_is_no_single_step():
    assert parse("--warmup_ratio 1.0 --max_steps 50")[2].get_warmup_steps(50) == 50


@pytest.mark.parametrize(
    "line",
    [
        "--sharded_ddp simple",
        "--jit_mode_eval",
        "--use_ipex True",
        "--fp16_opt_level O2",
        "--half_precision_backend apex",
        "--fp16_backend apex",
        "--past_index 2",
        "--use_legacy_prediction_loop True",
        "--mp_parameters a=1",
        "--ray_scope all",
        "--tpu_num_cores 8",
        "--warmup_ratio 1.5",
        "--optim sgdd",
    ],
)
def test_an_old_meaning_that_cannot_be_kept_is_refused(capsys, line):
    assert line.split()[1 if "optim" in line else 0] in refused(capsys, line)


TRAINING_DEFAULTS = {
    "optim": "adafactor",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "eval_strategy": "steps",
    "eval_steps": 70,
    "metric_for_best_model": None,  # the task names it
    "do_eval": False,
}


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("", {}),
        ("--optim adamw_torch --save_total_limit 3", {"optim": "adamw_torch", "save_total_limit": 3}),
        ("--metric_for_best_model rouge1", {"metric_for_best_model": "rouge1"}),
        ("--load_best_model_at_end False", {"load_best_model_at_end": False}),
        ("--eval_steps 35", {"eval_steps": 35}),
        ("--save_strategy epoch", {"eval_strategy": "epoch", "eval_steps": None}),
        ("--evaluation_strategy epoch", {"eval_strategy": "epoch", "load_best_model_at_end": False, "do_eval": True}),
        ("--save_strategy no", {"load_best_model_at_end": False}),
    ],
)
def test_do_train_fills_only_what_was_not_given(line, changed):
    start = "--model_name_or_path t5-small --do_train --dataset_name samsum --save_steps 70"
    training_args = parse_arguments(SummarizationArguments, shlex.split(f"{start} {line}"))[2]
    expected = {**TRAINING_DEFAULTS, **changed}
    if changed.get("eval_strategy"):
        expected.pop("eval_steps")
    assert {name: getattr(training_args, name) for name in expected} == expected


def test_training_without_validation_data_does_not_evaluate():
    start = "--model_name_or_path t5-small --do_train --train_file a.json"
    training_args = parse_arguments(QuestionAnsweringArguments, shlex.split(start))[2]
    assert (training_args.eval_strategy, training_args.load_best_model_at_end) == ("no", False)


def test_training_arguments_work_from_python(tmp_path):
    made = TrainingArguments(output_dir=str(tmp_path), evaluation_strategy="epoch", no_cuda=True)
    assert (made.eval_strategy, made.use_cpu) == ("epoch", True)
    best = TrainingArguments(str(tmp_path), do_train=True)
    best.best_by("f1")
    assert (best.metric_for_best_model, best.greater_is_better) == ("f1", True)
    best.best_by("loss", more_is_better=False)
    assert (best.metric_for_best_model, best.greater_is_better) == ("f1", True)
    with pytest.raises(ValueError, match="--past_index 3"):
        TrainingArguments(past_index=3)


JOBS = {
    # FREE's evaluation job on SAMSum with CALM's lines, and the fork's on SQuAD without its measure.
    "samsum": (
        SummarizationArguments,
        "--model_name_or_path t5-large --do_eval --dataset_name samsum --output_dir ./save/samsum_t5_large/ "
        "--per_device_eval_batch_size 1 --deploy_scenario True --use_synchronize True --overwrite_output_dir "
        "--predict_with_generate --source_prefix 'summarize: ' --max_source_length 512 --max_target_length 128 "
        "--use_early_exit True --exit_conf_type softmax --exit_conf_threshold 0.9 --exit_position_temp 4 "
        "--exit_min_layer 4",
    ),
    "squad": (
        QuestionAnsweringArguments,
        "--model_name_or_path google-t5/t5-large --do_eval --dataset_name squad --context_column context "
        "--question_column question --answer_column answers --output_dir ./save/squad_t5-base/ "
        "--per_device_eval_batch_size 1 --deploy_scenario True --use_synchronize False --overwrite_output_dir "
        "--predict_with_generate --max_seq_length 512 --use_early_exit True --exit_conf_type softmax "
        "--exit_conf_threshold 0.9 --exit_min_layer 3 --include_inputs_for_metrics True --max_eval_samples 6 "
        "--use_auth_token True --type_vocab_reduct False",
    ),
    "iwslt": (
        TranslationArguments,
        "--model_name_or_path mt5-large --do_eval --dataset_name iwslt2017 --dataset_config_name iwslt2017-de-en "
        "--output_dir ./save/iwslt_t5_large/ --per_device_eval_batch_size 1 --deploy_scenario True "
        "--use_synchronize True --overwrite_output_dir --predict_with_generate "
        "--source_prefix 'translate German to English: ' --static_exit_layer 6",
    ),
    "training": (
        SummarizationArguments,
        "--model_name_or_path t5-large --do_train --do_eval --dataset_name samsum --output_dir ./save/samsum_t5_large/ "
        "--per_device_train_batch_size 4 --per_device_eval_batch_size 32 --overwrite_output_dir "
        "--predict_with_generate --source_prefix 'summarize: ' --save_steps 5475 --learning_rate 1e-4 "
        "--num_train_epochs 20 --output_hidden_states_decoder True --intermediate_loss_fn weighted_ce",
    ),
}


# FREE's jobs on long documents, each with the lines of one of its methods.
LONG = (
    "--model_name_or_path google/long-t5-tglobal-base --do_eval --overwrite_output_dir --predict_with_generate "
    "--source_prefix 'summarize: ' --max_source_length 2048 --max_target_length 512 "
)
TRAINED = "--do_train --per_device_train_batch_size 2 --per_device_eval_batch_size 16 --learning_rate 1e-4 "
TRAINED += "--num_train_epochs 3 --output_hidden_states_decoder True "
DEPLOYED = "--per_device_eval_batch_size 1 --deploy_scenario True --use_synchronize True "
LONG_DATA = {
    "bigpatent": "--dataset_name big_patent --dataset_config_name e --output_dir ./save/bigpatent_longt5_base/ ",
    "multinews": "--dataset_name multi_news --output_dir ./save/multi_news_longt5_base/ ",
}
LONG_METHODS = {
    "trained as CALM": TRAINED + "--save_steps 2583 --intermediate_loss_fn weighted_ce",
    "trained as FREE": TRAINED + "--save_steps 1000 --intermediate_loss_fn shallowdeep_kd_dyna --shallow_exit_layer 6 "
    "--distill_layer_alpha 0.5 --do_layer_transformation False",
    "CALM": DEPLOYED + "--use_early_exit True --exit_conf_type softmax --exit_conf_threshold 0.9 --exit_min_layer 4",
    "FREE": DEPLOYED + "--use_shallow_deep True --shallow_exit_layer 6 --shallow2deep_conf_type softmax "
    "--shallow2deep_conf_threshold 0.9 --use_adap_threshold True",
    "static": DEPLOYED + "--static_exit_layer 6",
}


@pytest.mark.parametrize("data", LONG_DATA)
@pytest.mark.parametrize("method", LONG_METHODS)
def test_old_jobs_on_long_documents_parse(data, method):
    line = LONG + LONG_DATA[data] + LONG_METHODS[method]
    model_args, data_args, training_args, additional_args = parse_arguments(SummarizationArguments, shlex.split(line))
    assert model_args.model_name_or_path == "google/long-t5-tglobal-base"
    assert (data_args.max_source_length, data_args.max_target_length) == (2048, 512)
    assert training_args.do_train == ("trained" in method)
    additional_args.policy().check(12)


@pytest.mark.parametrize(("data_class", "line"), JOBS.values(), ids=JOBS)
def test_old_jobs_parse(data_class, line):
    model_args, data_args, training_args, additional_args = parse_arguments(data_class, shlex.split(line))
    assert model_args.model_name_or_path.endswith("5-large")
    assert data_args.dataset_name in line
    assert training_args.overwrite_output_dir
    assert additional_args.exit_conf_threshold == (0.9 if "exit_conf_threshold" in line else None)


def test_a_json_file_holds_a_command_line(tmp_path):
    held = {
        "model_name_or_path": "t5-small",
        "do_eval": True,
        "dataset_name": "samsum",
        "exit_conf_threshold": 0.5,
        "use_early_exit": True,
        "final_flops": True,
        "evaluation_strategy": "no",
        "report_to": ["wandb", "tensorboard"],
        "source_prefix": "- of: ",
        "lr_scheduler_kwargs": {"a": 1},
        "max_eval_samples": None,
    }
    (tmp_path / "job.json").write_text(json.dumps(held))
    model_args, data_args, training_args, additional_args = parse_arguments(SummarizationArguments, ["job.json"])
    assert model_args.model_name_or_path == "google-t5/t5-small"
    assert (data_args.source_prefix, data_args.max_eval_samples) == ("- of: ", None)
    assert (training_args.report_to, training_args.lr_scheduler_kwargs) == (["wandb", "tensorboard"], {"a": 1})
    assert (additional_args.exit_conf_threshold, additional_args.count_flops) == (0.5, True)
    changed = parse_arguments(SummarizationArguments, ["job.json", "--exit_conf_threshold", "0.7"])
    assert changed[3].exit_conf_threshold == 0.7


# Everything after the script's name -> what the sentence has to say.
BAD_COMMANDS = {
    "": "nothing to do",
    "--do_eval": "--do_eval needs --dataset_name or --validation_file",
    "--do_train --dataset_name": "--dataset_name",
    "--do_predict --validation_file a.json": "--do_predict needs --dataset_name or --test_file",
    "--do_eval --dataset_name samsum --exit_conf_treshold 1": "did you mean --exit_conf_threshold",
    "--do_eval --dataset_name samsum --zzzz": "--zzzz is no flag",
    "--do_eval --dataset_name samsum stray": "stray",
    "--do_eval --dataset_name samsum --exit_conf_threshold high": "invalid float value: 'high'",
    "--do_eval --dataset_name samsum --use_early_exit perhaps": "perhaps",
    "--do_eval --dataset_name samsum --exit_conf": "ambiguous",
    "--do_eval --dataset_name samsum --evaluation_strategy sometimes": "invalid choice: 'sometimes'",
    "--do_eval --dataset_name samsum --use_early_exit --num_beams 4": "Beams cannot be combined with exits",
    "--do_eval --dataset_name samsum --static_exit_layer 2 --generation_num_beams 4": "--generation_num_beams 4 with",
    "--do_eval --validation_file absent.json": "there is no such file",
    "--do_eval --validation_file a.txt": ".json, .jsonl, .csv",
    "--do_eval --dataset_name ''": "--dataset_name is empty",
    "--do_eval --dataset_name ./absent": "--dataset_name ./absent: there is no such folder",
    "--do_eval --dataset_name a.jsonl": "--dataset_name a.jsonl is a file: give it as --train_file, --validation_file",
    "--do_eval --dataset_name samsum --rouge_tokenizer words": "words is not known: valid are rouge_score, unicode",
    "--do_eval --dataset_name samsum --max_eval_samples 0": "--max_eval_samples 0",
    "--do_eval --dataset_name samsum --num_beams 0": "--num_beams 0",
    "--do_eval --dataset_name samsum --per_device_eval_batch_size 0": "--per_device_eval_batch_size 0",
    "--do_eval --dataset_name samsum --per_device_train_batch_size -1": "--per_device_train_batch_size -1",
    "--do_eval --dataset_name samsum --max_target_length 1": ": error: --max_target_length 1 leaves no room",
    "--do_eval --dataset_name samsum --val_max_target_length 1": ": error: --val_max_target_length 1 leaves no room",
    "--do_eval --dataset_name samsum --generation_max_length 0": "--generation_max_length 0 leaves no room",
    "--do_eval --dataset_name samsum --repetition_penalty 0": "--repetition_penalty 0",
    "--do_eval --dataset_name samsum --model_name_or_path ./absent": "no such folder",
    "--do_eval --dataset_name samsum --tokenizer_name ./absent": "--tokenizer_name ./absent: there is no such folder",
    "--do_eval --dataset_name samsum --output_dir a.json/x": "a.json is a file, not a folder",
    "--do_eval --dataset_name samsum --output_dir a.json": "a.json is a file, not a folder",
    "--do_eval --dataset_name samsum --output_dir /proc/x": "/proc/x cannot be written",
    "absent.json": "absent.json cannot be read",
    "a.json": "a.json, line 1: not valid JSON",
}
MODEL_OF = {"absent.json": "", "a.json": ""}  # a file of arguments stands first


@pytest.mark.parametrize(("line", "told"), BAD_COMMANDS.items())
def test_bad_commands_end_with_a_sentence_and_code_2(capsys, tmp_path, line, told):
    before = sorted(tmp_path.rglob("*"))
    assert told in refused(capsys, line, start=MODEL_OF.get(line, "--model_name_or_path t5-small"))
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_flags_of_a_task_are_refused_by_name(capsys):
    told = refused(capsys, "--bleu_tokenizer 14a", TranslationArguments)
    assert "--bleu_tokenizer 14a is not known: valid are none, zh, 13a, intl, char, ja-mecab" in told
    told = refused(capsys, "--max_seq_length 100", QuestionAnsweringArguments)
    assert "--doc_stride 128 has to be below --max_seq_length 100" in told


def test_problems_of_all_kinds_are_told_at_once(capsys):
    told = refused(capsys, "--exit_conf_threshold 2 --validation_file no.json --past_index 1 --model_name_or_path ./no")
    assert all(name in told for name in ("--exit_conf_threshold", "--validation_file", "--past_index", "./no"))


def test_help_shows_each_flag_once_with_underscores(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(SummarizationArguments, ["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert "softmax, max_prob, entropy" in shown
    assert "--exit-conf-type" not in shown


def test_bare_names_of_old_jobs_have_owners_unless_they_are_folders(tmp_path):
    assert hub_name("mt5-large") == "google/mt5-large"
    assert hub_name("gpt2") == "openai-community/gpt2"
    assert hub_name("google-t5/t5-base") == "google-t5/t5-base"
    (tmp_path / "t5-base").mkdir()
    assert hub_name("t5-base") == "t5-base"


@pytest.mark.parametrize("more", [{}, {"do_train": True}, {"predict_with_generate": False}])
def test_half_precision_of_training_is_told_where_nothing_trains(tmp_path, caplog, more):
    TrainingArguments(str(tmp_path), bf16=True, use_cpu=True, **more)
    assert ("--bf16 concerns training alone: --bf16_full_eval" in caplog.text) == (not more)
