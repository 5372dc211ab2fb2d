"""The sweep over drafts: the planted point is found, points are written one by one, a sweep that was killed goes on."""

import csv

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from jobs import in_turn
from scripts import sweep_drafts
from scripts.sweep_drafts import numbers
from training.evaluation import decode_batch
from util.arguments import EMBEDDED_MODEL
from util.files import read_json

PLANTED = 3  # the layer behind which nothing changes any more


@pytest.fixture
def planted(tmp_path, tiny_tokenizer):
    """A GPT-2 whose layers above one do nothing, so that what is drafted there always stands; and prompts."""
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": len(tiny_tokenizer)}
    ends = {"bos_token_id": tiny_tokenizer.eos_token_id, "eos_token_id": None, "initializer_range": 0.3}
    model = GPT2LMHeadModel(GPT2Config(n_layer=8, **size, **ends)).eval()
    for layer in model.transformer.h[PLANTED:]:
        for part in (layer.attn.c_proj, layer.mlp.c_proj):
            torch.nn.init.zeros_(part.weight)
    model.save_pretrained(tmp_path / "planted")
    tiny_tokenizer.save_pretrained(tmp_path / "planted")
    (tmp_path / "prompts.txt").write_text("the cat sat\nthe dog ran to\n")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "planted").config.n_layer == 8
    return tmp_path


@pytest.fixture
def clocked(monkeypatch):
    """Seconds are the layers one after the other, and a tenth of every layer that ran; the prompts decoded so far."""
    decoded = []

    def decode(model, tokenizer, batch, *rest):
        answers, details, seconds = decode_batch(model, tokenizer, batch, *rest)
        decoded.append(batch[0].example_id)
        counts = answers[0].counts
        rest[-1].total = counts["layers_in_turn"] + 0.1 * counts["passes"]
        return answers, details, seconds

    monkeypatch.setattr(in_turn, "decode_batch", decode)
    return decoded


def sweep(folder, *flags: str) -> list[dict]:
    """The points of a sweep of the planted model."""
    model = ["--model_name_or_path", folder / "planted", "--prompt_file", folder / "prompts.txt", "--new_tokens", "16"]
    sweep_drafts.main([str(word) for word in (*model, "--threshold", "0", "--out", folder / "out", *flags)])
    with (folder / "out" / "points.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_planted_point_is_found_and_its_flags_are_named(planted, clocked, capsys):
    points = sweep(planted, "--exit_layers", "1:7", "--num_speculations", "2,4,7")
    assert [(point["layer"], point["drafts"]) for point in points[:4]] == [
        ("1", "2"),
        ("1", "4"),
        ("1", "7"),
        ("2", "2"),
    ]
    fastest = max(points, key=lambda point: float(point["speed"]))
    assert (fastest["layer"], fastest["drafts"], float(fastest["acceptance"])) == (str(PLANTED), "7", 1.0)
    assert {point["other"] for point in points} == {"0"}
    said = capsys.readouterr().out
    assert f"Best, planted on prompts.txt: layer {PLANTED}, 7 drafted" in said
    assert f"--shallow_exit_layer {PLANTED} --num_speculations 7 --draft_always True" in said.splitlines()[-2]
    assert len(read_json(planted / "out" / "figure_21.json")["values"]["points"]) == len(points)
    assert [row[2:4] for row in read_json(planted / "out" / "table_8.json")["rows"][:2]] == [["1", "2"], ["1", "4"]]


def test_points_are_written_one_by_one_and_not_repeated(planted, clocked, capsys):
    first = sweep(planted, "--exit_layers", "3", "--num_speculations", "2")
    assert not (planted / "out" / "figure_21.png").exists(), "there is nothing to compare yet"
    count = len(clocked)
    both = sweep(planted, "--exit_layers", "3", "--num_speculations", "2,4")
    assert both[:1] == first and len(clocked) == 2 * count, "the second point alone was decoded"
    assert (planted / "out" / "figure_21.png").stat().st_size > 10_000
    assert "layer 3, 4 drafted: 100% stood" in capsys.readouterr().out


def test_where_no_point_is_faster_it_is_said(planted, clocked, capsys):
    sweep(planted, "--exit_layers", "1", "--num_speculations", "7")
    assert "so drafts do not pay here" in capsys.readouterr().out


@pytest.mark.slow
def test_a_task_and_the_settings_are_swept_too(tmp_path, capsys):
    shared = ["--exit_layers", "2", "--num_speculations", "2", "--examples", "3", "--out", str(tmp_path / "out")]
    task = ["--task", "question_answering", "--model_name_or_path", str(EMBEDDED_MODEL)]
    sweep_drafts.main([*shared, *task, "--dataset_name", "invented_facts"])
    first = (tmp_path / "out" / "points.csv").read_text()
    sweep_drafts.main([*shared, "--settings", "facts_trained"])
    assert (tmp_path / "out" / "points.csv").read_text() == first, "it is the same model on the same examples"


def test_numbers_of_a_flag():
    assert numbers("4") == [4] and numbers("2,4, 8,2") == [2, 4, 8]
    assert numbers("2:12:2") == [2, 4, 6, 8, 10, 12] and numbers("1:3") == [1, 2, 3] and numbers("1,4:8:3") == [1, 4, 7]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--settings", "facts_trained", "--exit_layers", "9"],
            "--exit_layers 9: valid are 1 to 7 in t5_exits_trained",
        ),
        (["--exit_layers", "2:x"], "'2:x' is none of 4, or 2,4,8, or 2:12:2"),
        (["--exit_layers", "5:2"], "'5:2' has no number from 1 on"),
        (["--num_speculations", "0"], "'0' has no number from 1 on"),
        (["--threshold", "7"], "argument --threshold: invalid value '7': valid are 0 to 1"),
        (["--task", "summarization"], "--model_name_or_path goes with --task or --prompt_file"),
        (["--model_name_or_path", "gpt2"], "--model_name_or_path goes with --task or --prompt_file"),
        (["--dataset_name", "samsum"], "--dataset_name samsum: such flags go with --task"),
        (["--settings", "none"], "none: no such setting"),
        (["--new_tokens", "3"], "--new_tokens: of --prompt_file"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_nothing_written(tmp_path, capsys, flags, sentence):
    with pytest.raises(SystemExit) as stop:
        sweep_drafts.main(["--out", str(tmp_path / "out"), *flags])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err and not (tmp_path / "out").exists()
