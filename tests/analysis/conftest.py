"""Finished runs as files."""

from pathlib import Path

import pytest

from support_runs import write_run


@pytest.fixture
def make_run(tmp_path):
    """Writes runs under tmp_path/runs-of-a-test, a folder each."""

    def make(name: str, policy: dict, scores: list[float], exits: list[int], **more) -> Path:
        return write_run(tmp_path / "made" / more.get("model", "m") / "runs" / name, policy, scores, exits, **more)

    make.root = tmp_path / "made"
    return make
