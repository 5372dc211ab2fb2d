"""BERTScore where its package and model are at hand, else a sentence."""

import sys
from types import ModuleType

import torch

from tasks import bert_scores
from tasks.bert_scores import bert_measure


class Scorer:
    def __init__(self, lang):
        assert lang == "en"

    def score(self, answers, references):
        same = torch.tensor([float(a == b) for a, b in zip(answers, references, strict=True)])
        return same, same, same


def test_it_is_said_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "bert_score", None)
    assert "its package is not installed" in bert_measure()
    package = ModuleType("bert_score")
    package.BERTScorer = Scorer
    monkeypatch.setitem(sys.modules, "bert_score", package)

    def absent(*args, **more):
        raise OSError("not there")

    monkeypatch.setattr(bert_scores, "cached_file", absent)
    assert "its model roberta-large is not at hand" in bert_measure()
    monkeypatch.setattr(bert_scores, "cached_file", lambda *args, **more: "config.json")
    assert bert_measure()("a", ["a", "b"]) == [{"bertscore": 100.0}, {"bertscore": 0.0}]
