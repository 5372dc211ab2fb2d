"""lm-evaluation-harness through the adapter: likelihoods at a layer, generation under a policy, a local task file."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2LMHeadModel

pytest.importorskip("lm_eval")

import generate
from decoding.strategies import DIVERGENCES
from jobs.harness import EarlyExitLM
from models import DeployGPT2LMHeadModel
from support import plain_generate
from tasks.truthful import closed, invented_questions, primed
from util.arguments import EMBEDDED_DECODER

SCRIPT = Path(__file__).resolve().parents[2] / "src" / "run_lm_eval.py"
STRATEGIES = ("contrastive", "acd", "dola", "dola_static")
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


def choices(count):
    """What the harness asks of questions of TruthfulQA's kind: each answer behind the primer."""
    return [
        (primed(each.question), f" {closed(answer)}")
        for each in invented_questions(count)
        for answer in (*each.correct, *each.incorrect)
    ]


def test_choices_are_what_the_harness_own_model_says():
    from lm_eval.models.huggingface import HFLM

    requests = asked(*choices(3), *PAIRS)
    own = HFLM(pretrained=str(EMBEDDED_DECODER), device="cpu", dtype="float32", batch_size=4)
    expected = own.loglikelihood(requests, disable_tqdm=True)
    for strategy in ("greedy", "beam"):
        found = EarlyExitLM(batch_size=5, strategy=strategy, device="cpu").loglikelihood(requests, disable_tqdm=True)
        assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@torch.no_grad()
