"""Fill the tables of a post from the tables of a grid, so that no number in it is typed.

    python src/analysis/post.py --post blogpost.md
    python src/analysis/post.py --post blogpost.md --tables blogpost_figures

A block of the post begins with a comment that names a table beside the post's figures and what to take of it, and ends
with `<!-- end -->`; what stands between is written anew:

    <!-- table_5: model=t5_exits_trained; min=2 6; columns=method, score, mean exit -->

`model=`, `min=` and the like keep the rows whose cell is one of the values, alternatives parted by |.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import re
from pathlib import Path

from util import groups
from util.commands import CommandParser, output_file
from util.files import read_json, read_text, write_text
from util.terminal import terminal

END = "<!-- end -->"
BLOCK = re.compile(r"(<!-- (?P<table>[\w/-]+): (?P<query>[^\n]*?) -->\n)(?P<body>.*?)(" + END + ")", re.DOTALL)


def fill(text: str, folder: Path) -> str:
    """The post's text with its tables as the files of the folder have them.

    Raises:
        ValueError: A block asks for a table, column or row that is not there, or an end has no block in front.
    """
    filled, blocks = BLOCK.subn(
        lambda found: found[1] + rendered(folder / f"{found['table']}.json", found["query"]) + found[5], text
    )
    if blocks != text.count(END):
        raise ValueError(
            f"{text.count(END)} tables end, and {blocks} begin: expected <!-- TABLE: QUERY --> before each."
        )
    return filled


def rendered(path: Path, query: str) -> str:
    """The rows and columns a query asks for, as a table of Markdown."""
    table = read_json(path)
    if not isinstance(table, dict) or not {"head", "rows"} <= set(table):
        raise ValueError(f"{path} is no table: expected an object with head and rows.")
    wanted = dict(part.strip().partition("=")[::2] for part in query.split(";"))
    if not wanted.get("columns"):
        raise ValueError(f"{query!r} asks for no columns of {path.stem}: expected columns=NAME, NAME.")
    columns = [name.strip() for name in wanted.pop("columns").split(",")]
    unknown = [name for name in (*columns, *wanted) if name not in table["head"]]
    if unknown:
        raise ValueError(f"{path} has no column {', '.join(unknown)}: valid are {', '.join(table['head'])}.")
    rows = [dict(zip(table["head"], row, strict=True)) for row in table["rows"]]
    for name, values in wanted.items():
        rows = [row for row in rows if row[name] in [value.strip() for value in values.split("|")]]
    if not rows:
        raise ValueError(f"{path} has no row with {query}.")
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--post", type=output_file, default="blogpost.md", help="the file to write anew")
    data = parser.add_argument_group(groups.DATA)
    data.add_argument("--tables", type=Path, help="folder of the tables; blogpost_figures beside the post by default")
    arguments = parser.parse_args(argv)
    folder = arguments.tables or arguments.post.parent / "blogpost_figures"
    try:
        write_text(arguments.post, fill(read_text(arguments.post), folder))
    except (ValueError, OSError) as error:
        parser.refuse(error)


if __name__ == "__main__":
    with terminal():
        main()
