# ruff: noqa: RUF001 - texts of many scripts
"""The metrics against the official definitions, written out a second time, and against rouge_score and sacrebleu."""

import collections
import re
import string
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, scoring

from tasks import TASKS, metrics
from util.arguments import ROUGE_TOKENIZERS

# --- the definitions of the official SQuAD scripts, step by step -----------------------------------------------------


def official_normal(text):
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    text = re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text)
    return " ".join(text.split())


def official_f1(gold, predicted, version_2):
    gold_tokens, predicted_tokens = official_normal(gold).split(), official_normal(predicted).split()
    same = sum((collections.Counter(gold_tokens) & collections.Counter(predicted_tokens)).values())
    if version_2 and (len(gold_tokens) == 0 or len(predicted_tokens) == 0):
        return int(gold_tokens == predicted_tokens)
    if same == 0:
        return 0
    precision, recall = same / len(predicted_tokens), same / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def official_v2(golds, predictions, probabilities):
    """By question: answers, prediction, p(no answer) -> (score, best score, its threshold) of exact match and of F1."""
    exact, f1 = {}, {}
    for name, answers in golds.items():
        texts = [text for text in answers if official_normal(text)] or [""]
        exact[name] = max(int(official_normal(text) == official_normal(predictions[name])) for text in texts)
        f1[name] = max(official_f1(text, predictions[name], version_2=True) for text in texts)
    found = []
    for raw in (exact, f1):
        current = best = sum(1 for answers in golds.values() if not answers)
        threshold = 0.0
        for name in sorted(probabilities, key=lambda n: probabilities[n]):
            if golds[name]:
                current += raw[name]
            elif predictions[name]:
                current -= 1
            if current > best:
                best, threshold = current, probabilities[name]
        found += [100.0 * sum(raw.values()) / len(raw), 100.0 * best / len(raw), threshold]
    return found


words = st.sampled_from(
    ["the", "a", "an", "The", "theatre", "cat", "Cat's", "U.S.", "½", "café", "...", "1,000", "—", "-"]
)
texts = st.lists(words, max_size=4).map(" ".join) | st.text(max_size=8)


@given(texts)
def test_normal_form_is_the_official_one(text):
    assert metrics.normalise_answer(text) == official_normal(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's   tail!", "cats tail"),
        ("a theatre, an anchor", "theatre anchor"),  # articles are whole words
        ("U.S.A.", "usa"),
        ("the-end", "theend"),  # punctuation goes before articles
        ("“Ångström” ½", "“ångström” ½"),  # only ASCII punctuation goes
        ("The", ""),
        ("\tA\nb ", "b"),
    ],
)
def test_normal_form_by_hand(text, normal):
    assert metrics.normalise_answer(text) == normal


@given(texts, texts)
def test_token_f1_is_the_official_one(prediction, reference):
    assert metrics.token_f1(prediction, reference) == pytest.approx(official_f1(reference, prediction, False))
    assert metrics.token_f1_or_empty(prediction, reference) == pytest.approx(official_f1(reference, prediction, True))


@given(texts, texts)
def test_token_f1_is_symmetric_in_range_and_one_on_exact_match(prediction, reference):
    f1 = metrics.token_f1_or_empty(prediction, reference)
    assert 0.0 <= f1 <= 1.0
    assert f1 == pytest.approx(metrics.token_f1_or_empty(reference, prediction))
    if metrics.exact_match(prediction, reference):
        assert f1 == 1.0


def test_squad_takes_the_best_reference_and_the_mean_over_questions():
    predictions = ["Denver Broncos", "", "the red old house"]
    references = [["Carolina", "The Denver Broncos!"], ["nobody"], ["red house", "house"]]
    scores = metrics.squad(predictions, references)
    # third question: 2 of 3 words right, both words of the reference found
    assert scores == pytest.approx({"exact_match": 100 / 3, "f1": 100 * (1 + 0 + 0.8) / 3})


def test_squad_measures_exact_match_and_f1_each_at_its_own_best_reference():
    assert metrics.squad(["a b c d"], [["b c d e f", "b c d"]]) == {"exact_match": 100.0, "f1": 100.0}


@given(st.lists(st.tuples(texts, st.lists(texts, max_size=3), st.floats(0, 1)), min_size=1, max_size=6))
def test_squad_v2_is_the_official_script(rows):
    predictions, references, probabilities = (list(column) for column in zip(*rows, strict=True))
    scores = metrics.squad_v2(predictions, references, probabilities)
    names = range(len(rows))
    expected = official_v2(
        *(dict(zip(names, column, strict=True)) for column in (references, predictions, probabilities))
    )
    keys = ("exact", "best_exact", "best_exact_thresh", "f1", "best_f1", "best_f1_thresh")
    assert [scores[key] for key in keys] == pytest.approx(expected)


