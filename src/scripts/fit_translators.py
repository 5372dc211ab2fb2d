r"""Fit translators to the exits of a checkpoint that stays as it is, in one pass over text.

    python src/scripts/fit_translators.py --model_name_or_path models/smollm2-135m-instruct \
        --text passages.jsonl dialogues.jsonl --text_column context dialogue --out save/translators.safetensors
    python src/scripts/fit_translators.py --model_name_or_path src/assets/t5_exits_untrained \
        --dataset_name invented_dialogues --source_prefix "summarize: " --out save/translators_t5.safetensors

The first thing to try on a checkpoint whose exits say nothing (src/analysis/exit_quality.py): an affine map of each
layer's states to the last layer's, in closed form (Din et al., arXiv:2303.09435). The file is for --exit_translators of
every script that decodes. Memory holds the model, one batch, and 16 D^2 bytes a layer. A command that was killed goes
on where it was. By layer it prints what was gained on text that was held out. Beside the file lie the tokens of the
text by frequency (for --frequent_tokens) and these numbers.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import copy
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.exit_values import ExitValues, exit_values
from analysis.tables import Table
from decoding.ranges import COUNT, FROM_TWO, NATURAL, POSITIVE
from jobs.fitting import (
    Part,
    Rows,
    answer_rows,
    count_labels,
    rows_digest,
    sums_over,
    text_rows,
    together,
    told_text,
    train_on,
)
from jobs.generating import Generator, write_all_quietly
from jobs.loading import as_prompt, load_config, load_model, load_tokenizer, refuse_long_blocks
from jobs.reading import ReadingArguments
from models import deploying_class
from models.translators import ExitTranslators, attach_translators, fingerprint, save_translators
from tasks.readers import read_records
from training.reporting import only_our_bars
from training.translator_fit import TranslatorFit
from training.translators import NotFinite, TranslatorTraining
from util import AdditionalArguments, DecoderArguments, ModelArguments, groups
from util.additional_args import flag
from util.arguments import build
from util.checks import raise_together
from util.compute_args import ComputeArguments
from util.files import file_problem, write_json, write_text
from util.generate_args import GenerateArguments
from util.parser import ArgumentParser
from util.ranges import SEED, range_problems
from util.runs import digest
from util.terminal import terminal

STRATEGIES = ("sample", "greedy")


@dataclass
class FitArguments(ReadingArguments, ComputeArguments):
    """What is fitted on, which layers, and where the result goes."""

    text: list[str] | None = field(
        default=None,
        metadata={"help": "Texts, or examples of --kind: .json, .jsonl, .csv or .txt files, a text a line."},
    )
    text_column: list[str] | None = field(
        default=None,
        metadata={"help": "Columns of the texts: of each file the first of these that it has; text or the like else."},
    )
    held_out: list[str] | None = field(
        default=None,
        metadata={"help": "Files of texts to measure on; a tenth of the texts, 100 at most, where not given."},
    )
    tokens: int = flag(100_000, "Tokens of --text or --dataset_name that are fitted on at most, drawn from all of it.")
    own_answers: str | None = flag(
        None,
        "Let the model write what is fitted on: a file of prompts, .txt with one per line or with a 'prompt' (or "
        "--text_column), answered at full depth, behind its chat template where it has one. Alone or beside --text.",
        group=groups.PROMPTS,
    )
    max_new_tokens: int = flag(128, "Of --own_answers: tokens of an answer at most.", group=groups.PROMPTS)
    strategy: str = flag(
        "sample",
        "Of --own_answers: sample, since small models repeat themselves when greedy and what repeats teaches little; "
        "or greedy.",
        group=groups.PROMPTS,
    )
    temperature: float = flag(1.0, "Of --strategy sample: divides the logits.", group=groups.PROMPTS)
    seed: int = flag(0, "Of --strategy sample: what is drawn.", group=groups.PROMPTS)
    layers: list[str] | None = field(
        default=None,
        metadata={
            "help": "Layers that get a translator, such as 10 20 or 10,20; all below the last where not given.",
            "group": groups.TRAINING,
        },
    )
    then_kl: int = flag(
        0,
        "Train on for so many steps, by the divergence of each exit from the model's last layer (arXiv:2303.08112).",
        group=groups.TRAINING,
    )
    step_positions: int = flag(
        384, "Of --then_kl: tokens of a step at most, spread over --batch_size texts.", group=groups.TRAINING
    )
    learning_rate: float = flag(
        1e-3, "Of --then_kl: of AdamW, at first; it falls in a line to zero.", group=groups.TRAINING
    )
    positions: int = flag(
        1000, "Tokens of what is held out at which layers are looked at, at most.", group=groups.MEASUREMENT
    )
    batch_size: int = flag(8, "Texts that are read, or prompts that are answered, together.", group=groups.RUN)
    out: str = flag("save/translators.safetensors", "The file of translators, safetensors.", group=groups.OUTPUT)

    def __post_init__(self) -> None:
        for name in ("text", "text_column", "held_out", "layers"):
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, str) else value)
        own = {"then_kl": NATURAL, "step_positions": COUNT, "learning_rate": POSITIVE, "positions": FROM_TWO}
        problems = [*range_problems(self, **own, seed=SEED), *self.reading_problems(), *self.compute_problems()]
        if self.strategy not in STRATEGIES:
            problems.append(f"--strategy {self.strategy}: valid are {', '.join(STRATEGIES)}.")
        raise_together([*problems, *self._file_problems()])

    def _file_problems(self) -> list[str]:
        problems = []
        if not self.reads_texts and self.own_answers is None:
            problems.append("There is nothing to fit on: give --text FILE, --dataset_name or --own_answers PROMPTS.")
        for name in ("text", "held_out", "own_answers"):
            given = getattr(self, name) or []
            for file in [given] if isinstance(given, str) else given:
                if not Path(file).is_file():
                    problems.append(f"--{name} {file}: there is no such file.")
        if problem := file_problem(self.out):
            problems.append(f"--out {problem}")
        if Path(self.out).suffix != ".safetensors":
            problems.append(f"--out {self.out}: it is a file of safetensors, and its name has to end in .safetensors.")
        return problems

    @classmethod
    def hidden_flags(cls) -> dict[str, str | None]:
        """What this script makes is not given to it."""
        return {"exit_translators": None}

    @property
    def reads_texts(self) -> bool:
        """Whether there is text beside the model's own answers."""
        return bool(self.text) or self.dataset_name is not None

    @property
    def text_columns(self) -> list[str]:
        """Columns of texts, the surest first."""
        return self.text_column or []

    def beside(self, ending: str) -> Path:
        """A file that lies beside the result."""
        out = Path(self.out)
        return out.with_name(f"{out.stem}.{ending}")

    def layers_of(self, depth: int) -> list[int]:
        """The layers that are fitted in a decoder of so many.

        Raises:
            ValueError: One of them is not there, or is the last.
        """
        words = ",".join(self.layers or map(str, range(1, depth))).replace(" ", ",").split(",")
        found = [int(word) for word in words if word.isdecimal() and 1 <= int(word) < depth]
        if len(found) < len(words):
            raise ValueError(
                f"--layers {' '.join(self.layers)}: valid are layers from 1 to {depth - 1} such as 1,{depth - 1}; the "
                "last one needs no translator."
            )
        return sorted(set(found))


