"""Score runs that are there by further metrics, without decoding anything again.

    python src/analysis/rescore.py --runs save/mine --metrics meteor bertscore:lang=en
    python src/analysis/rescore.py --runs save/grid save/mine/runs/samsum-validation-full-1a2b3c4d --metrics ./my_metric

Every complete run under --runs, of evaluation or prediction, gets the numbers of the metrics over the texts in its
predictions.jsonl, as `eval_<metric>_<number>` in its results, and has the others as before; --metrics of a run script
does the same at once. A name is a metric of the `evaluate` library, from its cache where there is no network
(src/scripts/cluster/prefetch.py fills it). A path is code of whoever wrote it, which is run.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

from collections.abc import Sequence
from pathlib import Path

from analysis.tables import Table
from tasks.named_metrics import load_metrics, named_scores
from util import groups
from util.commands import CommandParser
from util.runs import Run
from util.terminal import terminal


def find_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The complete runs that folders are or hold.

    Raises:
        ValueError: There is none in one of them.
    """
    found = {}
    for folder in map(Path, folders):
        own = [folder] if (folder / "predictions.jsonl").is_file() else []
        places = own or sorted(path.parent for path in folder.rglob("runs/*/all_results.json"))
        runs = [Run.at(place) for place in places]
        if not runs:
            raise ValueError(f"--runs {folder} holds no complete run: expected runs/<name>/all_results.json below it.")
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values())


def rescore(runs: Sequence[Run], metrics: Sequence[str]) -> Table:
    """Put the numbers of metrics into the results of runs; a row for each run.

    Raises:
        ValueError: A metric cannot be loaded, which is told before any run is touched, or does not fit a run's texts.
    """
    loaded = load_metrics(metrics)
    scores = {}
    for run in runs:
        try:
            scores[run.folder.name] = named_scores(loaded, run.predictions())
        except ValueError as error:
            raise ValueError(f"{run.folder}: {error}") from error
        run.add_scores(scores[run.folder.name])
    names = list(dict.fromkeys(name for each in scores.values() for name in each))
    rows = [[name, *(f"{each[key]:.4f}" if key in each else "-" for key in names)] for name, each in scores.items()]
    return Table("Scored again", ["run", *names], rows, [])


def main(argv: list[str] | None = None) -> Table:
    parser = CommandParser(__doc__)
    group, measured = parser.add_argument_group(groups.RUN), parser.add_argument_group(groups.MEASUREMENT)
    group.add_argument("--runs", nargs="+", required=True, help="folders of runs, or with runs below them")
    told = "metrics of the evaluate library by name, or paths, whose code is run"
    measured.add_argument("--metrics", nargs="+", required=True, help=told)
    arguments = parser.parse_args(argv)
    try:
        found = rescore(find_runs(arguments.runs), arguments.metrics)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(found.text())
    return found


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
