"""Every command of every job file parses as its run script would parse it, and asks for what the model can do."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from analysis.entropy import EntropyArguments
from analysis.probes import ProbeArguments
from analysis.prompt_lens import LensArguments
from conftest import dialogues, write_jsonl
from jobs.experiments import SCRIPTS, TABLES, TASK_ARGUMENTS, named, read_settings, read_table
from run_summarization import main
from scripts import benchmark_task, sweep_drafts
from scripts.fit_translators import FitArguments
from util import AdditionalArguments, DecoderArguments, parse_arguments
from util.additional_args import policy_for
from util.arguments import build
from util.generate_args import GenerateArguments
from util.parser import ArgumentParser
from util.truthful_args import TruthfulArguments

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "src" / "scripts"
JOBS = sorted(
    {
        path
        for pattern in ("*_experiments/**/*.job", "*_experiments/**/*.bash", "run_*.sh", "train_*.sh", "*/*.job")
        for path in FOLDER.glob(pattern)
    }
)
# Those that look into a model instead of running a task.
ANALYSES = sorted(FOLDER.glob("analysis_experiments/*.job"))
# Those that run what they are asked for; see test_cluster_jobs.py.
TEMPLATES = sorted(FOLDER.glob("cluster/*.job"))
# Those that time policies or drafts of a model without an encoder.
DECODERS = sorted(FOLDER.glob("decoder_only_experiments/*.job"))
TASK_JOBS = [path for path in JOBS if path not in (*ANALYSES, *TEMPLATES, *DECODERS)]
# The paths that the fork's users know.
ANCESTORS = [
    *(
        f"contrastive_decoding_experiments/{folder}/{prefix}_final_{name}.job"
        for folder, prefix in (("SQuAD", "squad"), ("Samsum", "sam"))
        for name in ("cd", "cd_adaptive", "cd_adaptive_ft", "cd_ft", "s", "s_ft")
    ),
    *(
        f"softmax_experiments/{folder}/{name}.job"
        for folder in ("final_jobs_plot_softmax", *(f"final_jobs_results_{kind}" for kind in ("decaying", "fixed")))
        for name in ("samsum_eval", "samsum_tuned", "squad_eval", "squad_eval_tuned")
    ),
    *(f"softmax_experiments/final_jobs_results_no_reduct/{name}.job" for name in ("samsum_eval", "squad_eval_tuned")),
    "softmax_experiments/plotting_graphs/all_runs_for_plotting.bash",
    *(
        f"run_{name}.sh"
        for name in ("qa_squad", "sum_bigpatent", "sum_cnndm", "sum_samsum", "sum_multinews", "tr_iwlst")
    ),
]
DEPTH = {"t5-large": 24, "t5-squad": 24, "t5-samsum": 24, "mt5-large": 24, "long-t5-tglobal-base": 12}


def call(path, *arguments, cwd=ROOT, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "LAYERS", "SAVE"))}
    command = ["sh", str(path), *arguments]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**clean, "DRY_RUN": "1", "PYTHON": "python", **environment},
        capture_output=True,
        text=True,
    )


def commands(path, *arguments, **environment) -> list[list[str]]:
    done = call(path, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def parsed(words: list[str]):
    """Model, data, training and additional arguments of a command."""
    assert words[0] == "python"
    return parse_arguments(SCRIPTS[Path(words[1]).name][1], words[2:])


@pytest.mark.parametrize("path", ANCESTORS)
def test_the_ancestors_paths_are_there(path):
    assert FOLDER / path in JOBS


@pytest.mark.parametrize("path", TASK_JOBS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_command_of_a_job_parses_and_fits_its_model(path, tmp_path):
    arguments = ["squad_finetuned", "JSD_adaptive"] if path.name == "one_method.job" else []
    found = commands(path, *arguments, SAVE=str(tmp_path))
    assert found and (ROOT / found[0][1]).is_file()
    for words in found:
        model_args, data_args, training_args, additional_args = parsed(words)
        assert training_args.do_eval and data_args.dataset_name
        additional_args.policy().check(DEPTH[model_args.model_name_or_path.split("/")[-1]])


# Model -> layers of its decoder.
DECODER_DEPTH = {"layerskip-llama3.2-1B": 16, "layerskip-llama3-8B": 32, "Qwen3-1.7B": 28, "pythia-1.4b": 24}


def measured(words: list[str]):
    """The flags of a command that times a task's prompts, and what its run script would make of the others."""
    assert words[0] == "python" and (ROOT / words[1]).is_file()
    script = {"benchmark_task.py": benchmark_task, "sweep_drafts.py": sweep_drafts}[Path(words[1]).name]
    arguments, left = script.make_parser().parse_known_args(words[2:])
    if script is sweep_drafts:
        left = ["--model_name_or_path", arguments.model_name_or_path, *left]
    return arguments, parse_arguments(TASK_ARGUMENTS[arguments.task], [*left, "--do_eval"])


