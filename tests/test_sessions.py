"""Random tests: the same draws from the same seed, others from another; the seed is told; how many processes run."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import pytest_xdist_auto_num_workers, usable_cores
from support import seed_everything


def drawn(seed: int) -> list:
    seen = []

    @settings(max_examples=5)
    @given(st.integers(0, 10**9), st.sampled_from(range(100)))
    def draw(number, choice):
        seen.append((number, choice))

    seed_everything(seed, draw)
    seen.append(torch.rand(3).tolist())
    draw()
    return seen


def test_a_seed_repeats_all_draws_and_another_one_changes_them():
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first == again
    assert not set(map(tuple, first[2:])) & set(map(tuple, other[2:])), "but for the simplest example, tried first"


# A module of tests that leave the seed they were given, under the process's name and their own.
LEAVES = """
import pathlib, pytest
@pytest.mark.parametrize("index", range(4))
def test_leaves(index, request):
    process = getattr(request.config, "workerinput", {"workerid": "one"})["workerid"]
    pathlib.Path(__file__).with_name(f"{process}.{index}.seed").write_text(str(request.config.seed))
"""


def pytest_of(folder: Path, *arguments) -> subprocess.CompletedProcess:
    (folder / "test_leaves.py").write_text(LEAVES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sessions", "-p", "no:cacheprovider", *arguments]
    command += ["-c", os.devnull, "--rootdir", folder, folder / "test_leaves.py"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.parametrize(("seed", "processes"), [("7", ["one"]), ("fresh", ["gw0", "gw1"])])
def test_the_seed_of_a_session_is_told_at_both_ends_and_is_that_of_every_process(tmp_path, seed, processes):
    done = pytest_of(tmp_path, "--seed", seed, *(["-n", "2"] if len(processes) == 2 else []))
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stdout.splitlines() if "--seed" in line]
    assert len(told) == 2 and told[0] == told[1]
    left = list(tmp_path.glob("*.seed"))
    assert len(left) == 4 and sorted({path.name.split(".")[0] for path in left}) == processes
    (number,) = {path.read_text() for path in left}
    assert told[0].endswith(f"--seed {number}") and seed in (number, "fresh")


def test_a_wrong_seed_is_refused(tmp_path):
    done = pytest_of(tmp_path, "--seed", "seven")
    assert done.returncode == 4 and "--seed is 'seven': valid are whole numbers from 0, and fresh." in done.stderr


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 4), ("max 100000", 4), ("300000 100000", 3), ("150000 100000", 1), ("50000 100000", 1)]
)
def test_the_cores_are_those_the_process_may_use(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3, 5, 7}, raising=False)
    if quota:
        (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert usable_cores(tmp_path / "cpu.max") == cores


@pytest.mark.parametrize(
    ("cores", "given", "processes"),
    [(4, {}, 4), (1, {}, 0), (4, {"capture": "no"}, 0), (4, {"trace": True}, 0)],
)
def test_there_is_a_process_for_every_core_unless_one_is_enough(monkeypatch, cores, given, processes):
    monkeypatch.setattr("sessions.usable_cores", lambda: cores)
    options = {"capture": "fd", "trace": False} | given
    assert pytest_xdist_auto_num_workers(SimpleNamespace(getoption=options.get)) == processes
