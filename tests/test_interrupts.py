"""Ctrl-C at any time: one sentence, exit code 130, in every script."""

import interrupts

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "src").rglob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)
SENTENCE = interrupts.SENTENCE.strip()


def start(*command: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, preexec_fn=as_from_a_terminal, **pipes
    )


def as_from_a_terminal() -> None:
    """A shell ignores the interrupt in what it starts in the background, these tests perhaps, and that is inherited."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted_at(process: subprocess.Popen, words: str) -> list[str]:
    """The lines of a process, interrupted when it said something, behind those words."""
    for line in process.stderr:
        if words in line:
            break
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 130, said
    return said


def test_there_are_scripts():
    assert {"src/run_summarization.py", "src/run_lm_eval.py", "src/analysis/post.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_imports_the_handler_before_what_takes_time(script):
    lines = [line for line in (ROOT / script).read_text().splitlines() if line.startswith(("import ", "from "))]
    ours = next(line for line in lines if line.startswith("import interrupts  # noqa: F401 - before what takes time"))
    before = lines[: lines.index(ours)]
    names = {line.split()[1].split(".")[0] for line in before}
    assert names <= sys.stdlib_module_names


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_while_it_imports_a_script_ends_with_a_sentence(script):
    said = interrupted_at(start("-X", "importtime", script), "| interrupts")
    assert [line for line in said if not line.startswith("import time")] == [SENTENCE]


@pytest.mark.slow
def test_a_console_command_ends_so_too(tmp_path):
    command = tmp_path / "early-exit-generate"  # what an installer writes
    command.write_text("import sys\nfrom generate import command\nsys.exit(command())\n")
    said = interrupted_at(start("-X", "importtime", str(command)), " interrupts")
    assert [line for line in said if not line.startswith("import time")] == [SENTENCE]


@pytest.mark.slow
def test_while_it_works_a_script_ends_with_a_sentence_and_its_lines_stand(tmp_path, tiny_gpt2_dir):
    (tmp_path / "in.txt").write_text("The tower\n" * 5000)
    out = tmp_path / "out.jsonl"
    flags = ["--model_name_or_path", tiny_gpt2_dir, "--prompt_file", tmp_path / "in.txt", "--out", out]
    process = start("src/generate.py", *map(str, flags), "--batch_size", "1", "-l", "8")
    while process.poll() is None and not (out.is_file() and out.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 130 and said[-1] == SENTENCE and len(said) == 2
    assert 3 < out.read_bytes().count(b"\n") < 5000


def test_only_our_scripts_are_ended_so():
    assert not interrupts.runs_a_script() and sys.excepthook is not interrupts.end


def test_a_module_being_imported_is_seen(tmp_path, monkeypatch):
    (tmp_path / "looks.py").write_text("import sys, interrupts\nfound = interrupts.imports(sys._getframe())\n")
    monkeypatch.syspath_prepend(tmp_path)
    import looks

    assert looks.found
