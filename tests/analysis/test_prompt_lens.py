"""What every layer says behind a prompt, against the model's own hidden states; table and picture."""

import copy

import pytest
import torch
from transformers import AutoTokenizer

from analysis.prompt_lens import main, read, text_of
from models import DeployGPT2LMHeadModel
from support import OFF, TIE, double_precision, translated, with_translators
from util.files import read_json


@pytest.fixture(scope="module")
def model(tiny_gpt2_dir):
    return DeployGPT2LMHeadModel.from_pretrained(tiny_gpt2_dir).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2_dir):
    return AutoTokenizer.from_pretrained(tiny_gpt2_dir)


@torch.no_grad()
def test_layers_are_read_through_the_models_own_norm_and_head(model, tokenizer):
    with double_precision(with_translators(copy.deepcopy(model))) as exact:
        found = read(exact, tokenizer, "The tower of Dover", tokens=2, top_k=3)
        ids = torch.tensor([tokenizer("The tower of Dover")["input_ids"]])
        for reading in found:
            states = exact(ids, output_hidden_states=True).hidden_states
            below = enumerate(states[:-1])
            normed = [*(exact.transformer.ln_f(translated(exact, state, layer)) for layer, state in below), states[-1]]
            p = torch.stack([exact.lm_head(hidden[0, -1]).softmax(-1) for hidden in normed])
            top = p.topk(4, dim=-1)
            assert (top.values.log().diff(dim=-1).abs() > TIE).all(), "otherwise these tell nothing: states are float32"
            assert reading.tokens == [[tokenizer.decode([each]) for each in row[:3]] for row in top.indices.tolist()]
            assert len(reading.tokens) == 5, "from the embedding to the last layer"
            torch.testing.assert_close(torch.tensor(reading.probabilities), top.values[:, :3], atol=OFF, rtol=0)
            final = top.indices[-1, :3]
            torch.testing.assert_close(torch.tensor(reading.final_probabilities), p[:, final], atol=OFF, rtol=0)
            assert reading.text == tokenizer.decode([int(final[0])])
            ids = torch.cat([ids, final[None, :1]], 1)


def test_without_the_final_norm_the_last_layer_stays(model, tokenizer):
    plain = read(model, tokenizer, "Ann", 1, 2)[0]
    raw = read(model, tokenizer, "Ann", 1, 2, final_norm=False)[0]
    assert raw.probabilities[-1] == plain.probabilities[-1] and raw.probabilities[1] != plain.probabilities[1]


def test_a_table_has_a_row_per_layer(model, tokenizer):
    text = text_of("Ann", read(model, tokenizer, "Ann", 1, 2))
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("    ")]
    assert text.startswith("Prompt: 'Ann'\n\nNext: ") and rows == ["0", "1", "2", "3", "4"]


def test_picture_numbers_and_table_are_written(tiny_gpt2_dir, tmp_path, capsys):
    flags = ["--model_name_or_path", str(tiny_gpt2_dir), "-p", "It costs $5 <b>", "--tokens", "2", "--top_k", "3"]
    readings = main([*flags, "--out", str(tmp_path)])
    assert (tmp_path / "prompt_lens.png").read_bytes().startswith(b"\x89PNG")
    held = read_json(tmp_path / "prompt_lens.json")["values"]["readings"]
    assert len(held) == len(readings) == 2 and len(held[0]["final"]) == 3
    assert (tmp_path / "prompt_lens.txt").read_text() in capsys.readouterr().out


def test_nothing_to_look_at_ends_with_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--tokens", "0"])
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and "--tokens 0: valid are 1 and above" in shown and "give -p TEXT" in shown
