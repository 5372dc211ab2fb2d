"""The quickstart from end to end on a few examples of the embedded model."""

import json
import runpy
from pathlib import Path

import pytest

from analysis import tradeoff
from util.files import read_json

SCRIPT = Path(__file__).parents[2] / "src" / "scripts" / "quickstart.py"


def page(folder: Path) -> dict:
    """What the page shows."""
    text = (folder / "page.html").read_text()
    return json.loads(text.split('id="page">')[1].split("</script>")[0])


@pytest.mark.slow
def test_table_and_figure_of_both_tasks(tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--examples", "6", "--speed-examples", "2", "--repetitions", "1"]
    quickstart = runpy.run_path(str(SCRIPT))
    quickstart["main"](arguments)
    shown = capsys.readouterr().out
    table = (tmp_path / "table.txt").read_text()
    for words in (
        "invented_facts",
        "invented_dialogues",
        "full depth",
        "static",
        "softmax > 0.9",
        "state",
        "meta",
        "JSD > 0.9",
        "FREE > 0.9, from layer 2",
        "lossless > 0.5, from layer 2",
    ):
        assert words in table
        assert words in shown
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert f"Page:   {tmp_path / 'page.html'}" in shown
    assert page(tmp_path)["title"] == "softmax > 0.9 against full depth"
    speed = read_json(tmp_path / "invented_facts" / "speed.json")["policies"]
    assert len(speed) == 11 and speed[0]["policy"] == {"method": "full"} and speed[0]["relative"] == [1.0]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("predictions.jsonl")}
    quickstart["main"](arguments)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("predictions.jsonl")}  # nothing anew
    tradeoff.main(["--runs", str(tmp_path), "--out", str(tmp_path)])
    assert (tmp_path / "table.txt").read_text() == table, "the command of README gives the same numbers"
