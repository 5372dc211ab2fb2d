"""The comparison of losses from end to end, with a few steps of a small model; trainings differ in the loss alone."""

import pytest
import torch

from scripts import build_assets, compare_losses
from util.files import read_json

SMALL = ["--layers", "2", "--shallow-exit-layer", "1", "--steps", "2", "--batch", "4", "--examples", "3"]


@pytest.fixture
def trained(monkeypatch):
    """What a training step saw: (name of the loss, weights before, batch); the steps are taken."""
    seen = []
    step = build_assets.train_step

    def watched(model, optimizer, batch):
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append((model.config.intermediate_loss_fn, weights, batch))
        return step(model, optimizer, batch)

    monkeypatch.setattr(build_assets, "train_step", watched)
    return seen


@pytest.mark.slow
def test_every_loss_is_trained_alike_scored_at_every_exit_and_drawn(tmp_path, trained, capsys):
    compare_losses.main([*SMALL, "--losses", "weighted_ce", "--out", str(tmp_path)])
    assert [name for name, *_ in trained] == [None, None, "weighted_ce", "weighted_ce"]
    for place in (0, 1):
        for plain, other in zip(trained[place][2].values(), trained[place + 2][2].values(), strict=True):
            assert torch.equal(torch.as_tensor(plain), torch.as_tensor(other))
    assert [batch["step"] for *_, batch in trained] == [0, 1, 0, 1] and trained[0][2]["steps"] == 2
    assert all(torch.equal(trained[2][1][name], value) for name, value in trained[0][1].items())
    rows = read_json(tmp_path / "table_9.json")["rows"]
    assert [row[1:3] for row in rows[:6]] == [
        [loss, exit_name] for loss in ("plain", "weighted_ce") for exit_name in ("1", "2", "FREE at 1")
    ]
    assert (tmp_path / "figure_22.png").stat().st_size > 10_000
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".jsonl")}
    compare_losses.main([*SMALL, "--losses", "weighted_ce", "layerskip", "--out", str(tmp_path)])
    assert [name for name, *_ in trained[4:]] == ["layerskip"] * 2, "what is complete is not repeated"
    assert files == {path: path.stat().st_mtime_ns for path in files}
    with pytest.raises(SystemExit) as stop:
        compare_losses.main([*SMALL, "--steps", "3", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "holds trainings with --steps 2: give these" in capsys.readouterr().err


def test_a_training_that_was_killed_continues_to_the_same_weights(tmp_path, monkeypatch):
    arguments = compare_losses.make_parser().parse_args(SMALL)
    compare_losses.train_model("layerskip", tmp_path / "whole", arguments)
    monkeypatch.setattr(build_assets, "SAVE_EVERY", 0)
    step, left = build_assets.train_step, [True]

    def killed(*given):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return step(*given)

    monkeypatch.setattr(build_assets, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        compare_losses.train_model("layerskip", tmp_path / "parts", arguments)
    assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(build_assets, "train_step", step)
    compare_losses.train_model("layerskip", tmp_path / "parts", arguments)
    whole, parts = (tmp_path / name / "model.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_shallow_exit_that_is_none_is_refused_before_anything_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        compare_losses.main(["--layers", "2", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "--shallow-exit-layer 2: valid are layers below" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_loss_lists_the_valid_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        compare_losses.make_parser().parse_args(["--losses", "nonsense"])
    assert stop.value.code == 2 and "weighted_ce" in capsys.readouterr().err