@pytest.mark.parametrize("path", DECODERS, ids=lambda path: path.stem)
def test_a_decoder_is_measured_on_both_tasks(path, tmp_path):
    assert commands(path, SAVE=str(tmp_path)) == commands(path, "benchmark", SAVE=str(tmp_path))
    more = ("--seed", "3", "--use_cpu", "True")
    asked = {what: commands(path, what, *more, SAVE=str(tmp_path)) for what in ("benchmark", "drafts")}
    names = set()
    for what, found in asked.items():
        assert len(found) == 2
        for words in found:
            arguments, (model_args, data_args, training_args, _) = measured(words)
            depth = DECODER_DEPTH[model_args.model_name_or_path.split("/")[-1]]
            layers = [arguments.layer] if what == "benchmark" else arguments.exit_layers
            assert layers and all(0 < layer < depth for layer in layers) and arguments.task == "summarization"
            assert training_args.seed == 3 and training_args.bf16_full_eval
            assert str(arguments.out).startswith(str(tmp_path))
            names.add(data_args.dataset_name)
    assert names == {"cnn_dailymail", "xsum"}


def test_what_a_decoder_cannot_be_measured_by_is_refused():
    done = call(DECODERS[0], "speed")
    assert done.returncode == 2 and done.stderr.startswith("speed is nothing to measure: give benchmark or drafts")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_job_is_a_few_lines_that_sbatch_and_sh_take(path):
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/sh" and lines[1].startswith("#SBATCH ") and lines[2].startswith("# ")
    assert len(lines) <= 12 and os.access(path, os.X_OK)


def test_the_published_jobs_ask_for_what_was_published():
    published = {
        "softmax_experiments/final_jobs_results_fixed/squad_eval.job": ("softmax", "fixed", 7),
        "softmax_experiments/final_jobs_results_decaying/samsum_tuned.job": ("softmax", "decaying", 2),
        "softmax_experiments/final_jobs_results_no_reduct/squad_eval.job": ("softmax", "none", 7),
        "contrastive_decoding_experiments/SQuAD/squad_final_cd.job": ("JSD_contrastive_confidence", "none", 19),
        "contrastive_decoding_experiments/Samsum/sam_final_cd_adaptive_ft.job": (
            "JSD_contrastive_confidence",
            "adaptive",
            19,
        ),
        "contrastive_decoding_experiments/SQuAD/squad_final_weighted.job": (
            "reweight_contrastive_decoding",
            "none",
            19,
        ),
    }
    for path, (confidence, vocabulary, first) in published.items():
        (words,) = commands(FOLDER / path)
        policy = parsed(words)[3].policy()
        assert (policy.confidence, policy.vocabulary, policy.first_exit) == (confidence, vocabulary, first)
        assert policy.threshold == 0.9


