"""What README.md and CONTRIBUTING.md tell a reader to run, runs: Python blocks as they stand, from a folder of their
own; of shell blocks, that they parse, that what they name is there, and that its --help knows every flag."""

import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import run_question_answering
from jobs.experiments import SCRIPTS
from training.reporting import MEANINGS
from util import QuestionAnsweringArguments, parse_arguments

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
PATH = re.compile(r"(src|tests)/[\w./-]+")
SCRIPT = re.compile(r"src/\S+\.(py|sh|job|bash)")
# Shell scripts that others call or source.
HELPERS = [ROOT / "src" / "scripts" / name for name in ("test.sh", "experiments/job.sh")]
# The command line of lm-evaluation-harness has commands, of which this is what stands there when none is given.
HELP = {"run_lm_eval": ["run", "--help"]}


class Block(NamedTuple):
    """A code block of a document: the line it begins at, its language, its text."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(document: str) -> list[Block]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [Block(document, text[: found.start()].count("\n") + 1, *found.groups()) for found in BLOCK.finditer(text)]


ALL = [block for document in DOCUMENTS for block in blocks(document)]
SHELL = [block for block in ALL if block.language in ("bash", "sh", "shell")]
PYTHON = [block for block in ALL if block.language == "python"]


def command_lines(text: str) -> list[list[str]]:
    """The words of every command: lines joined where they are continued, cut at &&, ||, | and ;, without comments."""
    found: list[list[str]] = [[]]
    for line in re.sub(r"\\\n", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for word in lexer:
            if set(word) <= set("&|;"):
                found.append([])
            else:
                found[-1].append(word)
        found.append([])
    return [words for words in found if words]


def ours(words: list[str]) -> int | None:
    """Where the script or console command of ours stands in a command, if it runs one; what is before it is others'."""
    found = (place for place, word in enumerate(words) if Path(word).name in COMMANDS or SCRIPT.fullmatch(word))
    return next(found, None)


def known_flags(script: str) -> frozenset[str]:
    """What a script or console command may be given; dashes are underscores."""
    if script in COMMANDS:
        script = f"src/{COMMANDS[script].split(':')[0].replace('.', '/')}.py"
    return flags_in_help(script) if script.endswith(".py") else flags_in_text(script)


@cache
def flags_in_help(script: str) -> frozenset[str]:
    """Every flag in the --help of a Python script."""
    module = importlib.import_module(".".join(Path(script).relative_to("src").with_suffix("").parts))
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [script, *HELP.get(module.__name__, ["--help"])])
        module.command()
    assert not ended.value.code, script
    said.seek(0)
    return flags_of("".join(line for line in said if re.match(r"\s+-", line)))


def flags_in_text(script: str) -> frozenset[str]:
    """The flags that a shell script names, or hands on: to a script of ours, to those of the experiments, to pytest."""
    text = (ROOT / script).read_text(encoding="utf-8")
    text += "".join(path.read_text(encoding="utf-8") for path in HELPERS if path.name in text)
    named = set(re.findall(r"src/[\w/]+\.py", text))
    if "settings.txt" in text:
        named |= {f"src/{name}" for name in SCRIPTS}
    pytests = {"-k", "-m", "-x", "--seed"} if "pytest" in text else set()
    return flags_of(text).union(pytests, *map(flags_in_help, named))


def flags_of(text: str) -> frozenset[str]:
    return frozenset(map(plain, re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text)))


def plain(flag: str) -> str:
    """A flag without its value, however its words are joined."""
    name = flag.split("=")[0]
    return name if not name.startswith("--") else "--" + name[2:].replace("-", "_")


def test_there_are_blocks():
    for document in DOCUMENTS:
        assert {block.language for block in blocks(document)} >= {"bash", "python"}, document
    assert all(block.language for block in ALL), "every block says its language"


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_shell_block_parses_and_what_it_names_is_there(block):
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    for words in command_lines(block.text):
        for word in words:
            path = PATH.fullmatch(word)
            assert path is None or (ROOT / path[0]).exists(), f"{word} is not there"
        assert not (words[0].startswith("early-exit-") and words[0] not in COMMANDS), words[0]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_every_flag_of_a_shell_block_is_known_to_its_script(block):
    for words in command_lines(block.text):
        place = ours(words)
        if place is None:
            continue
        script, *given = words[place:]
        script = Path(script).name if Path(script).name in COMMANDS else script
        flags = {plain(word) for word in given if re.match(r"--?[A-Za-z]", word)}
        known = known_flags(script)
        if "--task" in given:  # whose run script reads what is left over
            known |= known_flags(f"src/run_{given[given.index('--task') + 1]}.py")
        assert flags <= known, f"{script}: {sorted(flags - known)}"


