"""Ask a language model which of two files of answers is better: four scores for each, and pairs in both orders.

    python src/analysis/judge.py --base_url http://localhost:8000/v1 --model judge --predictions A B --out save/judge
    python src/analysis/judge.py --base_url https://api.openai.com/v1 --model gpt-4.1 --predictions A B \\
        --examples 100 --price_in 2 --price_out 8 --out save/judge

A and B are runs' folders, their predictions.jsonl, or what generate.py writes. The key is read from the environment and
kept nowhere. Every reply is written down as it comes: the same command asks what is left, and nothing twice. What it
will cost is estimated and asked for first, unless --yes is given.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from analysis import intervals
from analysis.judge_asks import SCALES, Ask, Pair, asks, read_choice, read_pairs, read_scores
from analysis.judge_client import Judge, Reply, Unanswered
from decoding.ranges import COUNT, FROM_ZERO, POSITIVE
from training.reporting import progress
from util import groups
from util.commands import CommandParser, output_folder
from util.files import append_jsonl, locked, read_jsonl, sync, write_json, write_text
from util.runs import drop_torn_line
from util.terminal import terminal

REPLIES = "replies.jsonl"
# What a question is taken to need: characters of English to a token, tokens of a reply.
CHARACTERS, REPLY_TOKENS = 4, 40


class Replies:
    """The replies so far, a line each, on the disk before the next question.

    Args:
        folder: Of the file.
        judge: Whose replies count: another endpoint or model is asked anew.
    """

    def __init__(self, folder: Path, judge: Judge):
        self.path, self.judge = folder / REPLIES, judge
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.path)
        if self._lock is None:
            raise ValueError(f"Another process is writing {self.path}: wait for it, or give another --out.")
        drop_torn_line(self.path)
        rows = read_jsonl(self.path)
        if not all({"key", "reply"} <= row.keys() for row in rows):
            raise ValueError(f"{self.path} holds other things than replies: give another --out.")
        self._texts = {row["key"]: row["reply"] for row in rows}

    def key(self, ask: Ask) -> str:
        """What stands for a question to this judge."""
        asked = json.dumps([self.judge.base_url, self.judge.model, ask.messages])
        return hashlib.sha256(asked.encode()).hexdigest()[:32]

    def of(self, ask: Ask) -> str | None:
        """What was replied, or None where it was not asked yet."""
        return self._texts.get(self.key(ask))

    def keep(self, ask: Ask, reply: Reply) -> None:
        """Write a reply down."""
        tokens = {"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        line = {"key": self.key(ask), "example": ask.example, "shown": list(ask.shown), "reply": reply.text, **tokens}
        append_jsonl(self.path, [line])
        sync(self.path)
        self._texts[line["key"]] = reply.text

    def close(self) -> None:
        """Let other processes at the file."""
        self._lock.close()


@contextmanager
def replies_in(folder: Path, judge: Judge) -> Iterator[Replies]:
    """The file of replies, which is let go at the end."""
    replies = Replies(folder, judge)
    try:
        yield replies
    finally:
        replies.close()


def still_to_ask(every: Sequence[Ask], replies: Replies) -> list[Ask]:
    """What has no reply yet, each question once: two answers that are the same are scored together."""
    return list({replies.key(ask): ask for ask in every if replies.of(ask) is None}.values())


def ask_all(left: Sequence[Ask], judge: Judge, replies: Replies) -> None:
    """Ask, and write each reply down.

    Raises:
        ValueError: A question was not answered; those before it are kept.
    """
    with progress(len(left), "Asking") as advance:
        for number, ask in enumerate(left):
            try:
                replies.keep(ask, judge.ask(ask.messages))
            except Unanswered as error:
                raise ValueError(
                    f"{error} Of {len(left)} questions, {number} were answered and are kept in {replies.path}: the "
                    "same command asks the others."
                ) from None
            advance(1)


def estimate(left: Sequence[Ask], price_in: float | None, price_out: float | None) -> str:
    """What the questions will cost, in a sentence; prices are of a million tokens."""
    tokens_in = sum(len(message["content"]) for ask in left for message in ask.messages) // CHARACTERS
    tokens_out = REPLY_TOKENS * len(left)
    text = f"{len(left):,} questions, about {tokens_in:,} tokens in and {tokens_out:,} out"
    if price_in is None or price_out is None:
        return text + " (--price_in and --price_out say what that costs)."
    return text + f": about {(tokens_in * price_in + tokens_out * price_out) / 1e6:,.2f} in the currency of the prices."


# ------------------------------------------------------------------------------------------------------------- results
def judged(pairs: Sequence[Pair], every: Sequence[Ask], replies: Replies) -> dict:
    """What the replies come to: scores of both files, and which is preferred."""
    by_pair: dict[str, dict[tuple, str]] = {}
    for ask in every:
        by_pair.setdefault(ask.example, {})[ask.shown] = replies.of(ask)
    scores = [[read_scores(by_pair[pair.id][file,]) for file in (0, 1)] for pair in pairs]
    compared = [("tie", "tie") if pair.same else _choices(by_pair[pair.id]) for pair in pairs]
    return {
        "examples": len(pairs),
        "same_text": sum(pair.same for pair in pairs),
        "unreadable": sum(each is None for pair in scores for each in pair)
        + sum(each is None for pair in compared for each in pair),
        "scores": _scores([pair for pair in scores if None not in pair]),
        "pairs": _preferences([pair for pair in compared if None not in pair]),
    }


def _choices(replied: dict[tuple, str]) -> tuple[str | None, str | None]:
    """Which file is better, "A", "B" or "tie", as said in either order."""
    names = {"first": "A", "second": "B", "tie": "tie"}, {"first": "B", "second": "A", "tie": "tie"}
    orders = zip(names, ((0, 1), (1, 0)), strict=True)
    first, second = (each.get(read_choice(replied[shown])) for each, shown in orders)
    return first, second


def _scores(pairs: Sequence[Sequence[dict]]) -> dict:
    """Per scale, and for their average, the mean of both files and of the difference A minus B, paired by example."""
    found = {}
    for name in (*SCALES, "average"):
        values = [[fmean(each.values()) if name == "average" else each[name] for each in pair] for pair in pairs]
        one, other = zip(*values, strict=True) if values else ((), ())
        found[name] = {"A": _mean(one), "B": _mean(other), "difference": _mean([a - b for a, b in values])}
    return found


def _preferences(pairs: Sequence[tuple[str, str]]) -> dict:
    """Of examples judged in both orders: how often A is preferred (1, a tie counts half, both orders averaged), how
    often the orders agree, and, of replies that prefer one, how often it is the text shown first."""
    worth = {"A": 1.0, "tie": 0.5, "B": 0.0}
    wins = [fmean(worth[each] for each in pair) for pair in pairs]
    chosen = [[each == first for each, first in zip(pair, "AB", strict=True) if each != "tie"] for pair in pairs]
    first = [fmean(each) for each in chosen if each]
    return {
        "n": len(pairs),
        "A": sum(win > 0.5 for win in wins),
        "tie": sum(win == 0.5 for win in wins),
        "B": sum(win < 0.5 for win in wins),
        "win_rate": _mean(wins),
        "agreement": _mean([float(one == other) for one, other in pairs]),
        "first_preferred": _mean(first),
    }


def _mean(values: Sequence[float]) -> dict:
    """A mean with its 95% interval over examples."""
    if not values:
        return {"value": None, "interval": None, "n": 0}
    return {"value": fmean(values), "interval": intervals.of_mean(values), "n": len(values)}


def table(found: dict, names: Sequence[str], model: str) -> str:
    """The results as text."""
    lines = [
        f"Judged by {model}: {found['examples']} examples, {found['same_text']} with the same text in both, "
        f"{found['unreadable']} replies that say nothing readable.",
        *(f"{letter}: {name}" for letter, name in zip("AB", names, strict=True)),
        "",
        f"{'score, 1 to 5':<18}{'A':>24}{'B':>24}{'A minus B':>26}",
    ]
    for name, each in found["scores"].items():
        lines.append(f"{name:<18}{_told(each['A']):>24}{_told(each['B']):>24}{_told(each['difference'], '+.2f'):>26}")
    pairs = found["pairs"]
    lines += [
        "",
        f"Pairs, in both orders: A better {pairs['A']}, B better {pairs['B']}, neither {pairs['tie']} of {pairs['n']}",
        f"{'A wins (a tie is half)':<32}{_told(pairs['win_rate']):>24}",
        f"{'both orders say the same':<32}{_told(pairs['agreement']):>24}",
        f"{'the first shown is preferred':<32}{_told(pairs['first_preferred']):>24}",
        "In brackets: 95% bootstrap intervals over examples.",
    ]
    return "\n".join(lines) + "\n"


def _told(quantity: dict, form: str = ".2f") -> str:
    """4.25 (4.00 to 4.50), or a dash."""
    if quantity["value"] is None:
        return "-"
    low, high = quantity["interval"]
    interval = f" ({low:{form}} to {high:{form}})" if low <= high else ""  # which nan is not
    return f"{quantity['value']:{form}}{interval}"


# ------------------------------------------------------------------------------------------------------------- command
def make_parser() -> CommandParser:
    """The flags."""
    parser = CommandParser(__doc__)
    model, data, run = (parser.add_argument_group(title) for title in (groups.MODEL, groups.DATA, groups.RUN))
    model.add_argument("--base_url", required=True, help="of an OpenAI-compatible endpoint, up to /chat/completions")
    model.add_argument("--model", required=True, help="the judge, as the endpoint calls it")
    model.add_argument("--key_variable", default="OPENAI_API_KEY", help="of the environment; not set: no key is sent")
    data.add_argument("--predictions", type=Path, nargs=2, required=True, metavar=("A", "B"), help="of two runs")
    data.add_argument("--examples", type=COUNT, help="the first so many of those that both have; all by default")
    run.add_argument("--per_minute", type=POSITIVE, default=60.0, help="questions a minute at most")
    run.add_argument("--tries", type=COUNT, default=6, help="of a question, with pauses that double")
    run.add_argument("--timeout", type=POSITIVE, default=120.0, help="seconds for one try")
    run.add_argument("--price_in", type=FROM_ZERO, help="of a million tokens asked, for the estimate")
    run.add_argument("--price_out", type=FROM_ZERO, help="of a million tokens replied, for the estimate")
    run.add_argument("--yes", action="store_true", help="do not ask whether to go on")
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_folder, default="save/judge", help="folder of replies, table and numbers")
    return parser


def agreed(question: str) -> bool:
    """Whether the user says yes; who cannot be asked does not."""
    try:
        return input(f"{question} Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def judge_files(arguments) -> str | None:
    """Ask what is left and write what it comes to; the table, or None where the user does not want to go on.

    Raises:
        ValueError: What was given cannot be used, or a question was not answered.
    """
    key = os.environ.get(arguments.key_variable, "").strip() or None
    limits = {name: getattr(arguments, name) for name in ("per_minute", "tries", "timeout")}
    judge = Judge(arguments.base_url, arguments.model, key, **limits)
    pairs = read_pairs(arguments.predictions, arguments.examples)
    every = list(asks(pairs))
    with replies_in(arguments.out, judge) as replies:
        left = still_to_ask(every, replies)
        if left:
            cost = estimate(left, arguments.price_in, arguments.price_out)
            if arguments.yes:
                print(cost)
            elif not agreed(cost):
                return None
            ask_all(left, judge, replies)
        found = judged(pairs, every, replies)
    names = [str(path) for path in arguments.predictions]
    write_json(arguments.out / "judged.json", {"model": judge.model, "A": names[0], "B": names[1], **found})
    text = table(found, names, judge.model)
    write_text(arguments.out / "table.txt", text)
    return text


def main(argv: list[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        text = judge_files(arguments)
    except (ValueError, OSError) as error:
        parser.refuse(error)
    if text is None:
        parser.error("nothing was asked: say y, or give --yes.")
    print(text)
    print(f"Table: {arguments.out / 'table.txt'}\nReplies: {arguments.out / REPLIES}")


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
