"""The trainer's arguments: the installed transformers' own, the old names of 2023's job scripts, and our defaults."""

import os
from dataclasses import dataclass, field

import torch
from transformers import Seq2SeqTrainingArguments
from transformers.trainer_utils import IntervalStrategy

from util.checks import raise_together
from util.legacy_flags import LegacyTrainingArguments, translate

# What launchers of several processes leave in the environment.
LAUNCHER_MARKS = ("LOCAL_RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass
class TrainingArguments(LegacyTrainingArguments, Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments that accepts every flag of transformers 4.28 too.

    With do_train, what was not given means: evaluation as often as saving, the best checkpoint loaded at the end. The
    optimiser is Adafactor and one checkpoint is kept. `best_by` names the metric of the best checkpoint.

    Raises:
        ValueError: a flag whose old meaning cannot be kept, or one the trainer refuses.
    """

    _argument_group_name = "trainer"

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder of results and checkpoints; save/<task> where not given."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Start over where a run of the same settings left results; no model file is ever touched."},
    )
    optim: str = field(default="adafactor", metadata={"help": "The optimiser of --do_train."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints kept; the best is never dropped."})
    eval_strategy: IntervalStrategy = field(
        default=None,
        metadata={"help": "When to evaluate in training; with --do_train as --save_strategy, else no."},
    )
    eval_steps: float | None = field(
        default=None, metadata={"help": "Steps between evaluations; with --do_train as --save_steps."}
    )
    load_best_model_at_end: bool | None = field(
        default=None,
        metadata={"help": "Load the best checkpoint after training; with --do_train True where it can be told."},
    )
    predict_with_generate: bool = field(
        default=True, metadata={"help": "Evaluate by decoding, which every score needs; False gives the loss alone."}
    )

    def __post_init__(self) -> None:
        raise_together([*translate(self), *self._range_problems()])
        only_in_training = self.do_train and not self.do_eval and self.eval_strategy is None
        self._fill_defaults()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # without it, several processes on a machine without GPU do not find each other
        if not any(mark in os.environ for mark in LAUNCHER_MARKS):
            self.ddp_backend = None  # one process talks to nobody, and accelerate fails where it is told how to
        named = self.metric_for_best_model, self.greater_is_better
        super().__post_init__()
        if only_in_training:  # which is no --do_eval, though transformers takes it for one
            self.do_eval = False
        if self.load_best_model_at_end and named[0] is None:
            # transformers would choose the loss, which nobody asked for; the task names its metric in best_by.
            self.metric_for_best_model, self.greater_is_better = named

    def __getstate__(self) -> dict:
        """What is saved beside a checkpoint, for everybody to read: no token is."""
        return {name: None if name.endswith("_token") else value for name, value in vars(self).items()}

    def _range_problems(self) -> list[str]:
        counts = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
        return [
            f"--{name} {getattr(self, name)} is too small: valid are 1 and above."
            for name in counts
            if getattr(self, name) < 1
        ]

    def _fill_defaults(self) -> None:
        if not self.do_train:
            self.eval_strategy = self.eval_strategy or "no"
            self.load_best_model_at_end = bool(self.load_best_model_at_end)
            return
        if self.eval_strategy is None:
            self.eval_strategy = "epoch" if self.save_strategy == "epoch" else "steps"
        if self.eval_steps is None and self.eval_strategy == "steps":
            self.eval_steps = self.save_steps
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = self.eval_strategy == self.save_strategy != "no"

    def best_by(self, metric: str, more_is_better: bool = True) -> None:
        """Chooses the best checkpoint by `metric`, unless the caller named a metric."""
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = metric
            self.greater_is_better = more_is_better if self.greater_is_better is None else self.greater_is_better
