"""The command that builds the translating T5, with a few steps of a tiny model on a few dozen invented sentences."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from conftest import write_jsonl
from models import DeployT5ForConditionalGeneration
from scripts import build_assets, build_translation
from support import OFF
from util.files import read_json

SMALL = ["--width", "32", "--encoder_layers", "1", "--decoder_layers", "3", "--tokens", "400", "--meta_steps", "2"]
SMALL += ["--dtype", "float32", "--eval_epochs", "1", "--eval_samples", "4"]
GERMAN = ("Ein Hund", "Eine Frau", "Ein Kind"), ("läuft", "schläft", "wartet"), ("im Park", "am Fluss", "zu Hause")
ENGLISH = ("A dog", "A woman", "A child"), ("runs", "sleeps", "waits"), ("in the park", "at the river", "at home")


def sentence(words, number: int) -> str:
    return " ".join(kind[number // 3**place % 3] for place, kind in enumerate(words)) + f" {number}."


def pairs(count: int, first: int = 0) -> list[dict]:
    numbers = range(first, first + count)
    return [{"id": f"p-{n}", "translation": {"de": sentence(GERMAN, n), "en": sentence(ENGLISH, n)}} for n in numbers]


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    monkeypatch.setattr(build_translation, "VOCABULARY", 400)
    monkeypatch.setattr(build_assets, "VOCABULARY", 400)


@pytest.fixture
def files(tmp_path) -> list[str]:
    sizes = {"train": 40, "validation": 6, "test": 5}
    words = [(f"--{name}_file", write_jsonl(tmp_path / f"{name}.jsonl", pairs(size))) for name, size in sizes.items()]
    return [str(word) for pair in words for word in pair]


def build(out, files, *more, exits="trained", steps=6):
    build_translation.main(["--out", str(out), "--exits", exits, "--steps", str(steps), *files, *SMALL, *more])


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("exits", build_translation.EXIT_WEIGHT)
def test_one_command_makes_a_checkpoint_with_its_card(exits, files, tmp_path):
    out = tmp_path / "made"
    build(out, files, exits=exits)
    model, info = DeployT5ForConditionalGeneration.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and hasattr(model, "cm_head")
    assert model.dtype == torch.float32
    with safe_open(out / "model.safetensors", "pt") as stored:
        assert {stored.get_slice(key).get_dtype() for key in stored.keys()} == {"F16"}  # noqa: SIM118 - no mapping
    config = AutoConfig.from_pretrained(out)
    for setting in ("intermediate_loss_fn", "one_exit_weight", "train_meta_cm_head"):
        assert not hasattr(config, setting)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("Grüße, 日本").input_ids, skip_special_tokens=True) == "Grüße, 日本"
    assert not (tmp_path / "made.work").exists(), "the state of a finished run is removed"
    assert sum(path.stat().st_size for path in out.iterdir()) < 16 * 2**20


def test_the_card_says_what_was_measured(files, tmp_path):
    out = tmp_path / "made"
    build(out, files)
    built, card = read_json(out / "build.json"), (out / "README.md").read_text()
    assert built["pair"] == "de-en" and built["plan"]["steps"] == 6 and built["held_out"] == 4
    assert built["scores"].keys() == {"validation", "test"} and built["signature"] in card
    assert "sacreBLEU" in card and "tok:13a" in card and "non-commercial" in card
    rows = dict(re.findall(r"^\| (\d) \| (.*) \|$", card, re.MULTILINE))
    assert rows == {
        layer: f"{built['scores']['validation'][layer]:.2f} | {built['scores']['test'][layer]:.2f}" for layer in "123"
    }
    assert max(map(len, card.splitlines())) <= 120


@pytest.mark.slow
def test_evaluations_on_the_way_are_kept(files, tmp_path, capsys):
    build(tmp_path / "made", files, steps=30)
    history = read_json(tmp_path / "made" / "build.json")["history"]
    every = history[0]["step"]
    assert [row["step"] for row in history] == [*range(every, 30, every)]
    assert all(row["bleu"].keys() == {"1", "2", "3"} for row in history)
    assert "BLEU by layer: 1: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 7])
def test_a_killed_run_continues_to_the_same_weights(files, tmp_path, monkeypatch, after):
    build(tmp_path / "whole", files)
    for module in (build_assets, build_translation):
        monkeypatch.setattr(module, "SAVE_EVERY", 0)
    step, left = build_assets.train_step, [True] * after

    def killed(*given):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return step(*given)

    monkeypatch.setattr(build_assets, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):  # the seventh step is the meta head's first
        build(tmp_path / "parts", files)
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(build_assets, "train_step", step)
    build(tmp_path / "parts", files)
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=1e-3, atol=OFF)
    whole, parts = (read_json(tmp_path / name / "build.json") for name in ("whole", "parts"))
    assert [row["step"] for row in parts["history"]] == [row["step"] for row in whole["history"]]


def test_what_is_complete_is_not_done_again(files, tmp_path, capsys):
    build(tmp_path / "made", files, steps=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir()}
    (tmp_path / "made.work").mkdir()  # of a kill while it was removed
    build(tmp_path / "made", files, steps=1)
    assert not (tmp_path / "made.work").exists()
    assert "was complete already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir()}


def test_a_training_of_other_settings_is_not_continued(files, tmp_path, monkeypatch, capsys):
    def killed(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(build_translation.Training, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "made", files)
    with pytest.raises(SystemExit) as stop:
        build(tmp_path / "made", files, "--dropout", "0.3", "--limit", "20")
    assert stop.value.code == 2
    assert "differs in --limit, --dropout, the files: give the same" in capsys.readouterr().err


def test_hours_say_how_many_steps(files, tmp_path, monkeypatch):
    monkeypatch.setattr(build_translation, "seconds_per_step", lambda arguments, pairs, dtype: 2.0)
    monkeypatch.setattr(build_translation, "TRAINED_SHARE", 0.5)
    words = ["--out", str(tmp_path / "made"), "--exits", "untrained", "--hours", str(16 / 3600), *files, *SMALL]
    build_translation.main(words)
    assert read_json(tmp_path / "made" / "build.json")["plan"]["steps"] == 4


def test_the_faster_dtype_is_taken(files, tmp_path, monkeypatch):
    seconds = {torch.float32: 2.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(build_translation, "seconds_per_step", lambda arguments, pairs, dtype: seconds[dtype])
    build(tmp_path / "made", files, "--dtype", "auto", steps=2)
    plan = read_json(tmp_path / "made" / "build.json")["plan"]
    assert (plan["dtype"], plan["steps"], plan["seconds_per_step"]) == (
        "bfloat16",
        2,
        {"float32": 2.0, "bfloat16": 1.0},
    )


def test_a_step_is_measured_on_a_model_that_is_thrown_away(files, tmp_path):
    words = ["--out", str(tmp_path / "made"), "--exits", "trained", *files, *SMALL]
    arguments = build_translation.make_parser().parse_args(words)
    ids = [([5, 6, 1], [7, 8, 9, 1])] * 200
    assert build_translation.seconds_per_step(arguments, ids, torch.float32) > 0


def lengths(count: int) -> list[tuple[list[int], list[int]]]:
    return [([5] * (1 + place % 7) + [1], [6] * (1 + place % 11) + [1]) for place in range(count)]


def test_an_epoch_has_every_pair_once_in_batches_of_so_many_tokens():
    pairs_ = lengths(300)
    found = build_translation.epoch_batches(pairs_, 200, seed=3)
    assert sorted(place for batch in found for place in batch) == [*range(300)]
    for batch in found:
        widths = [max(len(pairs_[place][side]) for place in batch) for side in (0, 1)]
        assert sum(widths) * len(batch) <= 200
    assert found != build_translation.epoch_batches(pairs_, 200, seed=4)
    tokens = sum(len(side) for pair in pairs_ for side in pair)
    assert len(found) <= 1.3 * tokens / 200 + 1, "little of a batch is padding"


def test_a_batch_depends_on_its_step_alone():
    pairs_ = lengths(60)
    stream = build_translation.batches(pairs_, 100, seed=0)
    taken = [next(stream) for _ in range(40)]
    for first in (0, 1, 17, 39):
        again = next(build_translation.batches(pairs_, 100, 0, first))
        assert all(torch.equal(again[name], taken[first][name]) for name in again)


def test_the_learning_rate_rises_and_falls_to_nothing():
    rates = [build_translation.learning_rate(2.0, step, 10_000) for step in range(10_000)]
    assert rates[0] == pytest.approx(2.0 / 400) and max(rates) == pytest.approx(2.0, rel=1e-3)
    assert rates[400:] == sorted(rates[400:], reverse=True) and rates[-1] < 1e-3
    assert build_translation.learning_rate(2.0, 0, 1) == 2.0


def test_each_tensor_has_a_learning_rate_relative_to_its_size():
    large, small, none = (torch.nn.Parameter(torch.full((3, 2), value)) for value in (2.0, -0.1, 0.0))
    model = torch.nn.ParameterList([large, small, none])
    optimizer = build_translation.make_optimizer(model)
    build_translation.set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.05, 0.0005])


def test_a_loss_that_is_no_number_ends_it_with_a_sentence(files, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        build(tmp_path / "made", files, "--learning_rate", "1e30")
    assert stop.value.code == 2 and "take a smaller --learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_both_variants_begin_with_the_same_weights(files, tmp_path):
    made = []
    for exits in build_translation.EXIT_WEIGHT:
        words = ["--out", str(tmp_path / "made"), "--exits", exits, *files, *SMALL]
        made.append(build_translation.make_body(build_translation.make_parser().parse_args(words)))
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert [each.config.one_exit_weight for each in made] == [0.5, 0.0]


def test_an_absent_file_is_one_sentence(files, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        build(tmp_path / "made", [*files[:3], str(tmp_path / "nowhere.jsonl")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "nowhere.jsonl" in said and "Traceback" not in said
    assert not (tmp_path / "made").exists() and not (tmp_path / "made.work").exists()


@pytest.mark.slow
def test_what_was_built_is_loaded_by_the_run_script(files, tmp_path):
    import run_translation
    from util import TranslationArguments, parse_arguments

    build(tmp_path / "made", files, steps=2)
    words = ["--model_name_or_path", tmp_path / "made", "--do_eval", "--dataset_name", "multi30k", *files[2:4]]
    words += ["--output_dir", tmp_path / "run", "--per_device_eval_batch_size", "3", "--max_target_length", "64"]
    words += ["--static_exit_layer", "2"]
    _, metrics = run_translation.main(*parse_arguments(TranslationArguments, [str(word) for word in words]))
    built = json.loads((tmp_path / "made" / "build.json").read_text())
    assert metrics["eval_bleu"] == pytest.approx(built["scores"]["validation"]["2"], abs=1e-3)
    assert metrics["eval_bleu_signature"] == built["signature"]
