"""run_truthfulqa.py from its command line: the files, what a killed command keeps, what is refused."""

import csv
import json

import pytest

import run_truthfulqa
from analysis.drawing import drawn_before
from analysis.figures import PAINTS
from jobs import generating
from jobs.likelihoods import Likelihoods
from tasks.truthful import COLUMNS, invented_questions
from util.files import jsonl


@pytest.fixture
def run(tmp_path):
    def call(*flags, out=None):
        given = ("--device", "cpu", "--limit", 2, "-l", 4, "--out", out or tmp_path / "out", *flags)
        return run_truthfulqa.main([str(each) for each in given])

    return call


@pytest.fixture
def files(tmp_path):
    """A file for every test."""
    with (tmp_path / "questions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        for each in invented_questions(3):
            answers = each.best, "; ".join(each.correct), "; ".join(each.incorrect)
            writer.writerow(dict(zip(COLUMNS, (each.question, each.category, *answers), strict=True)))
    facts = {"prefix": "Ada lost a silver key.", "completion": "She looked for it.", "contradictions": ["It was here."]}
    (tmp_path / "factor.jsonl").write_bytes(jsonl([facts, facts | {"prefix": "Ada found it. "}]))
    (tmp_path / "math.jsonl").write_bytes(jsonl([{"question": "What is 3 + 4?", "answer": "It is 7.\n#### 7"}] * 2))
    (tmp_path / "prompts.txt").write_text("Once upon a time\nIn spring\n")
    names = {"data": "questions.csv", "factor_file": "factor.jsonl", "gsm8k_file": "math.jsonl"}
    names |= {"prompt_file": "prompts.txt"}
    return [word for flag, name in names.items() for word in (f"--{flag}", tmp_path / name)]


def test_every_test_of_every_strategy(run, files, tmp_path, capsys):
    rows = run(*files, "--gsm8k_tokens", 4)
    shown = capsys.readouterr().out
    scores = {row.score for row in rows}
    assert {
        "mc1",
        "mc2",
        "mc3",
        "bleu_max",
        "rougeL_diff",
        "rouge2_acc",
        "factor",
        "gsm8k",
        "distinct2",
        "rep4",
    } <= scores
    strategies = ["vanilla", "dola", "dola_static", "acd", "contrastive"]
    for score in scores:
        assert [row.strategy for row in rows if row.score == score] == strategies
        assert all(row.n == 2 for row in rows)
    out = tmp_path / "out"
    assert (out / "table.txt").read_text() in shown and "BERTScore" in shown
    held = json.loads((out / "scores.json").read_text())
    assert len(held["rows"]) == len(rows) and set(held["examples"]) >= {"choices", "answers", "factor", "gsm8k"}
    assert drawn_before(out / "strategies.json", PAINTS) is not None and (out / "strategies.png").is_file()
    for test in ("choices", "answers", "factor", "gsm8k", "open_ended"):
        assert {path.name for path in out.glob(f"{test}_*.jsonl")} == {f"{test}_{name}.jsonl" for name in strategies}


def test_a_killed_command_goes_on_and_asks_nothing_twice(run, tmp_path, monkeypatch):
    flags = "--strategies", "vanilla", "dola"
    whole = run(*flags)
    out = tmp_path / "out"
    expected = {path.name: path.read_bytes() for path in out.glob("*.jsonl")}
    lines = (out / "choices_dola.jsonl").read_bytes().splitlines(keepends=True)
    (out / "choices_dola.jsonl").write_bytes(lines[0] + lines[1][:30])
    (out / "answers_dola.jsonl").unlink()
    asked, scored = [], Likelihoods.of
    monkeypatch.setattr(Likelihoods, "of", lambda self, *given: asked.append(list(given[2])) or scored(self, *given))
    assert run(*flags) == whole and asked == [["dola"]]
    assert {path.name: path.read_bytes() for path in out.glob("*.jsonl")} == expected
    monkeypatch.setattr(generating.Generator, "run", lambda *given: pytest.fail("it was answered already"))
    assert run(*flags) == whole and asked == [["dola"]]


def test_other_settings_are_not_mixed(run, tmp_path, capsys):
    run("--strategies", "dola", "--tests", "choices")
    with pytest.raises(SystemExit) as refused:
        run("--strategies", "dola", "--tests", "choices", "--likelihood_alpha", 0.1)
    assert refused.value.code == 2 and "give another --out" in capsys.readouterr().err


def test_layers_that_are_not_there_are_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        run("--strategies", "vanilla", "acd", "--intermediate_layer", 9)
    assert refused.value.code == 2 and "--intermediate_layer 9: Layer 9 cannot" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_encoder_decoder_is_compared_too(run, tiny_t5_dir):
    rows = run("--model_name_or_path", tiny_t5_dir, "--strategies", "vanilla", "dola", "--tests", "choices", "answers")
    assert {row.strategy for row in rows} == {"vanilla", "dola"} and len(rows) == 2 * (6 + 12)
