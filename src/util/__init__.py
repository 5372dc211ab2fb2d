"""The ground: arguments of the scripts, what they mean for a model's config, and files."""

from util.additional_args import AdditionalArguments, exit_layers_of, policy_for, update_autoconfig
from util.arguments import (
    CompletionArguments,
    DataArguments,
    DecoderArguments,
    LanguageModelingArguments,
    ModelArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    TrainingArguments,
    TranslationArguments,
    check_arguments,
    parse_arguments,
)

__all__ = [
    "AdditionalArguments",
    "CompletionArguments",
    "DataArguments",
    "DecoderArguments",
    "LanguageModelingArguments",
    "ModelArguments",
    "QuestionAnsweringArguments",
    "SummarizationArguments",
    "TrainingArguments",
    "TranslationArguments",
    "check_arguments",
    "exit_layers_of",
    "parse_arguments",
    "policy_for",
    "update_autoconfig",
]
