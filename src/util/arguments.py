"""The arguments of a run script: model, data and generation as dataclasses, and the command line that fills them."""

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sacrebleu.metrics import BLEU

from decoding.stops import ends_of
from util import groups
from util.additional_args import AdditionalArguments, flag
from util.checks import (
    beam_problems,
    data_problems,
    folder_problems,
    length_problems,
    raise_together,
    sharding_problems,
    smoothing_problems,
    stop_problems,
)
from util.gguf import gguf_problems, is_gguf, joined
from util.packages import package_problems
from util.parser import ArgumentParser
from util.ranges import range_problems
from util.training_args import TrainingArguments

ASSETS = Path(__file__).resolve().parents[1] / "assets"
EMBEDDED_MODEL = ASSETS / "t5_exits_trained"
EMBEDDED_DECODER = ASSETS / "gpt2_stories"
DATA_SUFFIXES = (".json", ".jsonl", ".csv")
ROUGE_TOKENIZERS = ("rouge_score", "unicode")
BLEU_TOKENIZERS = tuple(BLEU.TOKENIZERS)

# Bare names of old jobs -> the organisation that holds them on the hub today.
HUB_OWNERS = {
    **dict.fromkeys(("t5-small", "t5-base", "t5-large", "t5-3b", "t5-11b"), "google-t5"),
    **dict.fromkeys((f"mt5-{size}" for size in ("small", "base", "large", "xl", "xxl")), "google"),
    **dict.fromkeys((f"t5-v1_1-{size}" for size in ("small", "base", "large", "xl", "xxl")), "google"),
    **dict.fromkeys((f"flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")), "google"),
    **dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "openai-community"),
}


def hub_name(name: str) -> str:
    """`name` with its owner on the hub where it is one of the bare names of old jobs and no folder here."""
    return f"{HUB_OWNERS[name]}/{name}" if name in HUB_OWNERS and not Path(name).is_dir() else name


@dataclass
class ModelArguments:
    """Which model, config and tokenizer."""

    _argument_group_name = groups.MODEL

    model_name_or_path: str = flag(
        str(EMBEDDED_MODEL),
        "A folder or a name on the hub; t5-large, mt5-large and the like stand for google-t5/t5-large, "
        "google/mt5-large. Without it the small model that comes with this repository.",
    )
    gguf_file: str | None = flag(
        None, "File of a GGUF checkpoint in that folder or model; or let --model_name_or_path itself end in .gguf."
    )
    config_name: str | None = flag(None, "Config to use instead of the model's own.")
    tokenizer_name: str | None = flag(None, "Tokenizer to use instead of the model's own.")
    cache_dir: str | None = flag(None, "Folder of what is downloaded, instead of the hub's usual one.")
    use_fast_tokenizer: bool = flag(True, "Use the tokenizer written in Rust where there is one.")
    model_revision: str = flag("main", "Branch, tag or commit of a model on the hub.")
    use_auth_token: bool = flag(
        False, "Send the saved login (`hf auth login`, or HF_TOKEN in the environment) for private models and data."
    )
    resize_position_embeddings: bool | None = flag(
        None, "Lengthen a table of positions that is shorter than the input limit; not needed by T5, which has none."
    )
    exit_translators: str | None = flag(
        None,
        "Translators of this model's exits, a file that src/scripts/fit_translators.py has made: an affine map per "
        "layer between its state and the final norm, in the place of any that the checkpoint has.",
    )
    products: str | None = flag(
        None,
        "How a CPU multiplies few rows with a weight: auto, whichever is fastest where measured, once a machine; "
        "library, torch's own; or one of models/ways.py. Where not given what EARLY_EXIT_PRODUCTS says, or auto.",
    )

    device_map: str | None = flag(None, "Layers of a model on several devices.")

    @staticmethod
    def hidden_flags() -> dict[str, str | None]:
        """Name -> the missing feature of the flag that --help does not list, since it is refused."""
        return {"device_map": "a model on several devices"}

    def __post_init__(self) -> None:
        problems = []
        if self.device_map is not None:
            problems.append(
                f"--device_map {self.device_map} is not available: the decode loop reads the weights of a layer "
                "itself, where nothing moves states from one device to another; leave it out, and give one device that "
                "holds the model."
            )
        if self.gguf_file is not None and not is_gguf(self.gguf_file):
            problems.append(f"--gguf_file {self.gguf_file} is no GGUF file: its name has to end in .gguf.")
        for name in ("model_name_or_path", "config_name", "tokenizer_name"):
            value = getattr(self, name)
            if value is None:
                continue
            setattr(self, name, hub_name(value))
            if value.startswith((".", "/", "~")) and not Path(value).expanduser().exists():
                kind = "file" if is_gguf(value) else "folder"
                problems.append(f"--{name} {value}: there is no such {kind}.")
        if self.exit_translators is not None and not Path(self.exit_translators).is_file():
            problems.append(f"--exit_translators {self.exit_translators}: there is no such file.")
        if not problems:
            self.model_name_or_path = joined(self.model_name_or_path, self.gguf_file)
            problems += [f"--model_name_or_path {each}" for each in gguf_problems(self.model_name_or_path)]
        raise_together(problems)

    @property
    def token(self) -> bool | None:
        """What from_pretrained and load_dataset want as `token`: True sends the saved login."""
        return True if self.use_auth_token else None


