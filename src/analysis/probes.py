r"""Fit probes that tell true statements from false ones by what each layer holds of them, and say what they know.

    python src/analysis/probes.py --model_name_or_path models/smollm2-135m-instruct \
        --data animals_true_false.csv cities_true_false.csv facts_true_false.csv --out save/probes
    python src/analysis/probes.py --layers 2,4,8 --permute_labels --out save/probes_stories

Files have the columns `statement` and `label` (1 true, 0 false), a topic each (arXiv:2304.13734). What a probe reads is
a layer's state at the last token, or the logits of its exit, hashed to --hashed_logits numbers. The MLP is that of the
paper: 256, 128 and 64 units, five epochs. Statements are parted at random, and so that one topic is seen in the test
alone, each in turn. Held against them: the larger class, whether the model itself finds "True" or "False" likelier
behind the statement, and a threshold on the mean log-probability of its tokens. With --permute_labels nothing is left
to know, which is the control. Without --data statements are invented, in the words of the embedded model's stories.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from analysis.drawing import Drawing
from analysis.probe_features import FEATURES, Evidence, Question, Reader, statement_rows
from analysis.probe_fits import (
    CHOSEN,
    PROBES,
    RANDOM,
    UNSEEN,
    Split,
    baseline_outcomes,
    chosen_layer,
    fit_all,
    halves,
    numbers,
    permuted,
    pooled,
    probe_outcomes,
    splits,
)
from analysis.tables import Table
from analysis.truth_figures import paint_probes
from decoding.ranges import COUNT, FROM_TWO, Range, layers_named
from jobs.fitting import Part, rows_digest
from jobs.loading import load_config, load_model, load_tokenizer, model_settings, refuse_long_rows
from jobs.reading import spread
from tasks.statements import Statement, invented_statements, read_statements
from training.reporting import only_our_bars
from util import DecoderArguments, groups
from util.additional_args import flag
from util.arguments import build, choice_problems
from util.checks import raise_together
from util.compute_args import ComputeArguments
from util.files import folder_problem, write_json, write_text
from util.parser import ArgumentParser
from util.ranges import range_problems
from util.runs import digest, slug
from util.terminal import terminal

INVENTED = 480
TEST_SHARE = Range("numbers from 0.05 to 0.95", lambda value: 0.05 <= value <= 0.95)


@dataclass
class ProbeArguments(ComputeArguments):
    """What is read, what is fitted on it, and where the numbers go."""

    _argument_group_name = groups.DATA

    data: list[str] | None = field(
        default=None,
        metadata={
            "help": "Files of statements with their labels, a topic each: .csv, .json or .jsonl. Where not given "
            f"{INVENTED} invented statements."
        },
    )
    limit: int | None = flag(None, "Statements of each topic at most, spread evenly over its file.")
    features: str = flag(
        "hidden",
        f"What a probe reads: {FEATURES[0]}, a layer's state, or {FEATURES[1]}, its exit's log-probabilities, hashed.",
        group=groups.MEASUREMENT,
    )
    hashed_logits: int = flag(1024, "Of --features logits: how many numbers.", group=groups.MEASUREMENT)
    layers: str = flag("all", "Layers that are looked at: all, or such as 1,8.", group=groups.MEASUREMENT)
    probe: list[str] | None = field(
        default=None,
        metadata={"help": f"Probes, of {', '.join(PROBES)}; all where not given.", "group": groups.MEASUREMENT},
    )
    test_share: float = flag(0.25, "Of the statements parted at random, how many test.", group=groups.MEASUREMENT)
    permute_labels: bool = flag(
        False, "Give each topic's labels to others of its statements: the control.", group=groups.MEASUREMENT
    )
    batch_size: int = flag(16, "Statements that are read together.", group=groups.RUN)
    seed: int = flag(0, "What is parted, where probes begin, and how labels are permuted.", group=groups.RUN)
    out: str = flag("save/probes", "Folder of figures, tables and numbers.", group=groups.OUTPUT)

    def __post_init__(self) -> None:
        # One word after a flag of several stands alone.
        self.data = [self.data] if isinstance(self.data, str) else self.data
        self.probe = [self.probe] if isinstance(self.probe, str) else self.probe or list(PROBES)
        problems = range_problems(self, limit=COUNT, hashed_logits=FROM_TWO, test_share=TEST_SHARE)
        problems += choice_problems(self, "features", FEATURES)
        unknown = [name for name in self.probe if name not in PROBES]
        if unknown:
            problems.append(f"--probe {' '.join(unknown)}: valid are {', '.join(PROBES)}.")
        problems += self.compute_problems()
        if problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        raise_together(problems)

    @property
    def name(self) -> str:
        """Of the files: a control and other features may share a folder with what they belong to."""
        return "probes" + f"_{self.features}" * (self.features != FEATURES[0]) + "_permuted" * self.permute_labels

    def statements(self) -> dict[str, list[Statement]]:
        """Topic -> those asked for."""
        every = invented_statements(INVENTED) if self.data is None else read_statements(self.data)
        found: dict[str, list[Statement]] = {}
        for each in every:
            found.setdefault(each.topic, []).append(each)
        return {topic: [held[place] for place in spread(len(held), self.limit)] for topic, held in found.items()}


def read_all(
    args: ProbeArguments,
    by_topic: dict[str, list[Statement]],
    tokenizer: PreTrainedTokenizerBase,
    model,
    settings: dict,
) -> tuple[Evidence, dict]:
    """The evidence of all statements, topic by topic, each kept in a file, and what tells it from another's.

    Raises:
        ValueError: A statement is too long for the model.
    """
    question = Question.of(tokenizer)
    rows = {
        topic: statement_rows(held, tokenizer, question, model.config.is_encoder_decoder)
        for topic, held in by_topic.items()
    }
    for topic, each in rows.items():
        refuse_long_rows(model.config, each, f"A statement of {topic}")
    layers = layers_named(args.layers, "--layers", model.num_exit_layers)
    reader = Reader(model, question, layers, args.features, args.hashed_logits)
    settings = settings | {"features": [args.features, reader.size], "layers": list(layers)}
    found = []
    for topic, each in rows.items():
        part = Part(
            Path(args.out) / "features" / f"{args.features}_{slug(topic)}", settings | {"rows": rows_digest(each)}
        )
        found.append(reader.read(each, args.batch_size, part, f"Reading {topic}"))
    names = ("features", "token_log_p", "answer")
    joined = Evidence(*(torch.cat([getattr(each, name) for each in found]) for name in names))
    return joined, settings | {"rows": [rows_digest(each) for each in rows.values()]}


def all_numbers(
    evidence: Evidence,
    labels: np.ndarray,
    found: Sequence[Split],
    fits: dict,
    probes: Sequence[str],
    layers: Sequence[int],
    seed: int,
) -> list[dict]:
    """Of every split, and of all unseen topics together, the numbers of baselines and probes, see
    `probe_fits.numbers`. A probe's layer is chosen on the other half of a test at random, and on the other topics."""
    outcomes = {
        split.name: [
            *baseline_outcomes(evidence, labels, split),
            *(each for name in probes for each in probe_outcomes(fits, labels, split, name, layers)),
        ]
        for split in found
    }
    order = {RANDOM: outcomes.pop(RANDOM)}
    folds = {RANDOM: halves(len(order[RANDOM][0].test), seed)}
    if outcomes:
        order[UNSEEN] = pooled(list(outcomes.values()))
        folds[UNSEEN] = np.repeat(range(len(outcomes)), [len(held[0].test) for held in outcomes.values()])
    if len(layers) > 1:
        for split, each in folds.items():
            order[split] += [chosen_layer(order[split], name, each) for name in probes]
    order |= outcomes
    return [row for name, held in order.items() for row in numbers(name, held)]