def test_squad_v2_keys_and_halves():
    predictions = ["Paris", "", "", "London"]
    references = [["Paris"], ["Rome"], [], []]
    scores = metrics.squad_v2(predictions, references)
    assert list(scores) == [
        "exact",
        "f1",
        "total",
        "HasAns_exact",
        "HasAns_f1",
        "HasAns_total",
        "NoAns_exact",
        "NoAns_f1",
        "NoAns_total",
        "best_exact",
        "best_exact_thresh",
        "best_f1",
        "best_f1_thresh",
    ]
    assert (scores["exact"], scores["HasAns_exact"], scores["NoAns_f1"], scores["total"]) == (50.0, 50.0, 50.0, 4)
    assert scores["best_exact_thresh"] == 0.0


@pytest.mark.parametrize(("references", "absent"), [([["x"]], "NoAns"), ([[]], "HasAns")])
def test_squad_v2_without_one_half_has_no_keys_of_it(references, absent):
    scores = metrics.squad_v2(["x"], references)
    assert not any(key.startswith(absent) for key in scores)


# --- ROUGE, BLEU ------------------------------------------------------------------------------------------------------

SUMMARIES = [
    ("Bea meets Cleo. They walk.", "Bea and Cleo are walking. They meet at noon."),
    ("nothing in common", "Quite different words here."),
    ("The cats were running home.", "The cat runs home."),
    ("", "An empty prediction scores nothing."),
]


def test_rouge_is_the_mean_of_rouge_scores_own():
    predictions, references = zip(*SUMMARIES, strict=True)
    scores = metrics.rouge(predictions, [[text] for text in references])
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    rows = [scorer.score(ref.replace(". ", ".\n"), pred.replace(". ", ".\n")) for pred, ref in SUMMARIES]
    for name, value in scores.items():
        assert value == round(100 * sum(row[name].fmeasure for row in rows) / len(rows), 4)


def test_rouge_lies_in_the_interval_of_rouge_scores_bootstrap():
    predictions, references = (list(column) for column in zip(*(SUMMARIES * 5), strict=True))
    scores = metrics.rouge(predictions, [[text] for text in references])
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    aggregator = scoring.BootstrapAggregator(n_samples=200)
    for prediction, reference in zip(predictions, references, strict=True):
        aggregator.add_scores(scorer.score(reference, prediction))
    for name, interval in aggregator.aggregate().items():
        assert 100 * interval.low.fmeasure <= scores[name] <= 100 * interval.high.fmeasure


def test_rouge_takes_the_best_reference_per_measure():
    alone = [metrics.rouge(["one two three"], [[text]]) for text in ("one two four", "three two one")]
    both = metrics.rouge(["one two three"], [["one two four", "three two one"]])
    assert both == {name: max(scores[name] for scores in alone) for name in both}


def test_rouge_ignores_outer_white_space():
    assert metrics.rouge([" \n a cat. "], [["a cat.\n"]])["rougeLsum"] == 100.0


def test_rouge_lsum_sees_sentences_and_rouge_l_does_not():
    scores = metrics.rouge(["Cleo sings. Bea walks home."], [["Bea walks home. Cleo sings."]])
    assert scores["rougeLsum"] == 100.0 > scores["rougeL"]


def test_sentences_end_neither_at_abbreviations_nor_inside_numbers():
    text = "Mr. Hill paid $3.50 to Dr. Ray. Really? Yes!"
    assert metrics.sentence_lines(text).split("\n") == ["Mr. Hill paid $3.50 to Dr. Ray.", "Really?", "Yes!"]


def test_splitter_says_what_it_is():
    name, split = metrics.sentence_splitter()
    assert "unkt" in name
    assert list(split("One. Two.")) == ["One.", "Two."]


@pytest.mark.parametrize(("installed", "expected"), [(True, "nltk punkt_tab"), (False, "list of abbreviations")])
def test_punkt_tab_is_used_where_it_is_installed(monkeypatch, installed, expected):
    def find(resource):
        if not installed:
            raise LookupError(resource)

    monkeypatch.setattr("nltk.data.find", find)
    assert metrics.sentence_splitter.__wrapped__()[0].endswith(expected)


