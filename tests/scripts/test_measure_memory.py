"""The memory of a step under every loss: measured in processes of their own, printed and written."""

import pytest

from scripts import measure_memory
from util.files import read_json

TINY = ["--layers", "2", "--vocabulary", "40", "--width", "16", "--rows", "1", "--source", "3", "--target", "4"]


@pytest.mark.slow
def test_each_loss_is_measured_against_the_plain_step(tmp_path, capsys):
    measure_memory.main([*TINY, "--losses", "ce", "layerskip", "--out", str(tmp_path)])
    rows = read_json(tmp_path / "table_10.json")["rows"]
    assert [row[0] for row in rows] == ["plain", "ce", "layerskip"] and rows[0][2] == "1.00"
    assert all(float(cell) > 0 for row in rows for cell in row[1:])
    assert "2 layers of width 16, V = 40, 4 labels" in (tmp_path / "table_10.txt").read_text()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [row[0] for row in rows]


@pytest.mark.parametrize("loss", ["plain", *measure_memory.TRAINED])
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
