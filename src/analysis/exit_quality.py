r"""Measure what the exits of a checkpoint are worth, layer by layer over real text, and say what to do about it.

    python src/analysis/exit_quality.py --model_name_or_path models/smollm2-135m-instruct \
        --validation_file passages.jsonl --text_column context --out save/exits
    python src/analysis/exit_quality.py --model_name_or_path src/assets/t5_exits_trained \
        --dataset_name invented_dialogues --source_prefix "summarize: " --out save/exits_t5

The first thing to run on a new checkpoint. Texts are read under teacher forcing, in one pass; of a task its answers.
By layer: the share of tokens that are the last layer's, perplexity, divergence from the last layer, whether confidences
know what is right (AUROC, calibration), how many rows pruning has to keep, and how many tokens a contrast finds
plausible. Intervals are over texts. Without a file or a data set, texts are the invented stories.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import csv
import io
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from analysis import calibration, exit_thresholds, intervals
from analysis.drawing import Drawing
from analysis.exit_advice import RANKS, advice, prices_of, rank_label, right_where_sure
from analysis.exit_figures import label_of, paint_exits, paint_reliability
from analysis.exit_values import ExitValues, exit_values
from analysis.tables import Table
from decoding.confidence import CONFIDENCES
from decoding.ranges import COUNT, FROM_TWO, SHARE, layers_named
from jobs.loading import load_config, load_model, load_tokenizer, prompt_ids, refuse_long_blocks, refuse_long_rows
from jobs.reading import ReadingArguments, answer_row, distinct, rows_of
from tasks import find_task, load_examples
from tasks.loading import SPLIT_FILES
from tasks.readers import read_records
from training.reporting import only_our_bars
from util import DecoderArguments, groups
from util.additional_args import flag
from util.arguments import build
from util.checks import raise_together
from util.files import folder_problem, jsonable, write_json, write_text
from util.parser import ArgumentParser
from util.ranges import range_problems
from util.terminal import terminal

# It compares whole distributions of all layers below, at every layer: thirty times the time of all others.
SLOW = ("JSD_contrastive_text",)
MEASURES = [name for name, row in CONFIDENCES.items() if not row.looks_ahead]
SHOWN_LAYERS = 6


@dataclass
class QualityArguments(ReadingArguments):
    """What is read, how much of it, and where the numbers go."""

    validation_file: str | None = flag(None, "Texts, or examples of --kind: a .json, .jsonl, .csv or .txt file.")
    text_column: str | None = flag(None, "Column of the texts, or of what is summarized; text or the like.")
    answers: str | None = flag(
        None,
        "What a model wrote instead of texts: the .jsonl of generate.py --prompt_file, or of fit_translators.py "
        "--own_answers. The answers' tokens count, behind their prompts.",
    )
    texts: int = flag(100, "Texts read at most, each different one once.")
    positions: int = flag(2000, "Tokens of them at which layers are looked at, at most, spread evenly.")
    measures: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Confidences, of {', '.join(MEASURES)}; where not given all that the model has, without "
            f"{', '.join(SLOW)}, which takes many times as long as all others.",
            "group": groups.MEASUREMENT,
        },
    )
    exit_layers: str | None = flag(
        None,
        "Layers that a token may leave after in the trade-off over thresholds, such as 10,20; all below the last where "
        "not given.",
        group=groups.MEASUREMENT,
    )
    contrastive_alpha: float = flag(
        0.1,
        "A token is plausible that is at least so many times as likely as the likeliest.",
        group=groups.MEASUREMENT,
    )
    batch_size: int = flag(4, "Texts that are read together.", group=groups.RUN)
    out: str = flag("save/exit_quality", "Folder of figures, tables and numbers.", group=groups.OUTPUT)

    def __post_init__(self) -> None:
        problems = range_problems(self, texts=COUNT, positions=FROM_TWO, contrastive_alpha=SHARE)
        problems += self.reading_problems()
        if self.answers and (self.validation_file or self.dataset_name):
            problems.append("--answers stands for the texts: give no --validation_file and no --dataset_name beside.")
        if self.answers and not Path(self.answers).is_file():
            problems.append(f"--answers {self.answers}: there is no such file.")
        unknown = [name for name in self.measures or () if name not in MEASURES]
        if unknown:
            problems.append(f"--measures {' '.join(unknown)}: valid are {', '.join(MEASURES)}.")
        if problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        raise_together(problems)

    def data_args(self):
        """Of the kind's run script."""
        given = {"validation_file": self.validation_file, "text_column": self.text_column}
        if self.dataset_name is None and self.validation_file is None and self.kind is None:
            given["dataset_name"] = "invented_stories"
        return self.data_args_of(given)