@dataclass
class DecoderArguments(ModelArguments):
    """Which decoder-only model."""

    model_name_or_path: str = flag(
        str(EMBEDDED_DECODER),
        "A folder or a name on the hub, such as gpt2-xl or Qwen/Qwen3-0.6B. Without it the small GPT-2 that comes with "
        "this repository, which tells stories.",
    )


@dataclass
class DataArguments:
    """Which examples, and how much of them; common to all tasks.

    Attributes:
        model_class: The model arguments that go with them.
        suffixes: Endings of the files they may be read from.
    """

    model_class = ModelArguments
    suffixes = DATA_SUFFIXES
    _argument_group_name = groups.DATA

    dataset_name: str | None = flag(
        None, "A data set by its familiar name (squad, samsum, ...), its hub id or the folder it was saved in."
    )
    dataset_config_name: str | None = flag(None, "Configuration of the data set, such as 3.0.0 of cnn_dailymail.")
    train_file: str | None = flag(None, "Examples to train on: a .json, .jsonl or .csv file.")
    validation_file: str | None = flag(None, "Examples of --do_eval: a .json, .jsonl or .csv file.")
    test_file: str | None = flag(None, "Examples of --do_predict: a .json, .jsonl or .csv file.")
    max_train_samples: int | None = flag(None, "Train on the first N examples only.")
    max_eval_samples: int | None = flag(None, "Evaluate the first N examples only.")
    max_predict_samples: int | None = flag(None, "Predict the first N examples only.")
    overwrite_cache: bool = flag(False, "Prepare the examples anew, whatever an earlier run left in the cache.")
    preprocessing_num_workers: int | None = flag(None, "Processes that prepare the examples; one where not given.")
    pad_to_max_length: bool = flag(
        False, "Pad every input to the limit. Without it a batch is padded to its longest; the answers are the same."
    )
    ignore_pad_token_for_loss: bool = flag(True, "Leave padding out of the training loss.")
    metrics: list[str] | None = field(
        default=None,
        metadata={
            "help": "Metrics of the evaluate library, beside the task's own and without decoding again: names of the "
            "hub, such as meteor, with options as in bertscore:lang=en, or paths such as ./my_metric, which are code "
            "that is run.",
            "group": groups.MEASUREMENT,
        },
    )

    def __post_init__(self) -> None:
        needed = package_problems("--metrics", "evaluate") if self.metrics else []
        raise_together([*self._name_problems(), *self._file_problems(), *range_problems(self), *needed])

    def _name_problems(self) -> list[str]:
        name = self.dataset_name
        if name is None:
            return []
        if not name.strip():
            return ["--dataset_name is empty: give a familiar name, a hub id or a folder."]
        if Path(name).is_dir():
            return []
        if Path(name).is_file() and Path(name).suffix.lower() in self.suffixes:
            return [f"--dataset_name {name} is a file: give it as --train_file, --validation_file or --test_file."]
        return [f"--dataset_name {name}: there is no such folder."] if name.startswith((".", "/", "~")) else []

    def _file_problems(self) -> list[str]:
        problems = []
        for name in ("train_file", "validation_file", "test_file"):
            value = getattr(self, name)
            if value is None:
                continue
            if Path(value).suffix.lower() not in self.suffixes:
                problems.append(f"--{name} {value} is of no known kind: valid endings are {', '.join(self.suffixes)}.")
            elif not Path(value).is_file():
                problems.append(f"--{name} {value}: there is no such file.")
        return problems


