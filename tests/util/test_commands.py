"""Every script with an --out refuses, before any work, what it cannot write: one sentence, code 2, nothing written."""

import runpy
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"
# Script -> what it needs beside --out; whether that is a folder.
FOLDERS = {
    "analysis/tradeoff.py": ["--runs", "absent"],
    "analysis/figures.py": ["--runs", "absent"],
    "analysis/prompt_lens.py": ["-p", "a"],
    "analysis/compare_exits.py": ["--runs", "absent"],
    "analysis/compare_runs.py": ["--runs", "absent"],
    "analysis/compare_benchmarks.py": ["--runs", "absent"],
    "analysis/exit_quality.py": [],
    "analysis/entropy.py": [],
    "analysis/probes.py": [],
    "scripts/measure_pruning.py": [],
    "scripts/quickstart.py": [],
    "scripts/sweep_drafts.py": [],
    "scripts/benchmark_task.py": ["--task", "summarization"],
    "scripts/local_grid.py": [],
    "scripts/build_gpt2.py": [],
    "scripts/build_assets.py": ["--exits", "trained"],
    "scripts/build_translation.py": ["--exits", "trained", "--train_file", "absent", "--validation_file", "absent"],
}
FILES = {"generate.py": ["-p", "a"], "scripts/benchmark_decoding.py": []}
POST = {"analysis/post.py": []}


def ends(script: str, capsys, *argv) -> str:
    """What a script says that exits with 2."""
    held = runpy.run_path(str(SOURCES / script))
    run = held["main"] if script != "scripts/build_assets.py" else held["parse_arguments"]
    with pytest.raises(SystemExit) as stop:
        run([str(word) for word in argv])
    assert stop.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize("below", ["", "/deeper/still"])
@pytest.mark.parametrize("script", FOLDERS)
def test_a_file_where_a_folder_is_needed(tmp_path, capsys, script, below):
    file = tmp_path / "file"
    file.write_text("theirs")
    said = ends(script, capsys, *FOLDERS[script], "--out", f"{file}{below}")
    assert said.splitlines()[-1].endswith(f"{file}{below} cannot be written: {file} is a file, not a folder.")
    assert file.read_text() == "theirs" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("script", FILES | POST)
def test_a_folder_where_a_file_is_needed(tmp_path, capsys, script):
    flag = "--post" if script in POST else "--out"
    said = ends(script, capsys, *(FILES | POST)[script], flag, tmp_path)
    assert said.endswith(f"{tmp_path} cannot be written: it is a folder, not a file.") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", [*FOLDERS, *FILES])
def test_a_place_where_nothing_can_be_made(capsys, script):
    said = ends(script, capsys, *(FOLDERS | FILES)[script], "--out", "/proc/out/more")
    assert "cannot be written: /proc: " in said and "Traceback" not in said


@pytest.mark.parametrize("script", ["analysis/tradeoff.py", "analysis/figures.py", "scripts/local_grid.py"])
def test_a_sentence_and_no_page_of_usage(tmp_path, capsys, script):
    said = ends(script, capsys, "--no_such_flag")
    assert "usage" not in said and len(said.splitlines()) == 1


def test_the_figures_of_a_grid_need_a_folder_too(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = ends("scripts/local_grid.py", capsys, "--out", tmp_path, "--figures", tmp_path / "file")
    assert "argument --figures" in said and "is a file, not a folder" in said