# ---------------------------------------------------------------------------------------------------------------- data
def load_rows(
    args: QualityArguments, tokenizer: PreTrainedTokenizerBase, config: Any, source: dict
) -> tuple[str, Dataset]:
    """The task's name and its rows as for training a model of this config: texts, or the answers of examples.

    Args:
        source: Where the hub's data sets are kept and by which token they are read.
    """
    data_args = args.data_args()
    task = find_task(args.found_kind, data_args)
    examples = load_examples(task, data_args, "validation", **source)
    examples = distinct(examples)
    examples = examples.select(range(min(args.texts, len(examples))))
    name = task.name if args.validation_file is None else _name_of(Path(args.validation_file))
    name += f" ({args.text_column})" if args.text_column else ""
    return name, rows_of(task, examples, tokenizer, data_args, config)


def answered_rows(args: QualityArguments, tokenizer: PreTrainedTokenizerBase, config: Any) -> Dataset:
    """Rows of the answers of a file, of which only these count.

    Raises:
        ValueError: They are none, or of another vocabulary or longer than the model of this config reads.
    """
    records = [each for each in read_records(args.answers) if each.get("tokens")]
    if not records or not all(isinstance(each.get("prompt"), str) for each in records):
        raise ValueError(
            f"--answers {args.answers}: valid are records with a prompt and tokens, as generate.py --out writes them."
        )
    records = records[: args.texts]
    valid = range(config.get_text_config().vocab_size)
    if not all(type(token) is int and token in valid for each in records for token in each["tokens"]):
        raise ValueError(
            f"--answers {args.answers}: tokens are no numbers from 0 to {len(valid) - 1}, so they are another model's."
        )
    asked = [(prompt_ids(tokenizer, each["prompt"]), each["tokens"]) for each in records]
    rows = Dataset.from_list([answer_row(prompt, answer, config.is_encoder_decoder) for prompt, answer in asked])
    refuse_long_rows(config, rows, "An answer")
    return rows


def _name_of(file: Path) -> str:
    """That of its folder where the file's is that of a split."""
    return file.resolve().parent.name if file.stem in SPLIT_FILES else file.stem


# -------------------------------------------------------------------------------------------------------------- numbers
Quantity = dict[str, float | tuple[float, float]]


def summary(values: ExitValues, vocabulary: int) -> list[dict]:
    """Of every layer from 1 its numbers, each a `value` with an `interval` over texts.

    equal, perplexity, divergence; rank: quantiles of the rank of the last layer's token; plausible: the share of the
    vocabulary, and of positions where one token alone is; auroc, ece: by measure, of layers below the last;
    reliability: by measure, bin by bin.
    """
    weights = intervals.resamples(values.rows)

    def quantity(statistic: calibration.Statistic) -> Quantity:
        value = statistic(np.ones((1, len(values.rows))))[0]
        return {"value": float(value), "interval": intervals.of_statistic(statistic, weights)}

    return [_of_layer(values, layer, vocabulary, quantity) for layer in range(1, values.layers + 1)]


