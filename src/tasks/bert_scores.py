"""BERTScore (arXiv:1904.09675), where its package and its model are at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers.utils import cached_file

MODEL = "roberta-large"  # what the package takes for English


def bert_measure() -> Callable[[str, Sequence[str]], list[dict[str, float]]] | str:
    """A function from an answer and references to F1 in percent with each; or a sentence on why there is none. Nothing
    is downloaded."""
    try:
        from bert_score import BERTScorer
    except ImportError:
        return "BERTScore is left out: its package is not installed (pip install bert-score)."
    try:
        cached_file(MODEL, "config.json", local_files_only=True)
        scorer = BERTScorer(lang="en")
    except OSError:
        return f"BERTScore is left out: its model {MODEL} is not at hand (hf download {MODEL})."

    def measure(answer: str, references: Sequence[str]) -> list[dict[str, float]]:
        *_, f1 = scorer.score([answer] * len(references), list(references))
        return [{"bertscore": 100 * value} for value in f1.tolist()]

    return measure