class Fitting:
    """A model, what it is fitted on, and the stages of a command. What cannot be used is refused while it is made."""

    def __init__(self, model_args: ModelArguments, args: FitArguments):
        self.model_args, self.args = model_args, args
        if model_args.exit_translators is not None:
            raise ValueError(f"--exit_translators {model_args.exit_translators}: they are made here; give --out.")
        generator = self._generator() if args.own_answers else None
        texts = args.found_kind == "language_modeling"
        config = generator.model.config if generator else load_config(model_args, encoder=not texts)
        self.layers = self._layers(config)
        if texts:
            refuse_long_blocks(config, args.block_size)
        self.tokenizer = generator.tokenizer if generator else load_tokenizer(model_args)
        rows = [self._text_rows(config)] if args.reads_texts else []
        self.model = generator.model if generator else self._load(config)
        rows += [self._answers(generator)] if generator else []
        self.rows: Rows = together(rows)
        settings = [fingerprint(self.model), self.layers, rows_digest(self.rows.fitted), args.dtype]
        self.part = Part(Path(args.out), {"fit": digest(settings)})

    def _layers(self, config: Any) -> list[int]:
        depth = deploying_class(config).adapter_class.count_layers(config)
        if depth < 2:
            name = self.model_args.model_name_or_path
            raise ValueError(f"{name} has one layer, so there is no exit below its last.")
        return self.args.layers_of(depth)

    def _generator(self) -> Generator:
        args = self.args
        drawn = {"strategy": args.strategy, "temperature": args.temperature, "seed": args.seed}
        numbers = {"max_new_tokens": args.max_new_tokens, "batch_size": args.batch_size}
        where = {"dtype": args.dtype, "device": args.device, "prompt_file": args.own_answers}
        flags = GenerateArguments(**drawn, **numbers, **where), AdditionalArguments()
        return Generator(self.model_args, *flags, prompts=self._prompts())

    def _load(self, config: Any) -> Any:
        return load_model(self.model_args, config, self.args.torch_dtype, device=self.args.torch_device).eval()

    def _text_rows(self, config: Any) -> Rows:
        source = {"cache_dir": self.model_args.cache_dir, "token": self.model_args.token}
        return text_rows(self.args, self.tokenizer, config, source)

    def _answers(self, generator: Generator) -> Rows:
        prompts = [as_prompt(self.tokenizer, prompt) for prompt in self._prompts()]
        found = write_all_quietly(generator, prompts, self.args.beside("answers.jsonl"))
        return answer_rows(found, self.model.config.is_encoder_decoder)

    def _prompts(self) -> list[str]:
        file = self.args.own_answers
        columns = ["text"] if file.lower().endswith(".txt") else ["prompt", *self.args.text_columns]
        records = read_records(file)
        column = next((name for name in columns if isinstance(records[0].get(name), str)), None)
        if column is None or not all(isinstance(record.get(column), str) for record in records):
            raise ValueError(
                f"--own_answers {file}: every record needs a text as its {' or '.join(map(repr, columns))}."
            )
        return [record[column] for record in records]

    # --------------------------------------------------------------------------------------------------------- stages
    def closed_form(self) -> tuple[TranslatorFit, ExitTranslators]:
        """The sums over the text, and the translators that they make."""
        try:
            fit = sums_over(self.model, self.rows.fitted, self.layers, self.args.batch_size, self.part)
        except NotFinite as error:
            told = told_text(error.input_ids, self.tokenizer, self.args.text or ())
            raise ValueError(f"Nothing can be fitted: {error} in {told}.") from None
        solved = fit.solve()
        return fit, ExitTranslators.of({layer: (a.float(), b.float()) for layer, (a, b) in solved.items()})

    def train(self, translators: ExitTranslators) -> None:
        """The steps of --then_kl."""
        args = self.args
        numbers = args.batch_size, args.step_positions, args.then_kl, args.learning_rate
        training = TranslatorTraining(self.model, translators, self.rows.fitted, *numbers)
        train_on(training, self.part, digest(numbers))

    def save(self, translators: ExitTranslators) -> None:
        """The file of translators, whole."""
        save_translators(self.args.out, translators, self.model)

    def exits(self, translators: ExitTranslators | None) -> ExitValues:
        """What layers say of the text that was held out."""
        self.model.exit_translators = None
        if translators is not None:
            attach_translators(self.model, copy.deepcopy(translators))
        return exit_values(self.model, self.rows.held_out, self.args.batch_size, self.args.positions, ())


