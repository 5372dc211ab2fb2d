"""Training by several processes: under every launcher and shipped configuration it is what one process trains."""

import json
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from conftest import questions, write_jsonl
from losses.exits import LOSSES
from support import ROOT, alike, shell, tiny_gpt2
from training_jobs import run
from util import TrainingArguments

CLUSTER = ROOT / "src" / "scripts" / "cluster"
DEEPSPEED = sorted(CLUSTER.glob("*.json"))
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="pip install -r requirements-cluster.txt")

STEPS = ["--do_train", "--logging_steps", "1", "--learning_rate", "1e-3", "--optim", "adamw_torch"]
STEPS += ["--eval_strategy", "no", "--save_strategy", "no", "--lr_scheduler_type", "constant"]
SHALLOW = ["--shallow_exit_layer", "2", "--do_layer_transformation", "True", "--distill_layer_alpha", "0.5"]
OWN = {"shallowdeep_ce": SHALLOW[:2], "layerskip": ["--layer_dropout", "0.4"]}
WAYS = {
    "none": [],
    **{name: ["--intermediate_loss_fn", name, *OWN.get(name, SHALLOW if "_kd_" in name else [])] for name in LOSSES},
    "meta": ["--train_meta_cm_head", "True"],
    "translators": ["--train_exit_translators", "True"],
    "lora": ["--use_lora", "True", "--lora_dropout", "0"],
    "smoothed": ["--label_smoothing_factor", "0.1"],
}
DECODED = ["--do_eval", "--max_eval_samples", "4", "--use_early_exit", "True", "--exit_conf_threshold", "0.05"]


@pytest.fixture(scope="module")
def answering(tiny_t5_dir, tmp_path_factory):
    """Words of a job that trains a T5 to answer, of a batch so large in all its processes."""
    file = write_jsonl(tmp_path_factory.mktemp("data") / "squad.jsonl", questions(24))
    files = ["--train_file", file, "--validation_file", file, "--max_seq_length", "64", "--doc_stride", "16"]

    def words(out: Path, *flags, steps: int = 10) -> list[str]:
        own = ["--model_name_or_path", tiny_t5_dir, "--output_dir", out, "--max_steps", steps, "--max_answer_length", 8]
        return ["run_question_answering", *map(str, [*own, *files, *STEPS, *flags])]

    return words


@pytest.fixture(scope="module")
def continuing(tiny_gpt2_dir, tmp_path_factory):
    """The same of a GPT-2, without dropout, that continues texts."""
    folder = tmp_path_factory.mktemp("gpt2")
    for path in tiny_gpt2_dir.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    vocabulary = json.loads((tiny_gpt2_dir / "config.json").read_text())["vocab_size"]
    tiny_gpt2(0, vocab_size=vocabulary, n_positions=128, tie_word_embeddings=True, **still).save_pretrained(folder)
    texts = write_jsonl(folder / "texts.jsonl", [{"text": record["context"]} for record in questions(24)])

    def words(out: Path, *flags, steps: int = 10) -> list[str]:
        own = ["--model_name_or_path", folder, "--train_file", texts, "--block_size", "32", "--output_dir", out]
        return ["run_language_modeling", *map(str, [*own, "--max_steps", steps, *STEPS, *flags])]

    return words


@pytest.fixture(scope="module")
def of_one(answering, continuing, tmp_path_factory) -> dict[str, tuple[dict, Path]]:
    """What one process makes of every way to train, and where it saved that."""
    folder, found = tmp_path_factory.mktemp("one"), {}
    for way, flags in WAYS.items():
        # The classes of the meta head weigh the same in each part of a batch.
        cut = ["2", "--gradient_accumulation_steps", "2"] if way == "meta" else ["4"]
        found[way] = run(*answering(folder / way, *flags, "--per_device_train_batch_size", *cut)), folder / way
    for way in ("none", "layerskip"):
        words = continuing(folder / f"lm {way}", *WAYS[way], "--per_device_train_batch_size", "4")
        found[f"lm {way}"] = run(*words), folder / f"lm {way}"
    return found


def launched(launcher: list, jobs: dict[str, list[str]], folder: Path) -> subprocess.Popen:
    """The processes of a launcher, which do these jobs."""
    plan = folder / "plan.json"
    plan.write_text(json.dumps(jobs))
    return shell(sys.executable, "-m", *launcher, "tests/training_jobs.py", plan)


def done(process: subprocess.Popen, folder: Path) -> dict[str, dict]:
    """What came of the jobs."""
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors[-6000:]
    return json.loads((folder / "plan.done.json").read_text())


def accelerated(name: str, *flags) -> list:
    """`accelerate launch` with a shipped configuration, of two processes."""
    config = ["--config_file", CLUSTER / f"{name}.yaml", "--num_processes", "2"]
    return ["accelerate.commands.launch", *config, *(flags or ("--main_process_port", "0"))]


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def agree(found: dict, expected: dict) -> None:
    assert "error" not in found and "error" not in expected, (found, expected)
    assert found["losses"] == pytest.approx(expected["losses"], abs=1e-4)