def _of_layer(
    values: ExitValues, layer: int, vocabulary: int, quantity: Callable[[calibration.Statistic], Quantity]
) -> dict:
    place = layer - 1
    equal, rank, plausible = (column[:, place] for column in (values.equal, values.rank, values.plausible))
    found = {
        "layer": layer,
        "equal": quantity(calibration.mean(equal)),
        "perplexity": quantity(calibration.exponential(values.loss[:, place])),
        "divergence": quantity(calibration.mean(values.divergence[:, place])),
        "rank": {rank_label(share): quantity(calibration.quantile(rank, share)) for share in RANKS},
        "plausible": {
            "plausible rows": quantity(calibration.mean(plausible / vocabulary)),
            "positions with one": quantity(calibration.mean(plausible == 1)),
        },
    }
    said = {} if layer == values.layers else {name: each[:, place] for name, each in values.confidences.items()}
    said = {name: each for name, each in said.items() if not np.isnan(each).any()}
    found["auroc"] = {name: quantity(calibration.auroc(each, equal)) for name, each in said.items()}
    found["ece"] = {name: quantity(calibration.ece(each, equal)) for name, each in said.items()}
    found["reliability"] = {
        name: [
            {"confidence": confidence, "positions": count, "right": quantity(right)}
            for confidence, count, right in calibration.reliability(each, equal)
        ]
        for name, each in said.items()
    }
    return found


def trade_off(values: ExitValues, exit_layers: Sequence[int], measures: Sequence[str]) -> dict:
    """What thresholds promise: the layers that tokens may leave after, of all `depth`, by measure the
    `exit_thresholds.points`, and a sentence as `told`."""
    weights = intervals.resamples(values.rows)
    found = {name: exit_thresholds.points(values, name, exit_layers, weights) for name in measures}
    told = exit_thresholds.told(found, exit_layers, values.layers)
    return {"exit_layers": [*exit_layers], "depth": values.layers, "measures": found, "told": told}


# --------------------------------------------------------------------------------------------------------------- output
HEAD = ["layer", "equal", "95% interval", "perplexity", "KL", *(f"rank {share:.0%}" for share in RANKS)]
HEAD += ["plausible", "one alone"]
# Of every measure.
SCORES = ("AUROC", "ECE", "right if sure:")


def table(title: str, layers: Sequence[dict], measures: Sequence[str], note: str) -> Table:
    """A row per layer."""
    scored = [name for name in measures if any(name in each["auroc"] for each in layers)]
    head = [*HEAD, *(f"{score} {label_of(name)}" for name in scored for score in SCORES)]
    return Table(title, head, [_row(each, scored) for each in layers], [], note)


def _row(each: dict, measures: Sequence[str]) -> list[str]:
    low, high = each["equal"]["interval"]
    ranks = [f"{rank['value']:.0f}" for rank in each["rank"].values()]
    rows, alone = (share["value"] for share in each["plausible"].values())
    cells = [str(each["layer"]), f"{each['equal']['value']:.3f}", f"{low:.3f} to {high:.3f}"]
    cells += [f"{each['perplexity']['value']:.4g}", f"{each['divergence']['value']:.3f}", *ranks]
    cells += [f"{rows:.2g}", f"{alone:.3f}"]
    for name in measures:
        scores = [each[score].get(name, {}).get("value") for score in ("auroc", "ece")]
        cells += map(_cell, [*scores, right_where_sure(each["reliability"].get(name, ()))])
    return cells


