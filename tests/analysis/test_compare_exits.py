"""Measurements of exits beside each other: the numbers are theirs, and what cannot be compared is refused."""

import math

import pytest

from analysis import compare_exits, exit_quality
from analysis.drawing import drawn_before
from analysis.figures import PAINTS
from models import DeployGPT2LMHeadModel
from models.translators import save_translators
from support import random_translators
from util.files import read_json, write_json

READING = ["--texts", "6", "--positions", "60", "--block_size", "32", "--measures", "max_prob", "entropy"]


@pytest.fixture(scope="module")
def measured(tiny_gpt2_dir, tmp_path_factory):
    """Folders of two measurements, the exits as they are and with translators of layers 1 and 3."""
    folder = tmp_path_factory.mktemp("measured")
    made = folder / "made.safetensors"
    save_translators(made, random_translators((1, 3), 24), DeployGPT2LMHeadModel.from_pretrained(tiny_gpt2_dir))
    for name, flags in (("before", []), ("after", ["--exit_translators", str(made)])):
        words = ["--model_name_or_path", str(tiny_gpt2_dir), "--out", str(folder / name), *READING, *flags]
        exit_quality.main(words)
    return folder


def test_each_number_is_that_of_its_measurement(measured, tmp_path, capsys):
    folders = [str(measured / name) for name in ("before", "after")]
    found = compare_exits.main(["--runs", *folders, "--names", "as it is", "translated", "--out", str(tmp_path)])
    data = read_json(tmp_path / "table.json")
    for name, folder in zip(("as it is", "translated"), folders, strict=True):
        layers = read_json(f"{folder}/layers.json")
        for head, number in (("equal", "equal"), ("KL", "divergence"), ("perplexity", "perplexity")):
            column = data["head"].index(f"{head} {name}")
            for row, layer in zip(data["rows"], layers, strict=True):
                assert math.isclose(float(row[column]), layer[number]["value"], rel_tol=2e-3, abs_tol=1e-3)
        column = data["head"].index(f"ECE {name}")
        assert float(data["rows"][0][column]) == pytest.approx(layers[0]["ece"]["max_prob"]["value"], abs=1e-3)
        assert data["rows"][3][column] == "-"
    thresholds = read_json(tmp_path / "compare_exits.json")["values"]["thresholds"]
    assert thresholds["points"]["as it is"] == read_json(f"{folders[0]}/thresholds.json")["measures"]["max_prob"]
    assert found.text().count("With exits after every layer") == 2
    rows = {row[0]: row for row in data["rows"]}
    assert rows["2"][1] == rows["2"][2] and rows["4"][1] == rows["4"][2] and rows["1"] != rows["2"]
    assert found.text() == (tmp_path / "table.txt").read_text() and found.text() in capsys.readouterr().out
    drawn = drawn_before(tmp_path / "compare_exits.json", PAINTS)
    assert (tmp_path / "compare_exits.png").stat().st_size > 5000 and drawn.values["measure"] == "max_prob"


def test_what_cannot_be_compared_is_refused(measured, tmp_path, capsys):
    both = ["--runs", str(measured / "before"), str(measured / "after")]
    other = tmp_path / "other"
    write_json(other / "layers.json", read_json(measured / "before" / "layers.json")[:3])
    lacking = read_json(measured / "before" / "layers.json")
    for layer in lacking:
        layer["ece"].pop("max_prob", None)
    write_json(tmp_path / "lacking" / "layers.json", lacking)
    for flags, words in (
        ([*both, str(tmp_path / "lacking")], "--measure max_prob: valid are entropy, which were measured"),
        (["--runs", str(tmp_path)], "there is no layers.json; valid are folders of exit_quality.py"),
        ([*both, "--names", "one", "one"], "2 different ones are needed"),
        ([*both, "--measure", "meta"], "--measure meta: valid are entropy, max_prob, which were measured"),
        ([*both, str(other)], "of decoders of different depths (before 4, after 4, other 3)"),
    ):
        with pytest.raises(SystemExit) as stop:
            compare_exits.main([*flags, "--out", str(tmp_path / "out")])
        assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
