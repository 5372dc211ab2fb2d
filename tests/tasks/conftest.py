import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from util import (
    CompletionArguments,
    LanguageModelingArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    TranslationArguments,
)

CORPUS = [
    "question: who built the old stone bridge? context: The bridge was built by Ada Quill in the year 1901.",
    "summarize: Bea: shall we meet at the library on Tuesday? Cleo: yes, at noon. Bea and Cleo will meet there.",
    "translate German to English: Das alte Haus steht am Fluss. The old house stands by the river.",
]

ARGUMENTS = {
    "question_answering": QuestionAnsweringArguments,
    "summarization": SummarizationArguments,
    "translation": TranslationArguments,
    "language_modeling": LanguageModelingArguments,
    "completion": CompletionArguments,
}


@pytest.fixture
def data_args():
    """Function (kind, **changes) -> data arguments of that kind at their defaults, apart from the changes."""

    def make(kind, **changes):
        return ARGUMENTS[kind](**changes)

    return make


@pytest.fixture
def write(tmp_path):
    """Function (file name, content) -> path as text; content is text, bytes, or records to be written as JSONL."""

    def make(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return make


def _tokenizer(model, trainer):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


SPECIALS = ["<pad>", "</s>", "<unk>"]


@pytest.fixture(scope="session")
def tokenizer():
    """A small Unigram tokenizer in the manner of T5's: Metaspace, end-of-sequence behind every text."""
    alphabet = [chr(c) for c in range(33, 127)]
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=SPECIALS, unk_token="<unk>", initial_alphabet=alphabet, show_progress=False
    )
    return _tokenizer(models.Unigram(), trainer)
