"""What the exits of a checkpoint are worth: the numbers of a layer, the advice, the files, and what is refused."""

import csv
import math

import numpy as np
import pytest

from analysis.drawing import drawn_before
from analysis.exit_advice import advice, first_usable, promised
from analysis.exit_quality import as_csv, main, summary
from analysis.exit_values import ExitValues
from analysis.figures import PAINTS
from conftest import write_jsonl
from decoding.drafting import Prices
from util.files import read_json

VOCABULARY = 100
FREE = Prices(num_layers=4, head=0.0, first_exit=1)


def values(shares=(0.0, 0.5, 0.95, 1.0), positions=40, texts=4):
    """Layers that say the last layer's token at so many positions, where they are sure of it; else they are not."""
    equal = np.arange(positions)[:, None] < np.array(shares) * positions
    confidence = np.where(equal, 0.95, 0.25)[:, :-1].astype(np.float32)
    return ExitValues(
        rows=np.arange(positions) % texts,
        loss=np.full(equal.shape, math.log(7), np.float32),
        divergence=np.where(equal, 0.0, 2.0),
        equal=equal,
        rank=np.where(equal, 1, 30),
        plausible=np.where(equal, 1, 10),
        confidences={"softmax": confidence, "entropy": 1 - confidence},
    )


def test_numbers_of_a_layer():
    layers = summary(values(), VOCABULARY)
    second = layers[1]
    assert second["layer"] == 2 and second["equal"]["value"] == 0.5
    low, high = second["equal"]["interval"]
    assert low <= 0.5 <= high
    assert second["perplexity"]["value"] == pytest.approx(7, rel=1e-5)
    assert second["divergence"]["value"] == 1.0
    assert [each["value"] for each in second["rank"].values()] == [1, 30, 30]
    assert [each["value"] for each in second["plausible"].values()] == pytest.approx([5.5 / 100, 0.5])
    assert {name: each["value"] for name, each in second["auroc"].items()} == {"softmax": 1.0, "entropy": 0.0}
    assert second["ece"]["softmax"]["value"] == pytest.approx(0.5 * 0.05 + 0.5 * 0.25)
    bins = second["reliability"]["softmax"]
    assert [each["positions"] for each in bins] == [20, 20] and [each["right"]["value"] for each in bins] == [0, 1]
    assert layers[-1]["auroc"] == {} and layers[-1]["equal"]["interval"] == (1, 1)


def test_one_text_has_no_interval():
    layers = summary(values(texts=1), VOCABULARY)
    assert np.isnan(layers[1]["equal"]["interval"]).all() and layers[1]["equal"]["value"] == 0.5


def test_a_measure_that_tries_no_exit_at_a_layer_is_left_out_there():
    held = values()
    held.confidences["softmax"][:, 0] = np.nan
    assert list(summary(held, VOCABULARY)[0]["auroc"]) == ["entropy"]


@pytest.mark.parametrize(
    ("shares", "usable"), [((0.0, 0.5, 0.95, 1.0), 3), ((0.95, 0.5, 0.95, 1.0), 3), ((1.0,) * 4, 1), ((0.1,) * 4, None)]
)
def test_an_exit_is_usable_where_all_above_it_are(shares, usable):
    layers = summary(values(shares), VOCABULARY)
    assert first_usable(layers) == usable
    said = advice(layers, VOCABULARY, FREE)
    expected = {
        3: "Exits below layer 3 are not usable as they are (layer 2 says the last layer's token at 50%",
        1: "Every exit says the last layer's token at 90% of the positions or more.",
        None: "The exits below layer 4, the last, are not usable as they are (layer 3 says",
    }
    assert said.startswith(expected[usable])


def test_advice_says_what_to_believe_to_draft_and_to_keep():
    said = advice(summary(values(), VOCABULARY), VOCABULARY, FREE)
    assert "The measure that knows best when a layer is right is softmax (AUROC 1.00 to 1.00 from layer 3 on)." in said
    assert "A softmax above 0.9 is right at 90% of its positions or more from layer 2 on." in said
    assert "has to keep 30 of 100 rows for the last layer's token to survive at 99% of the positions." in said


