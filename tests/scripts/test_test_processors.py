"""The suite on several processors: the environments it runs in, the table, the code; the suite itself is a stand-in."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "src" / "scripts" / "test_processors.sh"
STAND_IN = """
echo "saw $* ${ATEN_CPU_CAPABILITY:-own} ${ONEDNN_MAX_CPU_ISA:-own} ${OMP_NUM_THREADS:-own}"
[ "${ATEN_CPU_CAPABILITY:-own}" != "$FAILS" ] || exit 5
"""


@pytest.mark.parametrize(("fails", "code"), [("nothing", 0), ("avx2", 1)])
def test_every_processor_is_tried_and_a_failure_is_told(tmp_path, monkeypatch, fails, code):
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "test.sh").write_text(STAND_IN)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("FAILS", fails)
    command = ["bash", tmp_path / SCRIPT.name, "--fast", "-k", "a or b"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    wanted = ["own own own", "default own own", "avx2 AVX2 own", "own own 2"]
    assert [line for line in lines if line.startswith("saw")] == [f"saw --fast -k a or b {each}" for each in wanted]
    table = {line[:26].strip(): line[26:].split(" s")[0].rsplit(None, 1)[0].strip() for line in lines[-4:]}
    second = "failed (5)" if code else "passed"
    expected = {"as it is": "passed", "no vector instructions": "passed", "AVX2": second, "two threads": "passed"}
    assert table == expected and done.returncode == code
