"""The Trainer of this code base: the library's for training, our own loop for evaluation and prediction."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput, TrainOutput
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME

from losses.layers import IGNORED_LABEL
from models.lora import has_lora, merged_lora, restore_lora
from training.checkpoints import (
    ASIDE,
    STATE,
    clear_aside,
    drop_old,
    last_whole,
    model_defect,
    move_in,
    put_in_place,
    remove,
)
from training.evaluation import DecodingData, DecodingOptions, evaluate
from training.exit_scores import exit_score_metrics
from training.leaving import LeavingTrainer
from training.processes import everywhere, process_count, sum_over_processes, wait_for_all
from training.reporting import headlines
from util.additional_args import AdditionalArguments
from util.files import replacing, without_empty_folder
from util.runs import Run
from util.training_args import TrainingArguments

logger = logging.getLogger(__name__)


class EarlyExitTrainer(LeavingTrainer):
    """Seq2SeqTrainer whose `evaluate` and `predict` decode `DecodingData` with exits.

    Any other data set is evaluated by its loss, as the library does. Checkpoints carry no policy: the flags that
    `update_autoconfig` put into the config are left out when it is saved. A checkpoint has its name once it is whole,
    and training stops where a loss or a weight is not finite: no such weights are saved.

    Args:
        decoding: how inputs are batched and answers generated; may be set later.
    """

    LOSSES = "losses of all steps"

    def __init__(self, model, args: TrainingArguments, *more, decoding: DecodingOptions | None = None, **kwargs):
        # The library makes output_dir at once, which the first file does anyway: what is refused leaves no folder.
        with without_empty_folder(args.output_dir) if args.should_save else nullcontext():
            super().__init__(model, args, *more, **kwargs)
        self.decoding = decoding
        self._saves_aside = False
        self._of_step = (0, 0)

    def train(self, *args, **kwargs) -> TrainOutput:
        """The library's; `train_loss` is the mean over all steps, those before a continuation too."""
        output = super().train(*args, **kwargs)
        losses = self._losses(output.training_loss * (output.global_step - self._initial_global_step))
        mean = losses["sum"] / max(losses["steps"], 1)
        return output._replace(training_loss=mean, metrics=output.metrics | {"train_loss": mean})

    def _losses(self, since_start: float) -> dict:
        """Sum of the losses of all steps so far, and their number; those before the continuation stand in the state."""
        steps = self.state.global_step - self._initial_global_step
        return {"sum": self._earlier["sum"] + since_start, "steps": self._earlier["steps"] + steps}

    def evaluate(
        self,
        eval_dataset: DecodingData | Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
        run: Run | None = None,
        **gen_kwargs,
    ) -> dict[str, Any]:
        """The metrics of a split, logged, and seen by callbacks and the choice of the best checkpoint.

        Args:
            eval_dataset: the trainer's own by default.
            run: where a run of its own is recorded; None, as within training, leaves no files.
            gen_kwargs: generation settings that differ from the trainer's.
        """
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(data, DecodingData):
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)
            return metrics | self._exit_scores(data, metric_key_prefix)
        metrics = self._decode(data, metric_key_prefix, run, gen_kwargs).metrics
        self.log(headlines(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _exit_scores(self, data: Dataset, prefix: str) -> dict[str, float]:
        """Loss and token accuracy of the exits asked for, logged, where the loss alone is evaluated."""
        layers = () if self.decoding is None else self.decoding.exit_layers
        if not layers:
            return {}
        found = exit_score_metrics(self.model, data, self.args.per_device_eval_batch_size, layers)
        metrics = {f"{prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        return metrics

    def predict(
        self,
        test_dataset: DecodingData | Dataset,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "predict",
        run: Run | None = None,
        **gen_kwargs,
    ) -> PredictionOutput:
        """The texts of a split, in order of its examples, and its metrics; scores where it has references."""
        if not isinstance(test_dataset, DecodingData):
            return super().predict(test_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)
        outcome = self._decode(test_dataset, metric_key_prefix, run, gen_kwargs)
        self.log(headlines(outcome.metrics))
        return PredictionOutput([row["prediction"] for row in outcome.predictions], None, outcome.metrics)

    def _decode(self, data: DecodingData, prefix: str, run: Run | None, gen_kwargs: dict):
        if self.decoding is None:
            raise ValueError("The trainer has no decoding options: give it decoding=DecodingOptions(...).")
        if self.is_in_train:
            self._refuse_weights()
        if self.is_deepspeed_enabled:  # which has not put the model there where nothing was trained
            self.model.to(self.args.device)
        self._cast_for_evaluation()
        options = self.decoding.with_generation(gen_kwargs)
        with merged_lora(self.model):
            return evaluate(self.model, self.processing_class, data, options, prefix, run)

    def _cast_for_evaluation(self) -> None:
        """--fp16_full_eval and --bf16_full_eval, which leave a model alone that is in training, as in the library."""
        dtype = full_eval_dtype(self.args)
        if dtype is not None and not self.is_in_train and self.model.dtype != dtype:
            self.model.to(dtype)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        # A tied weight is stored under one of its names; the library would warn of the others.
        tied = set(getattr(self.model, "all_tied_weights_keys", ()))
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def get_batch_samples(self, *args) -> tuple[list, Any]:
        """The library's: the batches of a step. How many batches and labels the step has in all processes is kept."""
        batches, items = super().get_batch_samples(*args)
        self._of_step = (0, 0)
        if process_count() > 1 or len(batches) > 1:  # the mean of a step of one part is the step's
            found = [len(batches), sum(self._count_labels(batch) for batch in batches)]
            self._of_step = tuple(sum_over_processes(found, self.args.device))
        return batches, items

    def compute_loss(self, model, inputs, *args, **kwargs):
        """The library's; a loss over layers is told how far training has come. In training it is the mean over the
        labels of the batch times how many these are for a batch of the step, so that the mean over its batches is that
        over its labels, however many processes and parts it is cut into."""
        batches, labels = self._of_step
        weighs = model.training and labels > 0 and not self.model_accepts_loss_kwargs
        share = self._count_labels(inputs) * batches / labels if weighs else 1
        if getattr(self.model, "trains_exits", False):
            inputs = {**inputs, "step": self.state.global_step, "steps": self.state.max_steps}
        found = super().compute_loss(model, inputs, *args, **kwargs)
        return found if share == 1 else found * share

    def _count_labels(self, batch: Mapping[str, torch.Tensor]) -> int:
        labels = batch["labels"] if self.model.config.is_encoder_decoder else batch["labels"][:, 1:]
        return int((labels != IGNORED_LABEL).sum())

    # --------------------------------------------------------------------------------------------------- not finite
    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """The loss of a batch, whose gradients were added.

        Raises:
            ValueError: in all processes, where it is not finite in one: no optimiser will take such a step.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not everywhere(loss.isfinite().all()):
            said = "not finite in another process" if loss.isfinite().all() else loss.item()
            raise self._stopped(f"the loss of step {self.state.global_step + 1} is {said}")
        return loss

    def _refuse_weights(self) -> None:
        """Raises a ValueError, in all processes, where a weight is not finite."""
        weights = list(map(_own_part, self.model.parameters()))
        finite = torch.stack([weight.isfinite().all().to(self.args.device) for weight in weights])
        if not everywhere(finite.all()):
            raise self._stopped(f"after step {self.state.global_step} weights are not finite")

    def _stopped(self, reason: str) -> ValueError:
        held = last_whole(self.args.output_dir, not self.args.save_only_model)
        kept = f"The last good checkpoint is {held}" if held else "There is no checkpoint yet"
        rate = f"--learning_rate {self.args.learning_rate:g}"
        return ValueError(f"Training was stopped: {reason} ({rate}). {kept}; nothing of this step was saved.")

    # -------------------------------------------------------------------------------------------------------- saving
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model so that from_pretrained loads it, unless a weight is not finite, which is a ValueError."""
        self._refuse_weights()
        super().save_model(output_dir, _internal_call)

    def save_state(self) -> None:
        """trainer_state.json, whole or not at all."""
        if self.is_world_process_zero():
            with replacing(Path(self.args.output_dir) / STATE, "training") as temporary:
                self.state.save_to_json(str(temporary))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if state_dict is not None:  # gathered from the processes, or copied: a tied weight under each of its names
            tied = getattr(self.model, "all_tied_weights_keys", None) or {}
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        with config_without_flags(self.model):
            if self._saves_aside or not self.args.should_save:
                super()._save(str(folder), state_dict)
                return
            clear_aside(folder)
            super()._save(str(folder / ASIDE), state_dict)
        move_in(folder / ASIDE, folder)
        clear_aside(folder)

    def _save_checkpoint(self, model, trial) -> None:
        """The library's, written aside and then put in place, which every process waits for."""
        folder = Path(self._get_output_dir(trial))
        named = folder / f"checkpoint-{self.state.global_step}"
        losses = self._losses(self._total_loss_scalar + self._tr_loss.item())
        self.state.stateful_callbacks[self.LOSSES] = losses
        aside = folder / ASIDE / named.name
        self._saves_aside = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saves_aside = False
        self._name_best(folder, named)
        if self.args.should_save:
            self.state.save_to_json(str(aside / STATE))
        wait_for_all()
        if self.args.should_save:
            put_in_place(aside, named)
        wait_for_all()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(named))
        if self.args.should_save:
            self._drop_unplanned(folder, named)
            if not self.leaves:  # no planned one makes way for one that is not
                drop_old(folder, self.args.save_total_limit, {str(named), self.state.best_model_checkpoint} - {None})
            clear_aside(folder)

    def _drop_unplanned(self, folder: Path, named: Path) -> None:
        """Remove the checkpoint that this training continued from, where a signal alone had it written."""
        unplanned = folder / f"checkpoint-{self.unplanned}"
        if self.unplanned and unplanned != named and unplanned.is_dir():
            remove(unplanned)
        self.unplanned = None

    def _get_output_dir(self, trial) -> str:
        folder = super()._get_output_dir(trial)
        return str(Path(folder) / ASIDE) if self._saves_aside else folder

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if has_lora(self.model):
            restore_lora(self.model, load_file(Path(resume_from_checkpoint) / ADAPTER_SAFE_WEIGHTS_NAME))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if has_lora(self.model):
            self._load_from_checkpoint(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _name_best(self, folder: Path, named: Path) -> None:
        """Where the best checkpoint is, among those in place or about to be."""
        best = folder / f"checkpoint-{self.state.best_global_step}"
        if best == named or best.is_dir():
            self.state.best_model_checkpoint = str(best)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._saves_aside:  # a push goes on while training does, and needs the checkpoint where it stays
            super()._push_from_checkpoint(checkpoint_folder)

    def _init_training_state(self, *args) -> tuple[int, int]:
        found = super()._init_training_state(*args)
        self._earlier = self.state.stateful_callbacks.get(self.LOSSES, {"sum": 0.0, "steps": 0})
        best = self.state.best_model_checkpoint
        problem = None if best is None else model_defect(best)
        if problem is not None:
            logger.warning("%s, the best checkpoint so far, is left out: %s.", best, problem)
            self.state.best_model_checkpoint = self.state.best_global_step = self.state.best_metric = None
        return found


def _own_part(weight: torch.nn.Parameter) -> torch.Tensor:
    """What this process has of a weight that FSDP (`_local_tensor`) or ZeRO-3 (`ds_tensor`) may have shared out."""
    return getattr(weight, "_local_tensor", getattr(weight, "ds_tensor", weight))


def full_eval_dtype(args) -> torch.dtype | None:
    """The dtype evaluation alone runs in, or None for the model's own."""
    if args.fp16_full_eval:
        return torch.float16
    return torch.bfloat16 if args.bf16_full_eval else None


@contextmanager
def config_without_flags(model) -> Iterator[None]:
    """Takes the flags of early exit off the model's config for as long as it is saved; says that it has a `cm_head`."""
    config = model.config
    names = [*AdditionalArguments.flag_names(), "max_answer_length"]
    held = {name: config.__dict__.pop(name) for name in names if name in config.__dict__}
    if getattr(model, "cm_head", None) is not None:
        config.has_cm_head = True
    try:
        yield
    finally:
        config.__dict__.update(held)


@dataclass
class TrainingCollator:
    """Rows of `train_features` -> a padded batch.

    Attributes:
        label_pad: what labels are padded with; -100 leaves padding out of the loss.
        pad_to: width every input is padded to; None pads to the longest of the batch.
    """

    tokenizer: PreTrainedTokenizerBase
    model: Any
    label_pad: int = -100
    pad_to: int | None = None

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        collate = DataCollatorForSeq2Seq(self.tokenizer, model=self.model, label_pad_token_id=self.label_pad)
        return collate([self._widened(row) for row in rows])

    def _widened(self, row: Mapping[str, Any]) -> dict[str, Any]:
        missing = max(0, (self.pad_to or 0) - len(row["input_ids"]))
        return {
            **row,
            "input_ids": [*row["input_ids"], *[self.tokenizer.pad_token_id] * missing],
            "attention_mask": [*row["attention_mask"], *[0] * missing],
        }
