r"""Draw what every layer would say behind a prompt, or of the right and the generated answer to a question.

    python src/analysis/prompt_lens.py -p "Once upon a time" "In spring the" --tokens 3 --out save/lens
    python src/analysis/prompt_lens.py --model_name_or_path models/smollm2-135m-instruct \
        --question "What is the capital of France?" --gold Paris --compare --out save/paris

Layer 0 is the embedding. Every layer's state is translated where it has an exit translator, final-normed and read
through the model's own head; --compare shows it without the norm and without the translator as well. By layer: the
likeliest tokens, the divergence from the last layer, and the rank of the token that stands there.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from analysis import lens_figures
from analysis.lens_reading import Answer, Passage, answers_to, continuation, read, ways_of
from decoding.ranges import COUNT
from jobs.generating import read_prompts
from jobs.loading import load_config, load_model, load_tokenizer
from training.reporting import only_our_bars
from util import DecoderArguments, groups
from util.additional_args import flag
from util.arguments import build
from util.checks import raise_together
from util.compute_args import ComputeArguments
from util.files import folder_problem, write_json, write_text
from util.generate_args import PromptArguments
from util.parser import ArgumentParser
from util.ranges import range_problems
from util.terminal import terminal

# Tokens looked at where nothing else is asked for.
OF_PROMPT, OF_ANSWER = 1, 10


@dataclass
class LensArguments(PromptArguments, ComputeArguments):
    """What is looked at and where it goes."""

    _argument_group_name = groups.PROMPTS

    question: str | None = flag(None, "A question, asked behind the model's chat template where it has one.")
    gold: str | None = flag(None, "Its right answer, looked at beside the one that the model generates.")
    tokens: int | None = flag(
        None,
        f"How many tokens are looked at: of the full model's next ones behind a prompt, {OF_PROMPT} where not given; "
        f"of the beginning of an answer, {OF_ANSWER}.",
    )
    top_k: int = flag(5, "Tokens per layer.", "k", group=groups.OUTPUT)
    lens_final_norm: bool = flag(True, "Translate and norm an intermediate layer before the head, as an exit does.")
    compare: bool = flag(
        False, "Show layers side by side as they are, normed, and translated where the model has exit translators."
    )
    out: str = flag(
        "save/lens",
        "Folder of prompt_lens.png, .json and .txt, of lens_tokens, lens_divergence and lens_rank, and of lens.json.",
        group=groups.OUTPUT,
    )

    def __post_init__(self) -> None:
        nothing = "There is nothing to look at: give -p TEXT, --prompt_file FILE, or --question TEXT and --gold TEXT."
        problems = self.prompt_problems(nothing if self.question is None and self.gold is None else None)
        problems += [*range_problems(self, top_k=COUNT), *self.compute_problems()]
        if (self.question is None) != (self.gold is None):
            given, missing = ("gold", "question") if self.question is None else ("question", "gold")
            problems.append(f"--{given} goes with --{missing}: give the question and its right answer.")
        elif self.question is not None and not self.question.strip():
            problems.append("--question is empty: give a question.")
        if self.compare and not self.lens_final_norm:
            problems.append("--compare shows layers with and without the norm: drop --lens_final_norm False.")
        if problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        raise_together(problems)

    def answers(self, model, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[Answer]:
        """Continuations of prompts, then the two answers to the question."""
        found = [continuation(model, tokenizer, prompt, self.tokens or OF_PROMPT) for prompt in prompts]
        if self.question is None or self.gold is None:
            return found
        return found + answers_to(model, tokenizer, self.question, self.gold, self.tokens or OF_ANSWER)


def write(folder: Path, passages: Sequence[Passage], way: str, model: str) -> str:
    """All files, each whole; the text.

    Args:
        way: That of the figure of lines.
    """
    text = lens_figures.text_of(passages)
    write_text(folder / "prompt_lens.txt", text)
    write_json(folder / "lens.json", {"model": model, "passages": [passage.data() for passage in passages]})
    lens_figures.lines(passages, way).save(folder, "prompt_lens")
    for name in lens_figures.QUANTITIES:
        lens_figures.cells(name, passages, model).save(folder, f"lens_{name}")
    return text


def main(argv: list[str] | None = None) -> list[Passage]:
    """What was read; see `analysis.lens_reading`."""
    parser = ArgumentParser((DecoderArguments, LensArguments), __doc__)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    only_our_bars()
    try:
        given = parser.given(sys.argv[1:] if argv is None else list(argv))
        model_args, args = build((DecoderArguments, LensArguments), given)
        prompts = read_prompts(args)
        config = load_config(model_args, encoder=None)
        if args.top_k > config.vocab_size:
            raise ValueError(f"--top_k {args.top_k}: valid are 1 to {config.vocab_size}, the tokens of this model.")
        tokenizer = load_tokenizer(model_args)
        model = load_model(model_args, config, args.torch_dtype, device=args.torch_device).eval()
        ways = ways_of(model, args.lens_final_norm, args.compare)
        passages = read(model, tokenizer, args.answers(model, tokenizer, prompts), args.top_k, ways)
        text = write(Path(args.out), passages, ways[-1], Path(model_args.model_name_or_path).name)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    print(text)
    print(f"Pictures: {Path(args.out) / 'prompt_lens.png'}, lens_tokens.png, lens_divergence.png, lens_rank.png")
    return passages


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
