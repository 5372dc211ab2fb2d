r"""Put the tables of several benchmarks of a task under each other, such as a model's with and without translators.

    python src/analysis/compare_benchmarks.py --runs save/as_it_is save/translated --out save/both
    python src/analysis/compare_benchmarks.py --runs save/squad_0 save/squad_2 --names 0 2 --out save/shots

Each folder is what src/scripts/benchmark_task.py left. Scores of different tasks are in different metrics.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

from collections.abc import Sequence
from pathlib import Path

from analysis.beside import make_parser, names_of
from analysis.tables import Table
from analysis.task_benchmark import HEAD, NOTE
from util.files import read_json, write_json, write_text
from util.terminal import terminal

# Columns of every benchmark's table but for its score, which is called by its metric.
FIXED = HEAD[2:]


def table(title: str, folders: Sequence[str], names: Sequence[str]) -> Table:
    """A row per folder and policy.

    Raises:
        ValueError: A folder holds no benchmark of a task.
    """
    rows = []
    for folder, name in zip(folders, names, strict=True):
        path = Path(folder) / "table.json"
        held = read_json(path)
        head = held.get("head") if isinstance(held, dict) else None
        if not head or head[0] != "policy" or head[2:] != FIXED:
            raise ValueError(f"{path} is no table of benchmark_task.py: give the folders of its --out.")
        rows += [[name, policy, head[1], *cells] for policy, *cells in held["rows"]]
    return Table(title, ["benchmark", "policy", "metric", "score", *FIXED], rows, [], NOTE)


def main(argv: list[str] | None = None) -> Table:
    folders = "folders of benchmarks of a task"
    arguments = (parser := make_parser(__doc__, folders, "Policies in turn", "save/both")).parse_args(argv)
    try:
        found = table(arguments.title, arguments.runs, names_of(arguments))
        write_text(arguments.out / "benchmarks.txt", found.text())
        write_json(arguments.out / "benchmarks.json", found.data())
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{found.text()}\nTable: {arguments.out / 'benchmarks.txt'}")
    return found


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
