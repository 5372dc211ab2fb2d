"""Random tests: the same draws from the same seed, others from another, and the seed is told."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support import seed_everything

ROOT = Path(__file__).resolve().parents[1]


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


def pytest_of(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "repeats", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
def test_the_seed_of_a_session_is_told_and_wrong_ones_are_refused():
    for seed in ("7", "fresh"):
        done = pytest_of("--seed", seed)
        told = [line for line in done.stdout.splitlines() if "--seed" in line]
        assert done.returncode == 0 and len(told) == 2 and (seed == "fresh" or told[0].endswith("--seed 7"))
    done = pytest_of("--seed", "seven")
    assert done.returncode == 4 and "--seed is 'seven': valid are whole numbers from 0, and fresh." in done.stderr