# --------------------------------------------------------------------------------------------------------------- output
NOTE = (
    "Accuracies with 95% bootstrap intervals over n statements; over majority: points against calling every statement\n"
    "what most of those tested are, of its topic where topics are unseen, paired by statement. random: parted at\n"
    "random; unseen topics: each statement tested by a probe that was fitted on the other topics. chosen layer: the\n"
    "best one on the other half of the test, or on the other topics. train loss: cross entropy in nats.\n"
)


def sentences(rows: Sequence[dict], probes: Sequence[str]) -> str:
    """What each probe comes to at a layer that other statements choose, on each of the two ways to part."""
    said = []
    for split in (RANDOM, UNSEEN):
        for name in probes:
            for row in rows:
                if (row["split"], row["name"], row["layer"]) == (split, name, CHOSEN):
                    chosen = ", ".join(map(str, sorted(set(row["chosen"]))))
                    more = f"{row['over_majority']['value']:+.3f} ({_interval(row['over_majority'], '+')})"
                    told = f"{row['test_accuracy']['value']:.3f}, {more} over the majority"
                    said.append(f"{split}: {name} at the layer that other statements choose ({chosen}): {told}.")
    return "\n".join(said) + "\n"


def _interval(found: dict, sign: str = "") -> str:
    low, high = found["interval"]
    return f"{low:{sign}.3f} to {high:{sign}.3f}" if np.isfinite(low) else "-"


def table(title: str, rows: Sequence[dict], told: str) -> Table:
    """A row per way to tell, of the two ways to part."""
    head = ["split", "by", "layer", "n", "train loss"]
    head += [cell for name in ("train", "test", "over majority") for cell in (name, f"95% interval of {name}")]
    cells = [_row(row) for row in rows if row["split"] in (RANDOM, UNSEEN)]
    return Table(title, head, cells, [], f"{told}\n{NOTE}")


