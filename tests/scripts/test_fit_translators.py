"""fit_translators.py end to end: its files, what it prints, and what it refuses."""

import json

import pytest
import torch
from safetensors.torch import load_file

from decoding.frequent import read_counts
from scripts.fit_translators import main
from training import translators
from training.positions import labelled_positions
from util.files import read_json

TALK = ["The tower of {} is old and {}.", "Ann went home to {}, which is {}.", "It costs five {} in {}."]
TEXTS = [each.format(place, word) for each in TALK for place in ("Dover", "Elm", "Brix") for word in ("red", "wide")]


@pytest.fixture
def fit(tmp_path, tiny_gpt2_dir, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    out = tmp_path / "out" / "found.safetensors"

    def call(*flags):
        given = ["--model_name_or_path", tiny_gpt2_dir, "--block_size", 64, "--device", "cpu", "--out", out, *flags]
        return main(list(map(str, given))), capsys.readouterr()

    return call


def test_texts_of_a_decoder_end_to_end(fit, tmp_path):
    found, said = fit("--text", tmp_path / "texts.txt", "--layers", "1,3", "--then_kl", 2)
    assert [*found] == ["as it is", "closed form", "trained"] and len(found["trained"]["equal"]) == 4
    weights = load_file(tmp_path / "out" / "found.safetensors")
    assert {*weights} == {f"exit_translators.{layer}.{part}" for layer in (1, 3) for part in ("weight", "bias")}
    shown = read_json(tmp_path / "out" / "found.layers.json")
    assert [row[0] for row in shown["rows"]] == ["1", "3", "4"] and shown["rows"][-1][1:4] == ["1.000"] * 3
    assert shown["title"] in said.out and "KL closed form" in said.out
    assert len(read_counts(tmp_path / "out" / "found.tokens.json").ids) > 10
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"found.safetensors", "found.tokens.json", "found.layers.json"}


def test_answers_of_a_task_of_an_encoder_decoder(tiny_t5_dir, squad_file, tmp_path, capsys):
    flags = ["--model_name_or_path", tiny_t5_dir, "--text", squad_file, "--kind", "question_answering"]
    found = main([*map(str, flags), "--out", str(tmp_path / "found.safetensors"), "--device", "cpu"])
    assert [*found] == ["as it is", "closed form"]
    assert found["closed form"]["divergence"][2] < found["as it is"]["divergence"][2]


def test_a_model_writes_what_it_is_fitted_on(fit, tmp_path):
    (tmp_path / "prompts.txt").write_text("The tower\nWhere are you?\nAnn:\nIt rains\nIn Elm\n")
    flags = ["--own_answers", tmp_path / "prompts.txt", "--max_new_tokens", 6, "--batch_size", 2]
    found, _ = fit(*flags)
    lines = [json.loads(line) for line in (tmp_path / "out" / "found.answers.jsonl").read_text().splitlines()]
    assert [len(line["tokens"]) for line in lines] == [6] * 5 and {line["strategy"] for line in lines} == {"sample"}
    again, said = fit(*flags)
    assert "5 of 5 continuations were in" in said.err
    for name, numbers in found["closed form"].items():
        assert numbers == pytest.approx(again["closed form"][name])


def test_few_positions_are_told_and_finite(fit, tmp_path):
    (tmp_path / "few.txt").write_text("Ann.\nBob.\n")
    found, said = fit("--text", tmp_path / "few.txt")
    assert "positions are fewer than the width 24" in said.out
    weights = load_file(tmp_path / "out" / "found.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values()) and len(found) == 2


def test_states_that_are_not_finite_are_named(fit, tmp_path, monkeypatch, capsys):
    def broken(model, rows, *more):
        for some in labelled_positions(model, rows, *more):
            some.states.hidden[2][0] = torch.nan
            yield some

    monkeypatch.setattr(translators, "labelled_positions", broken)
    with pytest.raises(SystemExit):
        fit("--text", tmp_path / "texts.txt")
    said = capsys.readouterr().err
    assert "Nothing can be fitted: the states after layer 3 are not finite in the text that begins" in said
    assert "record " in said and not (tmp_path / "out" / "found.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "There is nothing to fit on: give --text FILE, --dataset_name or --own_answers PROMPTS."),
        (["--text", "absent.txt"], "--text absent.txt: there is no such file."),
        (["--text", "{empty}"], "empty.txt is empty: it holds no record"),
        (["--text", "{one}"], "There is one text alone"),
        (["--text", "{texts}", "--layers", "4"], "--layers 4: valid are layers from 1 to 3 such as 1,3; the last one"),
        (["--text", "{texts}", "--layers", "deep"], "--layers deep: valid are layers from 1 to 3"),
        (["--text", "{texts}", "--strategy", "beam"], "--strategy beam: valid are sample, greedy."),
        (["--text", "{texts}", "--out", "found.bin"], "--out found.bin: it is a file of safetensors"),
        (["--text", "{texts}", "--tokens", "0"], "--tokens 0: valid are 1 and above"),
        (["--text", "{texts}", "--block_size", "500"], "--block_size is 500, but the model was made for 128 tokens"),
        (["--dataset_name", "invented_dialogues"], "this script needs an encoder and a decoder"),
        (["--own_answers", "{records}"], "every record needs a text as its 'prompt'"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(flags, said, tiny_gpt2_dir, tmp_path, capsys):
    for name, content in (("empty.txt", "\n"), ("one.txt", "A tower.\n"), ("texts.txt", "\n".join(TEXTS))):
        (tmp_path / name).write_text(content)
    (tmp_path / "records.jsonl").write_text('{"question": "Why?"}\n')
    names = {"records": tmp_path / "records.jsonl"} | {
        name: tmp_path / f"{name}.txt" for name in ("empty", "one", "texts")
    }
    given = ["--model_name_or_path", str(tiny_gpt2_dir), "--block_size", "64", "--out", str(tmp_path / "o.safetensors")]
    with pytest.raises(SystemExit) as stop:
        main([*given, *(each.format(**names) for each in flags)])
    assert stop.value.code == 2 and said in capsys.readouterr().err and not (tmp_path / "o.safetensors").exists()
