r"""Time full depth, static exits, CALM, FREE and verified drafts on the prompts of a task, and score what they say.

    python src/scripts/benchmark_task.py --task summarization --model_name_or_path src/assets/t5_exits_trained \
        --dataset_name invented_dialogues --source_prefix "summarize: " --max_eval_samples 20 --out save/benchmark
    python src/scripts/benchmark_task.py --task question_answering --model_name_or_path models/smollm2-135m-instruct \
        --validation_file squad.jsonl --apply_chat_template True --policy "--static_exit_layer 20" --out save/squad

What is not listed below are flags of the task's run script, such as run_summarization.py. Each prompt is decoded under
every policy in turn, at batch 1, in this one process, and kept at once, so that a benchmark that was killed goes on
where it was. Verified drafts that say anything else than full depth are shown, and end the benchmark with 1.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from analysis import task_benchmark
from analysis.task_benchmark import Costs, Row, Scored
from decoding import naming
from decoding.policy import Policy
from decoding.verification import VERIFICATIONS
from jobs.experiments import TASK_ARGUMENTS, Setting, exit_flag, named, read_methods
from jobs.in_turn import Pair, Prompts, Turns
from jobs.job import Job
from tasks import score
from training.evaluation import choose, prediction_rows
from training.records import Decoded
from util import groups
from util.commands import CommandParser, output_folder
from util.files import write_csv, write_json, write_text
from util.terminal import terminal

METHODS = ("softmax", "FREE", "lossless")
# Flags of run scripts that say what is done, and where it goes.
SET = ("--do_train", "--do_predict", "--output_dir", "--overwrite_output_dir")


def refuse_set(words: Sequence[str]) -> None:
    """Refuse flags of the task's run script that mean nothing here.

    Raises:
        ValueError: It names them.
    """
    given = [word for word in words if word.split("=")[0] in SET]
    if given:
        raise ValueError(f"{', '.join(given)}: the validation split is decoded, into --out; leave it out.")


def policies(job: Job, texts: Sequence[str] | None, layer: int | None) -> dict[str, Policy]:
    """Name -> policy of flags that were given; else static exits, CALM, FREE and verified drafts from one layer, two
    thirds up where none is given. Full depth is the first.

    Raises:
        ValueError: One cannot be.
    """
    depth = job.trainer.model.num_exit_layers
    if texts and layer is not None:
        raise ValueError(f"--layer {layer} is of the policies that are timed where no --policy is given: leave it out.")
    if not texts:
        layer = max(1, 2 * depth // 3) if layer is None else layer
        methods = {name: flags for name, flags in read_methods().items() if name in METHODS}
        rows = [[*flags, exit_flag(flags) or "", str(layer)] for flags in methods.values()]
        texts = [shlex.join(words) for words in (["--static_exit_layer", str(layer)], *rows)]
    return named(texts, depth, job.longest_answer)


def scored(job: Job, pairs: Sequence[Pair]) -> Scored:
    """What a policy's answers are worth to the task."""
    data = job.splits["eval"]
    decoded: dict[str, list[Decoded]] = {}
    for pair in pairs:
        decoded.setdefault(pair.own.decoded.id, []).append(pair.own.decoded)
    chosen = choose(decoded, data, job.trainer.decoding.null_score_diff_threshold)
    texts = {each.id: each.text for each in chosen}
    scores = {f"eval_{name}": value for name, value in score(job.task, texts, data.examples).items()}
    return Scored(scores, prediction_rows(chosen, decoded, data))


def benchmark(job: Job, asked: dict[str, Policy], out: Path) -> list[str]:
    """Decode, and write table, figure and the numbers; what was verified and yet is not full depth's, in words."""
    prompts = Prompts.of_job(job)
    for policy in asked.values():
        prompts.check(policy)
    answers, depth = Turns(prompts, out / "answers.jsonl").decode(asked), job.trainer.model.num_exit_layers
    rows = [
        Row(name, naming.method(asked[name].describe()), scored(job, pairs), Costs.of(pairs, depth))
        for name, pairs in answers.items()
    ]
    table = task_benchmark.table(prompts.name, rows)
    write_text(out / "table.txt", table.text())
    write_json(out / "table.json", table.data())
    write_csv(out / "table.csv", [row.data(rows[0]) for row in rows])
    path = task_benchmark.draw(prompts.name, rows).save(out, "benchmark_task")
    print(f"\n{table.text()}\nNumbers: {out / 'table.csv'}\nFigure:  {path}", flush=True)
    exact = [name for name, policy in asked.items() if getattr(VERIFICATIONS[policy.verification], "exact", False)]
    return [told for name in exact if (told := task_benchmark.first_difference(answers[name], name))]


def make_parser() -> CommandParser:
    """The flags of the script; those of the task's run script are left over."""
    parser = CommandParser(__doc__)
    data, run = parser.add_argument_group(groups.DATA), parser.add_argument_group(groups.RUN)
    output = parser.add_argument_group(groups.OUTPUT)
    data.add_argument("--task", required=True, choices=TASK_ARGUMENTS, help="kind of task, whose flags may follow")
    run.add_argument("--policy", action="append", help='its flags in quotes: "--use_early_exit True"; repeatable')
    run.add_argument("--layer", type=int, help="of the exits where no --policy is given; two thirds of the depth")
    output.add_argument("--out", type=output_folder, default="save/benchmark_task", help="folder of what is left")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments, words = parser.parse_known_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    try:
        setting = Setting(arguments.task, TASK_ARGUMENTS[arguments.task], words)
        own = ["--do_eval", "--output_dir", str(arguments.out), "--per_device_eval_batch_size", "1"]
        refuse_set(words)
        job = Job(setting.kind, *setting.arguments(*own))
        if job.policy.exits:
            raise ValueError('Flags of a policy are given together, as --policy "FLAGS", once for each policy.')
        differences = benchmark(job, policies(job, arguments.policy, arguments.layer), arguments.out)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    if differences:
        print("\n".join(differences), file=sys.stderr)
        sys.exit(1)


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