WAYS = read_table(TABLES / "trainings.txt")
TRAINED = {
    "train_qa_squad.sh": ("run_question_answering.py", "squad"),
    "train_sum_samsum.sh": ("run_summarization.py", "samsum"),
    "train_sum_cnndm.sh": ("run_summarization.py", "cnn_dailymail"),
    "train_sum_multinews.sh": ("run_summarization.py", "multi_news"),
    "train_sum_bigpatent.sh": ("run_summarization.py", "big_patent"),
    "train_tr_iwlst.sh": ("run_translation.py", "iwslt2017"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("job", TRAINED)
def test_every_task_is_trained_in_every_way(job, way, tmp_path):
    (words,) = commands(FOLDER / job, way, "--seed", "3", SAVE=str(tmp_path))
    model_args, data_args, training_args, additional_args = parsed(words)
    assert (Path(words[1]).name, data_args.dataset_name) == TRAINED[job]
    assert training_args.do_train and training_args.do_eval and training_args.seed == 3
    assert training_args.learning_rate == 1e-4 and training_args.output_dir.endswith(f"_{way}")
    assert additional_args.use_lora == ("--use_lora" in WAYS[way])
    depth = DEPTH[model_args.model_name_or_path.split("/")[-1]]
    policy_for(SimpleNamespace(num_decoder_layers=depth, vocab_size=32128), additional_args)


def test_an_unknown_way_of_training_is_refused_with_the_valid_ones():
    done = call(FOLDER / "train_tr_iwlst.sh", "CALMLY")
    assert done.returncode == 2 and "is no line of" in done.stderr and "plain, CALM, FREE" in done.stderr


def test_a_job_runs_from_anywhere_in_the_repository_and_as_a_copy_that_slurm_made(tmp_path):
    job = FOLDER / "contrastive_decoding_experiments" / "SQuAD" / "squad_final_cd.job"
    expected = commands(job)
    assert call(job, cwd=tmp_path).stdout == call(job).stdout
    spooled = shutil.copy(job, tmp_path / "slurm_script")
    assert commands(spooled, SLURM_SUBMIT_DIR=str(ROOT / "src" / "scripts")) == expected


@pytest.mark.parametrize("where", [{}, {"SLURM_SUBMIT_DIR": "/"}, {"SLURM_SUBMIT_DIR": "/nowhere"}])
def test_a_job_outside_of_the_checkout_is_refused(tmp_path, where):
    spooled = shutil.copy(FOLDER / "free_experiments" / "free.job", tmp_path / "slurm_script")
    done = call(spooled, cwd=tmp_path, **where)
    assert done.returncode == 2 and done.stdout == ""
    told = where.get("SLURM_SUBMIT_DIR", str(spooled))
    assert done.stderr == f"{told} is not in the checkout: submit or run this job there.\n"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_job_finds_the_checkout_in_the_same_way(path):
    ways = [line for line in path.read_text().splitlines() if "src/scripts/experiments/job.sh" in line]
    assert ways == [
        line
        for line in (FOLDER / "run_qa_squad.sh").read_text().splitlines()
        if "src/scripts/experiments/job.sh" in line
    ]
    assert len(ways) == 3


def test_further_flags_go_to_the_command_and_overrule(tmp_path):
    (words,) = commands(FOLDER / "run_qa_squad.sh", "softmax", "--max_eval_samples", "7", "--exit_min_layer", "4")
    _, data_args, _, additional_args = parsed(words)
    assert data_args.max_eval_samples == 7 and additional_args.exit_min_layer == 4


def test_srun_is_used_inside_an_allocation_where_there_is_one(tmp_path):
    fake = tmp_path / "srun"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    job, path = FOLDER / "run_sum_samsum.sh", f"{tmp_path}:{os.environ['PATH']}"
    assert commands(job, PATH=path, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(ROOT))[0][:2] == ["srun", "python"]
    assert commands(job, PATH=path)[0][0] == "python"


@pytest.mark.parametrize("arguments", [["softmx"], ["softmax fixed"]])
def test_an_unknown_method_is_refused_with_the_valid_ones(arguments):
    done = call(FOLDER / "run_qa_squad.sh", *arguments)
    assert done.returncode == 2 and "is no line of" in done.stderr and "JSD_adaptive" in done.stderr


def test_a_grid_is_submitted_a_job_per_setting_and_method(tmp_path):
    fake = tmp_path / "sbatch"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    grid = FOLDER / "experiments" / "submit_grid.sh"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "METHODS": "softmax JSD",
        "SBATCH_ARGS": "--time=1:00:00",
    }
    submitted = commands(grid, "squad_finetuned", **environment, DRY_RUN="")
    assert [words[0] for words in submitted] == ["--job-name=squad_finetuned-softmax", "--job-name=squad_finetuned-JSD"]
    assert submitted[0][1:] == [
        "--time=1:00:00",
        "src/scripts/experiments/one_method.job",
        "squad_finetuned",
        "softmax",
    ]
    shown = commands(grid, **environment, LAYERS="2 19")
    assert len(shown) == 4 * 2 * 2 and {parsed(words)[3].exit_min_layer for words in shown} == {2, 19}


@pytest.fixture
def sbatch(tmp_path):
    """A grid that is submitted, and what sbatch is then told."""
    fake = tmp_path / "sbatch"
    fake.write_text('#!/bin/sh\necho "sbatch $@"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    return lambda *settings, **environment: call(
        FOLDER / "experiments" / "submit_grid.sh", *settings, PATH=path, **environment
    )


@pytest.mark.parametrize(
    ("settings", "environment", "told"),
    [
        (["squad"], {}, "squad is no line of src/scripts/experiments/settings.txt: valid are squad_pretrained, "),
        (["squad_finetuned", "samsum"], {}, "samsum is no line of src/scripts/experiments/settings.txt"),
        ([], {"METHODS": "softmax JDS"}, "JDS is no line of src/scripts/experiments/methods.txt: valid are full, "),
    ],
)
def test_a_grid_of_unknown_names_submits_nothing(sbatch, settings, environment, told):
    done = sbatch(*settings, DRY_RUN="", **environment)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith(told) and done.stderr.endswith(".\n")


@pytest.mark.parametrize(
    ("word", "dry"), [("0", False), ("false", False), ("No", False), ("", False), ("1", True), ("yes", True)]
)
def test_a_dry_run_is_asked_for_with_a_word_for_yes(sbatch, word, dry):
    done = sbatch("squad_finetuned", DRY_RUN=word, METHODS="full")
    assert done.returncode == 0 and done.stdout.startswith("sbatch ") != dry


@pytest.mark.parametrize(
    "environment", [{"SETTINGS": "squad_finetuned squad"}, {"SETTINGS": "squad"}], ids=["one of two", "the only one"]
)
def test_tasks_of_unknown_names_are_refused_before_any_runs(environment):
    done = call(FOLDER / "free_experiments" / "lossless.job", **environment)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("squad is no line of")


def test_every_setting_has_runs_of_its_own_folder():
    for name in read_settings():
        (words,) = commands(FOLDER / "experiments" / "one_method.job", name, "full")
        assert words[words.index("--output_dir") + 1] == f"save/{name}"


LONG_DOCUMENTS = {
    "bigpatent": ("big_patent", "description", "abstract"),
    "multinews": ("multi_news", "document", "summary"),
}
CALM_LOSS = "--intermediate_loss_fn weighted_ce"
FREE_LOSS = "--intermediate_loss_fn shallowdeep_kd_dyna --shallow_exit_layer 2 --distill_layer_alpha 0.5"


@pytest.mark.parametrize("job", LONG_DOCUMENTS)
@pytest.mark.parametrize(
    ("loss", "method", "exit"),
    [(CALM_LOSS, "softmax", "--exit_min_layer 1"), (FREE_LOSS, "FREE_adaptive", "--shallow_exit_layer 2")],
    ids=["CALM", "FREE"],
)
def test_a_job_on_long_documents_trains_and_decodes_a_longt5(tiny_longt5_dir, tmp_path, job, loss, method, exit):
    """Its commands with model, data and lengths swapped, as FREE's two commands are: training, then deployment."""
    name, text, summary = LONG_DOCUMENTS[job]
    folder, trained = tmp_path / name, tmp_path / "trained"  # whose columns are those of the data set of its name
    folder.mkdir()
    records = [{text: each["dialogue"] * 5, summary: each["summary"]} for each in dialogues(6)]
    for split in ("train", "validation"):
        write_jsonl(folder / f"{split}.jsonl", records)
    swapped = f"--dataset_name {folder} --max_source_length 80 --max_target_length 8 --use_cpu True"
    train = f"--do_train {loss} --max_steps 2 --per_device_train_batch_size 2 --eval_strategy no --save_strategy no"
    train = f"--model_name_or_path {tiny_longt5_dir} --output_dir {trained} {train} --per_device_eval_batch_size 4"
    deploy = f"--model_name_or_path {trained} --output_dir {tmp_path / 'deployed'}"
    metrics = []
    for chosen, flags in (("full", train), (method, deploy)):
        (words,) = commands(FOLDER / f"run_sum_{job}.sh", chosen, *shlex.split(f"{swapped} {flags}"))
        if chosen == method:
            words += exit.split()
        metrics.append(main(*parsed(words))[1])
    assert metrics[0]["train_loss"] > 0 and metrics[0]["eval_samples"] == metrics[1]["eval_samples"] == 6
    assert 1 <= metrics[1]["eval_block_avg"] <= 4 == metrics[0]["eval_block_avg"]


# ------------------------------------------------------------------------------------------------- looking into a model
# Script -> the argument classes of its command line; None where it has a parser of its own.
LOOKING = {
    "analysis/prompt_lens.py": (DecoderArguments, LensArguments),
    "analysis/entropy.py": (DecoderArguments, EntropyArguments),
    "analysis/probes.py": (DecoderArguments, ProbeArguments),
    "run_truthfulqa.py": (DecoderArguments, TruthfulArguments),
    "generate.py": (DecoderArguments, GenerateArguments, AdditionalArguments),
    "scripts/fit_translators.py": (DecoderArguments, FitArguments),
}


@pytest.fixture
def data(tmp_path):
    """What the analyses read, by the variable of the environment that names it."""
    (tmp_path / "topics").mkdir()
    for name in ("animals", "two words"):
        (tmp_path / "topics" / f"{name}.csv").write_text("statement,label\nIt rains,1\n")
    for name in ("TruthfulQA.csv", "prompts.jsonl", "translators.safetensors"):
        (tmp_path / name).write_text("Question\n")
    names = {"TRUTHFULQA": "TruthfulQA.csv", "TRUE_FALSE": "topics", "PROMPTS": "prompts.jsonl"}
    return {name: str(tmp_path / path) for name, path in names.items()} | {"SAVE": str(tmp_path / "save")}


def looked(words: list[str]) -> str:
    """The script of a command that its own parser understands."""
    assert words[0] == "python" and (ROOT / words[1]).is_file()
    script = words[1].removeprefix("src/")
    if script == "analysis/judge.py":
        assert {"--base_url", "--model", "--predictions", "--out"} <= {*words}
        return script
    classes = LOOKING[script]
    build(classes, ArgumentParser(classes, "A script.").given(words[2:]))
    return script


@pytest.mark.parametrize("path", ANALYSES, ids=lambda path: path.name)
def test_every_command_of_an_analysis_parses(path, data):
    found = commands(path, **data)
    for words in found:
        script = looked(words)
        assert words[words.index("--out") + 1].startswith(f"{data['SAVE']}/analysis/Llama-2-7b-chat-hf/")
        if script != "analysis/judge.py":
            assert words[words.index("--model_name_or_path") + 1] == "meta-llama/Llama-2-7b-chat-hf"
    assert len(found) == {"judge.job": 3, "probes.job": 2}.get(path.name, 1)


def test_the_lens_of_a_job_has_translators_where_there_are_some(data, tmp_path):
    job, file = FOLDER / "analysis_experiments" / "lens.job", str(tmp_path / "translators.safetensors")
    (words,) = commands(job, "--top_k", "3", TRANSLATORS=file, LLAMA="some/model", **data)
    assert looked(words) == "analysis/prompt_lens.py" and words[words.index("--exit_translators") + 1] == file
    assert words[-2:] == ["--top_k", "3"] and "some/model" in words


REAL = FOLDER / "analysis_experiments" / "real_model.sh"


def real_model(*arguments, script=REAL, **environment):
    environment = os.environ | {"DRY_RUN": "1", "PYTHON": "python"} | environment
    return subprocess.run(["bash", script, *arguments], env=environment, capture_output=True, text=True)


def test_all_analyses_of_the_real_model_are_one_command(data, tmp_path):
    done = real_model("--limit", "20", "--out", str(tmp_path / "out"), **data)
    *lines, last = done.stdout.splitlines()
    found = [shlex.split(line) for line in lines]
    assert (done.returncode, last) == (0, f"Figures and tables: {tmp_path / 'out'}")
    assert [words[1].split("/")[-1] for words in found] == [
        "fit_translators.py",
        "prompt_lens.py",
        "prompt_lens.py",
        "entropy.py",
        "probes.py",
        "probes.py",
        "run_truthfulqa.py",
    ]
    made = found[0][found[0].index("--out") + 1]
    assert found[2][found[2].index("--exit_translators") + 1] == made
    Path(made).parent.mkdir()
    Path(made).write_text("")
    for words in found:
        looked(words)
        wanted = "20" if {"entropy.py", "probes.py", "run_truthfulqa.py"} & {words[1].split("/")[-1]} else None
        assert (words[words.index("--limit") + 1] if "--limit" in words else None) == wanted


def test_what_is_there_is_not_made_again(data, tmp_path):
    for name in ("lens", "lens_translated"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "lens_rank.png").write_text("")
    given = str(tmp_path / "translators.safetensors")
    done = real_model("--out", str(tmp_path / "out"), TRANSLATORS=given, **data)
    assert "fit_translators" not in done.stdout and "prompt_lens" not in done.stdout and "entropy" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "without", "told"),
    [
        (["--limit", "0"], {}, "--limit 0: valid are whole numbers from 16."),
        (["--limit", "15"], {}, "--limit 15: valid are whole numbers from 16."),
        (["--limit", "many"], {}, "--limit many: valid are whole numbers from 16."),
        (["--limit"], {}, "--limit needs a value, or is no flag: valid are --limit N and --out DIR."),
        (["--fast", "1"], {}, "--fast is no flag of this script: valid are --limit N and --out DIR."),
        ([], {"TRUTHFULQA": ""}, "TRUTHFULQA= is no file: give the path of TruthfulQA.csv."),
        ([], {"TRUE_FALSE": "/nowhere"}, "TRUE_FALSE=/nowhere is no folder of statements"),
        ([], {"TRANSLATORS": "/nowhere"}, "TRANSLATORS=/nowhere: there is no such file."),
    ],
)
def test_what_the_analyses_of_the_real_model_lack_is_said(data, arguments, without, told):
    done = real_model(*arguments, **data | without)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(f"real_model.sh: {told}")


