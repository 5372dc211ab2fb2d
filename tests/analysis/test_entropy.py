"""Entropy of right and wrong answers: against scipy on the model's own states, paired intervals, files, resuming."""

import csv
import random

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from transformers import AutoTokenizer

from analysis import entropy
from analysis.drawing import drawn_before
from analysis.figures import PAINTS
from models import DeployGPT2LMHeadModel, DeployT5ForConditionalGeneration
from support_figures import problems
from tasks.truthful import COLUMNS
from util.files import read_json, read_jsonl

QUESTIONS = [
    ("Where is the tower?", "Towers", "In Dover", "In Dover; It is in Dover", "In Paris; Nowhere at all; In a box"),
    ("Who went home?", "People", "Ann", "Ann; Ann did", "Nobody; Everybody went"),
    ("What does it cost?", "Towers", "Five", "Five", "Nothing"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "questions.csv"
    with path.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([list(COLUMNS), *QUESTIONS])
    return path


def run(folder, file, out, *more):
    flags = ["--model_name_or_path", folder, "--data", file, "--out", out, *more]
    return entropy.main(list(map(str, flags)))


def said_by_layers(model, tokenizer, question: str, answer: str) -> np.ndarray:
    """Of every layer from 1 the distribution at each token of an answer, from the library's own hidden states."""
    if model.config.is_encoder_decoder:
        labels = tokenizer(answer, add_special_tokens=False, return_tensors="pt")["input_ids"]
        inputs = tokenizer(question, return_tensors="pt")
        shifted = torch.cat([torch.zeros(1, 1, dtype=torch.long), labels[:, :-1]], 1)
        done = model(**inputs, decoder_input_ids=shifted, output_hidden_states=True)
        states, places = done.decoder_hidden_states, slice(None)
    else:
        prompt = tokenizer(f"Q: {question}\nA:")["input_ids"]
        ids = tokenizer(f"Q: {question}\nA: {answer}", return_tensors="pt")["input_ids"]
        labels = ids[:, len(prompt) :]
        states = model(ids, output_hidden_states=True).hidden_states
        places = slice(len(prompt) - 1, -1)
    unembed = model.unembed()
    normed = [unembed.normalise(state, layer) for layer, state in enumerate(states[1:-1], 1)] + [states[-1]]
    p = [unembed.logits(state[0, places]).double().softmax(-1) for state in normed]
    return torch.stack(p).numpy(), labels[0].numpy()


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_entropy_is_scipys_and_answers_are_averaged_by_question(kind, request, file, tmp_path):
    folder = request.getfixturevalue(f"tiny_{kind}_dir")
    made = {"gpt2": DeployGPT2LMHeadModel, "t5": DeployT5ForConditionalGeneration}[kind]
    model, tokenizer = made.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    layers = run(folder, file, tmp_path, "--batch_size", 3)
    kept = read_jsonl(tmp_path / "questions.jsonl")
    expected = {"correct": [], "incorrect": []}
    for (question, _, _, *answers), held in zip(QUESTIONS, kept, strict=True):
        for name, texts in zip(expected, answers, strict=True):
            found = [said_by_layers(model, tokenizer, question, text) for text in texts.split("; ")]
            of_layers = np.mean([scipy_entropy(p, axis=-1).mean(-1) for p, _ in found], 0)
            log_p = np.mean([np.log(p[:, np.arange(len(ids)), ids]).mean(-1) for p, ids in found], 0)
            np.testing.assert_allclose(held["entropy"][name], of_layers, rtol=1e-3)
            np.testing.assert_allclose(held["log_p"][name], log_p, rtol=1e-3)
            expected[name].append(of_layers)
    assert [each["layer"] for each in layers] == [1, 2, 3, 4]
    right, wrong = (np.array(expected[name]) for name in expected)
    for place, each in enumerate(layers):
        assert each["entropy"]["difference"]["value"] == pytest.approx((wrong - right)[:, place].mean(), abs=1e-3)


@pytest.mark.parametrize("spread", [0.0, 1.0, 10.0, 1000.0])
def test_entropy_of_logits_is_scipys_however_sure_they_are(spread):
    logits = spread * torch.randn(6, 500, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(6)
    exact = logits.double().log_softmax(-1)
    found = entropy.token_values(logits, labels).double()
    expected = torch.from_numpy(scipy_entropy(exact.exp().numpy(), axis=-1))
    torch.testing.assert_close(found[:, 0], expected, atol=1e-5 * (1 + spread), rtol=1e-5)
    torch.testing.assert_close(found[:, 1], exact[labels, labels], atol=1e-5 * (1 + spread), rtol=1e-5)
    assert (found[:, 0] >= 0).all()


def test_intervals_pair_the_answers_of_a_question():
    drawn = np.random.default_rng(0)
    right = 3 * drawn.standard_normal(200)
    means = np.stack([right, right + 0.1 + 0.01 * drawn.standard_normal(200)], 1)[:, :, None, None].repeat(2, -1)
    (found,) = entropy.summary(means, [7])
    low, high = found["entropy"]["difference"]["interval"]
    assert found["layer"] == 7 and 0.09 < low < 0.1 < high < 0.11, "though questions differ by far more"
    low, high = found["entropy"]["correct"]["interval"]
    assert high - low > 0.5


def test_a_category_of_one_question_has_no_interval(tiny_gpt2_dir, file, tmp_path):
    run(tiny_gpt2_dir, file, tmp_path, "--layers", "2,4")
    categories = read_json(tmp_path / "layers.json")["categories"]
    assert [(each["category"], each["n"]) for each in categories] == [("Towers", 2), ("People", 1)]
    assert categories[1]["layers"][0]["entropy"]["difference"]["interval"] == [None, None]
    rows = read_json(tmp_path / "categories.json")["rows"]
    assert rows[1][:2] == ["People", "1"] and rows[1][3] == rows[1][5] == "-"


def test_files_can_be_read_and_drawn_again(tiny_gpt2_dir, file, tmp_path, capsys):
    run(tiny_gpt2_dir, file, tmp_path)
    assert (tmp_path / "entropy_table.txt").read_text() in capsys.readouterr().out
    for name in ("entropy", "by_category"):
        drawing = drawn_before(tmp_path / f"{name}.json", PAINTS)
        assert problems(drawing.figure()) == [] and "3 questions with 11 answers" in drawing.examples
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_invented_questions_are_spread_over_the_categories(tiny_gpt2_dir, tmp_path):
    flags = ["--model_name_or_path", str(tiny_gpt2_dir), "--limit", "6", "--layers", "4", "--out", str(tmp_path)]
    (last,) = entropy.main(flags)
    assert last["layer"] == 4 and len(read_jsonl(tmp_path / "questions.jsonl")) == 6


def test_a_killed_run_goes_on_where_it_was(tiny_gpt2_dir, file, tmp_path, monkeypatch):
    whole = run(tiny_gpt2_dir, file, tmp_path / "whole", "--batch_size", 1)
    monkeypatch.setattr("jobs.fitting.SAVED_EVERY", 0.0)
    measured, left = entropy.token_values, iter(range(random.Random(0).randrange(8, 40)))

    def dies(*given):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return measured(*given)

    monkeypatch.setattr(entropy, "token_values", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_gpt2_dir, file, tmp_path / "killed", "--batch_size", 1)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["answers.part"]
    calls = []
    monkeypatch.setattr(entropy, "token_values", lambda *given: calls.append(1) or measured(*given))
    assert run(tiny_gpt2_dir, file, tmp_path / "killed", "--batch_size", 1) == whole
    assert 0 < len(calls) < 4 * 11, "of four layers and eleven answers some were there"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers", "5"], "--layers 5: valid are all, or layers from 1 to 4"),
        (["--limit", "0"], "--limit 0: valid are 1 and above"),
        (["--data", "absent.csv"], "absent.csv is not there"),
        (["--data", "{lacking}"], "has no column 'Question', 'Category'"),
        (["--data", "{long}"], "tokens with its prompt, but the model was made for 128"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(flags, said, tiny_gpt2_dir, file, tmp_path, capsys):
    lacking, long, out = tmp_path / "lacking.csv", tmp_path / "long.csv", tmp_path / "out"
    lacking.write_text("statement,label\nCats bark.,0\n")
    long.write_text(file.read_text() + f"{'very ' * 100}long?,Towers,No,No,Yes\n")
    flags = [word.format(lacking=lacking, long=long) for word in flags]
    with pytest.raises(SystemExit) as stop:
        run(tiny_gpt2_dir, file, out, *flags)
    assert stop.value.code == 2 and said in capsys.readouterr().err and not out.exists()