def _cell(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and np.isfinite(value) else "-"


def as_csv(layers: Sequence[dict]) -> str:
    """A line per number: layer, what it is and of what, value, and both ends of its interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "quantity", "of", "value", "low", "high"])
    for each in layers:
        for name, held in each.items():
            if name in ("layer", "reliability"):
                continue
            for of, quantity in ({"": held} if "value" in held else held).items():
                writer.writerow([each["layer"], name, of, quantity["value"], *quantity["interval"]])
    return text.getvalue()


def drawings(title: str, layers: Sequence[dict], told: str, examples: str) -> dict[str, Drawing]:
    """File -> figure: the numbers of all layers, and reliability at a few."""
    plain = [{name: held for name, held in each.items() if name != "reliability"} for each in layers]
    places = np.unique(np.linspace(0, len(layers) - 2, SHOWN_LAYERS).round().astype(int))
    shown = [{name: layers[place][name] for name in ("layer", "reliability")} for place in places]
    bars = "Bars are 95% bootstrap intervals over texts"
    line = "Right is what the last layer says; on the line a measure is as sure as it is right"
    return {
        "exit_quality": Drawing(title, paint_exits, {"layers": plain}, f"{told.rstrip('.')}. {bars}", [], examples),
        "reliability": Drawing(
            f"{title}: sure and right", paint_reliability, {"layers": shown}, f"{line}. {bars}", [], examples
        ),
    }


def write(folder: Path, found: Table, layers: Sequence[dict], figures: dict[str, Drawing]) -> None:
    """All files, each whole."""
    write_text(folder / "table.txt", found.text())
    write_json(folder / "table.json", found.data())
    write_text(folder / "layers.csv", as_csv(layers))
    write_json(folder / "layers.json", jsonable(list(layers)))
    for name, drawing in figures.items():
        drawing.save(folder, name)


def chosen_measures(asked: list[str] | None, model, name: str) -> list[str]:
    """The measures asked for, else all that are not slow and that the model has."""
    trained = getattr(model, "cm_head", None) is not None
    lacking = [each for each in asked or () if CONFIDENCES[each].reads_head and not trained]
    if lacking:
        raise ValueError(f"--measures {lacking[0]}: {name} has no trained confidence head.")
    return asked or [each for each in MEASURES if each not in SLOW and (trained or not CONFIDENCES[each].reads_head)]


def main(argv: list[str] | None = None) -> list[dict]:
    """The numbers of every layer, see `summary`."""
    classes = (DecoderArguments, QualityArguments)
    parser = ArgumentParser(classes, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    only_our_bars()
    try:
        model_args, args = build(classes, parser.given(sys.argv[1:] if argv is None else list(argv)))
        texts = args.found_kind == "language_modeling"
        config = load_config(model_args, encoder=None if args.answers else not texts)
        if texts and not args.answers:
            refuse_long_blocks(config, args.block_size)
        tokenizer = load_tokenizer(model_args)
        if args.answers:
            task, rows = "its answers", answered_rows(args, tokenizer, config)
        else:
            source = {"cache_dir": model_args.cache_dir, "token": model_args.token}
            task, rows = load_rows(args, tokenizer, config, source)
        model = load_model(model_args, config, torch.float32).eval()
        if model.num_exit_layers < 2:
            raise ValueError(f"{model_args.model_name_or_path} has one layer, so there is no exit below its last.")
        exits = layers_named(args.exit_layers or "all", "--exit_layers", model.num_exit_layers)
        exits = [layer for layer in exits if layer < model.num_exit_layers]
        if not exits:
            raise ValueError(
                f"--exit_layers {args.exit_layers}: valid are layers below the last, 1 to {model.num_exit_layers - 1}."
            )
        measures = chosen_measures(args.measures, model, model_args.model_name_or_path)
        values = exit_values(model, rows, args.batch_size, args.positions, measures, args.contrastive_alpha)
        vocabulary = model.unembed().vocabulary_size
        layers = summary(values, vocabulary)
        thresholds = trade_off(values, exits, measures)
        told = f"{advice(layers, vocabulary, prices_of(model))} {thresholds.pop('told')}"
        title = f"What the exits of {Path(model_args.model_name_or_path).name} are worth on {task}"
        size = f"{len(values.rows)} positions of {len(set(values.rows.tolist()))} texts"
        found = table(f"{title}; {size}", layers, measures, told + "\n")
        write_json(Path(args.out) / "thresholds.json", jsonable(thresholds))
        write(Path(args.out), found, layers, drawings(title, layers, told, f"n = {size}"))
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{found.text()}\nFigures and tables: {args.out}")
    return layers


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
