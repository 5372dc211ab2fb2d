"""What run_truthfulqa.py does: a model under several strategies, on every test there are data for, one example's scores
after the other. Likelihoods and answers are written as they come; the same command goes on where it was killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from jobs.generating import Generator, read_prompts, write_all_quietly
from jobs.likelihoods import Likelihood, Likelihoods
from jobs.loading import as_prompt
from jobs.output_lines import OutputLines
from tasks.answer_scores import (
    Scores,
    against,
    answer_scores,
    choice_scores,
    factor_score,
    last_number,
    number_score,
    repetition_scores,
)
from tasks.bert_scores import bert_measure
from tasks.readers import read_records
from tasks.truthful import Question, closed, first_answer, invented_questions, primed, read_questions
from training.reporting import progress
from util import AdditionalArguments, ModelArguments
from util.truthful_args import TruthfulArguments

# A context and what may continue it.
Asked = tuple[str, list[str]]
# A test's scores: strategy -> those of each example.
ByStrategy = dict[str, list[Scores]]


@dataclass
class Results:
    """What all tests came to.

    Attributes:
        scores: Test -> strategy -> the scores of each example, in the order of the examples.
        texts: Strategy -> open-ended continuations.
        remarks: Sentences on what was left out.
    """

    scores: dict[str, ByStrategy] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def spread(items: Sequence, limit: int | None) -> list:
    """So many items at most, evenly from all of them: files are sorted by what they are about."""
    count = min(limit or len(items), len(items))
    return [items[place * len(items) // count] for place in range(count)]


def read_fields(path: str, kinds: dict[str, type]) -> list[dict[str, Any]]:
    """Records of a file with certain fields.

    Raises:
        ValueError: One has not.
    """
    records = read_records(path)
    for number, record in enumerate(records, 1):
        for name, kind in kinds.items():
            value = record.get(name)
            valid = isinstance(value, kind) and bool(value)
            if not valid or (kind is list and not all(isinstance(each, str) for each in value)):
                wanted = "a list of texts" if kind is list else "a text"
                raise ValueError(f"{path}, record {number}: expected {wanted} as its {name!r}.")
    return records


class Data:
    """The examples of every test; what is wrong with a file is said before the model is loaded.

    Attributes:
        questions, factor, gsm8k: As read.
        prompts: Of open-ended text.
    """

    def __init__(self, args: TruthfulArguments):
        self.questions: list[Question] = []
        self.factor: list[dict] = []
        self.gsm8k: list[dict] = []
        self.prompts: list[str] = []
        if {"choices", "answers"} & set(args.tests):
            self.questions = spread(read_questions(args.data) if args.data else invented_questions(), args.limit)
        if "factor" in args.tests:
            fields = {"prefix": str, "completion": str, "contradictions": list}
            self.factor = spread(read_fields(args.factor_file, fields), args.limit)
        if "gsm8k" in args.tests:
            self.gsm8k = spread(read_fields(args.gsm8k_file, {"question": str, "answer": str}), args.limit)
            wrong = next((each for each in self.gsm8k if last_number(each["answer"]) is None), None)
            if wrong is not None:
                raise ValueError(f"{args.gsm8k_file}: the answer {wrong['answer'][-60:]!r} has no number.")
        if "open_ended" in args.tests:
            asked = args.generate_arguments(args.strategies[0], prompt=None, prompt_file=args.prompt_file)
            self.prompts = spread(read_prompts(asked), args.limit)


class Comparison:
    """A model under several strategies. What cannot be used is refused while it is made."""

    def __init__(self, model_args: ModelArguments, args: TruthfulArguments):
        self.args, self.data, self.out = args, Data(args), Path(args.out)
        first = Generator(model_args, args.generate_arguments(args.strategies[0]), AdditionalArguments())
        self.generators = {name: first.under(args.generate_arguments(name)) for name in args.strategies}
        self.model, self.tokenizer = first.model, first.tokenizer
        self.scorer = Likelihoods(self.model, self.tokenizer, args.batch_size)

    def run(self) -> Results:
        """All tests."""
        results = Results()
        for test in self.args.tests:
            results.scores[test] = getattr(self, test)(results)
        return results

    # ---------------------------------------------------------------------------------------------------------- tests
    def choices(self, results: Results) -> ByStrategy:
        """MC1, MC2 and MC3."""
        questions = self.data.questions
        asked = [
            (primed(each.question), [f" {closed(answer)}" for answer in (*each.correct, *each.incorrect)])
            for each in questions
        ]
        found = self.likelihoods("choices", asked, distribution=False)
        results.remarks += [_longest(questions, next(iter(found.values()))), _means(found)]
        return {
            name: [_choice(each, row) for each, row in zip(questions, rows, strict=True)]
            for name, rows in found.items()
        }

    def factor(self, results: Results) -> ByStrategy:
        """The completion that has the highest log-probability by token."""
        asked = [
            (each["prefix"], [_after(each["prefix"], text) for text in (each["completion"], *each["contradictions"])])
            for each in self.data.factor
        ]
        found = self.likelihoods("factor", asked, distribution=True)
        return {
            name: [factor_score(row[0].mean, [each.mean for each in row[1:]]) for row in rows]
            for name, rows in found.items()
        }

    def answers(self, results: Results) -> ByStrategy:
        """Answers against right and wrong ones."""
        questions = self.data.questions
        found = self.texts("answers", [each.question for each in questions], self.args.max_new_tokens)
        measure = bert_measure()
        if isinstance(measure, str):
            results.remarks.append(measure)
        with progress(len(questions) * len(found), "Scoring answers") as advance:
            return {
                name: [self._answer(text, each, measure, advance) for text, each in zip(texts, questions, strict=True)]
                for name, texts in found.items()
            }

    def _answer(self, text: str, question: Question, measure: Callable | str, advance: Callable[[int], None]) -> Scores:
        scores = answer_scores(text, question)
        if not isinstance(measure, str):
            right, wrong = ([closed(each) for each in texts] for texts in (question.correct, question.incorrect))
            scores |= against(measure, text, right, wrong)
        advance(1)
        return scores

    def gsm8k(self, results: Results) -> ByStrategy:
        """The last number of an answer."""
        rows = self.data.gsm8k
        found = self.texts("gsm8k", [each["question"] for each in rows], self.args.gsm8k_tokens)
        return {
            name: [number_score(text, each["answer"]) for text, each in zip(texts, rows, strict=True)]
            for name, texts in found.items()
        }

    def open_ended(self, results: Results) -> ByStrategy:
        """Repetition in continuations of prompts as they are."""
        for name, generator in self.generators.items():
            found = write_all_quietly(generator, self.data.prompts, self._path("open_ended", name))
            results.texts[name] = [each.text for each in found]
        return {name: [repetition_scores(text) for text in texts] for name, texts in results.texts.items()}

    # --------------------------------------------------------------------------------------------------- from the model
    def texts(self, test: str, questions: Sequence[str], max_new_tokens: int) -> dict[str, list[str]]:
        """What each strategy answers: behind the chat template, or the primer where there is none."""
        chats = self.tokenizer.chat_template is not None
        prompts = [as_prompt(self.tokenizer, each) if chats else primed(each) for each in questions]
        found = {}
        for name, generator in self.generators.items():
            args = self.args.generate_arguments(name, max_new_tokens=max_new_tokens)
            rows = write_all_quietly(generator.under(args), prompts, self._path(test, name))
            found[name] = [each.text.strip() if chats else first_answer(each.text) for each in rows]
        return found

    def likelihoods(self, test: str, asked: Sequence[Asked], distribution: bool) -> dict[str, list[list[Likelihood]]]:
        """Of each context those of its answers, under each strategy."""
        strategies = {name: self._scoring(generator) for name, generator in self.generators.items()}
        found: dict[str, list[list[Likelihood]]] = {}
        with ExitStack() as stack, progress(len(asked), f"Likelihoods of {test}") as advance:
            files = {
                name: stack.enter_context(closing(self._lines(test, name, asked, distribution))) for name in strategies
            }
            for name, file in files.items():
                found[name] = [[Likelihood(*each) for each in row["likelihoods"]] for row in file.rows]
            for place, (context, answers) in enumerate(asked):
                left = {name: each for name, each in strategies.items() if len(found[name]) <= place}
                rows = self.scorer.of(context, answers, left, distribution) if left else {}
                for name, row in rows.items():
                    held = [(each.total, each.tokens) for each in row]
                    files[name].append([{"prompt": context, "answers": answers, "likelihoods": held}])
                    found[name].append(row)
                advance(1)
        return found

    def _scoring(self, generator: Generator):
        """The strategy of a generator as it scores what is given."""
        strategy = generator.strategy
        return None if strategy is None else self.args.scoring(strategy)

    def _lines(self, test: str, name: str, asked: Sequence[Asked], distribution: bool) -> OutputLines:
        strategy = self._scoring(self.generators[name])
        settings = self.generators[name].settings() | {"lengths": None, "distribution": distribution}
        settings |= {"strategy": strategy and asdict(strategy)}
        file = OutputLines(self._path(test, name), [context for context, _ in asked], settings, 1)
        for number, (row, (_, answers)) in enumerate(zip(file.rows, asked, strict=False), 1):
            if row.get("answers") != answers:
                file.close()
                raise ValueError(f"{file.path}, line {number} has other answers than the data: give another --out.")
        return file

    def _path(self, test: str, name: str) -> Path:
        return self.out / f"{test}_{name}.jsonl"


def _choice(question: Question, row: Sequence[Likelihood]) -> Scores:
    """By the sum of an answer's scores, as the task has it, and by their mean over tokens: what a contrast gives a
    token may be above 0, so that its sum grows with an answer's length."""
    by_token = _chosen(question, [each.mean for each in row])
    return _chosen(question, [each.total for each in row]) | {f"{name}_token": by_token[name] for name in by_token}


