"""Tokens of texts are counted into a file that names its vocabulary, whole or not at all."""

import json
from collections import Counter

import pytest
from transformers import AutoTokenizer

from decoding.frequent import read_counts, vocabulary_digest
from jobs.generating import Generator
from jobs.loading import load_tokenizer
from scripts import count_tokens
from util import AdditionalArguments, ModelArguments
from util.arguments import EMBEDDED_DECODER, EMBEDDED_MODEL
from util.generate_args import GenerateArguments

TEXTS = ["Once upon a time there was a fox.", "The fox said: \u201cNo.\u201d", "a a a"]


@pytest.fixture
def count(tmp_path, capsys):
    def call(*flags):
        found = count_tokens.main([*map(str, flags), "--out", str(tmp_path / "counts.json")])
        return found, capsys.readouterr().out

    return call


def refused(capsys, *flags) -> str:
    with pytest.raises(SystemExit) as ended:
        count_tokens.main(list(map(str, flags)))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_every_token_of_every_text_counts_once_per_place(count, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    found, said = count(tmp_path / "texts.txt")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DECODER)
    expected = Counter(token for text in TEXTS for token in tokenizer(text, add_special_tokens=False)["input_ids"])
    assert dict(zip(found.ids, found.counts, strict=True)) == expected
    held = read_counts(tmp_path / "counts.json")
    assert (held.ids, held.counts) == (found.ids, found.counts)
    assert held.vocabulary == vocabulary_digest(tokenizer.get_vocab()) and held.tokenizer == "gpt2_stories"
    assert f"{sum(expected.values())} tokens, {len(expected)} different ones." in said


def test_texts_of_records_are_all_but_their_ids_or_those_of_columns(tmp_path):
    row = {"id": "not this", "question": "A?", "answers": {"text": ["B", "C"], "start": [3]}, "n": 4}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    path = str(tmp_path / "rows.jsonl")
    assert list(count_tokens.texts_of(path, None)) == ["A?", "B", "C"]
    assert list(count_tokens.texts_of(path, ["question"])) == ["A?"]
    with pytest.raises(ValueError, match=r"record 1, has no context: it has id, question, answers, n\."):
        list(count_tokens.texts_of(path, ["context"]))


def test_what_cannot_be_counted_is_told_in_a_sentence_and_leaves_no_file(tmp_path, capsys):
    out = tmp_path / "counts.json"
    assert "is not there" in refused(capsys, tmp_path / "none.txt", "--out", out)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"n": 4}) + "\n")
    assert "no text with a token in it" in refused(capsys, tmp_path / "rows.jsonl", "--out", out)
    assert "there is no such folder" in refused(capsys, out, "--model_name_or_path", tmp_path / "no", "--out", out)
    assert not out.exists()


def test_a_model_of_another_vocabulary_refuses_the_file(count, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    count(tmp_path / "texts.txt", "--model_name_or_path", EMBEDDED_MODEL)
    assert load_tokenizer(ModelArguments(model_name_or_path=str(EMBEDDED_MODEL))).name_or_path == str(EMBEDDED_MODEL)
    flags = {"use_early_exit": True, "type_vocab_reduct": "frequent"}
    own = AdditionalArguments(**flags, extra={"frequent_tokens": str(tmp_path / "counts.json")})
    with pytest.raises(ValueError, match=r"frequent_tokens is .* whose vocabulary is not this model's"):
        Generator(ModelArguments(model_name_or_path=str(EMBEDDED_DECODER)), GenerateArguments(prompt="A"), own)
