"""Job files for a cluster: what they run, and that what a scheduler ends is requeued and nothing else; the scheduler is
a fake."""

import interrupts

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from jobs.experiments import SCRIPTS, read_settings
from scripts.cluster import doctor, launch, prefetch
from util import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "src" / "scripts" / "cluster"
TEMPLATES = ("one_gpu.job", "one_node.job", "nodes.job", "array.job")
# A script that leaves by 75 when it is told to, says so, and otherwise ends with the code it is given.
TOLD = """#!/bin/sh
trap 'echo "told $*" >>{log}; exit 75' USR1
trap 'echo "ended $*" >>{log}; exit 75' TERM
echo "began $*" >>{log}
i=0
while [ $i -lt {ticks} ]; do sleep 0.1; i=$((i + 1)); done
exit {code}
"""


@pytest.fixture
def cluster(tmp_path):
    """Start a template in a fake allocation; what ran, and what the scheduler was told, stand in the log."""
    log = tmp_path / "log"

    def start(template, *words, code=0, ticks=1, dry=False, **environment):
        (tmp_path / "python").write_text(TOLD.format(log=log, code=code, ticks=ticks))
        (tmp_path / "srun").write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
        scontrol = f'case $1 in show) echo node01; echo node02;; *) echo "scontrol $*" >>{log};; esac'
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{scontrol}\n")
        for name in ("python", "srun", "scontrol"):
            (tmp_path / name).chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SAVE", "LAUNCH"))}
        held = {"PATH": f"{tmp_path}:{clean['PATH']}", "PYTHON": "python", "SLURM_JOB_ID": "7", "SAVE": "save"}
        held |= {"SLURM_SUBMIT_DIR": str(ROOT), "DRY_RUN": "1" if dry else ""}
        command = ["sh", str(CLUSTER / template), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=clean | held | environment, **pipes)

    start.log = log
    return start


def ended(job, log) -> tuple[int, list[str]]:
    """Its exit code, and the log without what was run."""
    job.communicate(timeout=60)
    return job.returncode, [line for line in log.read_text().splitlines() if not line.startswith("began")]


def begun(log) -> None:
    while not (log.is_file() and "began" in log.read_text()):
        time.sleep(0.02)


RUN = ("run", "facts_trained", "full")


def test_what_was_told_to_leave_is_requeued(cluster):
    job = cluster("one_gpu.job", *RUN, ticks=600)
    begun(cluster.log)
    job.send_signal(signal.SIGUSR1)
    code, said = ended(job, cluster.log)
    assert code == interrupts.REQUEUE and re.fullmatch("told src/run_question_answering.py .*", said[0])
    assert said[1:] == ["scontrol requeue 7"]


def test_what_is_cancelled_or_given_away_saves_and_is_not_requeued_here(cluster):
    job = cluster("one_gpu.job", *RUN, ticks=600)
    begun(cluster.log)
    job.send_signal(signal.SIGTERM)
    code, said = ended(job, cluster.log)
    assert code == interrupts.REQUEUE and len(said) == 1 and said[0].startswith("ended")


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (2, 0, False), (interrupts.REQUEUE, 0, True), (interrupts.REQUEUE, 100, False)],
)
def test_by_its_exit_code_alone(cluster, code, restarts, requeued):
    job = cluster("one_gpu.job", *RUN, code=code, SLURM_RESTART_COUNT=str(restarts))
    assert ended(job, cluster.log) == (code, ["scontrol requeue 7"] if requeued else [])