def same_weights(one: Path, other: Path) -> None:
    """The same names are stored, each once, and most values agree: Adam enlarges gradients that are rounding."""
    held = []
    for folder in (one, other):
        (path,) = [*folder.glob("model.safetensors"), *folder.glob("adapter_model.safetensors")]
        held.append(load_file(path))
    assert held[0].keys() == held[1].keys()
    for name, weight in held[0].items():
        assert weight.shape == held[1][name].shape
        assert (weight - held[1][name]).abs().median() < 1e-4, name


# ------------------------------------------------------------------------------------------------------ the numbers
@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi_gpu", pytest.param("zero2", marks=needs_deepspeed)])
def test_two_processes_train_to_the_losses_of_one_and_decode_what_they_saved(
    name, answering, continuing, of_one, tmp_path
):
    two, half = tmp_path / "two", ["--per_device_train_batch_size", "2"]
    jobs = {way: answering(two / way, *flags, *half) for way, flags in WAYS.items()}
    jobs |= {f"lm {way}": continuing(two / f"lm {way}", *WAYS[way], *half) for way in ("none", "layerskip")}
    jobs["ce"] += DECODED
    saved = ["--save_strategy", "steps", "--save_steps", "2", *half, *WAYS["ce"]]
    jobs["begun"] = answering(two / "ce again", *saved, steps=4)
    jobs["continued"] = answering(two / "ce again", *saved)
    jobs["complete"] = answering(two / "ce again", *saved, *DECODED)
    best = ["--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end", "True"]
    jobs["best"] = answering(two / "best", *saved, *best, *DECODED, steps=4)
    found = done(launched(accelerated(name), jobs, tmp_path), tmp_path)
    for way, (expected, folder) in of_one.items():
        agree(found[way], expected)
        same_weights(two / way, folder)
    assert found["begun"]["losses"] + found["continued"]["losses"][4:] == pytest.approx(found["ce"]["losses"], abs=1e-4)
    assert {"eval_f1", "eval_block_avg", "eval_exit_histogram"} <= found["best"]["metrics"].keys()
    for job, folder in {"ce": two / "ce", "complete": two / "ce again", "best": two / "best"}.items():
        alone = ["--model_name_or_path", folder, "--do_train", "False", *DECODED]
        assert alike(
            scored(found[job]["metrics"]), scored(run(*answering(tmp_path / f"{job} alone", *alone))["metrics"])
        )


