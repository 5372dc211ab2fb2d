"""The tests of strategies: multiple choice as lm-evaluation-harness has it, files that are read, what is refused."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from jobs.likelihoods import Likelihood
from jobs.truthful import Comparison, Data, _choice, _longest, _means, read_fields, spread
from scripts.real_model import MODEL
from tasks.truthful import PRIMER, Question, closed, invented_questions, primed
from util import DecoderArguments
from util.arguments import EMBEDDED_DECODER
from util.files import jsonl
from util.truthful_args import TruthfulArguments


def write_jsonl(path, rows):
    path.write_bytes(jsonl(rows))
    return path


@pytest.fixture(scope="module")
def harness():
    """The harness's own tasks: what they ask of a document, and what they make of the answers."""
    utils = pytest.importorskip("lm_eval.tasks.truthfulqa.utils")

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load((Path(utils.__file__).parent / "truthfulqa_mc1.yaml").read_text(), Loader)
    return SimpleNamespace(utils=utils, template=task["doc_to_text"])


def doc_of(question):
    """As the hub's data set has it."""
    right, wrong = ([closed(each) for each in texts] for texts in (question.correct, question.incorrect))
    best = closed(question.best)
    targets = {"choices": right + wrong, "labels": [1] * len(right) + [0] * len(wrong)}
    return {
        "question": question.question,
        "mc1_targets": {"choices": [best, *wrong], "labels": [1] + [0] * len(wrong)},
        "mc2_targets": targets,
    }


def test_the_primer_is_the_harness_own(harness):
    jinja2 = pytest.importorskip("jinja2")
    for question in invented_questions(3):
        assert jinja2.Template(harness.template).render(**doc_of(question)) == primed(question.question)
    assert PRIMER.count("Q: ") == 6


def agree(harness, lm, questions, found):
    """MC1 and MC2 of questions are what a model of the harness makes of them."""
    for question, scores in zip(questions, found, strict=True):
        doc = doc_of(question)
        replied = {
            target: lm.loglikelihood(
                [SimpleNamespace(args=(primed(question.question), f" {text}")) for text in doc[target]["choices"]],
                disable_tqdm=True,
            )
            for target in ("mc1_targets", "mc2_targets")
        }
        first = float(np.argmax([total for total, _ in replied["mc1_targets"]]) == 0)
        assert scores["mc1"] == 100 * first
        second = harness.utils.process_results_mc2(doc, replied["mc2_targets"])["acc"]
        assert scores["mc2"] == pytest.approx(100 * second, abs=1e-2)


def vanilla_choices(path, limit, out):
    flags = {"strategies": ["vanilla", "dola"], "tests": ["choices"], "device": "cpu"}
    args = TruthfulArguments(**flags, limit=limit, out=str(out))
    results = Comparison(DecoderArguments(model_name_or_path=str(path)), args).run()
    return results.scores["choices"]["vanilla"]


def test_vanilla_is_what_the_harness_finds(harness, tmp_path):
    from jobs.harness import EarlyExitLM

    found = vanilla_choices(EMBEDDED_DECODER, 4, tmp_path)
    agree(harness, EarlyExitLM(str(EMBEDDED_DECODER)), spread(invented_questions(), 4), found)


@pytest.mark.real
def test_vanilla_is_what_the_harness_own_model_finds(harness, tmp_path, request):
    path = Path(request.config.getoption("--real") or MODEL)
    if not path.is_dir():
        pytest.skip(f"{path} is not there: bash src/scripts/real_model.sh fetches it")
    from lm_eval.models.huggingface import HFLM

    found = vanilla_choices(path, 3, tmp_path)
    lm = HFLM(pretrained=str(path), device="cpu", dtype="float32", batch_size=4)
    agree(harness, lm, spread(invented_questions(), 3), found)


def test_choices_are_scored_by_sums_and_by_token_and_lengths_alone_are_said():
    question = Question("Which?", "c", "red", ("red", "it is red"), ("blue", "green"))
    row = [Likelihood(8.0, 2), Likelihood(12.0, 4), Likelihood(9.0, 1), Likelihood(-1.0, 1)]
    scores = _choice(question, row)
    assert (scores["mc1"], scores["mc3"], scores["mc1_token"], scores["mc3_token"]) == (0, 50, 0, 0)
    assert scores["mc2"] == pytest.approx(100 * np.exp([8, 12]).sum() / np.exp([8, 12, 9, -1]).sum())
    assert scores["mc2_token"] == pytest.approx(100 * np.exp([4, 3]).sum() / np.exp([4, 3, 9, -1]).sum())
    told = _longest([question], [row])
    expected = 100 * np.exp([2, 4]).sum() / np.exp([2, 4, 1, 1]).sum()
    assert f"alone, has MC1 100.00, MC2 {expected:.2f}, MC3 100.00; right answers have 3.0 tokens" in told
    assert told.endswith("wrong ones 1.0.")
    assert _means({"vanilla": [row], "dola": [[Likelihood(-4.0, 8)]]}).endswith("vanilla 3.8, dola -0.5.")


def test_some_of_a_file_are_taken_evenly():
    assert spread(range(10), None) == list(range(10)) == spread(range(10), 20)
    assert spread(range(10), 4) == [0, 2, 5, 7]


def test_fields_are_looked_at(tmp_path):
    good = {"prefix": "Ann is", "completion": "red", "contradictions": ["blue"]}
    kinds = {"prefix": str, "completion": str, "contradictions": list}
    assert read_fields(write_jsonl(tmp_path / "good.jsonl", [good]), kinds) == [good]
    for name, value, wanted in (
        ("prefix", 3, "a text as its 'prefix'"),
        ("contradictions", "blue", "a list of texts as its 'contradictions'"),
        ("contradictions", [], "a list of texts"),
        ("contradictions", [1], "a list of texts"),
    ):
        path = write_jsonl(tmp_path / "bad.jsonl", [good, good | {name: value}])
        with pytest.raises(ValueError, match=f"record 2: expected {wanted}"):
            read_fields(path, kinds)


def test_an_answer_without_a_number_is_said(tmp_path):
    path = write_jsonl(tmp_path / "math.jsonl", [{"question": "How many?", "answer": "a few"}])
    with pytest.raises(ValueError, match="'a few' has no number"):
        Data(TruthfulArguments(gsm8k_file=str(path), out=str(tmp_path)))


def test_what_is_measured_follows_from_the_data(tmp_path):
    path = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Once"}])
    assert TruthfulArguments().tests == ["choices", "answers"]
    assert TruthfulArguments(prompt_file=str(path)).tests == ["open_ended"]
    assert TruthfulArguments(prompt_file=str(path), tests="choices").tests == ["choices"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"strategies": ["greedy"]}, "--strategies greedy: valid are vanilla, contrastive, acd, dola, dola_static."),
        ({"tests": ["mc"]}, "--tests mc: valid are choices, answers, factor, gsm8k, open_ended."),
        ({"tests": ["factor"]}, "--tests factor needs data: give --factor_file."),
        ({"data": "none.csv"}, "--data none.csv: there is no such file."),
        ({"limit": 0}, "--limit 0"),
        ({"likelihood_alpha": 2.0}, "--likelihood_alpha 2.0"),
        ({"dola_divergence": "mine"}, "--dola_divergence mine: valid are paper, code."),
        ({"dtype": "int8"}, "--dtype int8: valid are"),
    ],
)
def test_what_cannot_be_is_refused(given, sentence):
    with pytest.raises(ValueError) as refused:
        TruthfulArguments(**given)
    assert sentence in str(refused.value)
