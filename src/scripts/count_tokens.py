"""Count the tokens of texts, for pruning to frequent tokens (--type_vocab_reduct frequent).

    python src/scripts/count_tokens.py texts.txt dialogues.jsonl --model_name_or_path DIR --out counts.json
    python src/scripts/count_tokens.py validation.jsonl --columns context --out counts.json

The file is for --frequent_tokens of every script that decodes. Texts are those of .txt, .jsonl, .json and .csv files: a
line each, or every text of a record, or of --columns of it. Take texts like those that will be generated. The file
holds each token that occurs with its count, most frequent first, and names the vocabulary of the tokenizer; a model
with another one refuses it. It is written whole or not at all.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from decoding.frequent import TokenCounts, vocabulary_digest
from jobs.loading import load_tokenizer
from tasks.readers import read_records
from util import ModelArguments, groups
from util.arguments import EMBEDDED_DECODER
from util.commands import CommandParser, output_file
from util.files import write_text
from util.terminal import terminal

# Texts that are handed to the tokenizer together.
TOGETHER = 1000
# Sizes whose share of the texts is printed.
TOLD = (1024, 4096, 16384)


def count_tokens(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> TokenCounts:
    """How often the tokens of a tokenizer occur in texts; those that it adds to a text by itself are not counted."""
    counted: Counter[int] = Counter()
    texts = iter(texts)
    while some := list(islice(texts, TOGETHER)):
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            counted.update(ids)
    name = Path(tokenizer.name_or_path).name or type(tokenizer).__name__
    return TokenCounts.of(counted, name, vocabulary_digest(tokenizer.get_vocab()))


def texts_of(path: str, columns: list[str] | None) -> Iterator[str]:
    """The texts of a file: of each record those of `columns`, else all that it has but its id.

    Raises:
        ValueError: The file cannot be read, or a record lacks a column.
    """
    for number, record in enumerate(read_records(path), 1):
        missing = [name for name in columns or () if name not in record]
        if missing:
            raise ValueError(f"{path}, record {number}, has no {missing[0]}: it has {', '.join(record)}.")
        for name in columns or [name for name in record if name != "id"]:
            yield from _texts(record[name])


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def main(argv: list[str] | None = None) -> TokenCounts:
    parser = CommandParser(__doc__)
    texts, output = parser.add_argument_group(groups.DATA), parser.add_argument_group(groups.OUTPUT)
    model = parser.add_argument_group(groups.MODEL)
    texts.add_argument("files", nargs="+", help=".txt, .jsonl, .json or .csv")
    texts.add_argument("--columns", nargs="+", help="of a record; every text where not given")
    model.add_argument("--model_name_or_path", default=str(EMBEDDED_DECODER), help="whose tokenizer is used")
    model.add_argument("--tokenizer_name", help="of another tokenizer than the model's")
    output.add_argument("--out", type=output_file, required=True, help="the file of counts, JSON")
    arguments = parser.parse_args(argv)
    try:
        names = {"model_name_or_path": arguments.model_name_or_path, "tokenizer_name": arguments.tokenizer_name}
        tokenizer = load_tokenizer(ModelArguments(**names))
        texts = (text for path in arguments.files for text in texts_of(path, arguments.columns))
        counts = count_tokens(texts, tokenizer)
        if not counts.ids:
            raise ValueError(f"{', '.join(arguments.files)}: no text with a token in it, so there is nothing to count.")
        write_text(arguments.out, counts.text())
    except (ValueError, OSError) as error:
        parser.refuse(error)
    shares = [f"{counts.share(k):.1%} of them are among the {k:,} most frequent" for k in TOLD if k < len(counts.ids)]
    told = ", ".join([f"{sum(counts.counts):,} tokens", f"{len(counts.ids):,} different ones", *shares])
    print(f"{told}.")
    print(f"written to {arguments.out}")
    return counts


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
