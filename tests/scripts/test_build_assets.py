"""The command that rebuilds an embedded checkpoint, with a few steps of a small model."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from models.modeling_t5 import EarlyExitT5ForConditionalGeneration
from scripts import build_assets
from tasks.invented import SHARES, invented_facts


@pytest.fixture(scope="module")
def tokenizer():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_assets, "TOKENIZER_EXAMPLES", 300)
        return build_assets.build_tokenizer()


def arguments(folder, exits="trained", **changes):
    small = {
        "steps": 2,
        "more_steps": 2,
        "meta_steps": 2,
        "facts_per_batch": 4,
        "dialogues_per_batch": 2,
        "decoder_layers": 3,
    }
    return build_assets.BuildArguments(exits=exits, out=str(folder), threads=1, **(small | changes))


@pytest.fixture
def build(tokenizer, monkeypatch):
    monkeypatch.setattr(build_assets, "build_tokenizer", lambda: tokenizer)
    return build_assets.main


@pytest.mark.parametrize("exits", build_assets.INTERMEDIATE_LOSS)
def test_one_command_makes_a_checkpoint(exits, build, tmp_path):
    build(arguments(tmp_path / "made", exits))
    model, info = EarlyExitT5ForConditionalGeneration.from_pretrained(tmp_path / "made", output_loading_info=True)
    assert not info["missing_keys"] and hasattr(model, "cm_head")
    assert model.dtype == torch.float32
    assert not getattr(model.config, "train_meta_cm_head", None)
    assert not (tmp_path / "made.work").exists(), "the state of a finished run is removed"
    assert AutoTokenizer.from_pretrained(tmp_path / "made")("word").input_ids[-1] == 1
    assert json.loads((tmp_path / "made" / "generation_config.json").read_text())["decoder_start_token_id"] == 0


def test_a_killed_run_continues_to_the_same_weights(tokenizer, tmp_path, monkeypatch):
    whole = build_assets.train_body(prepared(tmp_path / "whole"), tokenizer)

    monkeypatch.setattr(build_assets, "SAVE_EVERY", 0)
    monkeypatch.setattr(build_assets, "train_step", KilledAfter(2, build_assets.train_step))
    with pytest.raises(KeyboardInterrupt):
        build_assets.train_body(prepared(tmp_path / "parts"), tokenizer)
    monkeypatch.undo()
    parts = build_assets.train_body(prepared(tmp_path / "parts"), tokenizer)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)


class KilledAfter:
    """A train_step that works a number of times and then does what a kill does."""

    def __init__(self, steps, step):
        self.left, self.step = steps, step

    def __call__(self, *arguments):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.step(*arguments)


def prepared(folder):
    made = arguments(folder)
    Path(made.work_dir).mkdir(parents=True, exist_ok=True)
    return made


def test_both_variants_see_the_same_batches_from_any_step_on(tokenizer, tmp_path):
    first = build_assets.batches(tokenizer, arguments(tmp_path, "trained"), 0)
    taken = [next(first) for _ in range(build_assets.BATCHES_PER_CHUNK + 3)]
    later = build_assets.batches(tokenizer, arguments(tmp_path, "untrained"), build_assets.BATCHES_PER_CHUNK + 1)
    for expected in taken[build_assets.BATCHES_PER_CHUNK + 1 :]:
        batch = next(later)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_the_body_is_the_same_before_and_after_the_meta_head(tokenizer, tmp_path):
    made = prepared(tmp_path / "made")
    body = build_assets.train_body(made, tokenizer)
    model = build_assets.train_meta_head(made, tokenizer, body)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in body.state_dict().items())


def test_a_shortened_passage_is_the_sentence_with_the_answer():
    rows = invented_facts("train", 200)
    for row, short in zip(rows, build_assets.shortened(rows, 1.0, random.Random(0)), strict=True):
        assert row["answers"]["text"][0] in short["context"] and short["context"] in row["context"]
        assert ". " not in short["context"] and short["context"].endswith(".")
    assert build_assets.shortened(rows, 0.0, random.Random(0)) == rows
    assert [build_assets.short_share(step, 900) for step in (0, 300, 600, 900, 1000)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_attention_starts_by_looking_up_and_copying(tmp_path):
    torch.manual_seed(0)
    model = EarlyExitT5ForConditionalGeneration(build_assets.make_config(arguments(tmp_path)))
    build_assets.start_attention_as_copying(model)
    cross = model.decoder.block[0].layer[1].EncDecAttention
    torch.testing.assert_close(cross.o.weight @ cross.v.weight, torch.eye(128), atol=1e-5, rtol=0)
    states = torch.randn(20, 128)
    scores = cross.q(states)[:, :32] @ cross.k(states)[:, :32].T
    assert torch.equal(scores.argmax(-1), torch.arange(20)), "the first head finds the token that is like its own"


def test_the_learning_rate_rises_stays_and_decays_in_each_cycle():
    cycles = (build_assets.Cycle(1000, 2.0), build_assets.Cycle(500, 1.0))
    rates = [build_assets.learning_rate(cycles, step) for step in range(1500)]
    first, second = rates[:1000], rates[1000:]
    assert first[0] == pytest.approx(0.02) and first[100:600] == [2.0] * 500 and first[-1] == pytest.approx(0.04)
    assert first[600:] == sorted(first[600:], reverse=True)
    assert second[0] == pytest.approx(0.01) and max(second) == second[200] == 1.0


def test_training_sees_more_of_the_hard_passages_than_evaluation(tmp_path):
    made = build_assets.BuildArguments(exits="trained", out=str(tmp_path))
    for step in (0, made.steps):
        shares = build_assets.passage_shares(step, made)
        assert sum(shares.values()) == pytest.approx(1.0) and shares["pair"] > SHARES["pair"]


def test_an_unknown_variant_is_refused_with_the_valid_ones(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        build_assets.parse_arguments(["--exits", "half", "--out", str(tmp_path)])
    assert exit_.value.code == 2
    assert "'half' is unknown; valid values are trained, untrained" in capsys.readouterr().err
