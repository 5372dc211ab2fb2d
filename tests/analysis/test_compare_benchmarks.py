"""Tables of several benchmarks of a task under each other."""

import pytest

from analysis.compare_benchmarks import main
from analysis.task_benchmark import HEAD
from util.files import read_json, write_json


def held(folder, metric: str, *policies: str):
    """A folder as benchmark_task.py leaves it."""
    head = ["policy", metric, *HEAD[2:]]
    write_json(folder / "table.json", {"head": head, "rows": [[name, "50.00", *HEAD[2:]] for name in policies]})
    return str(folder)


def test_every_policy_of_every_benchmark_has_a_row(tmp_path):
    folders = [held(tmp_path / "a", "F1", "full depth", "lossless > 0.5"), held(tmp_path / "b", "BLEU", "full depth")]
    found = main(["--runs", *folders, "--names", "squad", "de_en", "--out", str(tmp_path / "out")])
    rows = [row[:4] for row in found.rows]
    assert rows[0] == ["squad", "full depth", "F1", "50.00"] and rows[2] == ["de_en", "full depth", "BLEU", "50.00"]
    assert len(rows) == 3 and read_json(tmp_path / "out" / "benchmarks.json")["rows"] == found.rows


def test_another_table_is_refused(tmp_path, capsys):
    write_json(tmp_path / "a" / "table.json", {"head": ["policy"], "rows": []})
    with pytest.raises(SystemExit) as stop:
        main(["--runs", str(tmp_path / "a"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "is no table of benchmark_task.py" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
