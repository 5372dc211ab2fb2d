"""Pruning to frequent tokens (FR-Spec, arXiv:2502.14856): rows of the head chosen before anything is decoded.

The survivors are the same at every exit, the first one included: the k tokens most frequent in some texts, those of the
prompt, and the ends. So nothing is multiplied whole at an exit, and one exit is enough: drafts of FREE and of the
lossless decoder get cheaper where the head is a large part of them. The last layer's head stays whole, and with it what
verification says.

The counts lie in a small JSON file that `src/scripts/count_tokens.py` makes of texts. It names the vocabulary that its
ids belong to, since those of another tokenizer are other tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from decoding.pruning_settings import Given, PruningSettings
from decoding.settings import Setting

# What a file of counts says it is; another number where its fields are others.
KIND = "token counts 1"
# Share of the vocabulary that survives where no k is given.
SHARE_KEPT = 1 / 8


@dataclass(frozen=True)
class TokenCounts:
    """How often tokens occur in some texts.

    Attributes:
        tokenizer: Its name, for people.
        vocabulary: What stands for its vocabulary, see `vocabulary_digest`.
        ids: Every token that occurs, most frequent first, the lower id on a tie.
        counts: Of each of them, at least 1.
        digest: What stands for the content of its file; empty before it was written.
    """

    tokenizer: str
    vocabulary: str
    ids: tuple[int, ...]
    counts: tuple[int, ...]
    digest: str = ""

    @classmethod
    def of(cls, counted: Counter[int], tokenizer: str, vocabulary: str) -> TokenCounts:
        """Of token ids and how often each occurs."""
        ranked = sorted(
            (token for token, count in counted.items() if count), key=lambda token: (-counted[token], token)
        )
        return cls(tokenizer, vocabulary, tuple(ranked), tuple(counted[token] for token in ranked))

    def text(self) -> str:
        """The content of a file of counts, JSON."""
        held = {"kind": KIND, "tokenizer": self.tokenizer, "vocabulary": self.vocabulary}
        return json.dumps(held | {"ids": self.ids, "counts": self.counts}, ensure_ascii=False) + "\n"

    def share(self, k: int) -> float:
        """Share of the texts' tokens that are among the k most frequent, in [0, 1]."""
        return sum(self.counts[:k]) / max(1, sum(self.counts))


def vocabulary_digest(vocabulary: Mapping[str, int]) -> str:
    """What stands for a tokenizer's vocabulary (token -> id): another value where any token has another id."""
    hashed = hashlib.sha256()
    for token, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        hashed.update(f"{number} {token}\n".encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()[:16]


def read_counts(path: str | os.PathLike) -> TokenCounts:
    """The content of a file of counts; read once as long as it stays the same.

    Raises:
        ValueError: It is not there, or is none, in one sentence.
    """
    try:
        found = os.stat(path)
        return _read(os.fspath(path), found.st_mtime_ns, found.st_size, found.st_ino)
    except OSError as error:
        raise ValueError(
            f"frequent_tokens is {os.fspath(path)!r}, which cannot be read ({error.strerror}): valid is a file that "
            "src/scripts/count_tokens.py has made."
        ) from None


@lru_cache(maxsize=8)
def _read(path: str, *version: int) -> TokenCounts:
    data = Path(path).read_bytes()
    try:
        held = json.loads(data)
        if held["kind"] != KIND:
            raise ValueError
        counts = TokenCounts(
            str(held["tokenizer"]),
            str(held["vocabulary"]),
            tuple(map(_whole, held["ids"])),
            tuple(map(_whole, held["counts"])),
            hashlib.sha256(data).hexdigest()[:8],
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        counts = None
    if counts is None or not counts.ids or len(set(counts.ids)) < len(counts.ids) or min(counts.ids) < 0:
        raise ValueError(
            f"frequent_tokens is {path!r}, which holds no counts of tokens: valid is a file that "
            "src/scripts/count_tokens.py has made."
        )
    return counts


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError
    return value


def frequent(settings: PruningSettings, given: Given, frequent_tokens: str) -> list[Tensor]:
    """Of each batch row the k most frequent tokens, those of its own prompt, and the ends."""
    k = settings.k or max(2, int(SHARE_KEPT * settings.vocabulary))
    shared = torch.tensor([*read_counts(frequent_tokens).ids[:k], *given.ends], dtype=torch.long)
    return [torch.cat([shared.to(prompt.device), prompt]) for prompt in given.prompts]


def frequent_problems(vocabulary: int | None, tokenizer: str | None, frequent_tokens: str | None) -> list[str]:
    """A sentence where there is no file of counts, or where it is another vocabulary's.

    Args:
        vocabulary: V of the model.
        tokenizer: What stands for the vocabulary of its tokenizer. Either is None where it is not known.
    """
    if frequent_tokens is None:
        return [
            "type_vocab_reduct is 'frequent', which needs to know what is frequent: give the frequent_tokens that "
            "src/scripts/count_tokens.py has made of texts."
        ]
    try:
        held = read_counts(frequent_tokens)
    except ValueError as error:
        return [str(error)]
    if tokenizer is not None and tokenizer != held.vocabulary:
        return [
            f"frequent_tokens is {frequent_tokens!r}, which counts tokens of {held.tokenizer}, whose vocabulary is not "
            "this model's: valid are counts made with the tokenizer of this model."
        ]
    if vocabulary is not None and max(held.ids) >= vocabulary:
        return [
            f"frequent_tokens is {frequent_tokens!r}, which counts the token {max(held.ids)}, but the model knows "
            f"{vocabulary} tokens: valid are counts made with the tokenizer of this model."
        ]
    return []


def named(frequent_tokens: str) -> str:
    """A file of counts as results and names of runs have it: its name and its content."""
    return f"{Path(frequent_tokens).stem}-{read_counts(frequent_tokens).digest}"


FREQUENT_TOKENS = Setting(
    "frequent_tokens",
    "Of --type_vocab_reduct frequent: the file of counts that src/scripts/count_tokens.py has made of texts with this "
    "model's tokenizer. --k of its tokens survive, those of the prompt, and the ends.",
    (),
    told=named,
)