REAL_TASKS = FOLDER / "decoder_only_experiments" / "real_model.sh"


@pytest.fixture
def tasks(tmp_path) -> str:
    """A folder of three tasks."""
    for name in ("dialogsum", "squad", "de_en"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "validation.jsonl").write_text("{}\n" * 407)
    return str(tmp_path / "data")


def test_all_tasks_of_the_real_model_are_one_command(tasks, tmp_path):
    done = real_model("--limit", "7", "--out", str(tmp_path / "out"), script=REAL_TASKS, DATA=tasks)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, f"Tables: {tmp_path / 'out'}"), done.stderr
    passages, fit, *found = [shlex.split(line) for line in lines]
    assert passages == [
        "tail",
        "-n",
        "400",
        f"{tasks}/squad/validation.jsonl",
        ">",
        str(tmp_path / "out/passages.jsonl"),
    ]
    assert fit[1].endswith("fit_translators.py") and passages[-1] in fit and len(found) == 3 * 2 * 2
    Path(fit[-1]).parent.mkdir()
    Path(fit[-1]).write_text("")
    seen = set()
    for words in found:
        arguments, (model_args, data_args, _, _) = measured(words)
        assert len(named(arguments.policy, 30, 64)) == 5 and data_args.max_eval_samples == 7
        assert data_args.apply_chat_template and model_args.model_name_or_path == "models/smollm2-135m-instruct"
        assert model_args.exit_translators in (None, fit[-1])
        seen.add((arguments.task, data_args.n_shot, model_args.exit_translators))
    assert len(seen) == len(found)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--limit", "0"], "--limit 0: valid are whole numbers from 1."),
        (["--fast", "1"], "--fast is no flag of this script: valid are --limit N and --out DIR."),
        (
            ["--limit", "8"],
            "--limit 8: translators are fitted on the last 400 questions of squad, which has 407: lower "
            "it, give more questions, or TRANSLATORS=FILE.",
        ),
        ([], "DATA=/nowhere holds no dialogsum/validation.jsonl."),
    ],
)
def test_what_the_tasks_of_the_real_model_lack_is_said(tasks, arguments, told):
    done = real_model(*arguments, script=REAL_TASKS, DATA=tasks if arguments else "/nowhere")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr == f"real_model.sh: {told}\n"
