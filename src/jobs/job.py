"""What the run scripts share: from arguments to a trainer, and through training, evaluation and prediction."""

import interrupts

import copy
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import datasets
from transformers import GenerationConfig, PrinterCallback, set_seed
from transformers.trainer_callback import ProgressCallback

from decoding.policy import Policy
from jobs.adapters import prepare_lora, refuse_lora
from jobs.loading import check_policy, fit_embeddings, load_config, load_model, load_tokenizer, refuse_long_blocks
from jobs.resuming import SETTINGS, find_start
from jobs.setup import (
    announce_policy,
    checkpoint_policy,
    choose_best_by,
    keep_last_translators,
    model_dtype,
    quieten,
)
from losses.exits import LOSSES
from models import deploying_class
from models.adjacent import move_all_together
from models.translators import MODULE, prepare_translators, save_translators
from tasks import find_task, load_examples
from tasks.forms import PROMPT_FLAGS, Form, Limits, form_of
from tasks.language_modeling import LANGUAGE_MODELING
from tasks.named_metrics import load_metrics, named_scores
from training.evaluation import DecodingData, DecodingOptions, data_fingerprint
from training.processes import by_main, end_together, process_index
from training.reporting import check_trackers, point_trackers, table, track_settings
from training.trainer import EarlyExitTrainer, TrainingCollator, full_eval_dtype
from util import (
    AdditionalArguments,
    DataArguments,
    ModelArguments,
    TrainingArguments,
    check_arguments,
    exit_layers_of,
    parse_arguments,
    policy_for,
    update_autoconfig,
)
from util.arguments import Arguments
from util.checks import LORA_FLAGS, answer_limit
from util.files import read_json, write_json, write_text
from util.runs import Run, digest, fingerprint_model, merge_results, named_file
from util.terminal import reason, terminal

logger = logging.getLogger(__name__)

# View of a run -> the flag that asks for it.
VIEW_FLAGS = {"layers": "plotting_logits", "jsds": "render_jsds"}
TRANSLATORS = f"{MODULE}.safetensors"
SPLITS = {"eval": "validation", "predict": "test"}
# Data arguments that change nothing of what is decoded, or that belong to another split.
UNRECORDED = ("train_", "max_train_", "validation_file", "test_file", "max_eval_", "max_predict_", "overwrite_cache")
UNRECORDED += (
    "metrics",
    "preprocessing_num_workers",
    "ignore_pad_token_for_loss",
    "pad_to_max_length",
    "n_best_size",
    "lang",
)
# What stands in the generation settings already.
UNRECORDED += ("num_beams", "repetition_penalty", "no_repeat_ngram_size", "length_penalty", "forced_bos_token")
# What stands in the settings as the tokenizer in force, also where a language chose it.
UNRECORDED += ("rouge_tokenizer", "bleu_tokenizer")
# What stands in the inputs, or in what the form of the examples says of itself.
UNRECORDED += tuple(PROMPT_FLAGS)


def run_script(data_class: type[DataArguments], main: Callable, description: str | None = None) -> None:
    """`main` on the command line's arguments; a ValueError or OSError is printed as a sentence and ends it with 2;
    `description`, the script's docstring, opens its --help."""
    with terminal():
        _run(parse_arguments(data_class, description=description), main)


def _run(arguments: Arguments, main: Callable) -> None:
    try:
        main(*arguments)
        end_together()
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if logger.isEnabledFor(logging.DEBUG):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {reason(error)}", file=sys.stderr)
        sys.exit(2)


def run_job(
    kind: str,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    additional_args: AdditionalArguments,
) -> tuple[EarlyExitTrainer, dict]:
    """Train, evaluate and predict as asked.

    Args:
        kind: a key of `tasks.KINDS`.

    Returns:
        The trainer, and the metrics of every stage in one dict.

    Raises:
        ValueError: what was asked for cannot be done; nothing was written.
    """
    job = Job(kind, model_args, data_args, training_args, additional_args)
    metrics: dict = {}
    if training_args.do_train:
        metrics |= job.train()
    for stage in ("predict", "eval"):  # time_* are the evaluation's where both ran
        if getattr(training_args, f"do_{stage}"):
            metrics |= job.decode(stage)
    return job.trainer, metrics


