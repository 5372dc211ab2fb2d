"""The benchmark runs and writes what it prints; what it measures is the machine's affair and not tested."""

import runpy
from pathlib import Path

import pytest

from util.files import read_json

SCRIPT = Path(__file__).parents[2] / "src" / "scripts" / "benchmark_decoding.py"
FIGURES = {
    "full depth / its own bound",
    "half depth / its own bound",
    "full depth / hf generate",
    "half depth / hf generate",
    "half depth / full depth",
    "softmax from layer 2, never exiting / no confidence",
}


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(SCRIPT))


def test_figures_are_written_for_every_batch(benchmark, tmp_path, capsys):
    out = tmp_path / "benchmark.json"
    arguments = ["--size", "tiny", "--batch", "1", "3", "--source", "5", "--tokens", "3", "--repetitions", "2"]
    benchmark["main"]([*arguments, "--no-memory", "--out", str(out)])
    report = read_json(out)
    assert set(report["batches"]) == {"1", "3"}
    for figures in report["batches"].values():
        assert set(figures) == FIGURES
        assert all(0 < figure["min"] <= figure["median"] <= figure["max"] for figure in figures.values())
    assert "half depth / full depth" in capsys.readouterr().out


def test_a_ratio_is_how_many_times_as_fast(benchmark):
    found = benchmark["ratio"]({"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 2.0, 2.0]}, "ours", "theirs")
    assert found == {"median": 1.0, "min": 0.5, "max": 2.0}
