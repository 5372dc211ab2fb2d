"""What a job settles before it begins: what is printed, how the best checkpoint is told, which dtype is used."""

import logging
import os
import sys
import warnings

import torch
from transformers.utils import logging as transformers_logging

from decoding.policy import Policy
from tasks import METRICS, Task, score_names
from tasks.language_modeling import LANGUAGE_MODELING
from training.reporting import only_our_bars
from training.trainer import full_eval_dtype
from util import AdditionalArguments, TrainingArguments

logger = logging.getLogger(__name__)

# Whose lines are a job's own.
LOGGERS = ("jobs", "training", "tasks", "util", "models", "decoding")


def quieten(training_args: TrainingArguments) -> None:
    """Our own lines in the main process, warnings of the libraries, no bars but ours; --log_level sets both."""
    chosen = training_args.log_level != "passive"
    level = training_args.get_process_log_level() if chosen else logging.WARNING
    ours = logging.INFO if training_args.process_index == 0 and not chosen else level
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(ours)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR if level == logging.WARNING else level)
    transformers_logging.set_verbosity(level)
    if training_args.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where installed, would warn that it looked for more
    if training_args.deepspeed:  # which calls what torch is going to rename
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    training_args.disable_tqdm = training_args.disable_tqdm or not sys.stderr.isatty()
    training_args.dataloader_pin_memory = training_args.dataloader_pin_memory and training_args.device.type == "cuda"
    only_our_bars()


def choose_best_by(training_args: TrainingArguments, task: Task) -> None:
    """The best checkpoint is the one of the best score of the task, of the lowest perplexity where texts are continued,
    or of the lowest loss where none is decoded.

    Raises:
        ValueError: --metric_for_best_model names what an evaluation of this task does not have.
    """
    if not training_args.do_train:
        return
    if training_args.predict_with_generate:
        valid = score_names(task)
        if task.kind is LANGUAGE_MODELING:
            valid += ["perplexity", "loss"]
            training_args.best_by("perplexity", more_is_better=False)
        training_args.best_by(METRICS[task.metric].headline)
    else:
        valid = ["loss"]
        training_args.best_by("loss", more_is_better=False)
    named = (training_args.metric_for_best_model or "").removeprefix("eval_")
    if named and named not in valid:
        raise ValueError(f"--metric_for_best_model {named} is not measured here: valid are {', '.join(valid)}.")


def keep_last_translators(training_args: TrainingArguments, args: AdditionalArguments, policy: Policy) -> None:
    """Keep the last checkpoint instead of the best where translators are trained and evaluations decode what the last
    layer says, which they do not change: the first would be the best of equals."""
    decodes_alike = training_args.predict_with_generate and (not policy.exits or args.lossless)
    if (
        training_args.do_train
        and args.train_exit_translators
        and decodes_alike
        and training_args.load_best_model_at_end
    ):
        training_args.load_best_model_at_end = False
        training_args.metric_for_best_model = training_args.greater_is_better = None
        logger.warning(
            "Translators do not change what full depth says, so the last checkpoint is kept: to choose one give "
            "--predict_with_generate False, which compares divergences, or an exit such as --static_exit_layer."
        )


def model_dtype(training_args: TrainingArguments) -> torch.dtype:
    """float32, whatever the checkpoint is stored in, unless there is nothing but evaluation in half precision."""
    return torch.float32 if training_args.do_train else full_eval_dtype(training_args) or torch.float32


def checkpoint_policy(config) -> Policy:
    """The policy a checkpoint's config.json carries; the full model where it is none of this version."""
    try:
        return Policy.from_config(config)
    except ValueError:
        return Policy()


def announce_policy(policy: Policy, overruled: Policy, num_layers: int) -> None:
    """Say which policy is in force and where it comes from."""
    logger.info("Policy, from the command line: %s.", policy.explain(num_layers))
    if overruled.exits and overruled != policy:
        held = overruled.explain(num_layers)
        logger.info("The checkpoint's config.json asks for another, which is not in force: %s.", held)
