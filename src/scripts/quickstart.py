"""Evaluate the embedded model with trained exits on both invented tasks, under every kind of policy.

    python src/scripts/quickstart.py --out save/quickstart
    python src/scripts/quickstart.py --examples 20 --speed-examples 2 --repetitions 1 --out save/quickstart_small

Each policy is an ordinary evaluation run (what run_question_answering.py and run_summarization.py do) and can be
resumed. Speed is measured apart, at batch 1, all policies in turn on the same examples in this one process. The table,
the figure, and the page with every token of early exit beside full depth, are then drawn from the files.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from analysis.report import write_report
from analysis.runs import read_runs
from analysis.tradeoff import report
from decoding import naming
from decoding.ranges import COUNT
from jobs.job import Job
from jobs.speed import Speeds
from tasks import TASKS
from training.reporting import in_seconds
from util import AdditionalArguments, QuestionAnsweringArguments, SummarizationArguments, groups, parse_arguments
from util.commands import CommandParser, output_folder
from util.files import read_json
from util.terminal import terminal

MODEL = Path(__file__).resolve().parents[1] / "assets" / "t5_exits_trained"
DATA = {
    "invented_facts": (QuestionAnsweringArguments, []),
    "invented_dialogues": (SummarizationArguments, ["--source_prefix", "summarize: "]),
}
PAGE_OF = "invented_dialogues"
THRESHOLDS = {
    "softmax": (0.9, 0.5),
    "state": (0.95, 0.9),
    "meta": (0.9, 0.5),
    "JSD_contrastive_confidence": (0.9,),
}


def policy_flags(num_layers: int) -> list[dict]:
    """The flags of every policy of the table: full, static at half depth, each confidence at its thresholds; and one
    exit at a quarter, for FREE and for drafts that are verified."""
    exits = [
        {"use_early_exit": True, "exit_conf_type": measure, "exit_conf_threshold": threshold}
        for measure, thresholds in THRESHOLDS.items()
        for threshold in thresholds
    ]
    shallow = {"use_shallow_deep": True, "shallow_exit_layer": num_layers // 4}
    free = {**shallow, "shallow2deep_conf_threshold": 0.9}
    lossless = {**shallow, "shallow2deep_conf_threshold": 0.5, "lossless": True}
    return [{}, {"static_exit_layer": num_layers // 2}, *exits, free, lossless]


def make_job(name: str, out: Path, examples: int) -> Job:
    """A task's job, as its run script would make it."""
    data_class, extra = DATA[name]
    argv = ["--model_name_or_path", str(MODEL), "--dataset_name", name, "--do_eval", "--output_dir", str(out / name)]
    argv += ["--max_eval_samples", str(examples), "--per_device_eval_batch_size", "16", *extra]
    return Job(TASKS[name].kind.name, *parse_arguments(data_class, argv))


def evaluate(name: str, job: Job, flags: AdditionalArguments) -> dict:
    """One evaluation run under these flags; its policy, as its results have it."""
    with redirect_stdout(StringIO()):  # so many summaries would hide the table, which holds their numbers
        metrics = job.evaluate(flags)
    policy, took = naming.label(metrics["eval_policy"]), in_seconds(metrics["eval_runtime"])
    print(f"{name}: {policy}: {took} s for {metrics['eval_samples']} examples", flush=True)
    return metrics["eval_policy"]


def draw_page(out: Path, policies: list[dict]) -> Path:
    """The page of the dialogues: the first early exit beside full depth."""
    early = next(policy for policy in policies if policy["method"] == "early_exit")
    runs = read_runs(out / PAGE_OF)
    shown = [next(run for run in runs if run.policy == policy) for policy in (early, policies[0])]
    write_report(shown, out / "page.html")
    return out / "page.html"


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_folder, default="save/quickstart", help="folder of all that is left")
    data, timing = parser.add_argument_group(groups.DATA), parser.add_argument_group(groups.TIMING)
    data.add_argument("--examples", type=COUNT, default=200, help="of each task; 500 are there")
    timing.add_argument("--speed-examples", type=COUNT, default=16, help="of each task, timed in turn at batch 1")
    timing.add_argument("--repetitions", type=COUNT, default=3, help="of the timing")
    arguments = parser.parse_args(argv)
    num_layers = read_json(MODEL / "config.json")["num_decoder_layers"]
    grid = [AdditionalArguments(**flags) for flags in policy_flags(num_layers)]
    policies = {}
    for name in DATA:
        job = make_job(name, arguments.out, arguments.examples)
        policies[name] = [evaluate(name, job, flags) for flags in grid]
        path = arguments.out / name / "speed.json"
        Speeds(job, path, arguments.speed_examples, arguments.repetitions).of([job.policy_of(flags) for flags in grid])
    print("\n" + report(arguments.out, arguments.out))
    page = draw_page(arguments.out, policies[PAGE_OF])
    print(f"Table:  {arguments.out / 'table.txt'}\nFigure: {arguments.out / 'figure.png'}\nPage:   {page}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
