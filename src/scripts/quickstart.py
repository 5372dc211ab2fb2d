"""The embedded model with trained exits on both invented tasks, under every kind of policy.

    python src/scripts/quickstart.py --out save/quickstart

Each policy is an ordinary evaluation run (what run_question_answering.py and run_summarization.py do) and can be
resumed. Speed is measured apart, at batch 1, all policies in turn on the same examples in this one process. The table
and the figure are then drawn from the files.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.tradeoff import label, report
from decoding.policy import Policy
from jobs.job import run_job
from tasks import TASKS
from training.evaluation import decode_batch
from util import (
    AdditionalArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    parse_arguments,
    update_autoconfig,
)
from util.files import read_json, write_json

MODEL = Path(__file__).resolve().parents[1] / "assets" / "t5_exits_trained"
DATA = {
    "invented_facts": (QuestionAnsweringArguments, []),
    "invented_dialogues": (SummarizationArguments, ["--source_prefix", "summarize: "]),
}
THRESHOLDS = {"softmax": (0.9, 0.5), "state": (0.95, 0.9), "meta": (0.9, 0.5)}


def policy_flags(num_layers: int) -> list[dict]:
    """The flags of every policy of the table: full, static at half depth, each confidence at its thresholds."""
    exits = [
        {"use_early_exit": True, "exit_conf_type": measure, "exit_conf_threshold": threshold}
        for measure, thresholds in THRESHOLDS.items()
        for threshold in thresholds
    ]
    return [{}, {"static_exit_layer": num_layers // 2}, *exits]


def evaluate(name: str, flags: dict, out: Path, examples: int):
    """One evaluation run, as its run script would make it; its trainer."""
    data_class, extra = DATA[name]
    argv = ["--model_name_or_path", str(MODEL), "--dataset_name", name, "--do_eval", "--output_dir", str(out / name)]
    argv += ["--max_eval_samples", str(examples), "--per_device_eval_batch_size", "16", *extra]
    argv += [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
    with redirect_stdout(StringIO()):  # sixteen summaries would hide the table, which holds their numbers
        trainer, metrics = run_job(TASKS[name].kind.name, *parse_arguments(data_class, argv))
    policy = label(metrics["eval_policy"])
    print(f"{name}: {policy}: {metrics['eval_runtime']:.0f} s for {metrics['eval_samples']} examples", flush=True)
    return trainer


def measure_speed(trainer, grid: list[dict], examples: int, repetitions: int) -> dict[str, list[float]]:
    """Label of each policy -> tokens per second relative to full depth in each repetition; batch 1, decoder only."""
    config, features = trainer.model.config, trainer.eval_dataset.features[:examples]
    rates: list[dict[str, float]] = []
    for _ in range(repetitions + 1):
        rates.append({})
        for flags in grid:
            update_autoconfig(config, AdditionalArguments(**flags))
            rates[-1][label(Policy.from_config(config).describe())] = _tokens_per_second(trainer, features)
    full = label(Policy().describe())
    return {name: [rate[name] / rate[full] for rate in rates[1:]] for name in rates[0]}  # the first warmed up


def _tokens_per_second(trainer, features) -> float:
    tokens, seconds = 0, 0.0
    for feature in features:
        options = trainer.decoding
        decoded, _, took = decode_batch(trainer.model, trainer.processing_class, [feature], options, scored=False)
        tokens += decoded[0].length
        seconds += took["decoder_forward"]
    return tokens / seconds


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("save/quickstart"))
    parser.add_argument("--examples", type=int, default=200, help="of each task; 500 are there")
    parser.add_argument("--speed-examples", type=int, default=16, help="of each task, timed in turn at batch 1")
    parser.add_argument("--repetitions", type=int, default=3, help="of the timing")
    arguments = parser.parse_args(argv)
    grid = policy_flags(read_json(MODEL / "config.json")["num_decoder_layers"])
    speed = {}
    for name in DATA:
        trainers = [evaluate(name, flags, arguments.out, arguments.examples) for flags in grid]
        speed[name] = measure_speed(trainers[0], grid, arguments.speed_examples, arguments.repetitions)
    settings = {"batch": 1, "examples": arguments.speed_examples, "repetitions": arguments.repetitions}
    write_json(arguments.out / "speed.json", {"tokens_per_second_relative_to_full_depth": speed, **settings})
    medians = {
        task: {name: statistics.median(ratios) for name, ratios in found.items()} for task, found in speed.items()
    }
    print("\n" + report(arguments.out, arguments.out, medians))
    print(f"tokens/s: batch 1, decoder only, all policies in turn, median of {arguments.repetitions} repetitions.")
    print(f"Table:  {arguments.out / 'table.txt'}\nFigure: {arguments.out / 'figure.png'}")


if __name__ == "__main__":
    main()