def test_job_sh_knows_the_code():
    text = (ROOT / "src" / "scripts" / "experiments" / "job.sh").read_text()
    assert f'"$code" -eq {interrupts.REQUEUE} ' in text


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_asks_for_a_signal_and_may_be_requeued(template):
    (options,) = [line for line in (CLUSTER / template).read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(options.split())
    assert ("--array" in options) == (template == "array.job")


def words_of(cluster, template, *words, **environment) -> list[str]:
    job = cluster(template, *words, dry=True, **environment)
    shown, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    return shlex.split(shown)


@pytest.mark.parametrize("template", ["one_node.job", "nodes.job"])
def test_several_processes_are_started_by_our_launcher(cluster, template):
    several = template == "nodes.job"
    allocated = {"SLURM_NNODES": "2" if several else "1", "SLURM_JOB_NODELIST": "node[01-02]", "PROCESSES": "4"}
    words = words_of(cluster, template, "train", "squad", "plain", "--seed", "3", **allocated)
    assert words[:2] == ["srun", "--ntasks-per-node=1"] and "--kill-on-bad-exit=1" in words
    place = words.index("src/scripts/cluster/launch.py")
    assert words[place - 1] == "python"
    arguments = launch.parse_arguments(words[place + 1 :])
    assert (arguments.processes, arguments.nodes) == ("4", 2 if several else 1)
    assert arguments.meet == ("node01:20007" if several else None)
    flags = launch.torchrun_flags(arguments)
    assert "SIGUSR1" in flags[flags.index("--signals_to_handle") + 1] and ("--standalone" in flags) != several
    script, *rest = arguments.command
    training = parse_arguments(SCRIPTS[Path(script).name][1], rest)[2]
    assert training.do_train and training.seed == 3


def test_an_array_has_a_job_for_each_setting(cluster):
    for line, name in enumerate(read_settings(), 1):
        words = words_of(cluster, "array.job", "full", SLURM_ARRAY_TASK_ID=str(line))
        assert words[words.index("--output_dir") + 1] == f"save/{name}"
    job = cluster("array.job", "full", dry=True, SLURM_ARRAY_TASK_ID="99")
    assert "Line 99 of src/scripts/experiments/settings.txt is no setting" in job.communicate()[1]
    assert job.returncode == 2


def test_a_job_says_what_it_can_be_asked_for(cluster):
    job = cluster("one_gpu.job", "evaluate")
    assert "Give run SETTING METHOD" in job.communicate()[1] and job.returncode == 2


@pytest.mark.parametrize(
    ("argv", "told"), [([], "give a script and its flags"), (["--nodes", "2", "a.py"], "needs --meet HOST:PORT")]
)
def test_the_launcher_refuses_what_it_cannot_start(capsys, argv, told):
    with pytest.raises(SystemExit) as stop:
        launch.main(argv)
    assert stop.value.code == 2 and told in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- prefetch and doctor
@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Empty caches, and no network."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(prefetch.constants, "HF_HOME", str(home))
    monkeypatch.setattr(prefetch.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("NLTK_DATA", raising=False)
    return home


def test_what_is_missing_is_told_in_a_sentence_each(offline, capsys):
    settings = ["squad_finetuned", "facts_trained", "facts_untrained"]
    assert prefetch.main(["--settings", *settings, "--datasets", "cnn_dailymail:3.0.0"]) == 1
    found = capsys.readouterr()
    missing = [line for line in found.err.splitlines() if "is missing" in line]
    assert [line.split(" is missing")[0] for line in missing] == [
        "The model jvelja/t5-squad",
        "The data set cnn_dailymail",
        "The data set squad",
    ]
    assert f"export HF_HOME={offline}" in found.out and "export HF_HUB_OFFLINE=1" in found.out
    assert not list(offline.iterdir())


def test_what_is_there_is_told_with_what_to_export(offline, capsys):
    assert prefetch.main(["--settings", "facts_trained"]) == 0
    exports = dict(line.removeprefix("export ").split("=") for line in capsys.readouterr().out.splitlines())
    assert {exports[name] for name in prefetch.SWITCHES} == {"1"} and exports["HF_HOME"] == str(offline)


def test_a_metric_that_is_not_there_is_told(offline, capsys, monkeypatch):
    pytest.importorskip("evaluate")

    def refuse(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr("evaluate.load", refuse)
    assert prefetch.main(["--metrics", "meteor"]) == 1
    assert "The metric meteor is missing: --metrics meteor is not in the cache" in capsys.readouterr().err


def test_an_unknown_setting_is_refused(offline, capsys):
    with pytest.raises(SystemExit) as stop:
        prefetch.main(["--settings", "squad"])
    assert stop.value.code == 2 and "no such setting; valid are squad_pretrained" in capsys.readouterr().err


def test_a_model_without_weights_is_not_there(monkeypatch):
    held = {"config.json": "there"}
    monkeypatch.setattr(prefetch, "try_to_load_from_cache", lambda name, file: held.get(file))
    with pytest.raises(ValueError, match="its weights are not in the cache"):
        prefetch._refuse_missing_weights("somebody/model")
    held["model.safetensors"] = "there"
    prefetch._refuse_missing_weights("somebody/model")


def test_the_doctor_says_what_there_is_on_one_screen(capsys):
    assert doctor.main(["--tokens", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and {line.split()[0] for line in lines} >= {"node", "GPU", "cache", "offline", "decode"}
    assert "Once upon a time" in lines[-1]


def test_the_doctor_finds_a_cache_that_cannot_be_written(capsys, monkeypatch):
    monkeypatch.setattr(doctor.constants, "HF_HUB_CACHE", "/proc/hub")
    monkeypatch.setattr(doctor, "decode", lambda tokens: "")
    assert doctor.main([]) == 1
    found = capsys.readouterr().out
    assert "/proc/hub (NOT writable" in found and "PROBLEM    /proc/hub cannot be written" in found


def test_the_doctor_names_the_python_that_is_not_there():
    done = subprocess.run(
        ["sh", str(CLUSTER / "doctor.sh")], env={**os.environ, "PYTHON": "/absent"}, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("There is no /absent: ")