@dataclass
class GenerationArguments:
    """How an answer is searched for, beside the policy of exits; a part of every data arguments class."""

    _argument_group_name = groups.GENERATION

    num_beams: int | None = flag(None, "Beams of the search, 1 for greedy. More than one excludes exits.")
    repetition_penalty: float = flag(
        1.0, "Divide the scores of tokens that are there already (arXiv:1909.05858); 1.0 is none."
    )
    no_repeat_ngram_size: int | None = flag(None, "Forbid n-grams of this length to occur twice; none where not given.")
    length_penalty: float | None = flag(None, "Of beams: above 0 favours long answers; 1.0 where not given.")
    forced_bos_token: str | None = flag(
        None, "Token to begin every answer with, such as the target language of a multilingual model."
    )


@dataclass
class TemplateArguments:
    """What a model without an encoder is asked; a part of the data arguments of tasks."""

    _argument_group_name = groups.PROMPTS

    template: str | None = flag(
        None,
        "Without an encoder: file of the prompt. An instruction, a line of three dashes, and an example with the "
        "task's placeholders, such as 'Text: {text}', then 'Summary: {answer}'. Where not given the task's own.",
    )
    apply_chat_template: bool = flag(
        False, "Without an encoder: put the prompt into the turns of the tokenizer's chat template."
    )
    n_shot: int | None = flag(
        None,
        "Without an encoder: show so many examples of the train split with their answers, drawn by --seed, never the "
        "one that is asked.",
    )
    stop: list[str] | None = field(
        default=None,
        metadata={
            "help": "Without an encoder: texts that end an answer, \\n for a line's end. Where not given a line's "
            "end, of summaries an empty line; with --apply_chat_template none, since the model ends its turn."
        },
    )
    max_prompt_length: int | None = flag(
        None,
        "Without an encoder: tokens of a prompt at most; what the model was made for, less the answer, where not "
        "given. Longer ones lose the beginnings of long texts: of the examples shown first, of the one asked last.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop is not None:
            self.stop = ends_of(self.stop)
        problems = stop_problems(self.stop)
        if self.template is not None and not Path(self.template).is_file():
            problems.append(f"--template {self.template}: there is no such file.")
        if self.n_shot and self.dataset_name is None and self.train_file is None:
            problems.append(
                f"--n_shot {self.n_shot} shows examples of the train split: give --train_file or --dataset_name."
            )
        raise_together(problems)


def choice_problems(args: Any, name: str, valid: tuple[str, ...]) -> list[str]:
    """A sentence where a flag was given and is none of the valid words."""
    value = getattr(args, name)
    return [] if value in (None, *valid) else [f"--{name} {value} is not known: valid are {', '.join(valid)}."]


@dataclass
class RougeArguments:
    """What ROUGE counts; a part of the data arguments of tasks that may be scored by it."""

    _argument_group_name = groups.DATA

    rouge_tokenizer: str | None = flag(
        None,
        "What ROUGE counts: rouge_score, words of ASCII letters and digits, where nothing is given; unicode, words of "
        "every script, and single characters where a script has no spaces.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_together(choice_problems(self, "rouge_tokenizer", ROUGE_TOKENIZERS))


@dataclass
class QuestionAnsweringArguments(RougeArguments, TemplateArguments, GenerationArguments, DataArguments):
    """Data of run_question_answering.py."""

    default_output_dir = "save/question_answering"
    _argument_group_name = groups.DATA

    context_column: str | None = flag(None, "Column of the passages; the data set's own, else context.")
    question_column: str | None = flag(None, "Column of the questions; the data set's own, else question.")
    answer_column: str | None = flag(None, "Column of the reference answers; the data set's own, else answers.")
    max_seq_length: int = flag(
        384, "With an encoder: tokens of question and context; a longer context becomes several windows."
    )
    max_answer_length: int = flag(30, "Tokens of an answer in training, and N of --exit_position_temp.")
    val_max_answer_length: int | None = flag(
        None,
        "Tokens of an answer in evaluation, a start token counted; as --max_answer_length where not given.",
    )
    doc_stride: int = flag(128, "Tokens that neighbouring windows of a long context share.")
    n_best_size: int = flag(20, "Accepted for old jobs; a model that writes its answer has one per question.")
    version_2_with_negative: bool = flag(
        False, "Some questions have no answer (SQuAD v2); prompts have 'unanswerable' for it."
    )
    null_score_diff_threshold: float = flag(
        0.0, "With --version_2_with_negative: answer nothing where that scores better by more than this."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_max_answer_length is None:
            self.val_max_answer_length = self.max_answer_length
        if self.doc_stride >= self.max_seq_length:
            raise ValueError(
                f"--doc_stride {self.doc_stride} has to be below --max_seq_length {self.max_seq_length}, or windows "
                "would not move on: lower the one or raise the other."
            )


@dataclass
class TextToTextArguments(TemplateArguments, GenerationArguments, DataArguments):
    """What summarization and translation have in common."""

    _argument_group_name = groups.DATA

    source_prefix: str | None = flag(None, "With an encoder: text before every input, such as 'summarize: ' for T5.")
    max_source_length: int = flag(
        512, "With an encoder: tokens of an input; a longer one is cut, and counted in a warning."
    )
    max_target_length: int = flag(128, "Tokens of a target in training, and N of --exit_position_temp.")
    val_max_target_length: int | None = flag(
        None,
        "Tokens of an output in evaluation, a start token counted; as --max_target_length where not given.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_max_target_length is None:
            self.val_max_target_length = self.max_target_length


@dataclass
class SummarizationArguments(RougeArguments, TextToTextArguments):
    """Data of run_summarization.py."""

    default_output_dir = "save/summarization"

    text_column: str | None = flag(
        None, "Column of the texts; the data set's own, else one called dialogue, document, article, text or the like."
    )
    summary_column: str | None = flag(
        None, "Column of the summaries; the data set's own, else one called summary, highlights, abstract or the like."
    )
    lang: str | None = flag(None, "Accepted for old jobs; the tokenizers of T5 and mT5 need no language.")


@dataclass
class TranslationArguments(TextToTextArguments):
    """Data of run_translation.py."""

    default_output_dir = "save/translation"

    source_lang: str | None = flag(
        None,
        "Language translated from, as its column or its key in 'translation' is called: de, pt_BR, deu_Latn, src; as "
        "the name of the configuration says where not given (de-en: de).",
    )
    target_lang: str | None = flag(None, "Language translated to, in the same way (de-en: en).")
    bleu_tokenizer: str | None = flag(
        None,
        f"What BLEU counts, a tokenizer of sacreBLEU: {', '.join(BLEU_TOKENIZERS)}; where not given the one for the "
        "language translated to, else 13a. spm and what follows are downloaded.",
    )
    max_source_length: int = flag(
        1024, "With an encoder: tokens of an input; a longer one is cut, and counted in a warning."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        raise_together(choice_problems(self, "bleu_tokenizer", BLEU_TOKENIZERS))


@dataclass
class LanguageModelingArguments(RougeArguments, GenerationArguments, DataArguments):
    """Data of run_language_modeling.py."""

    model_class = DecoderArguments
    suffixes = (*DATA_SUFFIXES, ".txt")
    default_output_dir = "save/language_modeling"
    _argument_group_name = groups.DATA

    text_column: str | None = flag(
        None, "Column of the texts; text, or one called content or the like. A .txt file has one text per line."
    )
    prompt_column: str | None = flag(
        None, "Column of prompts, joined to their texts as they are: they are continued, and do not count in the loss."
    )
    block_size: int = flag(256, "Tokens of a block in training and of perplexity; texts follow one another.")
    prompt_length: int = flag(16, "Tokens of a text's beginning that is continued, where there is no --prompt_column.")
    max_continuation_length: int = flag(64, "New tokens at most in training's evaluations, N of --exit_position_temp.")
    val_max_continuation_length: int | None = flag(
        None, "New tokens at most in evaluation; as --max_continuation_length where not given."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_max_continuation_length is None:
            self.val_max_continuation_length = self.max_continuation_length


@dataclass
class CompletionArguments(RougeArguments, TemplateArguments, GenerationArguments, DataArguments):
    """Data of run_completion.py."""

    model_class = DecoderArguments
    default_output_dir = "save/completion"
    _argument_group_name = groups.DATA

    prompt_column: str | None = flag(None, "Column of the prompts; prompt where not given.")
    solution_column: str | None = flag(
        None, "Column of what should come behind them, such as canonical_solution; --do_train and --do_eval need it."
    )
    max_completion_length: int = flag(256, "New tokens at most in training's evaluations, N of --exit_position_temp.")
    val_max_completion_length: int | None = flag(
        None, "New tokens at most in evaluation; as --max_completion_length where not given."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_max_completion_length is None:
            self.val_max_completion_length = self.max_completion_length


Arguments = tuple[ModelArguments, DataArguments, TrainingArguments, AdditionalArguments]


def parse_arguments(
    data_class: type[DataArguments], argv: list[str] | None = None, description: str | None = None
) -> Arguments:
    """Reads a command line, or a .json file that holds one.

    Args:
        data_class: the data arguments of the task, such as QuestionAnsweringArguments.
        argv: the words after the script's name; those of this process by default.
        description: the docstring of the script, which --help opens with.

    Returns:
        Model, data, training and additional arguments, checked each by itself and against each other. What can only be
        told from the model's config is checked by `update_autoconfig`.

    Exits with code 2 after a sentence per problem on stderr, and with 0 after --help.
    """
    classes = (data_class.model_class, data_class, AdditionalArguments, TrainingArguments)
    parser = ArgumentParser(classes, description)
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        given = parser.given(argv)
        if given.get("do_train") and not ({"dataset_name", "validation_file"} & set(given)):
            given.setdefault("eval_strategy", "no")  # there is nothing to evaluate on
        given.setdefault("output_dir", data_class.default_output_dir)
        model_args, data_args, additional_args, training_args = build(classes, given)
        check_arguments(data_args, training_args, additional_args)
    except (ValueError, OSError, ImportError) as error:
        parser.refuse(error)
    return model_args, data_args, training_args, additional_args


def check_arguments(
    data_args: DataArguments, training_args: TrainingArguments, additional_args: AdditionalArguments
) -> None:
    """Refuses what contradicts itself only across the dataclasses.

    Raises:
        ValueError: one sentence per problem.
    """
    raise_together(
        [
            *data_problems(data_args, training_args),
            *beam_problems(data_args, training_args, additional_args),
            *length_problems(data_args, training_args),
            *smoothing_problems(training_args, additional_args),
            *sharding_problems(training_args, additional_args),
            *folder_problems(training_args.output_dir),
        ]
    )


def build(classes: tuple[type, ...], given: dict[str, Any]) -> list[Any]:
    """An object of each class from the flags that were given; what is wrong with any of them is raised together."""
    built, problems = [], []
    for each in classes:
        names = {declared.name for declared in fields(each) if declared.init}
        taken = {name: value for name, value in given.items() if name in names}
        own = {name: given[name] for name in getattr(each, "own_settings", dict)() if name in given}
        try:
            built.append(each(**taken, **({"extra": own} if own else {})))
        except ValueError as error:
            problems.append(str(error))
    raise_together(problems)
    return built
