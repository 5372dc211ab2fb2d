"""A folder is there whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from support_folders import left_in
from util.folders import whole_folder

HALF = """
import os, signal, sys
from pathlib import Path
from util.folders import whole_folder
with whole_folder(sys.argv[1]) as temporary:
    (temporary / "made" / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def make(path, text="whole"):
    with whole_folder(path) as temporary:
        (temporary / "made" / "part").write_text(text)
        (temporary / "fetched").write_text("goes")
        assert not (path / "part").exists()


def test_it_is_there_when_all_of_it_is_and_nothing_else(tmp_path):
    make(tmp_path / "deep" / "folder")
    assert left_in(tmp_path) == ["deep", "deep/folder", "deep/folder/part"]


@pytest.mark.parametrize("error", [ValueError, OSError(28, "No space left on device"), KeyboardInterrupt])
def test_after_an_error_nothing_is_there(tmp_path, error):
    with pytest.raises(type(error) if isinstance(error, OSError) else error), whole_folder(tmp_path / "folder") as held:
        (held / "made" / "part").write_text("half")
        raise error
    assert left_in(tmp_path) == []


def test_what_a_killed_process_left_is_no_part_of_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", HALF, str(tmp_path / "folder")])
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "folder").exists() and os.listdir(tmp_path)
    make(tmp_path / "folder")
    assert left_in(tmp_path) == ["folder", "folder/part"] and (tmp_path / "folder" / "part").read_text() == "whole"


def test_what_is_there_is_not_touched(tmp_path):
    make(tmp_path / "folder", "first")
    with pytest.raises(ValueError, match="folder is there already: give a folder that is not"):
        make(tmp_path / "folder", "second")
    assert (tmp_path / "folder" / "part").read_text() == "first"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert (tmp_path / "empty" / "part").read_text() == "whole"


def test_two_do_not_make_it_together(tmp_path):
    with whole_folder(tmp_path / "folder"), pytest.raises(ValueError, match="Another process makes a folder"):
        make(tmp_path / "folder")
    assert left_in(tmp_path) == ["folder"]
