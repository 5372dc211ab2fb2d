"""What the commands share that set several folders of results beside each other: their flags, names and files."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from analysis.drawing import Drawing
from analysis.tables import Table
from util import groups
from util.commands import CommandParser, output_folder
from util.files import write_json, write_text


def make_parser(description: str, runs: str, title: str, out: str) -> CommandParser:
    """--runs, --names, --title and --out.

    Args:
        runs: What the folders are.
        title, out: By default.
    """
    parser = CommandParser(description)
    data, output = parser.add_argument_group(groups.RUN), parser.add_argument_group(groups.OUTPUT)
    data.add_argument("--runs", nargs="+", required=True, help=runs)
    data.add_argument("--names", nargs="+", help="of them, in their order; the folders' own where not given")
    output.add_argument("--title", default=title, help="of figure and table")
    output.add_argument("--out", type=output_folder, default=out, help="folder of figure and table")
    return parser


def names_of(arguments: Namespace) -> list[str]:
    """A name for each folder of --runs.

    Raises:
        ValueError: They are not as many, or not all different.
    """
    names = arguments.names or [Path(folder).resolve().name for folder in arguments.runs]
    if len(set(names)) != len(arguments.runs) or len(names) != len(arguments.runs):
        raise ValueError(f"--names {' '.join(names)}: {len(arguments.runs)} different ones are needed.")
    return names


def write(out: Path, table: Table, drawing: Drawing, name: str) -> Path:
    """table.txt, table.json and the figure; where the figure is."""
    write_text(out / "table.txt", table.text())
    write_json(out / "table.json", table.data())
    return drawing.save(out, name)