def _chosen(question: Question, scores: Sequence[float]) -> Scores:
    count = len(question.correct)
    return choice_scores(question.correct.index(question.best), scores[:count], scores[count:])


def _longest(questions: Sequence[Question], rows: Sequence[Sequence[Likelihood]]) -> str:
    """What the choices come to that no model makes."""
    found = [_chosen(each, [one.tokens for one in row]) for each, row in zip(questions, rows, strict=True)]
    told = ", ".join(f"{name.upper()} {fmean(each[name] for each in found):.2f}" for name in found[0])
    right, wrong = [], []
    for each, row in zip(questions, rows, strict=True):
        right += [one.tokens for one in row[: len(each.correct)]]
        wrong += [one.tokens for one in row[len(each.correct) :]]
    lengths = f"right answers have {fmean(right):.1f} tokens on average, wrong ones {fmean(wrong):.1f}"
    return f"The longest answer, scored by its number of tokens alone, has {told}; {lengths}."


def _means(found: Mapping[str, Sequence[Sequence[Likelihood]]]) -> str:
    """What strategies give a token: where that is above 0, sums prefer long answers."""
    told = ", ".join(f"{name} {fmean(each.mean for row in rows for each in row):.1f}" for name, rows in found.items())
    return f"Score of a token, in nats, mean over answers: {told}."


def _after(prefix: str, text: str) -> str:
    """A completion with a space before it where the prefix ends in none."""
    return text if prefix[-1].isspace() or text[:1].isspace() else f" {text}"