class Job:
    """One command: its task, model and trainer. Everything that can be refused is refused while it is made."""

    def __init__(self, kind: str, model_args, data_args, training_args, additional_args):
        check_arguments(data_args, training_args, additional_args)
        quieten(training_args)
        check_trackers(training_args.report_to)
        self.model_args, self.data_args, self.args = model_args, data_args, training_args
        set_seed(training_args.seed)
        self.task = find_task(kind, data_args)
        choose_best_by(training_args, self.task)
        config = load_config(model_args, encoder=self.task.kind.encoder)
        overruled = checkpoint_policy(config)
        update_autoconfig(config, additional_args, max_answer_length=self.longest_answer)
        self._take(additional_args, additional_args.policy(self.longest_answer))
        num_layers = deploying_class(config).adapter_class.count_layers(config)
        self.exit_layers = exit_layers_of(additional_args.eval_exit_layers, num_layers)
        announce_policy(self.policy, overruled, num_layers)
        keep_last_translators(training_args, additional_args, self.policy)
        self.tokenizer = load_tokenizer(model_args)
        check_policy(self.policy, config, self.tokenizer)
        self.form = self._form(config)
        refuse_lora(model_args, training_args, additional_args)
        trains_lora = additional_args.use_lora and training_args.do_train
        device = None if training_args.do_train else training_args.device  # the trainer moves what it trains
        model = load_model(model_args, config, model_dtype(training_args), trains_lora, device)
        trains_translators = additional_args.train_exit_translators and training_args.do_train
        grows = training_args.do_train and not (trains_lora or trains_translators)
        fit_embeddings(model, self.tokenizer, model_args.model_name_or_path, grows)
        if trains_lora:
            prepare_lora(model, model_args, additional_args)
        if trains_translators:
            prepare_translators(model)
        if not training_args.do_train:
            move_all_together(model)
        self.trained = False
        by_main(self._load_metrics)
        self.splits = {stage: self._load_split(stage) for stage in SPLITS if getattr(training_args, f"do_{stage}")}
        self.trainer = self._make_trainer(model)

    def _form(self, config) -> Form:
        """What examples are to the model of this config."""
        if self.task.kind is LANGUAGE_MODELING:
            refuse_long_blocks(config, self.data_args.block_size)
        flag, most = answer_limit(self.data_args, self.args)
        limits = Limits(most, flag, getattr(config, "max_position_embeddings", None))
        what = (self.task, config.is_encoder_decoder, self.tokenizer, self.data_args, limits)
        form = form_of(*what, pool=lambda: self._examples("train", labelled=True), seed=self.args.seed)
        if self.args.label_smoothing_factor and not form.smooths_labels:
            raise ValueError(f"--label_smoothing_factor is not there for {form.called}: leave it out.")
        return form

    @property
    def longest_answer(self) -> int:
        """N of a decaying threshold, in tokens."""
        return getattr(self.data_args, self.task.kind.target_limit)

    def policy_of(self, additional_args: AdditionalArguments) -> Policy:
        """The policy that flags ask for, of the job's model and data.

        Raises:
            ValueError: the flags contradict each other or the model.
        """
        config = self.trainer.model.config
        policy = policy_for(config, additional_args, self.longest_answer)
        check_policy(policy, config, self.tokenizer)
        return policy

    def _take(self, additional_args: AdditionalArguments, policy: Policy) -> None:
        """Decode under a policy, and keep what the flags say."""
        self.policy = policy
        self.keep_traces = additional_args.save_traces
        self.views = tuple(name for name, wanted in VIEW_FLAGS.items() if getattr(additional_args, wanted))
        self.shows_flops = additional_args.count_flops

    def evaluate(self, additional_args: AdditionalArguments, batch_size: int | None = None) -> dict:
        """The evaluation of the same model on the same data under other flags of early exit: metrics, as of `decode`.

        Args:
            batch_size: Of this evaluation, where it is not to be the job's.

        Raises:
            ValueError: the flags contradict each other or the model.
        """
        self._take(additional_args, self.policy_of(additional_args))
        size = batch_size or self.args.per_device_eval_batch_size
        kept = {"keep_traces": self.keep_traces, "views": self.views}
        self.trainer.decoding = replace(self.trainer.decoding, policy=self.policy, batch_size=size, **kept)
        return self.decode("eval")

    # ------------------------------------------------------------------------------------------------------- training
    def train(self) -> dict:
        """Train, from the last checkpoint of an interrupted start if there is one, and save the model: train_*."""
        output_dir = Path(self.args.output_dir)
        start = by_main(lambda: find_start(self.args, self._training_settings()))
        self.trained = True
        if start.complete:
            logger.info("Training was complete already; --overwrite_output_dir starts it over.")
            self._load_trained(output_dir)
            return by_main(self._earlier_training)
        if start.checkpoint:
            logger.info("Training continues from %s.", start.checkpoint)
        by_main(lambda: write_json(output_dir / SETTINGS, self._training_settings(), "training"))
        point_trackers(self.trainer.callback_handler.callbacks, output_dir / "tensorboard" / "training")
        with interrupts.held():
            metrics = self.trainer.train(resume_from_checkpoint=start.checkpoint).metrics
            metrics["train_samples"] = len(self.trainer.train_dataset)
            self.trainer.save_model()
            self.trainer.save_state()
            if self.args.should_save:
                self._show_training(metrics)
        return metrics

    def _load_trained(self, folder: Path) -> None:
        if not self.args.shares_weights:
            self.trainer._load_from_checkpoint(str(folder))
        elif self.args.do_eval:
            raise ValueError(
                f"Training was complete already, and ZeRO-3 loads no model that was trained: evaluate {folder} in a "
                "command without --do_train."
            )

    def _training_settings(self) -> dict:
        """What makes another training of it; steps and epochs may be added to one, batches be cut otherwise."""
        names = ("model_name_or_path", "dataset_name", "train_file", "max_train_samples", "learning_rate", "seed")
        names += ("intermediate_loss_fn", "train_meta_cm_head", *self._settings_of_loss())
        config = self.trainer.model.config
        if config.train_exit_translators:
            names += ("train_exit_translators",)
        holders = (self.model_args, self.data_args, self.args, config)
        settings = {name: next(getattr(each, name) for each in holders if hasattr(each, name)) for name in names}
        if self._translators is not None:
            settings["exit_translators"] = self._translators
        settings |= self.form.settings()
        return settings | {name: getattr(config, name) if config.use_lora else None for name in LORA_FLAGS}

    def _settings_of_loss(self) -> list[str]:
        """What the loss over layers, if there is one, reads and brings along."""
        row = LOSSES.get(self.trainer.model.config.intermediate_loss_fn)
        return [] if row is None else [*row.reads, *(setting.name for setting in row.settings)]

    def _earlier_training(self) -> dict:
        """The results of the complete training, which are merged again: that may be where it was killed."""
        metrics = read_json(Path(self.args.output_dir) / "train_results.json")
        merge_results(self.args.output_dir, "train", metrics, "training")
        return metrics

    def _show_training(self, metrics: dict) -> None:
        output_dir, model = Path(self.args.output_dir), self.trainer.model
        if model.config.train_exit_translators:  # alone too, for a model that is not in this folder
            save_translators(output_dir / TRANSLATORS, model.exit_translators, model)
        write_json(output_dir / "train_results.json", metrics, "training")
        merge_results(output_dir, "train", metrics, "training")
        print(f"\nTraining\n{table(metrics)}\nThe model is in {output_dir}.", flush=True)

    # ------------------------------------------------------------------------------------------------------- decoding
    def decode(self, stage: str) -> dict:
        """Metrics of a split: decoded now, or those of the complete run of the same settings."""
        data = self.splits[stage]
        if not isinstance(data, DecodingData):
            return self._evaluate_loss(data)
        settings = by_main(lambda: self.settings(stage))  # the model it looks at may have been saved by the main one
        run = Run(self.args.output_dir, self._name(stage), settings, stage, process_index())
        try:
            held = by_main(lambda: self._prepare(run))
            metrics = self._decode_now(stage, data, run) if held is None else held
            if process_index() == 0:
                metrics = self._add_metrics(run, metrics)
                self._write_lines(run)
        finally:
            run.close()
        if process_index() == 0:
            self._show(stage, run, metrics, already=held is not None)
        return metrics

    def _decode_now(self, stage: str, data: DecodingData, run: Run) -> dict:
        for callback in (PrinterCallback, ProgressCallback):  # the table says it better
            self.trainer.remove_callback(callback)
        if stage == "eval":
            return self.trainer.evaluate(data, run=run)
        return self.trainer.predict(data, run=run).metrics

    def _load_metrics(self) -> None:
        """Those of --metrics, of which the main process alone makes use."""
        self.metrics = load_metrics(self.data_args.metrics or ())

    def _add_metrics(self, run: Run, metrics: dict) -> dict:
        """The metrics of a run with those of --metrics, which are computed of its predictions."""
        return run.add_scores(named_scores(self.metrics, run.predictions())) if self.metrics else metrics

    def _write_lines(self, run: Run) -> None:
        """The files that others read a run's predictions from, where the kind has some."""
        for name, line in self.task.kind.lines.items():
            text = "".join(json.dumps(line(row)) + "\n" for row in run.predictions())
            write_text(run.folder / name, text, run.digest)

    def _prepare(self, run: Run) -> dict | None:
        run.prepare(self.args.overwrite_output_dir)
        callbacks = self.trainer.callback_handler.callbacks
        point_trackers(callbacks, Path(self.args.output_dir) / "tensorboard" / run.folder.name)
        if run.results is not None:
            run.publish()
        return run.results

    def _show(self, stage: str, run: Run, metrics: dict, already: bool) -> None:
        prefix = stage + "_"
        if already:
            print("\nThis run was complete already and nothing was computed (--overwrite_output_dir starts it over).")
        else:
            track_settings(self.trainer.callback_handler.callbacks, f"{stage}_policy", metrics[f"{stage}_policy"])
        starts = metrics.get(f"{prefix}starts", 1)
        note = f" (started {starts} times: seconds are summed over its parts)" if starts > 1 else ""
        print(f"\n{self.task.name}, {SPLITS[stage]}, {self.policy.name}{note}\n{table(metrics, self.shows_flops)}")
        if f"{prefix}perplexity_by_layer" in metrics:
            found = metrics[f"{prefix}perplexity_by_layer"].items()
            print("  perplexity by layer: " + ", ".join(f"{layer}: {value:.2f}" for layer, value in found))
        print(f"Results are in {self.args.output_dir}, predictions and traces in {run.folder}.", flush=True)

    def _evaluate_loss(self, data: datasets.Dataset) -> dict:
        """--predict_with_generate False: the loss alone."""
        metrics = self.trainer.evaluate(data) | {"eval_samples": len(data)}
        if self.args.should_save:
            write_json(Path(self.args.output_dir) / "eval_results.json", metrics, "training")
            merge_results(self.args.output_dir, "eval", metrics, "training")
            print(f"\n{self.task.name}, validation, loss only\n{table(metrics)}", flush=True)
        return metrics

    # ---------------------------------------------------------------------------------------------------------- parts
    def _load_split(self, stage: str) -> DecodingData | datasets.Dataset:
        with self.args.main_process_first(desc=f"loading the {SPLITS[stage]} split"):
            examples = self._examples(SPLITS[stage], labelled=stage == "eval")
            if not self.args.predict_with_generate and stage == "eval":
                return self.form.rows(examples)
            chosen, inputs = self.form.inputs(examples)
            measures = stage == "eval" and (self.form.measures_texts or self.exit_layers)
            rows = self.form.rows(examples) if measures else None
            measured, labelled = rows if self.form.measures_texts else None, rows if self.exit_layers else None
            return DecodingData(self.task, chosen, inputs, measured, labelled)

    def _examples(self, split: str, labelled: bool) -> datasets.Dataset:
        options = {"cache_dir": self.model_args.cache_dir, "token": self.model_args.token}
        return load_examples(self.task, self.data_args, split, labelled=labelled, **options)

    def _make_trainer(self, model) -> EarlyExitTrainer:
        pad_to = self.form.input_limit if self.data_args.pad_to_max_length else None
        encoder = model.config.is_encoder_decoder
        label_pad = -100 if self.data_args.ignore_pad_token_for_loss else self.tokenizer.pad_token_id
        trainer = EarlyExitTrainer(
            model=model,
            args=self.args,
            processing_class=self.tokenizer,
            # Without an encoder labels stand beside the inputs, and are as wide.
            data_collator=TrainingCollator(self.tokenizer, model, label_pad, pad_to if encoder else None),
            train_dataset=self._train_set() if self.args.do_train else None,
            eval_dataset=self._eval_set(),
        )
        trainer.decoding = DecodingOptions(
            generation=self._generation(trainer.model.generation_config),
            policy=self.policy,
            reading=self.form.reading,
            batch_size=self.args.per_device_eval_batch_size,
            pad_to=pad_to,
            keep_traces=self.keep_traces,
            views=self.views,
            exit_layers=self.exit_layers,
            null_score_diff_threshold=getattr(self.data_args, "null_score_diff_threshold", 0.0),
            bar=False if self.args.disable_tqdm else None,
        )
        return trainer

    def _train_set(self) -> datasets.Dataset:
        with self.args.main_process_first(desc="preparing the training data"):
            return self.form.rows(self._examples("train", labelled=True))

    def _eval_set(self) -> DecodingData | datasets.Dataset | None:
        """What is evaluated in training: the validation split, also where --do_eval was not given."""
        if self.args.do_train and self.args.eval_strategy != "no" and "eval" not in self.splits:
            return self._load_split("eval")
        return self.splits.get("eval")

    def _generation(self, held: GenerationConfig) -> GenerationConfig:
        """The checkpoint's generation settings with those of the command line."""
        args = self.data_args
        wanted = {
            "num_beams": args.num_beams or self.args.generation_num_beams or held.num_beams or 1,
            "repetition_penalty": args.repetition_penalty,
            "no_repeat_ngram_size": args.no_repeat_ngram_size,
            "length_penalty": args.length_penalty,
            "forced_bos_token_id": self._token_id(args.forced_bos_token),
        }
        if self.policy.exits and wanted["num_beams"] > 1:
            raise ValueError(
                f"The checkpoint's generation_config.json asks for {wanted['num_beams']} beams, which cannot be "
                "combined with exits: give --num_beams 1."
            )
        generation = copy.deepcopy(held)
        generation.update(max_new_tokens=None, max_length=None)
        generation.update(**self.form.bound(), **{name: value for name, value in wanted.items() if value is not None})
        return generation

    def _token_id(self, token: str | None) -> int | None:
        if token is None:
            return None
        found = self.tokenizer.convert_tokens_to_ids(token)
        if found is None or found == self.tokenizer.unk_token_id:
            raise ValueError(f"--forced_bos_token {token} is no token of this tokenizer.")
        return found

    # ------------------------------------------------------------------------------------------------------- settings
    def data_name(self, stage: str) -> str:
        """What the data of a stage are called: the file, or the folder of a file that is named like its split."""
        data = Path(self._file(stage) or self.data_args.dataset_name)
        return data.absolute().parent.name if data.stem == SPLITS[stage] else data.stem

    def _name(self, stage: str) -> str:
        return f"{self.data_name(stage)}-{SPLITS[stage]}-{self.policy.name}"

    def _file(self, stage: str) -> str | None:
        return self.data_args.validation_file if stage == "eval" else self.data_args.test_file

    def settings(self, stage: str) -> dict:
        """Everything that shapes the results of a stage; neither batch size nor number of processes does."""
        folder, fingerprint = self.model_source()
        model, data = self.trainer.model, self.splits[stage]
        generation = self.trainer.decoding.generation.to_diff_dict()
        generation.pop("transformers_version", None)
        settings = {
            "policy": self.policy.describe(),
            "model": folder.resolve().name if folder.exists() else str(folder),
            "model_fingerprint": fingerprint,
            "task": self.task.name,
            "file": self._file(stage) and Path(self._file(stage)).name,
            "split": SPLITS[stage],
            "data_fingerprint": data_fingerprint(data),
            "data": {name: value for name, value in asdict(self.data_args).items() if self._recorded(name, value)},
            "examples": len(data),
            "generation": generation,
            "dtype": str(full_eval_dtype(self.args) or model.dtype).removeprefix("torch."),
            "device": self.args.device.type,
            "save_traces": self.keep_traces,
        }
        if self.model_args.config_name is not None and not self.trained:
            settings["config"] = digest(model.config.to_diff_dict())
        if self._translators is not None and not self.trained:
            settings["exit_translators"] = self._translators
        settings |= self.form.settings()
        if self.task.tokenizer is not None:
            settings["score_tokenizer"] = self.task.tokenizer
        if self.views:
            settings["views"] = self.views
        if self.exit_layers and stage == "eval":
            settings["exit_layers"] = list(self.exit_layers)
        if self.policy.prunes:  # whose FLOPs depend on how many rows of the head are copied at once
            settings["batch_size"] = self.trainer.decoding.batch_size
        return settings | ({"seed": self.args.seed} if generation.get("do_sample") else {})

    def model_source(self) -> tuple[Path, str | None]:
        """The folder or hub name of the model in use, and what stands for its content, a file of translators too."""
        folder = Path(self.args.output_dir if self.trained else self.model_args.model_name_or_path)
        content = fingerprint_model(folder) if folder.exists() else self.trainer.model.config._commit_hash
        return folder, content if self.trained or not self._translators else digest([content, self._translators])

    @property
    def _translators(self) -> str | None:
        """The file of exit translators, by name and content; what is trained here has them among its weights."""
        path = self.model_args.exit_translators
        return None if path is None else named_file(path)

    @staticmethod
    def _recorded(name: str, value) -> bool:
        return value is not None and not name.startswith(UNRECORDED)
