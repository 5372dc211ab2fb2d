"""Flag -> the numbers it may have: one table for every script, the trainer's flags too."""

from typing import Any

from decoding.policy_checks import flag_ranges
from decoding.ranges import COUNT, FINITE, FROM_TWO, FROM_ZERO, NATURAL, POSITIVE, SHARE, WHOLE, Range

BELOW_ONE = Range("numbers from 0 and below 1", lambda value: 0 <= value < 1)
UP_TO_ONE = Range("numbers above 0 up to 1", lambda value: 0 < value <= 1)
# Beyond these a float32 of a model overflows, or has lost what it was about.
TEMPERATURE = Range("numbers from 0.000001 to 1000000", lambda value: 1e-6 <= value <= 1e6)
WEIGHT = Range("numbers from -100 to 100", lambda value: -100 <= value <= 100)
SEED = Range("0 to 4294967295", lambda value: 0 <= value < 2**32, int)
STEPS = Range(
    "whole numbers from 1, or a share of all steps below 1",
    lambda value: 0 < value < 1 or (value >= 1 and value == int(value)),
)
WARMUP = Range(f"0, {STEPS.words}", lambda value: value == 0 or value in STEPS)
MAX_STEPS = Range("1 and above, or -1 for none", lambda value: value == -1 or value >= 1, int)

LENGTHS = ("seq_length", "answer_length", "source_length", "target_length", "continuation_length", "completion_length")
OF_DATA = {
    **dict.fromkeys((f"{prefix}max_{length}" for length in LENGTHS for prefix in ("", "val_")), COUNT),
    **dict.fromkeys((f"max_{split}_samples" for split in ("train", "eval", "predict")), COUNT),
    **dict.fromkeys(("preprocessing_num_workers", "num_beams", "doc_stride", "n_best_size"), COUNT),
    "block_size": FROM_TWO,
    "n_shot": NATURAL,
    "max_prompt_length": COUNT,
    "prompt_length": FROM_TWO,
    "repetition_penalty": POSITIVE,
    "length_penalty": WEIGHT,
    "no_repeat_ngram_size": NATURAL,
    "null_score_diff_threshold": FINITE,
}
OF_PROMPTS = {
    **dict.fromkeys(("max_new_tokens", "batch_size", "beam_size", "upper_layer", "tokens"), COUNT),
    "intermediate_layer": NATURAL,
    **dict.fromkeys(("alpha", "likelihood_alpha"), SHARE),
    "amateur_temperature": TEMPERATURE,
    "coefficient": WEIGHT,
    "temperature": TEMPERATURE,
    "top_k": NATURAL,
    "top_p": UP_TO_ONE,
}
OF_TRAINER = {
    **dict.fromkeys(("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "eval_delay"), FROM_ZERO),
    "neftune_noise_alpha": FROM_ZERO,
    **dict.fromkeys(("adam_beta1", "adam_beta2"), BELOW_ONE),
    **dict.fromkeys(("label_smoothing_factor", "warmup_ratio"), SHARE),
    **dict.fromkeys(("logging_steps", "save_steps", "eval_steps"), STEPS),
    "warmup_steps": WARMUP,
    "num_train_epochs": POSITIVE,
    "max_steps": MAX_STEPS,
    **dict.fromkeys((f"per_{what}_{on}_batch_size" for what in ("device", "gpu") for on in ("train", "eval")), COUNT),
    **dict.fromkeys(("gradient_accumulation_steps", "eval_accumulation_steps", "torch_empty_cache_steps"), COUNT),
    **dict.fromkeys(("dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout", "generation_num_beams"), COUNT),
    **dict.fromkeys(("dataloader_num_workers", "fsdp_min_num_params"), NATURAL),
    **dict.fromkeys(("seed", "data_seed"), SEED),
    **dict.fromkeys(("generation_max_length", "save_total_limit", "local_rank"), WHOLE),
}
OF_EXIT_TRAINING = {
    "distill_layer_alpha": FROM_ZERO,
    "lora_rank": COUNT,
    "lora_alpha": POSITIVE,
    "lora_dropout": BELOW_ONE,
}
RANGES = {**flag_ranges(), **OF_EXIT_TRAINING, **OF_DATA, **OF_PROMPTS, **OF_TRAINER}


def range_problems(args: Any, **others: Range) -> list[str]:
    """A sentence on every number of `args` that its flag may not have; None is a flag that was not given.

    Args:
        others: Ranges that are these arguments' own.
    """
    ranges = RANGES | others
    return [
        f"--{name} {value!r}: {ranges[name].advice(value)}"
        for name, value in vars(args).items()
        if name in ranges and value is not None and value not in ranges[name]
    ]
