"""Draw every figure and table of the experiments, from run files only, in the numbering of the post that began them.

    python src/analysis/figures.py --runs save/grid --out save/grid/figures
    python src/analysis/figures.py --redraw blogpost_figures

save/grid is what src/scripts/local_grid.py leaves. A figure whose runs are not there is left out, with a line that says
so. Beside each lies a .json of the numbers it shows and the runs they came from; --redraw paints the pictures of a
folder anew from these files alone. Figures 16 to 23 and tables 2 to 12 have no counterpart in that post.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

from pathlib import Path

from analysis import (
    compare_exits,
    compare_runs,
    draft_figures,
    exit_figures,
    layer_figures,
    lens_figures,
    loss_figures,
    policy_figures,
    speed_figures,
    strategies,
    task_benchmark,
    tradeoff,
    truth_figures,
)
from analysis.drawing import Runs, drawn_before
from analysis.runs import read_runs, read_speeds, refuse_mixtures
from analysis.tables import TABLES
from util import groups
from util.commands import CommandParser, output_folder
from util.files import read_json, write_json, write_text
from util.terminal import terminal

FIGURES = {
    "figure_01": layer_figures.how_pruning_shrinks,
    "figure_02": layer_figures.ranks,
    "figure_03": layer_figures.confidence_without_trained_exits,
    "figure_04": layer_figures.confidence_with_trained_exits,
    "figure_05": layer_figures.what_is_contrasted,
    "figure_06": layer_figures.divergence,
    "figure_07": policy_figures.pruning_of_questions,
    "figure_08": policy_figures.pruning_of_summaries,
    "figure_11a": policy_figures.combined_questions,
    "figure_11b": policy_figures.combined_summaries,
    "figure_16": policy_figures.two_forms,
    "figure_17": speed_figures.benchmark,
    "figure_20": speed_figures.score_against_speed,
    "figure_22": loss_figures.what_training_buys,
    "figure_23": policy_figures.every_method,
    **policy_figures.SWEEPS,
}

PAINTS = {
    paint.__name__: paint
    for paint in (
        layer_figures.paint_pruning,
        layer_figures.paint_ranks,
        layer_figures.paint_confidence,
        layer_figures.paint_contrast,
        layer_figures.paint_divergence,
        policy_figures.paint_bars,
        policy_figures.paint_sweep,
        policy_figures.paint_score_over_depth,
        speed_figures.paint_benchmark,
        speed_figures.paint_tradeoffs,
        draft_figures.paint_drafts,
        loss_figures.paint_losses,
        tradeoff.paint_tradeoff,
        compare_exits.paint_comparison,
        compare_runs.paint_sets,
        lens_figures.paint_readings,
        lens_figures.paint_cells,
        exit_figures.paint_exits,
        exit_figures.paint_reliability,
        strategies.paint_strategies,
        task_benchmark.paint_task_benchmark,
        truth_figures.paint_entropy,
        truth_figures.paint_categories,
        truth_figures.paint_probes,
    )
}


def read_all(folder: Path) -> Runs:
    """What figures are drawn from, under a folder: runs, or a benchmark alone.

    Raises:
        ValueError: There is neither, or runs that would share a panel are not comparable.
    """
    benchmarks = sorted(folder.rglob("benchmark.json"))
    runs = read_runs(folder) if not benchmarks or any(folder.rglob("all_results.json")) else []
    refuse_mixtures(runs)
    return Runs(runs, read_speeds(folder), read_json(benchmarks[0]) if benchmarks else None)


def draw_all(folder: Path, out: Path) -> list[Path]:
    """Draw and write what the runs under a folder suffice for; the files, one per figure and table."""
    runs = read_all(folder)
    written = []
    for name in sorted(FIGURES):
        drawing = FIGURES[name](runs)
        if drawing is None:
            print(f"{name}: the runs it needs are not there")
            continue
        written.append(drawing.save(out, name))
    for name, make in TABLES.items():
        table = make(runs)
        if not table.rows:
            print(f"{name}: the runs it needs are not there")
            continue
        write_text(out / f"{name}.txt", table.text())
        write_json(out / f"{name}.json", table.data())
        written.append(out / f"{name}.txt")
    return written


def redraw_all(folder: Path) -> list[Path]:
    """Paint the pictures of a folder, and of those in it, anew from the numbers beside them; the files.

    Raises:
        ValueError: There are none.
    """
    drawings = {path: drawn_before(path, PAINTS) for path in sorted(folder.rglob("*.json"))}
    written = [drawing.save(path.parent, path.stem) for path, drawing in drawings.items() if drawing is not None]
    if not written:
        raise ValueError(f"{folder} holds no numbers of a figure: expected the .json that lies beside each.")
    return written


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    source = parser.add_argument_group(groups.RUN).add_mutually_exclusive_group(required=True)
    source.add_argument("--runs", type=Path, help="folder below which runs are looked for")
    source.add_argument("--redraw", type=Path, help="folder whose pictures are painted anew from their .json")
    parser.add_argument_group(groups.OUTPUT).add_argument(
        "--out", type=output_folder, help="folder of figures and tables, needed with --runs"
    )
    arguments = parser.parse_args(argv)
    try:
        if arguments.runs and not arguments.out:
            raise ValueError("--runs needs --out, the folder of figures and tables.")
        written = draw_all(arguments.runs, arguments.out) if arguments.runs else redraw_all(arguments.redraw)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print("\n".join(map(str, written)))


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