def test_bleu_is_sacrebleus():
    predictions = ["The old house stands by the river .", "A small bridge of stone"]
    references = ["The old house is standing by the river.", "A bridge of stone."]
    expected = sacrebleu.corpus_bleu(predictions, [references]).score
    assert 0 < expected < 100
    assert metrics.bleu(predictions, [[text] for text in references])["bleu"] == round(expected, 4)


def test_bleu_takes_different_numbers_of_references():
    predictions = ["the cat sat on the mat", "a dog ran down the road"]
    both = metrics.bleu(predictions, [["a dog", "the cat sat on the mat"], ["a dog ran down the road"]])
    assert both["bleu"] == 100.0 and "nrefs:var" in both["bleu_signature"]


# --- scripts ----------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "Chinese": "他们在火车站见面。然后一起回家。",
    "Japanese": "彼らは駅で会います。それから家に帰る。",
    "Thai": "พวกเขาพบกันที่สถานีรถไฟ",
    "Burmese": "သူတို့ဘူတာမှာတွေ့ကြတယ်။",
    "Arabic": "يلتقيان في محطة القطار؟ ثم يعودان إلى البيت معا.",
    "Persian": "آن‌ها در ایستگاه قطار همدیگر را می‌بینند.",
    "Russian": "Они встречаются на вокзале. Потом идут домой вместе.",
    "Hindi": "वे स्टेशन पर मिलते हैं। फिर वे साथ घर जाते हैं।",
    "Korean": "그들은 기차역에서 만난다. 그리고 함께 집에 간다.",
    "Greek": "Συναντιούνται στον σταθμό. Μετά πάνε μαζί στο σπίτι.",
    "English": "They meet at the station. Then they walk home together.",
}
CHARACTERS = {"Chinese": "zh", "Japanese": "char", "Thai": "char", "Burmese": "char"}


@pytest.mark.parametrize("language", SCRIPTS)
def test_a_text_equals_itself_in_every_script(language):
    text = SCRIPTS[language]
    assert set(metrics.rouge([text], [[text]], "unicode").values()) == {100.0}
    assert set(metrics.squad([text], [[text]]).values()) == {100.0}
    assert metrics.bleu([text], [[text]], CHARACTERS.get(language, "13a"))["bleu"] == pytest.approx(100.0)


@pytest.mark.parametrize("language", SCRIPTS)
def test_rouge_of_every_script_falls_with_what_differs(language):
    text = SCRIPTS[language]
    half = text[: len(text) // 2]
    scores = metrics.rouge([half], [[text]], "unicode")
    assert all(0 < scores[name] < 100 for name in metrics.ROUGES)
    assert metrics.rouge(["xyz"], [[text]], "unicode")["rouge1"] == 0


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_of_ascii_the_words_of_every_script_are_rouge_scores_own(text):
    own, unicode = (metrics.ROUGE_TOKENIZERS[name].tokenize(text) for name in ("rouge_score", "unicode"))
    assert own == unicode
    assert metrics.sentence_lines(text) == metrics.sentence_lines(text, "unicode")


@given(st.text(st.characters(exclude_categories=("Cn", "Co", "Cs")), max_size=40))
def test_every_letter_and_digit_is_in_a_word(text):
    words = metrics.ROUGE_TOKENIZERS["unicode"].tokenize(text)
    assert bool(words) == any(character.isalnum() for character in unicodedata.normalize("NFKC", text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ラーメン2杯", ["ラ", "ー", "メ", "ン", "2", "杯"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Ёлка, ÉCOLE e\u0301cole", ["ёлка", "école", "école"]),
        ("ＡＢＣ running", ["abc", "run"]),
    ],
)
def test_words_by_hand(text, words):
    assert metrics.ROUGE_TOKENIZERS["unicode"].tokenize(text) == words


def test_sentences_end_at_full_stops_of_other_scripts_too():
    text = "他们见面。回家！ वे मिलते हैं। Done."
    assert len(metrics.sentence_lines(text, "unicode").split("\n")) > len(metrics.sentence_lines(text).split("\n"))
    both = "他们回家。我们见面。", "我们见面。他们回家。"
    scores = metrics.rouge([both[0]], [[both[1]]], "unicode")
    assert scores["rougeLsum"] == 100.0 > scores["rougeL"]


def test_flags_and_tokenizers_have_the_same_names():
    assert set(metrics.ROUGE_TOKENIZERS) == set(ROUGE_TOKENIZERS)