def _row(row: dict) -> list[str]:
    loss, train = row["train_loss"], row["train_accuracy"]
    cells = [row["split"], row["name"], _layer(row), str(row["n"]), "-" if loss is None else f"{loss:.3f}"]
    cells += ["-", "-"] if train is None else [f"{train['value']:.3f}", _interval(train)]
    cells += [f"{row['test_accuracy']['value']:.3f}", _interval(row["test_accuracy"])]
    return [*cells, f"{row['over_majority']['value']:+.3f}", _interval(row["over_majority"], "+")]


def _layer(row: dict) -> str:
    return "-" if row["layer"] is None else str(row["layer"])


def topic_table(title: str, rows: Sequence[dict], topics: Sequence[str]) -> Table:
    """A row per way to tell, a column per topic that it had not seen."""
    by_topic = [[row for row in rows if row["split"] == topic] for topic in topics]
    cells = [
        [each[0]["name"], _layer(each[0])]
        + [f"{row['test_accuracy']['value']:.3f} ({_interval(row['test_accuracy'])})" for row in each]
        for each in zip(*by_topic, strict=True)
    ]
    head = ["by", "layer", *(f"{topic} (n = {held[0]['n']})" for topic, held in zip(topics, by_topic, strict=True))]
    return Table(title, head, cells, [], "Accuracy with its 95% bootstrap interval over the topic's statements.\n")


def write(args: ProbeArguments, title: str, rows: list[dict], topics: Sequence[str]) -> str:
    """All files, each whole; the table."""
    folder, name = Path(args.out), args.name
    told = sentences(rows, args.probe)
    found = {name: table(title, rows, told)}
    if len(topics) > 1:
        found[f"{name}_by_topic"] = topic_table(f"{title}: topics that were not seen", rows, topics)
    for file, each in found.items():
        write_text(folder / f"{file}_table.txt", each.text())
        write_json(folder / f"{file}_table.json", each.data())
    write_json(folder / f"{name}_numbers.json", rows)
    parts = [split for split in (RANDOM, UNSEEN) if any(row["split"] == split for row in rows)]
    # Which layer is chosen the table says: among so many lines one more is lost.
    painted = [row for row in rows if row["layer"] != CHOSEN and row["split"] in parts]
    shown = {"rows": painted, "splits": parts, "training": True, "columns": 2}
    note = (
        "Share of statements that are told right to be true or false. random: parted at random; unseen topics: fitted "
        "on the other topics. Lines across read no layer, or are the majority vote of a probe's layers. What a probe "
        "knows beyond its baselines, the layer holds; accuracy and loss on the training part say how much of it is "
        "learned by heart. Bars are 95% bootstrap intervals over statements"
    )
    note = f"LABELS ARE PERMUTED, so that nothing can be known. {note}" if args.permute_labels else note
    size = f"n = {sum(row['n'] for row in rows if row['split'] == parts[-1] and row['name'] == rows[0]['name'])} tested"
    Drawing(title, paint_probes, shown, note, [], size).save(folder, name)
    if len(topics) > 1:
        shown = {"rows": [row for row in rows if row["split"] in topics], "splits": list(topics)}
        shown |= {"training": False, "columns": 3}
        Drawing(f"{title}: topics that were not seen", paint_probes, shown, note, [], size).save(
            folder, f"{name}_by_topic"
        )
    return found[name].text()


def main(argv: list[str] | None = None) -> list[dict]:
    """The numbers of every split, see `all_numbers`."""
    classes = (DecoderArguments, ProbeArguments)
    parser = ArgumentParser(classes, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    only_our_bars()
    try:
        model_args, args = build(classes, parser.given(sys.argv[1:] if argv is None else list(argv)))
        by_topic = args.statements()
        statements = [each for held in by_topic.values() for each in held]
        topics = [each.topic for each in statements]
        labels = np.array([each.label for each in statements])
        if args.permute_labels:
            labels = permuted(topics, labels, args.seed)
        found = splits(topics, labels, args.test_share, args.seed)
        config = load_config(model_args, encoder=None)
        tokenizer = load_tokenizer(model_args)
        model = load_model(model_args, config, args.torch_dtype, device=args.torch_device).eval()
        settings = model_settings(model_args, model) | {"dtype": args.dtype}
        evidence, settings = read_all(args, by_topic, tokenizer, model, settings)
        settings |= {"labels": digest(labels.tolist()), "seed": args.seed, "test_share": args.test_share}
        fits = fit_all(
            evidence, labels, found, args.probe, args.seed, Part(Path(args.out) / f"{args.name}_fits", settings)
        )
        rows = all_numbers(evidence, labels, found, fits, args.probe, settings["layers"], args.seed)
        title = f"Probes of what {Path(model_args.model_name_or_path).name} knows to be true, by layer"
        text = write(
            args, f"{title} ({args.features})" + ", labels permuted" * args.permute_labels, rows, list(by_topic)
        )
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"{text}\nFigures and tables: {args.out}")
    return rows


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
