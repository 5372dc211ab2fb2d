"""The checkout as a package: what it holds, its console commands, its set-up; and the files people look for."""

import interrupts

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import setuptools
import yaml

from analysis import report

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS = [path for path in SRC.rglob("*.py") if '__name__ == "__main__"' in path.read_text(encoding="utf-8")]


def run(*command, cwd=ROOT, **environment) -> subprocess.CompletedProcess:
    """A command that imports no checkout but the one its Python has."""
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, command)), cwd=cwd, env=plain | environment, capture_output=True, text=True)


# -------------------------------------------------------------------------------------------------------- the package
def test_every_module_of_src_is_in_the_package():
    modules = {path.stem for path in SRC.glob("*.py")}
    assert modules == set(PROJECT["tool"]["setuptools"]["py-modules"])
    held = {path.parent.relative_to(SRC).as_posix() for path in SRC.rglob("*.py")} - {"."}
    assert held == {name.replace(".", "/") for name in setuptools.find_packages(SRC)}


@pytest.mark.parametrize(("name", "entry"), PROJECT["project"]["scripts"].items())
def test_a_console_command_is_a_script(name, entry):
    module, function = entry.split(":")
    assert name.startswith(interrupts.COMMAND)
    assert callable(getattr(importlib.import_module(module), function))
    assert SRC / f"{module.replace('.', '/')}.py" in SCRIPTS


def test_a_script_that_has_a_command_is_one():
    commands = {entry.split(":")[0].replace(".", "/") for entry in PROJECT["project"]["scripts"].values()}
    held = [path for path in SCRIPTS if "def command()" in path.read_text(encoding="utf-8")]
    held = {path.relative_to(SRC).with_suffix("").as_posix() for path in held}
    assert commands == held


def test_the_package_holds_what_pages_are_made_of(monkeypatch):
    """What setuptools itself would put beside the modules of `analysis`."""
    monkeypatch.chdir(ROOT)
    package = setuptools.Distribution({"script_name": "setup.py"})
    package.parse_config_files([str(ROOT / "pyproject.toml")])
    build = package.get_command_obj("build_py")
    build.ensure_finalized()
    files = {package: names for package, _, _, names in build.get_data_files_without_manifest()}
    held = {SRC / "analysis" / name for name in files["analysis"]}
    wanted = {path for path in report.ASSETS.rglob("*") if path.is_file()}
    assert {path.name for path in wanted} >= {"page.html", "page.css", "page.js"} and wanted <= held


def test_nothing_changes_where_python_looks():
    found = [path for folder in ("src", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in found if re.search(r"sys\.path\.(insert|append)", path.read_text(encoding="utf-8"))]


# ------------------------------------------------------------------------------------------- which checkout is imported
def test_a_script_says_what_to_do_where_nothing_is_installed():
    done = run(sys.executable, "-S", SRC / "scripts" / "quickstart.py")
    assert done.returncode == 1 and "not found? pip install -e . in the checkout" in done.stderr


def test_a_script_of_another_checkout_is_refused(tmp_path):
    other = tmp_path / "other" / "src"
    (other / "scripts").mkdir(parents=True)
    shutil.copy(SRC / "interrupts.py", other)
    shutil.copy(SRC / "scripts" / "quickstart.py", other / "scripts")
    done = run(sys.executable, other / "scripts" / "quickstart.py", PYTHONPATH=str(SRC))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"quickstart.py: error: this Python has {ROOT} installed, not {other.parent}: ")
    assert f"PYTHONPATH={other}" in done.stderr


@pytest.mark.parametrize(
    ("program", "ours"),
    [
        (SRC / "generate.py", True),
        (Path("/somewhere/bin/early-exit-generate"), True),
        (Path("/somewhere/bin/pytest"), False),
        (None, False),
    ],
)
def test_a_console_command_is_a_program_of_ours(monkeypatch, program, ours):
    monkeypatch.setattr(interrupts, "program", lambda: program)
    assert interrupts.runs_a_script() is ours
    interrupts.refuse_other_checkout()


# --------------------------------------------------------------------------------------------------------------- set-up
@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout whose new .venv sees the packages of this Python."""
    folder = tmp_path_factory.mktemp("set_up") / "checkout"
    shutil.copytree(SRC, folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-gguf.txt",
        "requirements-lora.txt",
        "requirements-cluster.txt",
    ):
        shutil.copy(ROOT / name, folder)
    subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    for bundled in packages.glob("setuptools*"):  # older than the one that comes with torch
        shutil.rmtree(bundled)
    shutil.rmtree(packages / "pkg_resources", ignore_errors=True)
    shutil.rmtree(packages / "_distutils_hack", ignore_errors=True)
    (packages / "distutils-precedence.pth").unlink(missing_ok=True)
    shared = Path(setuptools.__file__).parents[1]
    (packages / "shared.pth").write_text(f"{shared}\n")
    return folder


def set_up(checkout: Path, then: str = "true") -> subprocess.CompletedProcess:
    script = f"source {checkout}/src/scripts/setup.sh && set_up requirements.txt && {then}"
    return run("bash", "-c", script, cwd="/", PIP_NO_INDEX="1")


@pytest.mark.slow
def test_set_up_installs_the_checkout_once_and_without_an_index(checkout, tmp_path):
    first, second = set_up(checkout), set_up(checkout)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stdout.startswith("Installing") and not second.stdout
    bin = checkout / ".venv" / "bin"
    assert {path.name for path in bin.glob("early-exit-*")} == set(PROJECT["project"]["scripts"])
    for command in ([bin / "early-exit-tradeoff"], [bin / "python", checkout / "src" / "analysis" / "tradeoff.py"]):
        done = run(*command, "--runs", tmp_path, "--out", tmp_path, cwd=tmp_path)
        assert done.returncode == 2 and f"{command[-1].name}: error: " in done.stderr and str(tmp_path) in done.stderr
    done = run(bin / "python", "-c", "import models; print(models.__file__)", cwd=tmp_path)
    assert done.stdout.strip() == str(checkout / "src" / "models" / "__init__.py")


@pytest.mark.slow
def test_a_checkout_that_shares_a_venv_imports_itself(checkout, tmp_path):
    set_up(checkout)
    other = tmp_path / "other"
    shutil.copytree(checkout, other, ignore=shutil.ignore_patterns(".venv", "assets"))
    (other / ".venv").symlink_to(checkout / ".venv")
    ask = '"$PYTHON" -c "import interrupts; print(interrupts.__file__)"'
    assert set_up(other, ask).stdout.strip() == str(other / "src" / "interrupts.py")
    assert set_up(checkout, ask).stdout.strip() == str(checkout / "src" / "interrupts.py")


# ------------------------------------------------------------------------------------------- files that people look for
def test_versions_are_said_once():
    version, log = PROJECT["project"]["version"], (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", log, re.MULTILINE)
    assert released and released[0] == version
    assert released == sorted(released, key=lambda each: tuple(map(int, each.split("."))), reverse=True)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (ruff,) = hooks["repos"]
    assert f"ruff=={ruff['rev'].removeprefix('v')}\n" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")


def test_the_citation_names_the_software_and_its_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license", "references"} <= citation.keys()
    for each in citation["references"]:
        assert {"type", "title", "authors", "year", "url"} <= each.keys(), each["title"]
    urls = {each["url"].rsplit("/", 1)[-1] for each in citation["references"]}
    assert {"2310.05424", "2207.07061", "2404.16710", "2309.03883", "Confidently_Exiting"} <= urls


def test_the_licence_is_the_one_that_is_named():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"
