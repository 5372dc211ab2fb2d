"""The benchmark runs and writes what it prints; what it measures is the machine's affair and not tested."""

import runpy
from pathlib import Path

import pytest
import torch

from util.files import read_json

SCRIPT = Path(__file__).parents[2] / "src" / "scripts" / "benchmark_decoding.py"


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
        others = ("contrastive generation", "chosen products")  # of groups that are not asked for here
        assert set(figures) == {name for name in benchmark["FIGURES"] if not any(other in name for other in others)}
        assert all(0 < figure["min"] <= figure["median"] <= figure["max"] for figure in figures.values())
    shown = capsys.readouterr().out
    assert "half depth / full depth" in shown and "copying rows pays up to" in shown
    for notes in report["notes"].values():
        assert 0 <= notes["exits with several plausible tokens"] <= 1


def test_memory_bounds_grow_with_what_is_read(benchmark):
    workload = benchmark["make_workload"]("tiny", torch.float32, "cpu", 0.9, 1, 5)
    seconds = {"read: sum": [2.0, 1.0], "read: library": [3.0], "full depth": [9.0]}

    def least(depth, tokens, batch=1):
        return benchmark["memory_seconds"](workload, benchmark["straight"](depth), batch, tokens, seconds)

    weights = sum(matrix.numel() for matrices in workload.layers for matrix in matrices) + workload.head.numel()
    once = sum(matrix.numel() for matrices in workload.once for matrix in matrices)
    assert least(4, 10) == pytest.approx(10 + once / weights)  # its keys are few
    assert least(2, 10) < least(4, 10) < least(4, 20)
    assert least(4, 10, batch=10**6) > 100 * least(4, 10)
    names = set(benchmark["readers"](workload))
    assert {"read: sum", "read: library", "read: weight_parts"} <= names
    for read in benchmark["readers"](workload).values():
        assert len(read()) == len(workload.layers) * len(workload.layers[0]) + 1


def test_threads_types_and_products(benchmark, capsys):
    held = torch.get_num_threads()
    arguments = ["--size", "tiny-llama", "--batch", "1", "--source", "5", "--tokens", "3", "--repetitions", "1"]
    arguments += ["--of", "depth", "--no-memory", "--threads", "1", "2", "--dtype", "bfloat16", "--products", "padded"]
    try:
        report = benchmark["main"](arguments)
    finally:
        torch.set_num_threads(held)
        benchmark["IN_FORCE"].use(None)
    assert set(report["milliseconds_by_threads"]) == {"1", "2"} and report["products"] == {"mode": "padded"}
    assert 0 <= report["notes"]["1"]["tokens until the first that is not float32's"] <= 1
    assert "full depth / memory's bound" in report["batches"]["1"]
    assert report["milliseconds_per_token"]["1"]["full depth: memory"] > 0
    with pytest.raises(SystemExit):
        benchmark["main"](["--products", "fast"])
    assert "--products is 'fast': valid are auto, library" in capsys.readouterr().err


def test_one_group_of_figures_can_be_asked_for(benchmark, capsys):
    arguments = ["--size", "tiny", "--batch", "1", "--source", "5", "--tokens", "2", "--repetitions", "1"]
    report = benchmark["main"]([*arguments, "--of", "pruning"])
    assert "fixed pruning k=512 / softmax" in report["batches"]["1"]
    assert not any("hf generate" in name or "JSD" in name for name in report["batches"]["1"])


def test_the_chosen_products_are_timed_against_the_librarys(benchmark, capsys):
    modes = []
    timed = benchmark["contenders"](
        benchmark["make_workload"]("tiny", torch.float32, "cpu", 0.2, 1, 4), 1, 4, ["products"]
    )
    for name in benchmark["MULTIPLIED"]:
        with benchmark["IN_FORCE"].using("padded"):
            timed[name]()
            timed[f"{name}: library"]()
            modes.append(benchmark["IN_FORCE"].mode)
    assert modes == ["padded"] * len(benchmark["MULTIPLIED"])
    arguments = [
        "--size",
        "tiny",
        "--batch",
        "1",
        "--source",
        "4",
        "--tokens",
        "4",
        "--repetitions",
        "1",
        "--no-memory",
    ]
    found = benchmark["main"]([*arguments, "--of", "products"])["batches"]["1"]
    assert {f"{name}: chosen products / the library's" for name in benchmark["MULTIPLIED"]} <= set(found)


def test_a_decoder_only_model_and_its_contrastive_search(benchmark, capsys):
    arguments = ["--size", "tiny-gpt2", "--batch", "2", "--source", "5", "--tokens", "3", "--repetitions", "1"]
    report = benchmark["main"]([*arguments, "--of", "depth", "search", "--no-memory"])
    figures = report["batches"]["2"]
    assert "half depth / its own bound" in figures and "full depth / hf generate" in figures
    assert "contrastive generation, 5 beams / a loop over beams without a cache" in figures
    with pytest.raises(SystemExit) as stop:
        benchmark["main"](["--of", "search"])
    assert stop.value.code == 2 and "needs a decoder-only size: gpt2, gpt2-medium" in capsys.readouterr().err


def test_both_loops_over_beams_find_the_same(benchmark):
    with torch.no_grad():
        workload = benchmark["make_workload"]("tiny-gpt2", torch.float64, "cpu", 0.9, 2, 5)
        runs = benchmark["contenders"](workload, 2, 4, ["search"])
        found = runs["contrastive beams"]().tolist()
        assert [row[5:] for row in found] == [row[5:] for row in runs["contrastive beams, no cache"]()]


def test_a_ratio_is_how_many_times_as_fast(benchmark):
    found = benchmark["ratio"]({"ours": [1.0, 2.0, 4.0], "theirs": [2.0, 2.0, 2.0]}, "ours", "theirs")
    assert found == {"median": 1.0, "min": 0.5, "max": 2.0}
