"""lm-evaluation-harness through the adapter: likelihoods at a layer, generation under a policy, a local task file."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lm_eval")

import generate
from jobs.harness import EarlyExitLM
from models import DeployGPT2LMHeadModel
from support import plain_generate

SCRIPT = Path(__file__).resolve().parents[2] / "src" / "run_lm_eval.py"
PAIRS = [("The tower of", " Dover is red."), ("Ann: Where are", " you?"), ("", "Bob"), ("In ", "Elm, there")]


def asked(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


@pytest.fixture(scope="module")
def folder(tiny_gpt2_dir):
    return str(tiny_gpt2_dir)


@torch.no_grad()
def by_hand(lm, context, continuation, layer):
    """Log-probability of a continuation, one pair at a time, and whether it is what the layer would say."""
    if context:
        spaces = context[len(context.rstrip()) :]
        context, continuation = context.rstrip(), spaces + continuation
        before = lm.tok_encode(context)
        after = lm.tok_encode(context + continuation)[len(before) :]
    else:
        before, after = [lm.prefix_token_id], lm.tok_encode(continuation)
    states = lm.model.normed_states(input_ids=torch.tensor([before + after]))[layer - 1]
    log_p = lm.model.lm_head(states)[0, len(before) - 1 : -1].log_softmax(-1)
    total = float(log_p.gather(1, torch.tensor(after)[:, None]).sum())
    return total, bool((log_p.argmax(-1) == torch.tensor(after)).all())


@pytest.mark.parametrize("layer", [None, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_log_likelihoods_are_those_of_the_layer(folder, layer, batch):
    lm = EarlyExitLM(folder, likelihood_layer=layer, batch_size=batch)
    found = lm.loglikelihood(asked(*PAIRS), disable_tqdm=True)
    for (total, greedy), pair in zip(found, PAIRS, strict=True):
        expected = by_hand(lm, *pair, layer or 4)
        assert total == pytest.approx(expected[0], abs=1e-3) and greedy == expected[1]


def test_a_continuation_that_the_model_would_say_is_greedy(folder, decided):
    lm = EarlyExitLM(folder)
    ids = torch.tensor([lm.tok_encode("The tower")])
    said = lm.model.generate(ids, max_new_tokens=3)[0, ids.shape[1] :].tolist()
    (found,) = lm._loglikelihood_tokens([(("", ""), ids[0].tolist(), said)], disable_tqdm=True)
    assert found[1]


def test_a_continuation_longer_than_the_model_counts_with_its_last_tokens(folder):
    lm = EarlyExitLM(folder, max_length=6)
    ids = lm.tok_encode("The tower of Dover is red. It rains there.")
    assert len(ids) > 8
    (found,) = lm._loglikelihood_tokens([(("", ""), ids[:2], ids[2:])], True, cached=False)
    (same,) = lm._loglikelihood_tokens([(("", ""), ids[-7:-6], ids[-6:])], True, cached=False)
    assert found == pytest.approx(same)


def test_whole_texts_are_cut_into_windows(folder):
    text = "The tower of Dover is red. " * 6
    lm = EarlyExitLM(folder, max_length=20)
    (whole,) = lm.loglikelihood_rolling(asked((text,)), disable_tqdm=True)
    assert len(lm.tok_encode(text)) > 20 and whole < 0
    short = EarlyExitLM(folder)
    (found,) = short.loglikelihood_rolling(asked(("Ann: Where",)), disable_tqdm=True)
    assert found == pytest.approx(by_hand(short, "", "Ann: Where", 4)[0], abs=1e-3)


def test_generation_runs_under_the_policy_and_ends_before_a_stop_string(folder, decided):
    flags = {"use_early_exit": True, "exit_conf_threshold": 0.25}
    contexts = ["The tower of", "Ann: Where are you?", "Bob"]
    requests = asked(*((context, {"until": [], "max_gen_toks": 9}) for context in contexts))
    early, full = EarlyExitLM(folder, batch_size=2, **flags), EarlyExitLM(folder, batch_size=2)
    lossless = EarlyExitLM(folder, lossless=True, **flags)
    texts = full.generate_until(requests, disable_tqdm=True)
    assert early.generate_until(requests, disable_tqdm=True) != texts
    assert lossless.generate_until(requests, disable_tqdm=True) == texts
    assert early.get_model_info()["block_avg"] < 4 and full.get_model_info()["block_avg"] == 4
    model = DeployGPT2LMHeadModel.from_pretrained(folder)
    ids = torch.tensor([full.tok_encode(contexts[0])])
    said = full.tokenizer.decode(model.generate(ids, max_new_tokens=9)[0, ids.shape[1] :], skip_special_tokens=True)
    assert texts[0] == said
    end = next(part for part in said[2:] if part.strip())
    (cut,) = full.generate_until(asked((contexts[0], {"until": [end], "max_gen_toks": 9})), disable_tqdm=True)
    assert cut == said.split(end)[0]


def continued(lm, context, **settings):
    """One continuation, nothing cut from it."""
    (text,) = lm.generate_until(asked((context, {"until": [], **settings})), disable_tqdm=True)
    return text


@pytest.mark.parametrize("name", ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("value", [5, "5"])
def test_lengths_come_by_any_of_the_harness_names(folder, name, value):
    lm = EarlyExitLM(folder)
    continued(lm, "The tower of", **{name: value})
    assert lm.counts["tokens"] == 5
    continued(lm, "The tower of")
    assert lm.counts["tokens"] == 5 + 64, "half of the model's positions, where 256 are not there"


def test_beams_are_the_librarys_and_exclude_exits(folder):
    lm = EarlyExitLM(folder)
    ids = torch.tensor([lm.tok_encode("The tower of")])
    said = plain_generate(lm.model, input_ids=ids, max_new_tokens=7, num_beams=3)[0, ids.shape[1] :]
    text = lm.tokenizer.decode(said, skip_special_tokens=True)
    assert continued(lm, "The tower of", max_gen_toks=7, num_beams=3) == text
    early = EarlyExitLM(folder, use_early_exit=True, exit_conf_threshold=0.2)
    with pytest.raises(ValueError, match="num_beams=3"):
        continued(early, "The tower of", num_beams=3)


def test_a_temperature_asks_for_samples(folder):
    lm = EarlyExitLM(folder)
    greedy = continued(lm, "The tower of", max_gen_toks=20)
    assert continued(lm, "The tower of", max_gen_toks=20, temperature=0.0) == greedy
    assert continued(lm, "The tower of", max_gen_toks=20, temperature=2.0, do_sample=False) == greedy
    torch.manual_seed(0)
    assert continued(lm, "The tower of", max_gen_toks=20, temperature=2.0) != greedy
    torch.manual_seed(0)
    drawn = continued(lm, "The tower of", max_gen_toks=20, temperature=2.0, top_k=5)
    torch.manual_seed(0)
    assert drawn == continued(lm, "The tower of", max_gen_toks=20, temperature=2.0, top_k=5, do_sample=True) != greedy


def test_an_empty_context_is_what_generate_makes_of_an_empty_prompt(folder, capsys):
    lm = EarlyExitLM(folder, batch_size=3)
    alone = continued(lm, "", max_gen_toks=6)
    contexts = ["The tower of Arden is", "", "Bob"]
    requests = asked(*((context, {"until": [], "max_gen_toks": 6}) for context in contexts))
    assert lm.generate_until(requests, disable_tqdm=True)[1] == alone
    (found,) = generate.main(["--model_name_or_path", folder, "-p", "", "-l", "6", "--device", "cpu"])
    assert found.text == alone and len(found.tokens) == 6


def test_depths_of_lossless_runs_name_drafts_and_passes(folder):
    lm = EarlyExitLM(folder, use_shallow_deep=True, shallow_exit_layer=1, lossless=True)
    continued(lm, "The tower of", max_gen_toks=20)
    info = lm.get_model_info()
    assert 1 <= info["block_avg"] <= 4 <= info["layers_run"] and 0 <= info["acceptance_rate"] <= 1
    assert info["policy"]["threshold"] == 0.0
    full = EarlyExitLM(folder)
    continued(full, "The tower of", max_gen_toks=20)
    assert full.get_model_info().keys() == {"policy", "likelihood_layer", "block_avg", "layers_run"}


@pytest.mark.parametrize("length", [0, 128, 500])
def test_more_new_tokens_than_there_is_room_for_are_refused(folder, length):
    with pytest.raises(ValueError, match=f"asks for {length} new tokens, but max_length is 128 .*valid are 1 to 127"):
        continued(EarlyExitLM(folder), "The", max_gen_toks=length)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exit_thresh": 0.9}, "exit_thresh: no such argument"),
        ({"likelihood_layer": 9}, "likelihood_layer is 9: valid are 1 to 4"),
        ({"static_exit_layer": 9}, "static_exit_layer is 9: valid are 1 to 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        EarlyExitLM(folder, **settings)


@pytest.mark.slow
def test_the_harness_runs_a_local_task_file(folder, tmp_path):
    rows = [{"prompt": "Ann: Where", "target": " are", "choices": [" are you", " red"]}] * 3
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\ntest_split: test\n"
    common += 'doc_to_text: "{{prompt}}"\n'
    (tmp_path / "continue.yaml").write_text(
        f"task: local_continue\n{common}output_type: generate_until\n"
        'doc_to_target: "{{target}}"\ngeneration_kwargs: {until: ["."], max_gen_toks: 5}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "choose.yaml").write_text(
        f"task: local_choose\n{common}output_type: multiple_choice\n"
        'doc_to_choice: "{{choices}}"\ndoc_to_target: 0\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    command = [sys.executable, str(SCRIPT), "--model", "early_exit", "--tasks", "local_continue,local_choose"]
    command += ["--model_args", f"pretrained={folder},use_early_exit=True,exit_conf_threshold=0.2,likelihood_layer=3"]
    command += ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--batch_size", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "out").rglob("results_*.json")
    held = json.loads(path.read_text())
    assert held["results"]["local_choose"]["acc,none"] in (0.0, 1.0)
    assert held["config"]["likelihood_layer"] == 3 and held["config"]["policy"]["threshold"] == 0.2
    assert 1 <= held["config"]["block_avg"] <= 4


def test_a_missing_package_is_one_sentence_and_code_2(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "pip install lm_eval" in capsys.readouterr().err