def test_drafts_promise_what_the_acceptance_and_the_prices_say():
    layers = summary(values((0.0, 0.5, 1.0, 1.0)), VOCABULARY)
    found = promised(layers, FREE)
    # eight drafts that all stand: 9 tokens for 8 times 3 layers and once all 4; none stands: one draft in vain
    assert found == pytest.approx({1: 4 / 5, 2: max(1.5 / 6, 1.75 / 8) * 4, 3: 9 / 28 * 4})
    assert "Lossless drafts promise to pay from layer 3 on, most from 3: 1.29 times full depth." in advice(
        layers, VOCABULARY, FREE
    )
    seldom = advice(summary(values((0.0, 0.1, 0.5, 1.0)), VOCABULARY), VOCABULARY, FREE)
    assert "Lossless drafts pay from no layer (at best 0.86 times full depth, from layer 3)." in seldom


def test_csv_has_a_line_per_number():
    lines = list(csv.DictReader(as_csv(summary(values(), VOCABULARY)).splitlines()))
    found = {(line["layer"], line["quantity"], line["of"]): line for line in lines}
    assert float(found["2", "equal", ""]["value"]) == 0.5 and float(found["2", "auroc", "softmax"]["value"]) == 1.0
    assert len(lines) == len(found) == 4 * (3 + 3 + 2) + 3 * 2 * 2


def test_texts_of_a_decoder_end_to_end(tiny_gpt2_dir, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(["The tower of Dover is old.", "Ann went home.", "Ann went home.", "It costs five."]))
    flags = ["--model_name_or_path", tiny_gpt2_dir, "--validation_file", texts, "--block_size", 16, "--out", tmp_path]
    layers = main(list(map(str, flags)))
    said = capsys.readouterr().out
    assert [each["layer"] for each in layers] == [1, 2, 3, 4] and "positions of 3 texts" in said, "each text once"
    assert (tmp_path / "table.txt").read_text() in said and "train them (--intermediate_loss_fn)" in said
    assert len(read_json(tmp_path / "table.json")["rows"]) == 4 and len(read_json(tmp_path / "layers.json")) == 4
    for name in ("exit_quality", "reliability"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert drawn_before(tmp_path / f"{name}.json", PAINTS) is not None, "it can be drawn anew"


def test_answers_of_a_task_of_an_encoder_decoder_end_to_end(tiny_t5_dir, squad_file, tmp_path, capsys):
    flags = ["--model_name_or_path", tiny_t5_dir, "--validation_file", squad_file, "--kind", "question_answering"]
    more = ["--texts", 6, "--positions", 10, "--measures", "softmax", "state", "--out", tmp_path]
    layers = main(list(map(str, flags + more)))
    assert len(layers) == 4 and set(layers[1]["auroc"]) == {"softmax", "state"}
    assert set(layers[0]["auroc"]) == {"softmax"}, "state tries no exit after layer 1"
    assert "on squad" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--kind", "poetry"], "--kind poetry is not known: valid are language_modeling, question_answering"),
        (["--measures", "luck"], "--measures luck: valid are softmax, max_prob"),
        (["--measures", "oracle"], "--measures oracle: valid are softmax"),
        (["--measures", "meta"], "has no trained confidence head"),
        (["--positions", "1"], "--positions 1: valid are 2 and above"),
        (["--texts", "0"], "--texts 0: valid are 1 and above"),
        (["--contrastive_alpha", "2"], "--contrastive_alpha 2.0: valid are 0 to 1"),
        (["--block_size", "500"], "--block_size is 500, but the model was made for 128 tokens"),
        (["--dataset_name", "invented_dialogues"], "this script needs an encoder and a decoder"),
        (["--validation_file", "absent.jsonl"], "--validation_file absent.jsonl: there is no such file"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(flags, said, tiny_gpt2_dir, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["--model_name_or_path", str(tiny_gpt2_dir), "--block_size", "32", "--out", str(out), *flags])
    assert stop.value.code == 2 and said in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "Hello", "tokens": []}, "valid are records with a prompt and tokens"),
        ({"prompt": "Hello", "tokens": [5, 400]}, "tokens are no numbers from 0 to"),
        ({"prompt": "Hello", "tokens": "words"}, "tokens are no numbers from 0 to"),
        ({"prompt": "Hello " * 100, "tokens": [5, 6]}, "but the model was made for 128"),
    ],
)
def test_answers_that_the_model_cannot_read_are_refused(record, said, tiny_gpt2_dir, tmp_path, capsys):
    answers, out = write_jsonl(tmp_path / "answers.jsonl", [record]), tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["--model_name_or_path", str(tiny_gpt2_dir), "--answers", str(answers), "--out", str(out)])
    assert stop.value.code == 2 and said in capsys.readouterr().err and not out.exists()
