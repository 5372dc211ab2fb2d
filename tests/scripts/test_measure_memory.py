"""The memory of a step under every loss: measured in processes of their own, printed and written."""

import pytest

from losses.exits import LOSSES
from scripts import measure_memory
from util.files import read_json

TINY = ["--layers", "2", "--vocabulary", "40", "--width", "16", "--rows", "1", "--source", "3", "--target", "4"]


@pytest.mark.slow
def test_each_loss_is_measured_against_the_plain_step(tmp_path, capsys):
    found = measure_memory.main([*TINY, "--losses", "ce", "layerskip", "--out", str(tmp_path / "memory.json")])
    assert list(found) == ["plain", "ce", "layerskip"] and found["plain"]["times"] == 1
    assert all(each["MiB"] > 0 for each in found.values())
    held = read_json(tmp_path / "memory.json")
    assert held["peaks"] == found and held["sizes"]["vocabulary"] == 40
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(found)


@pytest.mark.parametrize("loss", ["plain", *LOSSES])
def test_a_step_is_taken_under_every_loss(loss, monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(measure_memory.torch.optim.SGD, "step", lambda optimizer: taken.append(optimizer))
    measure_memory.main([*TINY, "--peak-of", loss])
    (optimizer,) = taken
    assert all(weight.grad is not None for group in optimizer.param_groups for weight in group["params"])
    assert float(capsys.readouterr().out) >= 0


def test_an_unknown_loss_lists_the_valid_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        measure_memory.main(["--losses", "nonsense"])
    assert stop.value.code == 2 and "weighted_ce" in capsys.readouterr().err
