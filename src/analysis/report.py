"""Write one page for a browser: every token of a run's answers on the colour of the layer it left at.

    python src/analysis/report.py --run save/mine/runs/samsum-validation-softmax-0.9-min4-1a2b3c4d --out page.html
    python src/analysis/report.py --run save/early --run save/full --examples 200 --out page.html

A run is the folder of one, or a folder with one finished run below it. Two runs stand side by side, with what differs
marked. The page holds all it shows and loads nothing.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import json
import re
from collections.abc import Sequence
from pathlib import Path

from analysis.report_data import report_of
from analysis.runs import RunFiles, read_run
from decoding.ranges import COUNT
from util import groups
from util.commands import CommandParser, output_file
from util.files import read_text, write_text
from util.terminal import terminal

ASSETS = Path(__file__).with_name("report_page")
MOST = 1000


def html_of(page: dict, tokens: Sequence) -> str:
    """The page of what `report_of` gives. All texts lie in it as JSON, which no text of a model can break out of."""
    block = '<script type="application/json" id="tokens-{}">{}</script>'.format
    blocks = [block(number, embedded(each)) for number, each in enumerate(tokens)]
    parts = {name: read_text(ASSETS / name) for name in ("page.css", "page.js")}
    parts |= {"page": embedded(page), "tokens": "\n".join(blocks)}
    # In one pass, so that nothing that is put in is read as a place.
    places = "@@(" + "|".join(map(re.escape, parts)) + ")@@"
    return re.sub(places, lambda place: parts[place[1]], read_text(ASSETS / "page.html"))


def embedded(value) -> str:
    """JSON that can stand in a script element: a closing tag in a text is none, nor does a comment begin."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def write_report(runs: Sequence[RunFiles], out: Path, most: int = MOST) -> None:
    """Write the page of one run, or of two.

    Raises:
        ValueError: see `report_of`.
    """
    write_text(out, html_of(*report_of(runs, most)))


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    run, output = parser.add_argument_group(groups.RUN), parser.add_argument_group(groups.OUTPUT)
    run.add_argument("--run", type=Path, action="append", required=True, help="a run's folder; once or twice")
    output.add_argument("--out", type=output_file, default="page.html", help="the page")
    output.add_argument("--examples", type=COUNT, default=MOST, help="that are shown at most")
    arguments = parser.parse_args(argv)
    if len(arguments.run) > 2:
        parser.error(f"--run is given once or twice, not {len(arguments.run)} times.")
    try:
        write_report([read_run(folder) for folder in arguments.run], arguments.out, arguments.examples)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"Page: {arguments.out}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