def test_a_flag_that_is_not_there_would_be_seen():
    assert "--use_early_exit" in known_flags("src/generate.py") and "-p" in known_flags("early-exit-generate")
    assert "--use_late_exit" not in known_flags("src/generate.py")
    assert ours(["DRY_RUN=1", "sh", "src/scripts/run_qa_squad.sh", "full"]) == 2
    assert ours(["torchrun", "--nproc_per_node", "2", "src/run_summarization.py"]) == 3
    assert ours(["pip", "install", "-e", "."]) is None
    assert command_lines("a --b \\\n  c # d\n'e f' && g | h") == [["a", "--b", "c"], ["e f"], ["g"], ["h"]]


# Runs blocks, each in a folder of its own and in a fork of a process that has imported what takes time.
BLOCKS = """
import os, pathlib, sys, traceback
import generate, run_language_modeling

for folder in map(pathlib.Path, sys.argv[1:]):
    process = os.fork()
    if not process:
        os.chdir(folder)
        for name, end in (("out", 1), ("err", 2)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), end)
        code = 1
        try:
            exec(compile(pathlib.Path("block.py").read_text(), "<block>", "exec"), {"__name__": "__main__"})
            code = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    (folder / "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])))
"""


@pytest.fixture(scope="module")
def run_blocks(tmp_path_factory) -> dict[Block, Path]:
    """The folder of every Python block: how it ended, what it printed and complained of."""
    folders = {block: tmp_path_factory.mktemp("block") for block in PYTHON}
    for block, folder in folders.items():
        (folder / "block.py").write_text(block.text, encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", BLOCKS, *folders.values()], env=environment)
    assert done.returncode == 0
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_runs_as_it_stands(block, run_blocks):
    code, out, errors = (run_blocks[block].joinpath(name).read_text() for name in ("code", "out", "err"))
    assert code == "0", errors[-3000:]
    assert out.strip(), "a block shows what came of it"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_parses_and_fits_on_a_page(block):
    compile(block.text, str(block), "exec")
    assert max(map(len, block.text.splitlines())) <= 120


def test_the_readme_is_read_in_a_minute():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


def test_the_documents_link_to_what_is_there():
    for document in (*DOCUMENTS, "REFERENCE.md"):
        linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / document).read_text(encoding="utf-8"))
        assert linked or document == "CONTRIBUTING.md"
        assert all((ROOT / path).exists() for path in linked), document


def test_the_reference_names_every_key_of_a_run(tiny_t5_dir, squad_file, tmp_path):
    table = (ROOT / "REFERENCE.md").read_text(encoding="utf-8").split("## ")[2]
    named = "|".join(
        re.escape(key).replace(r"\*", r"\w+").replace("<part>", r"\w+").removeprefix("eval_")
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for key in re.findall(r"`([^`]+)`", row)
    )
    flags = [
        "--model_name_or_path",
        tiny_t5_dir,
        "--validation_file",
        squad_file,
        "--output_dir",
        tmp_path,
        "--do_eval",
    ]
    flags += ["--use_cpu", "--use_shallow_deep", "True", "--shallow_exit_layer", "2", "--use_adapt_threshold", "True"]
    flags += ["--rollback_conf_threshold", "3", "--max_eval_samples", "4", "--max_answer_length", "8"]
    _, metrics = run_question_answering.main(*parse_arguments(QuestionAnsweringArguments, list(map(str, flags))))
    assert "eval_block_num" in metrics and "environment" in metrics
    assert [key for key in metrics if not re.fullmatch(named, re.sub("^eval_", "", key))] == []
    assert [key for key in MEANINGS if not re.fullmatch(named, key)] == []
