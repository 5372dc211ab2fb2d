"""The trainer's arguments: the installed transformers' own, the old names of 2023's job scripts, and our defaults."""

import logging
import os
import re
from dataclasses import dataclass, field

import torch
from accelerate.utils import DynamoBackend
from transformers import Seq2SeqTrainingArguments
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available

from util import groups
from util.checks import raise_together
from util.legacy_flags import LegacyTrainingArguments, refused, translate
from util.packages import optimizer_package, package_problems
from util.ranges import range_problems
from util.sharding import (
    configuration,
    configuration_problems,
    connect_cpus,
    leave_out,
    stage_of,
    take_cpu_from_launcher,
)

logger = logging.getLogger(__name__)

# What launchers of several processes leave in the environment.
LAUNCHER_MARKS = ("LOCAL_RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# Optimisers that are made of the model's layers.
NEED_THE_MODEL = "galore|apollo|lomo"
# What most runs say to the library's trainer.
OF_A_RUN = (
    *("output_dir", "overwrite_output_dir", "do_train", "do_eval", "do_predict", "predict_with_generate"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("num_train_epochs", "max_steps", "optim", "eval_strategy", "eval_steps", "save_strategy", "save_steps"),
    *("save_total_limit", "load_best_model_at_end", "bf16_full_eval", "use_cpu", "seed"),
)


@dataclass
class TrainingArguments(LegacyTrainingArguments, Seq2SeqTrainingArguments):
    """Seq2SeqTrainingArguments that accepts every flag of transformers 4.28 too.

    With do_train, what was not given means: evaluation as often as saving, the best checkpoint loaded at the end. The
    optimiser is Adafactor and one checkpoint is kept. `best_by` names the metric of the best checkpoint.

    Raises:
        ValueError: a flag whose old meaning cannot be kept, or one the trainer refuses.
    """

    _argument_group_name = groups.TRAINER
    # The library's flags that a run is made of, and those that differ from it here.
    regrouped = dict.fromkeys(OF_A_RUN, groups.RUN)

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
        # Ranges before old names become new ones, so that a sentence names the flag that was given.
        problems = [*range_problems(self), *translate(self), *self._package_problems()]
        take_cpu_from_launcher(self)
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # without it, several processes on a machine without GPU do not find each other
        problems += self._settle_deepspeed()
        raise_together([*problems, *self._precision_problems(), *self._compile_problems()])
        only_in_training = self.do_train and not self.do_eval and self.eval_strategy is None
        self._fill_defaults()
        if not self._launched():
            self.ddp_backend = None  # one process talks to nobody, and accelerate fails where it is told how to
        if self.deepspeed and self.use_cpu:
            connect_cpus(self.ddp_timeout)
        named = self.metric_for_best_model, self.greater_is_better
        try:
            super().__post_init__()
        except (TypeError, OverflowError) as error:  # such as of a key of --accelerator_config that there is not
            raise ValueError(f"{error}.") from None
        if only_in_training:  # which is no --do_eval, though transformers takes it for one
            self.do_eval = False
        if self.load_best_model_at_end and named[0] is None:
            # transformers would choose the loss, which nobody asked for; the task names its metric in best_by.
            self.metric_for_best_model, self.greater_is_better = named
        if self.do_train:
            raise_together(self._training_problems())
        elif self.predict_with_generate and (self.fp16 or self.bf16):
            name = "fp16" if self.fp16 else "bf16"
            logger.warning("--%s concerns training alone: --%s_full_eval decodes in it.", name, name)

    @staticmethod
    def hidden_flags() -> dict[str, None]:
        """Old flags that --help does not list, since they are refused."""
        return dict.fromkeys(refused())

    def __getstate__(self) -> dict:
        """What is saved beside a checkpoint, for everybody to read: no token is."""
        return {name: None if name.endswith("_token") else value for name, value in vars(self).items()}

    def _package_problems(self) -> list[str]:
        optimizer = optimizer_package(self.optim)
        problems = package_problems("--use_liger_kernel", "liger-kernel") if self.use_liger_kernel else []
        if self.do_train and optimizer is not None:
            problems += package_problems(f"--optim {self.optim}", optimizer, "give another --optim")
        return problems

    @staticmethod
    def _launched() -> bool:
        return any(mark in os.environ for mark in LAUNCHER_MARKS)

    @property
    def shares_weights(self) -> bool:
        """Whether no process has the whole model in training: ZeRO-3."""
        return self.deepspeed is not None and stage_of(self.hf_deepspeed_config.config) == 3

    def _settle_deepspeed(self) -> list[str]:
        """Have `deepspeed` say what is in force, the launcher's word too, and nothing where nothing is trained."""
        self.deepspeed = configuration(self.deepspeed)
        if self.deepspeed is not None and not self.do_train:
            logger.warning("DeepSpeed concerns training alone: every process decodes with the whole model.")
            self.deepspeed = None
            leave_out()
        if self.deepspeed is None:
            return []
        return configuration_problems(self.deepspeed, self, self._launched())

    def _precision_problems(self) -> list[str]:
        """A CPU takes no notice of --fp16, and calculates in bfloat16 only where --use_cpu says that it is meant."""
        problems = []
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()) and not self.deepspeed:
            problems.append("--fp16 needs a GPU; a CPU would train in float32: leave it out, or give --bf16 --use_cpu.")
        wide = self.use_cpu or is_torch_bf16_gpu_available() or is_torch_xla_available()
        problems += [
            f"--{name} needs a GPU that calculates in bfloat16, or --use_cpu."
            for name in ("bf16", "bf16_full_eval")
            if getattr(self, name) and not wide
        ]
        return problems

    def _compile_problems(self) -> list[str]:
        backend, valid = self.torch_compile_backend, [each.lower() for each in DynamoBackend.list()]
        if backend is None or backend.lower() in valid:
            return []
        return [f"--torch_compile_backend {backend}: valid are {', '.join(valid)}."]

    def _training_problems(self) -> list[str]:
        """What the Trainer would refuse only once the model is loaded: its optimiser and its schedule, tried on one
        number."""
        if re.search(NEED_THE_MODEL, self.optim):
            return []
        from transformers import Trainer, get_scheduler  # a second, which evaluations need not spend

        flags = f"--optim {self.optim.value} with --optim_args {self.optim_args}"
        try:
            optimizer, settings = Trainer.get_optimizer_cls_and_kwargs(self)
            tried = optimizer([torch.nn.Parameter(torch.zeros(1))], **settings)
            schedule, kwargs = self.lr_scheduler_type, self.lr_scheduler_kwargs
            flags = f"--lr_scheduler_type {schedule.value} with --lr_scheduler_kwargs {kwargs}"
            get_scheduler(schedule, tried, 1, 2, kwargs)
        except (ValueError, TypeError, ImportError) as error:
            return [f"{flags} cannot be had: {error}."]
        return []

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