def dola_by_hand(model, before, after, amateurs, normed, alpha, post_softmax):
    """DoLa's score of tokens, from the hidden states that the library gives."""
    found = model(torch.tensor([before + after]), output_hidden_states=True)
    log_p = found.logits[0, len(before) - 1 : -1].log_softmax(-1)
    norm = model.transformer.ln_f if normed else torch.nn.Identity()
    states = [found.hidden_states[layer][0, len(before) - 1 : -1] for layer in amateurs]
    early = torch.stack([model.lm_head(norm(each)).log_softmax(-1) for each in states])
    p, q = log_p.exp(), early.exp()
    mean = (p + q) / 2
    divergences = ((p * (log_p - mean.log())).sum(-1) + (q * (early - mean.log())).sum(-1)) / 2
    scores = log_p - early[divergences.argmax(0), torch.arange(len(after))]
    if alpha:
        scores = scores.masked_fill(p < alpha * p.amax(-1, keepdim=True), -1000.0)
    scores = scores.log_softmax(-1) if post_softmax else scores
    return float(scores[torch.arange(len(after)), after].sum())


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"lens_final_norm": False},
        {"likelihood_alpha": 0.1},
        {"post_softmax": True, "early_exit_layers": [0, 2, 3, 4]},
    ],
    ids=lambda flags: " ".join(flags) or "as it is",
)
def test_dola_scores_are_its_formula(folder, flags):
    lm = EarlyExitLM(folder, strategy="dola", batch_size=3, **flags)
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    amateurs = (0, 2, 3) if "early_exit_layers" in flags else (2,)
    numbers = flags.get("lens_final_norm", True), flags.get("likelihood_alpha"), flags.get("post_softmax")
    found = lm.loglikelihood(asked(*PAIRS), disable_tqdm=True)
    for (total, _), (context, continuation) in zip(found, PAIRS, strict=True):
        before, after = (
            lm._encode_pair(context, continuation) if context else ([lm.prefix_token_id], lm.tok_encode("Bob"))
        )
        assert total == pytest.approx(dola_by_hand(model, before, after, amateurs, *numbers), abs=1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_would_say_is_greedy(folder, strategy, decided):
    lm = EarlyExitLM(folder, strategy=strategy, alpha=0.3)
    ids = torch.tensor([lm.tok_encode("The tower")])
    said = lm.model.generate(ids, strategy=replace(lm.strategy, beams=1), max_new_tokens=4)[0, ids.shape[1] :].tolist()
    other = [*said[:3], (said[3] + 1) % len(lm.tokenizer)]
    found = lm._loglikelihood_tokens([(("", ""), ids[0].tolist(), each) for each in (said, other)], True, cached=False)
    assert [greedy for _, greedy in found] == [True, False]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_generation_runs_under_the_strategy(folder, strategy, decided):
    text = continued(EarlyExitLM(folder, strategy=strategy), "The tower of", max_gen_toks=6)
    flags = ["--model_name_or_path", folder, "-p", "The tower of", "-l", "6", "--device", "cpu"]
    (found,) = generate.main([*flags, "--strategy", strategy])
    assert text == found.text


def test_a_strategy_stands_in_what_the_harness_writes(folder):
    lm = EarlyExitLM(folder, strategy="dola", early_exit_layers="high", likelihood_alpha=0.1, post_softmax=True)
    info = lm.get_model_info()
    assert info.keys() == {"strategy", "likelihood_alpha", "post_softmax"}
    assert info["strategy"]["name"] == "dola" and info["strategy"]["divergence"] in DIVERGENCES
    assert info["likelihood_alpha"] == 0.1 and info["strategy"]["alpha"] == 0.1


def test_what_fills_up_a_process_is_not_generated_again(folder):
    lm = EarlyExitLM(folder)
    first, last = (
        SimpleNamespace(args=(text, {"until": [], "max_gen_toks": 3}), repeats=repeats)
        for text, repeats in (("The tower of", 1), ("Bob", 2))
    )
    texts = lm.generate_until([first, last, last, last, last], disable_tqdm=True)
    assert texts[1] == texts[3] == texts[4] and lm.counts["tokens"] == 3 * 3


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
        ({"strategy": "sample"}, "--strategy sample: valid are greedy, beam, contrastive, acd, dola, dola_static"),
        ({"strategy": "acd", "intermediate_layer": 4}, "--intermediate_layer 4: Layer 4 cannot be contrasted"),
        ({"strategy": "dola", "use_early_exit": True, "exit_conf_threshold": 0.5}, "dola runs every layer: drop"),
        ({"strategy": "dola", "early_exit_layers": 16}, "--early_exit_layers 16: The contrasted layer is 16"),
        ({"strategy": "dola", "likelihood_layer": 2}, "--likelihood_layer is of strategy greedy"),
        ({"post_softmax": True}, "--post_softmax is of a strategy that contrasts layers"),
        ({"strategy": "dola", "likelihood_alpha": 2}, "--likelihood_alpha 2: valid are 0 to 1"),
        ({"dtype": "int8"}, "--dtype int8: valid are float32, bfloat16, float16"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        EarlyExitLM(folder, **settings)


def local_tasks(folder):
    """Two tasks of files: local_continue, which generates, and local_choose. A choice has more answers than another."""
    rows = [
        {"prompt": "Ann: Where", "target": " are", "choices": [" are you", " red"]},
        {"prompt": "The tower of", "target": " Dover", "choices": [" Dover", " Elm", " you?"]},
        {"prompt": "Bob", "target": " is", "choices": [" is red", " is there"]},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\ntest_split: test\n"
    common += 'doc_to_text: "{{prompt}}"\n'
    (folder / "continue.yaml").write_text(
        f"task: local_continue\n{common}output_type: generate_until\n"
        'doc_to_target: "{{target}}"\ngeneration_kwargs: {until: ["."], max_gen_toks: 5}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    (folder / "choose.yaml").write_text(
        f"task: local_choose\n{common}output_type: multiple_choice\n"
        'doc_to_choice: "{{choices}}"\ndoc_to_target: 0\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )


def evaluated(tasks, out, model_args, launcher=()):
    """What the command line wrote of both tasks: its results, and by task what it wrote of each document."""
    command = [
        sys.executable,
        *launcher,
        str(SCRIPT),
        "--model",
        "early_exit",
        "--tasks",
        "local_continue,local_choose",
    ]
    command += ["--model_args", model_args, "--include_path", str(tasks), "--output_path", str(out), "--log_samples"]
    done = subprocess.run([*command, "--batch_size", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = out.rglob("results_*.json")
    samples = {}
    for file in out.rglob("samples_*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        task = next(task for task in ("local_continue", "local_choose") if task in file.name)
        samples[task] = sorted(rows, key=lambda row: row["doc_id"])
    return json.loads(path.read_text()), samples


@pytest.mark.slow
def test_the_harness_runs_a_local_task_file(folder, tmp_path):
    local_tasks(tmp_path)
    flags = "use_early_exit=True,exit_conf_threshold=0.2,likelihood_layer=3"
    held, samples = evaluated(tmp_path, tmp_path / "out", f"pretrained={folder},{flags}")
    assert 0 <= held["results"]["local_choose"]["acc,none"] <= 1 and len(samples["local_choose"]) == 3
    assert held["config"]["likelihood_layer"] == 3 and held["config"]["policy"]["threshold"] == 0.2
    assert 1 <= held["config"]["block_avg"] <= 4


# At a port that is free: the usual one may be another test's.
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.slow
def test_two_processes_find_what_one_does(folder, tmp_path):
    local_tasks(tmp_path)
    model_args = f"pretrained={folder},device=cpu,use_early_exit=True,exit_conf_threshold=0.2"
    one, of_one = evaluated(tmp_path, tmp_path / "one", model_args)
    two, of_two = evaluated(tmp_path, tmp_path / "two", model_args, TORCHRUN)
    for task, rows in of_one.items():
        for row, other in zip(rows, of_two[task], strict=True):
            assert row["doc_id"] == other["doc_id"]
            if task == "local_choose":
                totals, others = ([float(reply[0]) for reply in each["filtered_resps"]] for each in (row, other))
                assert others == pytest.approx(totals, abs=1e-4)
            else:
                assert other["filtered_resps"] == row["filtered_resps"]
        assert two["results"][task] == one["results"][task]
    for depth in ("block_avg", "layers_run"):
        assert two["config"][depth] == one["config"][depth]


def test_a_missing_package_is_one_sentence_and_code_2(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", None)
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "pip install lm_eval" in capsys.readouterr().err
