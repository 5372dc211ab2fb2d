"""Metrics by name: of a file of one's own, tried before anything is decoded; the hub's need a network or the cache."""

import json
import sys

import pytest

import run_summarization
from analysis import rescore
from conftest import dialogues, write_jsonl
from tasks.named_metrics import load_metrics, named_scores
from training import evaluation
from util import SummarizationArguments, parse_arguments
from util.runs import Run

pytest.importorskip("evaluate")

METRIC = """
import datasets
import evaluate

FORM = {{"predictions": datasets.Value("{kind}"), "references": {references}}}


class Metric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(FORM))

    def _compute(self, predictions, references, times=1):
        {compute}
"""
ONE = 'datasets.Value("string")'
MANY = 'datasets.Sequence(datasets.Value("string"))'
LENGTHS = 'return {"words": [times * len(text.split()) for text in predictions], "signature": "words"}'


def write_metric(folder, name="words", kind="string", references=ONE, compute=LENGTHS):
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.py").write_text(METRIC.format(kind=kind, references=references, compute=compute))
    return str(folder / name)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """The library copies the code it runs into a cache, of which Python imports the first that it is told."""
    import evaluate.config

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        for module in [name for name in sys.modules if name.startswith("evaluate_modules")]:
            patch.delitem(sys.modules, module)
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        yield


ROWS = [{"prediction": "a b", "references": ["a", "b"]}, {"prediction": "c", "references": None}]
ROWS += [{"prediction": "d e f g", "references": ["d"]}]


def test_lists_of_numbers_are_averaged_and_what_has_no_reference_is_left_out(tmp_path):
    metrics = load_metrics([write_metric(tmp_path)])
    assert named_scores(metrics, ROWS) == {"words_words": 3.0}
    assert named_scores(load_metrics([f"{tmp_path}/words/words.py:times=2"]), ROWS) == {"words_words": 6.0}


def test_a_metric_that_takes_several_references_gets_all(tmp_path):
    count = 'return {"count": sum(map(len, references))}'
    one = write_metric(tmp_path, "one", compute=count)
    many = write_metric(tmp_path, "many", references=MANY, compute=count)
    assert named_scores(load_metrics([one, many]), ROWS) == {"one_count": 2, "many_count": 3}


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"kind": "int32"}, "cannot score these texts: it takes .*int32.*, not texts"),
        ({"compute": "raise RuntimeError('no such table')"}, "cannot score these texts: no such table"),
        ({"compute": "return {'signature': 'x'}"}, "gives no number, but signature"),
    ],
)
def test_a_metric_that_is_none_of_texts_is_refused_when_it_is_loaded(tmp_path, how, told):
    with pytest.raises(ValueError, match=told):
        load_metrics([write_metric(tmp_path, **how)])


def test_what_cannot_be_loaded_is_told_with_the_way_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.loading.HubEvaluationModuleFactory.get_module", offline)
    with pytest.raises(ValueError, match=r"--metrics no_such is not in the cache.*prefetch.py --metrics no_such`"):
        load_metrics(["no_such"])
    with pytest.raises(ValueError, match=r"--metrics \./absent: there is no such file or folder"):
        load_metrics(["./absent"])
    with pytest.raises(ValueError, match="options as in bertscore:lang=en"):
        load_metrics(["bertscore:en"])
    with pytest.raises(ValueError, match="has words twice"):
        load_metrics([write_metric(tmp_path), write_metric(tmp_path / "other")])


def offline(*args, **kwargs):
    raise ConnectionError("offline")


def test_a_folder_of_a_metrics_name_is_not_run(tmp_path, monkeypatch):
    write_metric(tmp_path, "rouge", compute="raise SystemExit")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"give \./rouge if it is meant"):
        load_metrics(["rouge"])


@pytest.fixture
def evaluated(tiny_t5_dir, tmp_path):
    """Evaluate three dialogues with further flags; returns (metrics, output folder)."""
    file = write_jsonl(tmp_path / "dialogues.jsonl", dialogues(3))

    def run(*flags):
        words = ["--model_name_or_path", tiny_t5_dir, "--validation_file", file, "--output_dir", tmp_path / "out"]
        words += ["--do_eval", "--use_cpu", "--max_source_length", "32", "--max_target_length", "8", *flags]
        return run_summarization.main(*parse_arguments(SummarizationArguments, list(map(str, words))))[1]

    return run, tmp_path / "out"


def test_a_run_gets_them_now_or_later_and_is_decoded_once(evaluated, tmp_path, monkeypatch):
    run, out = evaluated
    plain = run()
    monkeypatch.setattr(evaluation, "decode_batch", None)
    words = write_metric(tmp_path)
    found = run("--metrics", words)
    assert found["eval_words_words"] > 0 and found.items() >= plain.items()
    (folder,) = (out / "runs").iterdir()
    for path in (folder / "all_results.json", folder / "eval_results.json", out / "eval_results.json"):
        assert json.loads(path.read_text())["eval_words_words"] == found["eval_words_words"]
    table = rescore.main(["--runs", str(out), "--metrics", write_metric(tmp_path, "more")])
    assert table.rows == [[folder.name, f"{found['eval_words_words']:.4f}"]]
    held = Run.at(folder).results
    assert held["eval_more_words"] == held["eval_words_words"] and held.items() >= found.items()
    assert json.loads((out / "all_results.json").read_text())["eval_more_words"] == held["eval_more_words"]
    assert run() == held  # it is complete, as before


def test_nothing_is_decoded_for_a_metric_that_is_not_there(evaluated, monkeypatch):
    run, out = evaluated
    monkeypatch.setattr(evaluation, "decode_batch", None)
    with pytest.raises(ValueError, match="no such file or folder"):
        run("--metrics", "./absent")
    assert not (out / "runs").exists()


def test_results_of_another_run_are_left_alone(evaluated, tmp_path):
    run, out = evaluated
    run()
    run("--static_exit_layer", "2")
    latest = (out / "all_results.json").read_text()
    full = next((out / "runs").glob("*full*"))
    rescore.main(["--runs", str(full), "--metrics", write_metric(tmp_path)])
    assert (out / "all_results.json").read_text() == latest
    assert "eval_words_words" in (full / "all_results.json").read_text()


@pytest.mark.parametrize(("runs", "told"), [("", "holds no complete run"), ("absent", "holds no complete run")])
def test_folders_without_runs_are_refused(tmp_path, capsys, runs, told):
    with pytest.raises(SystemExit) as stop:
        rescore.main(["--runs", str(tmp_path / runs), "--metrics", "./absent"])
    assert stop.value.code == 2 and told in capsys.readouterr().err
