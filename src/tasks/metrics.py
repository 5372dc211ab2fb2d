"""Scores of generated text that need no network.

Every metric is a function from predictions and references (several per prediction) to numbers, named as in the
result files without their `eval_`; ROUGE and BLEU take the name of a tokenizer too (`Task.tokenizer`). SQuAD follows
the definitions of its official scripts, v1.1 (arXiv:1606.05250) and v2.0 (arXiv:1806.03822); ROUGE is rouge_score's
(Lin 2004), BLEU is sacreBLEU's (arXiv:1804.08771).
"""

import functools
import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import nltk
import numpy as np
from datasets import Dataset
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from tasks.task import Task
from tasks.words import ROUGE_TOKENIZERS, SENTENCE_ENDS, UNSPACED

logger = logging.getLogger(__name__)

Scores = dict[str, float | str]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
# fmt: off
ABBREVIATIONS = {
    "a.m", "apr", "aug", "co", "col", "corp", "dec", "dr", "e.g", "etc", "feb", "fig", "gen", "gov", "i.e", "inc",
    "jan", "jr", "jul", "jun", "lt", "ltd", "mar", "mr", "mrs", "ms", "no", "nov", "oct", "p.m", "prof", "rep",
    "sen", "sep", "sept", "sr", "st", "u.k", "u.n", "u.s", "vs"
}
# fmt: on
# Code of a language whose words 13a does not tell apart -> the tokenizer of sacreBLEU that does.
LANGUAGE_TOKENIZERS = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue"), "zh"),
    **dict.fromkeys(("ja", "jpn"), "ja-mecab"),
    **dict.fromkeys(("ko", "kor"), "ko-mecab"),
    **dict.fromkeys(("th", "tha", "lo", "lao", "km", "khm", "my", "mya", "bur"), "char"),
}
BLEU_COUNTS = "bleu_counts"
SPACE_TOKENIZERS = ("13a", "intl", "none")


def normalise_answer(text: str) -> str:
    """SQuAD's normal form: lower case, ASCII punctuation removed, then articles, then extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if both have the same normal form, else 0.0."""
    return float(normalise_answer(prediction) == normalise_answer(reference))


def token_f1(prediction: str, reference: str) -> float:
    """F1 in [0, 1] of the bags of words of the normal forms (SQuAD v1.1: 0 where they share no word)."""
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(reference).split()
    shared = (Counter(predicted) & Counter(expected)).total()
    return 2 * shared / (len(predicted) + len(expected)) if shared else 0.0


def token_f1_or_empty(prediction: str, reference: str) -> float:
    """`token_f1`, except that two empty normal forms agree (SQuAD v2)."""
    if not normalise_answer(prediction) or not normalise_answer(reference):
        return exact_match(prediction, reference)
    return token_f1(prediction, reference)


