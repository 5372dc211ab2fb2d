"""The Trainer of this code base: the library's for training, our own loop for evaluation and prediction."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, Seq2SeqTrainer
from transformers.trainer_utils import PredictionOutput

from training.evaluation import DecodingData, DecodingOptions, evaluate
from training.reporting import headlines
from util.additional_args import AdditionalArguments
from util.files import without_empty_folder
from util.runs import Run
from util.training_args import TrainingArguments


class EarlyExitTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer whose `evaluate` and `predict` decode `DecodingData` with exits.

    Any other data set is evaluated by its loss, as the library does. Checkpoints carry no policy: the flags that
    `update_autoconfig` put into the config are left out when it is saved.

    Args:
        decoding: how inputs are batched and answers generated; may be set later.
    """

    def __init__(self, model, args: TrainingArguments, *more, decoding: DecodingOptions | None = None, **kwargs):
        # The library makes output_dir at once, which the first file does anyway: what is refused leaves no folder.
        with without_empty_folder(args.output_dir) if args.should_save else nullcontext():
            super().__init__(model, args, *more, **kwargs)
        self.decoding = decoding

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
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix, **gen_kwargs)
        metrics = self._decode(data, metric_key_prefix, run, gen_kwargs).metrics
        self.log(headlines(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
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
        self._cast_for_evaluation()
        options = self.decoding.with_generation(gen_kwargs)
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

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with config_without_flags(self.model):
            super()._save(output_dir, state_dict)


def full_eval_dtype(args) -> torch.dtype | None:
    """The dtype evaluation alone runs in, or None for the model's own."""
    if args.fp16_full_eval:
        return torch.float16
    return torch.bfloat16 if args.bf16_full_eval else None


@contextmanager
def config_without_flags(model) -> Iterator[None]:
    """Takes the flags of early exit off the model's config for as long as it is saved; says that it has a `cm_head`."""
    config = model.config
    names = [field.name for field in fields(AdditionalArguments)] + ["max_answer_length"]
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
