r"""Measure what contrasting layers does to answers: strategies against the model as it is, on TruthfulQA and the like.

    python src/run_truthfulqa.py --strategies vanilla dola --out save/invented
    python src/run_truthfulqa.py --model_name_or_path models/smollm2-135m-instruct --data TruthfulQA.csv --limit 100 \
        --strategies vanilla dola dola_static acd contrastive --out save/truthfulqa

Questions give MC1, MC2 and MC3 and, of generated answers, BLEU and ROUGE against right and wrong ones; --factor_file,
--gsm8k_file and --prompt_file add completions to choose from, numbers to find, and text to continue, whose repetition
and diversity are measured. Every score has an interval, and its difference from vanilla is paired by example. A command
that was killed goes on where it was. Without any file, the small GPT-2 of this repository answers invented questions.
"""

import interrupts  # noqa: F401 - before what takes time

import logging
import sys
from dataclasses import asdict
from pathlib import Path

from analysis.drawing import Drawing
from analysis.strategies import Row, caption, numbers, paint_strategies, summary, table
from jobs.truthful import Comparison
from training.reporting import only_our_bars
from util import DecoderArguments
from util.arguments import build
from util.files import write_json, write_text
from util.parser import ArgumentParser
from util.terminal import terminal
from util.truthful_args import TruthfulArguments


def main(argv: list[str] | None = None) -> list[Row]:
    """Every score of every strategy. Exits with 2 after a sentence on what is wrong."""
    classes = (DecoderArguments, TruthfulArguments)
    parser = ArgumentParser(classes, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    only_our_bars()
    try:
        model_args, args = build(classes, parser.given(sys.argv[1:] if argv is None else list(argv)))
        results = Comparison(model_args, args).run()
        rows, out = summary(results), Path(args.out)
        data = Path(args.data).stem if args.data else "invented questions"
        title = f"Strategies of {Path(model_args.model_name_or_path).name}"
        title += f" on {data}" if {"choices", "answers"} & set(args.tests) else ""
        found = table(title, rows, results.remarks)
        write_text(out / "table.txt", found.text())
        write_json(out / "table.json", found.data())
        write_json(out / "scores.json", {"rows": [asdict(row) for row in rows], "examples": results.scores})
        drawing = Drawing(title, paint_strategies, numbers(rows), caption(rows, results.remarks))
        drawing.save(out, "strategies")
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{found.text()}\nTable, figure, answers and likelihoods: {out}")
    return rows


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
