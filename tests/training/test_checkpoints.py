"""Laws of checkpoints: one that is cut anywhere or lacks a file is none; one has its name only while it is whole."""

import os
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Seq2SeqTrainer

from models import DeployT5ForConditionalGeneration
from training.checkpoints import SIZES, defect, drop_old, last_whole, move_in, put_in_place, remove
from training.trainer import EarlyExitTrainer, TrainingCollator
from util import TrainingArguments

TRAINERS = {"ours": EarlyExitTrainer, "the library's": Seq2SeqTrainer}


@pytest.fixture(scope="module")
def checkpoints(tiny_t5_dir, tmp_path_factory):
    """Trainer -> a checkpoint of its."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_dir)
    rows = Dataset.from_list([{"input_ids": [5, 6, 1], "attention_mask": [1, 1, 1], "labels": [7, 1]}] * 8)
    found = {}
    for name, trainer in TRAINERS.items():
        out = tmp_path_factory.mktemp("checkpoints")
        args = TrainingArguments(
            output_dir=str(out), do_train=True, eval_strategy="no", max_steps=1, save_steps=1, use_cpu=True
        )
        model = DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir)
        collator = TrainingCollator(tokenizer, model)
        trainer(model, args, train_dataset=rows, data_collator=collator, processing_class=tokenizer).train()
        found[name] = out / "checkpoint-1"
    return found


@pytest.fixture(params=TRAINERS)
def checkpoint(request, checkpoints, tmp_path):
    """A copy of a checkpoint, by our trainer or by the library's."""
    return shutil.copytree(checkpoints[request.param], tmp_path / "checkpoint-1")


def test_a_whole_checkpoint_is_whole_and_only_ours_says_what_it_holds(checkpoints):
    for checkpoint in checkpoints.values():
        assert defect(checkpoint) is None
        assert not (checkpoint.parent / ".saving").exists()
    assert (checkpoints["ours"] / SIZES).is_file() and not (checkpoints["the library's"] / SIZES).exists()


def test_a_checkpoint_cut_in_any_file_at_any_byte_is_none(checkpoint):
    ours = (checkpoint / SIZES).is_file()
    for path in sorted(checkpoint.iterdir()):
        data = path.read_bytes()
        places = {0, 1, 7, 8, 9, 100, len(data) // 3, len(data) // 2, len(data) - 30, len(data) - 22, len(data) - 1}
        for size in places & set(range(len(data))):
            path.write_bytes(data[:size])
            if path.suffix == ".json" and size == len(data.rstrip()) and not (ours and path.name != SIZES):
                continue  # nothing but a newline is gone, and no size tells
            assert path.name in str(defect(checkpoint)), (path.name, size)
        path.write_bytes(data)
    assert defect(checkpoint) is None


def test_a_checkpoint_that_lacks_a_file_is_none(checkpoint):
    needed = {"model.safetensors", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
    if (checkpoint / SIZES).is_file():
        needed = {path.name for path in checkpoint.iterdir()} - {SIZES}
    for name in needed:
        (checkpoint / name).rename(checkpoint.parent / name)
        assert defect(checkpoint) is not None, name
        (checkpoint.parent / name).rename(checkpoint / name)


def test_without_the_optimizer_where_none_was_to_be_saved(checkpoints, tmp_path):
    checkpoint = shutil.copytree(checkpoints["the library's"], tmp_path / "checkpoint-1")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).unlink()
    assert defect(checkpoint) == "it has no optimizer.pt" and defect(checkpoint, with_optimizer=False) is None


def test_weights_in_several_files_are_all_needed(checkpoints, tmp_path):
    checkpoint = shutil.copytree(checkpoints["the library's"], tmp_path / "checkpoint-1")
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = sorted(weights)
    save_file({name: weights[name] for name in names[:3]}, checkpoint / "model-1.safetensors")
    save_file({name: weights[name] for name in names[3:]}, checkpoint / "model-2.safetensors")
    index = {name: f"model-{1 + (number > 2)}.safetensors" for number, name in enumerate(names)}
    (checkpoint / "model.safetensors.index.json").write_text(f'{{"weight_map": {index}}}'.replace("'", '"'))
    assert defect(checkpoint) is None
    (checkpoint / "model-2.safetensors").unlink()
    assert defect(checkpoint) == "it has no model-2.safetensors"


def test_the_last_whole_one_serves_and_those_passed_over_are_said(checkpoints, tmp_path, caplog):
    for step in (9, 10, 11, 12):
        shutil.copytree(checkpoints["ours"], tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-13").write_text("no folder")
    shutil.copytree(checkpoints["ours"], tmp_path / "checkpoint-14.old")
    (tmp_path / "checkpoint-12" / SIZES).write_text("{")
    (tmp_path / "checkpoint-11" / "rng_state.pth").write_bytes(b"")
    assert last_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert "checkpoint-12 is passed over" in caplog.text and "checkpoint-11 is passed over" in caplog.text
    assert last_whole(tmp_path / "absent") is None


def test_a_checkpoint_comes_to_its_name_at_once_and_loses_it_at_once(tmp_path, monkeypatch):
    aside, named = tmp_path / ".saving" / "checkpoint-2", tmp_path / "checkpoint-2"
    for folder, text in ((named, "old"), (aside, "new")):
        (folder / "global_step2").mkdir(parents=True)
        (folder / "global_step2" / "states").write_text(text)
    put_in_place(aside, named)
    assert (named / "global_step2" / "states").read_text() == "new" and not aside.exists()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    remove(named)
    assert not named.exists()


def test_a_model_is_moved_in_with_its_weights_last_and_none_beside(tmp_path, monkeypatch):
    aside, order = tmp_path / ".saving", []
    aside.mkdir()
    for name in ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "config.json"):
        (aside / name).write_text("new")
    for name in ("model.safetensors", "model-00002-of-00003.safetensors", "config.json", "pytorch_model.bin"):
        (tmp_path / name).write_text("old")
    plain = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append(Path(paths[0]).name), plain(*paths)))
    move_in(aside, tmp_path)
    assert order == ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    held = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    assert held == {**dict.fromkeys(order, "new"), "pytorch_model.bin": "old"}


def test_of_old_checkpoints_the_newest_and_the_best_stay(tmp_path):
    paths = [tmp_path / f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    for age, path in enumerate(paths):
        path.mkdir()
        os.utime(path, (age * 100, age * 100))
    drop_old(tmp_path, None, {str(paths[3])})
    assert len(list(tmp_path.glob("checkpoint-*"))) == 4
    drop_old(tmp_path, 3, {str(paths[3]), str(paths[0])})
    assert not paths[1].exists() and paths[2].exists()
    drop_old(tmp_path, 1, {str(paths[3]), str(paths[0])})
    assert [path.exists() for path in paths] == [True, False, False, True]