# --------------------------------------------------------------------------------------------------------------- output
NUMBERS = {"equal": ("equal", "{:.3f}"), "divergence": ("KL", "{:.3f}"), "perplexity": ("perplexity", "{:.4g}")}


def numbers(values: ExitValues) -> dict[str, np.ndarray]:
    """By layer: the share of tokens that are the last layer's, the divergence from it in nats, and perplexity."""
    found = {"equal": values.equal, "divergence": values.divergence, "perplexity": values.loss}
    means = {name: each.mean(0, dtype=np.float64) for name, each in found.items()}
    return means | {"perplexity": np.exp(np.minimum(means["perplexity"], 700.0))}


def table(title: str, fit: TranslatorFit, found: dict[str, dict[str, np.ndarray]], note: str) -> Table:
    """A row per layer that has a translator, and the last.

    Args:
        found: What the exits are like ("as it is", ...) -> their `numbers`.
    """
    depth = len(found["as it is"]["equal"])
    head = ["layer", *(f"{label} {state}" for label, _ in NUMBERS.values() for state in found), "left out"]
    rows = []
    for layer in (*fit.layers, depth):
        left_out = dict(zip(fit.layers, fit.left_out.tolist(), strict=True))
        cells = [form.format(held[name][layer - 1]) for name, (_, form) in NUMBERS.items() for held in found.values()]
        rows.append([str(layer), *cells, str(left_out.get(layer, "-"))])
    return Table(title, head, rows, [], note)