def scored(metrics: dict) -> dict:
    """What an evaluation found, without its times."""
    times = ("runtime", "per_second", "time_", "starts", "flops_confidence_reference")
    return {
        name: value
        for name, value in metrics.items()
        if name.startswith("eval_") and not name.endswith("policy") and not any(word in name for word in times)
    }


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("name", ["zero2_offload", "zero3", "zero3_offload"])
def test_shared_and_offloaded_weights_train_to_the_losses_of_one_process(name, answering, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ways = ("weighted_ce", "shallowdeep_kd_dyna", "lora") if name == "zero3" else ("weighted_ce",)
    jobs = {way: answering(two / way, *WAYS[way], "--per_device_train_batch_size", "2", steps=2) for way in ways}
    if name == "zero3":
        again = [*WAYS["weighted_ce"], "--per_device_train_batch_size", "2", "--save_strategy", "steps"]
        again += ["--save_steps", "1", "--do_eval", "--max_eval_samples", "4", "--predict_with_generate", "False"]
        jobs["begun"] = answering(two / "again", *again, steps=1)
        jobs["continued"] = answering(two / "again", *again, steps=2)
        jobs["complete"] = answering(two / "again", *again, steps=2)
    found = done(launched(accelerated(name), jobs, tmp_path), tmp_path)
    for way in ways:
        agree(found[way], run(*answering(one / way, *WAYS[way], "--per_device_train_batch_size", "4", steps=2)))
        same_weights(two / way, one / way)
    if name == "zero3":
        agree(found["continued"], found["weighted_ce"])
        assert found["begun"]["metrics"]["eval_loss"] > 0
        assert "ZeRO-3 loads no model that was trained: evaluate" in found["complete"]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_nodes_find_each_other_and_train_a_step(launcher, answering, tmp_path):
    jobs = {"ce": answering(tmp_path / "two", *WAYS["ce"], "--per_device_train_batch_size", "2", steps=1)}
    port, nodes = free_port(), []
    for rank in (0, 1):
        (tmp_path / f"node{rank}").mkdir()
        at = ["torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank", rank]
        at += ["--rdzv_backend", "c10d", "--rdzv_id", "test", "--rdzv_endpoint", f"127.0.0.1:{port}"]
        at += ["--local_addr", f"127.0.0.{rank + 1}"]
        own = ["--machine_rank", rank, "--main_process_ip", "127.0.0.1", "--main_process_port", port]
        at = at if launcher == "torchrun" else accelerated("multi_node", *own)
        nodes.append(launched(at, jobs, tmp_path / f"node{rank}"))
    _, errors = nodes[1].communicate(timeout=1800)
    assert nodes[1].returncode == 0, errors[-6000:]
    found = done(nodes[0], tmp_path / "node0")
    agree(found["ce"], run(*answering(tmp_path / "one", *WAYS["ce"], "--per_device_train_batch_size", "4", steps=1)))


# ---------------------------------------------------------------------------------------------- the configurations
@needs_deepspeed
@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_takes_every_configuration(path, tmp_path):
    from deepspeed.runtime.config import DeepSpeedConfig
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    args = TrainingArguments(output_dir=str(tmp_path), do_train=True, optim="adamw_torch", bf16=True, use_cpu=True)
    held = HfTrainerDeepSpeedConfig(str(path))
    held.trainer_config_process(args)
    assert "auto" not in json.dumps(held.config)
    parsed = DeepSpeedConfig(held.config)
    assert parsed.zero_optimization_stage == int(path.stem[4]) and parsed.bfloat16_config.enabled
    assert (parsed.zero_config.offload_optimizer is not None) == path.stem.endswith("offload")


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_takes_every_configuration(path):
    from accelerate.commands.config.config_args import load_config_from_file

    held = load_config_from_file(str(path))
    assert held.num_processes > 1 and f"--config_file src/scripts/cluster/{path.name}" in path.read_text()
    file = (yaml.safe_load(path.read_text()).get("deepspeed_config") or {}).get("deepspeed_config_file")
    assert (file is None) == path.stem.startswith("multi")
    assert file is None or ROOT / file in DEEPSPEED


# ------------------------------------------------------------------------------------------------ what is refused
@pytest.fixture
def processes(monkeypatch):
    """As in a process that a launcher started, which meets no other."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("util.training_args.connect_cpus", lambda timeout: None)


def zero(stage: int, **more) -> dict:
    return {"zero_optimization": {"stage": stage, **more.pop("zero", {})}, **more}


WHOLE = {"stage3_gather_16bit_weights_on_model_save": True}


@needs_deepspeed
@pytest.mark.parametrize(
    ("config", "flags", "told"),
    [
        (zero(2), {"optim": "adafactor"}, "--optim adafactor reads the rows and columns .* give --optim adamw_torch"),
        (zero(2, zero={"offload_optimizer": {"device": "cpu"}}), {}, '"zero_force_ds_cpu_optimizer": false'),
        (zero(3), {}, '"stage3_gather_16bit_weights_on_model_save": true'),
        (zero(3, zero=WHOLE), {"do_eval": True}, "no process has the weights that decoding reads"),
        (zero(3, zero=WHOLE), {"do_predict": True}, "no process has the weights that decoding reads"),
        (zero(3, zero=WHOLE), {"eval_strategy": "steps"}, "no process has the weights that decoding reads"),
        ("nowhere.json", {}, "--deepspeed nowhere.json is not there"),
    ],
)
def test_what_deepspeed_cannot_do_is_a_sentence(processes, tmp_path, config, flags, told):
    settings = {"do_train": True, "optim": "adamw_torch", "eval_strategy": "no", **flags}
    with pytest.raises(ValueError, match=told):
        TrainingArguments(output_dir=str(tmp_path), use_cpu=True, deepspeed=config, **settings)


@needs_deepspeed
def test_a_file_that_is_no_configuration_and_a_start_without_launcher_are_told(monkeypatch, tmp_path):
    file = tmp_path / "ds.json"
    file.write_text("{")
    settings = {"output_dir": str(tmp_path), "do_train": True, "optim": "adamw_torch", "use_cpu": True}
    for mark in ("LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(mark, raising=False)
    with pytest.raises(ValueError, match=r"needs a launcher, .*torchrun .*ds.json is no JSON"):
        TrainingArguments(deepspeed=str(file), **settings)


@needs_deepspeed
def test_an_evaluation_leaves_deepspeed_out(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(CLUSTER / "zero3.json"))
    args = TrainingArguments(output_dir=str(tmp_path), do_eval=True, use_cpu=True)
    assert args.deepspeed is None and args.deepspeed_plugin is None and not args.shares_weights
    assert "DeepSpeed concerns training alone" in caplog.text


@needs_deepspeed
def test_a_launcher_that_names_no_file_is_told(processes, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", raising=False)
    with pytest.raises(ValueError, match="names no file of its settings: give it a deepspeed_config_file"):
        TrainingArguments(output_dir=str(tmp_path), do_train=True, optim="adamw_torch", use_cpu=True)


def test_the_mark_of_a_launcher_on_cpus_is_a_flag(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert TrainingArguments(output_dir=str(tmp_path)).use_cpu