def _best(measure: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    return max(measure(prediction, reference) for reference in references)


def squad(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> Scores:
    """exact_match and f1 of SQuAD v1.1, in percent: the mean over questions of the best over references."""
    rows = [squad_example(*pair) for pair in zip(predictions, references, strict=True)]
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def squad_example(prediction: str, references: Sequence[str]) -> Scores:
    """exact_match and f1 of one question, in percent."""
    scores = {"exact_match": exact_match, "f1": token_f1}
    return {name: 100 * _best(measure, prediction, references) for name, measure in scores.items()}


def squad_v2_example(prediction: str, references: Sequence[str]) -> Scores:
    """exact and f1 of one question, in percent."""
    scores = squad_v2([prediction], [references])
    return {name: scores[name] for name in ("exact", "f1")}


def squad_v2(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    no_answer_probabilities: Sequence[float] | None = None,
) -> Scores:
    """The keys of SQuAD v2's script, in percent; HasAns_* and NoAns_* where there are such questions.

    A question without references has no answer, and only an empty prediction is right for it. A model that generates
    has no probability of "no answer" beside its text, so it counts as 0 unless given; best_* are the script's: the best
    score an "empty above this probability" rule could reach.
    """
    answered = [bool(texts) for texts in references]
    # references that are nothing but articles and punctuation do not count, as in the script
    valid = [[text for text in texts if normalise_answer(text)] or [""] for texts in references]
    pairs = list(zip(predictions, valid, strict=True))
    exact = [_best(exact_match, *pair) for pair in pairs]
    f1 = [_best(token_f1_or_empty, *pair) for pair in pairs]
    probabilities = no_answer_probabilities or [0.0] * len(pairs)

    scores = {"exact": 100 * fmean(exact), "f1": 100 * fmean(f1), "total": len(pairs)}
    for prefix, wanted in (("HasAns", True), ("NoAns", False)):
        chosen = [i for i, has_answer in enumerate(answered) if has_answer is wanted]
        if chosen:
            scores[f"{prefix}_exact"] = 100 * fmean(exact[i] for i in chosen)
            scores[f"{prefix}_f1"] = 100 * fmean(f1[i] for i in chosen)
            scores[f"{prefix}_total"] = len(chosen)
    for name, raw in (("exact", exact), ("f1", f1)):
        best, threshold = _best_threshold(predictions, raw, probabilities, answered)
        scores[f"best_{name}"], scores[f"best_{name}_thresh"] = best, threshold
    return scores


def _best_threshold(
    predictions: Sequence[str], raw: Sequence[float], probabilities: Sequence[float], answered: Sequence[bool]
) -> tuple[float, float]:
    """The script's search: answer the questions in the order of their no-answer probability, keep the best moment."""
    score = best = float(answered.count(False))
    threshold = 0.0
    for i in sorted(range(len(raw)), key=probabilities.__getitem__):
        score += raw[i] if answered[i] else -1.0 if predictions[i] else 0.0
        if score > best:
            best, threshold = score, probabilities[i]
    return 100 * best / len(raw), threshold


def rouge(predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "rouge_score") -> Scores:
    """ROUGE-1, -2, -L and -Lsum: F-measure with stemming, mean over pairs, times 100, 4 decimals.

    Of several references the best counts, per measure. The mean is what the middle of rouge_score's bootstrap
    estimates, without its randomness. For Lsum each sentence is a line (`sentence_splitter`).
    """
    rows = [rouge_example(text, tuple(texts), tokenizer) for text, texts in zip(predictions, references, strict=True)]
    return {name: round(fmean(row[name] for row in rows), 4) for name in ROUGES}


@functools.lru_cache(maxsize=10_000)  # an evaluation asks once for the mean and once for the example
def rouge_example(prediction: str, references: tuple[str, ...], tokenizer: str = "rouge_score") -> Scores:
    """The same of one pair, times 100."""
    scorer = RougeScorer(ROUGES, tokenizer=ROUGE_TOKENIZERS[tokenizer])
    prediction, *references = (sentence_lines(text, tokenizer) for text in (prediction, *references))
    scores = scorer.score_multi(references, prediction)
    return {name: 100 * scores[name].fmeasure for name in ROUGES}


def sentence_lines(text: str, tokenizer: str = "rouge_score") -> str:
    """The text with a newline between its sentences, which is how rouge_score wants them.

    Full stops of other scripts end sentences only where the tokenizer keeps these scripts.
    """
    lines = "\n".join(sentence_splitter()[1](text.strip()))
    return lines if tokenizer == "rouge_score" else SENTENCE_ENDS.sub(r"\g<0>\n", lines)


@functools.cache
def sentence_splitter() -> tuple[str, Callable[[str], list[str]]]:
    """(its name, the splitter): nltk's English punkt_tab where installed, else Punkt with a list of abbreviations.

    On 500 DialogSum summaries the two split 498 alike. `python -m nltk.downloader punkt_tab` installs the first.
    """
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
        name, split = "nltk punkt_tab", nltk.sent_tokenize
    except LookupError:
        parameters = PunktParameters()
        parameters.abbrev_types = ABBREVIATIONS
        name, split = "nltk Punkt with a list of abbreviations", PunktSentenceTokenizer(parameters).tokenize
    logger.info("ROUGE-Lsum: sentences are split by %s", name)
    return name, split


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "13a") -> Scores:
    """sacreBLEU of the corpus, 4 decimals, and its signature, which names the tokenizer."""
    most = max(len(texts) for texts in references)
    streams = [[texts[i].strip() if i < len(texts) else None for texts in references] for i in range(most)]
    scorer = BLEU(tokenize=tokenizer)
    value = scorer.corpus_score([text.strip() for text in predictions], streams).score
    return {"bleu": round(value, 4), "bleu_signature": str(scorer.get_signature())}


def bleu_example(prediction: str, references: tuple[str, ...], tokenizer: str = "13a") -> dict[str, list[int]]:
    """What corpus BLEU counts in one pair: words of it and of its nearest reference, then by n from 1 to 4 how many of
    its n-grams are in a reference, and how many it has."""
    counted = _sentence_bleu(tokenizer).sentence_score(prediction.strip(), [text.strip() for text in references])
    return {BLEU_COUNTS: [counted.sys_len, counted.ref_len, *counted.counts, *counted.totals]}


@functools.cache
def _sentence_bleu(tokenizer: str) -> BLEU:
    """As sacreBLEU wants it for single sentences; what it counts is the same."""
    return BLEU(tokenize=tokenizer, effective_order=True)


def bleu_of_counts(counts: np.ndarray) -> np.ndarray:
    """Corpus BLEU of what `bleu_example` counted in examples, [..., N, 10] -> [...]."""

    def of_sums(sums: np.ndarray) -> float:
        own, reference, *ngrams = map(int, sums)
        return BLEU.compute_bleu(ngrams[:4], ngrams[4:], own, reference, smooth_method="exp").score

    return np.apply_along_axis(of_sums, -1, counts.sum(-2))


def mean_of_examples(scores: np.ndarray) -> np.ndarray:
    """Of one number per example, [..., N, 1] -> [...]."""
    return scores[..., 0].mean(-1)


def bleu_tokenizer(asked: str | None, language: str) -> str | None:
    """The tokenizer of sacreBLEU that was asked for, else the one for a language; None for 13a, BLEU's own.

    Args:
        language: its code, such as zh, zho_Hans or ja_JP.

    Raises:
        ValueError: what was asked for needs a package or a file that is not there.
    """
    code = language.replace("-", "_").split("_")[0].lower()
    wanted = asked or LANGUAGE_TOKENIZERS.get(code, "13a")
    try:
        BLEU(tokenize=wanted)
    except Exception as error:  # MeCab, its dictionary, SentencePiece and downloads raise as they like
        reason = " ".join(str(error).split())
        if asked:
            raise ValueError(f"--bleu_tokenizer {asked} cannot be used: {reason}") from error
        logger.warning("BLEU counts characters, since sacreBLEU's tokenizer for %s is not there: %s", language, reason)
        return "char"
    return None if wanted == "13a" else wanted


def rouge_tokenizer(task: Task, data_args: Any) -> str | None:
    """The tokenizer that --rouge_tokenizer asks for; None for rouge_score's own, and where ROUGE is not measured."""
    asked = data_args.rouge_tokenizer
    if asked and task.metric != "rouge":
        logger.warning("--rouge_tokenizer has no effect: %s is not scored by ROUGE", task.name)
        return None
    return None if asked == "rouge_score" else asked


def _loses_letters(text: str, tokenizer: str) -> bool:
    letters = [character for character in text if character.isalnum()]
    kept = sum(character.isascii() for character in letters) if tokenizer == "rouge_score" else len(letters)
    return not kept or 2 * kept < len(letters)


def _is_one_word(text: str, tokenizer: str) -> bool:
    return tokenizer in SPACE_TOKENIZERS and 2 * len("".join(UNSPACED.findall(text))) > len(text)


class Unseen(NamedTuple):
    """Texts whose words a metric does not tell apart: its own tokenizer, whether (text, tokenizer) is one of them, and
    what a warning says of them."""

    tokenizer: str
    is_unseen: Callable[[str, str], bool]
    reason: str


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Attributes:
        compute: (predictions, references of each, **`Task.scoring`) -> scores, named as in results without `eval_`.
        headline: The one of its numbers that a checkpoint is chosen by.
        example: (prediction, references) -> the same of one example, where that means something, or what the metric
            counts in it.
        shown: The one of its numbers that tables and figures show, in percent; the headline where nothing is given.
        label: What they call it; its name where nothing is given.
        by_example: The one of `example`'s that `shown` follows from; `shown` where nothing is given.
        pooled: `by_example` of several examples, [..., N, K], to `shown` of them together, [...].
        unanswerable: Whether an example without references counts, as a question that has no answer.
        unseen: Which texts it makes little of.
    """

    compute: Callable[..., Scores]
    headline: str
    example: Callable[..., dict[str, Any]] | None = None
    shown: str = ""
    label: str = ""
    by_example: str = ""
    pooled: Callable[[np.ndarray], np.ndarray] = mean_of_examples
    unanswerable: bool = False
    unseen: Unseen | None = None


METRICS: dict[str, Metric] = {
    "squad": Metric(squad, "f1", squad_example, label="F1"),
    "squad_v2": Metric(squad_v2, "f1", squad_v2_example, label="F1", unanswerable=True),
    "rouge": Metric(
        rouge,
        "rougeLsum",
        rouge_example,
        shown="rougeL",
        label="ROUGE-L",
        unseen=Unseen(
            "rouge_score",
            _loses_letters,
            "have no token left, or less than half of their letters, under the tokenizer {tokenizer} of ROUGE, so that "
            "their scores mean little; --rouge_tokenizer unicode keeps the words of every script",
        ),
    ),
    "sacrebleu": Metric(
        bleu,
        "bleu",
        bleu_example,
        label="BLEU",
        by_example=BLEU_COUNTS,
        pooled=bleu_of_counts,
        unseen=Unseen(
            "13a",
            _is_one_word,
            "are of a script without spaces, whose sentences the tokenizer {tokenizer} of BLEU takes for single words; "
            "--bleu_tokenizer zh or char takes them apart",
        ),
    ),
}


class Shown(NamedTuple):
    """A number that tables and figures show: what they call it, its name in predictions.jsonl (None where it has none),
    and see `Metric.pooled`."""

    label: str
    by_example: str | None
    pooled: Callable[[np.ndarray], np.ndarray]


def shown_scores() -> dict[str, Shown]:
    """Every number of a metric that tables and figures show, by its name in results."""
    shown = {row.shown or row.headline: row for row in METRICS.values()}
    return {
        name: Shown(row.label or name, (row.by_example or name) if row.example else None, row.pooled)
        for name, row in shown.items()
    }


def score(task: Task, predictions: Mapping[str, str], examples: Dataset) -> Scores:
    """The task's metric of the predictions (example id -> text); empty where the examples have no references.

    An example without reference counts in SQuAD v2 only, where it is a question without answer.

    Raises:
        ValueError: an example has no prediction.
    """
    ids, references = examples["id"][:], examples["references"][:]
    missing = [name for name in ids if name not in predictions]
    if missing:
        raise ValueError(f"{len(missing)} of {len(ids)} examples have no prediction, the first of them {missing[0]!r}")
    pairs = [(predictions[name], texts) for name, texts in zip(ids, references, strict=True) if is_scored(task, texts)]
    if len(pairs) < len(ids):
        logger.warning("%d of %d examples have no reference and are not scored", len(ids) - len(pairs), len(ids))
    return METRICS[task.metric].compute(*zip(*pairs, strict=True), **task.scoring) if pairs else {}


def score_example(task: Task, prediction: str, references: Sequence[str] | None) -> dict[str, Any]:
    """The task's metric of one example, or what it counts in it; empty where the example does not count."""
    compute = METRICS[task.metric].example
    if compute is None or not is_scored(task, references):
        return {}
    return compute(prediction, tuple(references), **task.scoring)


def score_names(task: Task) -> list[str]:
    """What an evaluation of the task measures, without the words that go with the numbers."""
    scores = METRICS[task.metric].compute(["a"], [["a"]])
    return [name for name, value in scores.items() if not isinstance(value, str)]


def is_scored(task: Task, references: Sequence[str] | None) -> bool:
    """Whether an example of these references counts in the task's metric."""
    return bool(references) or (references is not None and METRICS[task.metric].unanswerable)


def warn_unseen(task: Task, references: Sequence[Sequence[str] | None], origin: str) -> None:
    """A warning with the number of examples whose references the metric's tokenizer does not tell into words."""
    row = METRICS[task.metric].unseen
    if row is None:
        return
    own, unseen, reason = row
    tokenizer = task.tokenizer or own
    count = sum(bool(texts) and all(unseen(text, tokenizer) for text in texts) for texts in references)
    if count:
        logger.warning(
            "%d of %d references of %s %s", count, len(references), origin, reason.format(tokenizer=tokenizer)
        )


def generated_length(sequence: Sequence[int], pad_token_id: int) -> int:
    """Tokens of one output of `generate`: no padding, no decoder start token, end-of-sequence counted."""
    return sum(token != pad_token_id for token in list(sequence)[1:])