def note_of(fit: TranslatorFit) -> str:
    """What the columns mean, and a warning where there was too little text."""
    said = "equal: tokens that are the last layer's; KL: from the last layer, in nats; left out: positions of huge norm"
    few = int(fit.counts.min())
    if few >= fit.width:
        return f"{said}.\n"
    return (
        f"{said}.\nWarning: {few} positions are fewer than the width {fit.width}, so the ridge alone decides what they "
        "leave open: give more text.\n"
    )


def title_of(model_args: ModelArguments, rows: Rows, fit: TranslatorFit, values: ExitValues) -> str:
    texts = len(set(values.rows.tolist()))
    seen = int(fit.counts[0] + fit.left_out[0])
    return (
        f"Exits of {Path(model_args.model_name_or_path).name} with translators of {seen} positions of "
        f"{len(rows.fitted)} texts, on {len(values.rows)} positions of {texts} others"
    )


def fit_translators(model_args: ModelArguments, args: FitArguments) -> dict[str, dict[str, np.ndarray]]:
    """All of it; what exits are like -> their `numbers`."""
    fitting = Fitting(model_args, args)
    fit, translators = fitting.closed_form()
    fitting.save(translators)
    counts = count_labels(fitting.rows.fitted, fitting.tokenizer)
    write_text(args.beside("tokens.json"), counts.text())
    before = fitting.exits(None)
    found = {"as it is": numbers(before), "closed form": numbers(fitting.exits(translators))}
    if args.then_kl:
        fitting.exits(None)
        fitting.train(translators)
        fitting.save(translators)
        found["trained"] = numbers(fitting.exits(translators))
    shown = table(title_of(model_args, fitting.rows, fit, before), fit, found, note_of(fit))
    write_json(args.beside("layers.json"), shown.data())
    fitting.part.remove()
    print(shown.text())
    return found


def main(argv: list[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """What exits are like -> their numbers by layer."""
    classes = (DecoderArguments, FitArguments)
    parser = ArgumentParser(classes, __doc__)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    only_our_bars()
    try:
        model_args, args = build(classes, parser.given(sys.argv[1:] if argv is None else list(argv)))
        found = fit_translators(model_args, args)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(f"Translators: {args.out}; tokens by frequency: {args.beside('tokens.json')}")
    return found


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