@pytest.mark.parametrize("tokenizer", ["13a", "zh", "char"])
def test_bleu_says_which_tokenizer_counted(tokenizer):
    assert f"tok:{tokenizer}|" in metrics.bleu(["a b"], [["a b"]], tokenizer)["bleu_signature"]


def test_a_task_scores_with_its_tokenizer_in_the_mean_and_in_each_example():
    text = SCRIPTS["Chinese"]
    task = replace(TASKS["samsum"], tokenizer="unicode")
    assert metrics.score(task, {"0": text}, examples([text]))["rougeLsum"] == 100.0
    assert metrics.score_example(task, text, [text])["rougeLsum"] == 100.0
    assert metrics.score_example(TASKS["samsum"], text, [text])["rougeLsum"] == 0.0
    task = replace(TASKS["iwslt2017"], tokenizer="zh")
    found = metrics.score(task, {"0": text}, examples([text]))
    assert found["bleu"] == pytest.approx(100.0) and "tok:zh" in found["bleu_signature"]
    (counts,) = metrics.score_example(task, text, [text]).values()
    assert metrics.bleu_of_counts(np.array([counts])) == pytest.approx(100.0) and counts[0] > 1, "words of Chinese"


def test_names_of_scores_are_those_of_numbers():
    assert metrics.score_names(TASKS["iwslt2017"]) == ["bleu"]
    assert metrics.score_names(TASKS["samsum"]) == list(metrics.ROUGES)


# --- score ------------------------------------------------------------------------------------------------------------


def examples(*references):
    return Dataset.from_dict({"id": [str(i) for i in range(len(references))], "references": list(references)})


def test_score_goes_by_id_and_not_by_order():
    found = metrics.score(TASKS["squad"], {"1": "yes", "0": "no"}, examples(["no"], ["yes"]))
    assert found == {"exact_match": 100.0, "f1": 100.0}


def test_score_names_an_example_without_prediction():
    with pytest.raises(ValueError, match=r"1 of 2 examples have no prediction, the first of them '1'"):
        metrics.score(TASKS["squad"], {"0": "no"}, examples(["no"], ["yes"]))


@pytest.mark.parametrize("name", ["squad", "squad_v2", "samsum", "iwslt2017"])
def test_score_of_data_without_references_is_empty(name):
    assert metrics.score(TASKS[name], {"0": "text", "1": ""}, examples(None, None)) == {}


def test_an_empty_list_of_references_is_a_question_without_answer_in_squad_v2_only(caplog):
    predictions, data = {"0": "", "1": "yes"}, examples([], ["yes"])
    assert metrics.score(TASKS["squad_v2"], predictions, data)["total"] == 2
    assert metrics.score(TASKS["squad"], predictions, data)["f1"] == 100.0
    assert "1 of 2 examples have no reference" in caplog.text


def test_every_metric_has_its_headline():
    for row in metrics.METRICS.values():
        scores = row.compute(["a b c d"], [["a b c d"]])
        assert row.headline in scores and (row.shown or row.headline) in scores


def test_what_tables_show_of_a_metric():
    shown = {name: (row.label, row.by_example) for name, row in metrics.shown_scores().items()}
    assert shown == {"f1": ("F1", "f1"), "rougeL": ("ROUGE-L", "rougeL"), "bleu": ("BLEU", "bleu_counts")}


BLEU_PAIRS = [
    ("a man walks the dog", ("a man is walking the dog .", "the man walks a dog")),
    ("", ("nothing here",)),
    ("two", ("two",)),
    ("the red tower of elm stands on a hill", ("the red tower of elm stands on the hill",)),
]


@pytest.mark.parametrize("some", [[0], [1], [2], [0, 3], [1, 2], [0, 1, 2, 3], [3, 3, 0]])
def test_bleu_of_counts_of_examples_is_that_of_their_corpus(some):
    predictions, references = zip(*(BLEU_PAIRS[place] for place in some), strict=True)
    counts = np.array([metrics.bleu_example(*BLEU_PAIRS[place])[metrics.BLEU_COUNTS] for place in some])
    whole = metrics.bleu(predictions, references)["bleu"]
    assert metrics.bleu_of_counts(counts) == pytest.approx(whole, abs=1e-4)
    assert metrics.bleu_of_counts(np.stack([counts, counts])) == pytest.approx([whole, whole], abs=1e-4)


def test_generated_length_counts_the_end_but_neither_start_nor_padding():
    assert metrics.generated_length([0, 5, 6, 1, 0, 0], pad_token_id=0) == 3
    assert metrics.generated_length([7, 5, 6, 1, 0], pad_token_id=0) == 3
