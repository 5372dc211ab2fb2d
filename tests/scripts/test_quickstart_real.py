"""The quickstart of a real model, on a tiny one: what its table says is what was decoded."""

import numpy as np
import pytest

from scripts.quickstart_real import QUESTIONS, Totals, as_prompt, main, policies
from support import double_precision, sources, tiny_llama
from util.arguments import EMBEDDED_DECODER
from util.files import read_json


def test_policies_fit_any_depth_and_full_depth_comes_first():
    for depth in (6, 18, 30):
        chosen = policies(depth, new_tokens=8)
        assert chosen[0].describe() == {"method": "full"} and len(chosen) == 5
        for policy in chosen:
            policy.check(depth)


def test_the_numbers_are_those_of_the_traces():
    with double_precision(tiny_llama(1, layers=6)) as model:
        ids, _ = sources(1, 1)
        settings = {"max_new_tokens": 8, "return_trace": True, "eos_token_id": []}
        totals = [Totals() for _ in policies(6, 8)]
        for policy, total in zip(policies(6, 8), totals, strict=True):
            sequences, trace = model.generate(ids, policy=policy, **settings)
            total.add(sequences[0, ids.shape[1] :].tolist(), trace, seconds=2.0)
            row = total.row(totals[0])
            assert row["layers"] == trace.mean_exit_layer and row["tokens_per_second"] == 4
            assert row["gflops"] == pytest.approx(sum(map(np.sum, trace.flops().values())) / 8 / 1e9)
        full, static, *_, lossless = [total.row(totals[0]) for total in totals]
        assert full["equal"] == lossless["equal"] == 1 and static["equal"] < 1
        assert full["layers"] == full["layers_run"] == 6


def test_a_question_is_asked_as_the_model_was_taught(tiny_tokenizer):
    assert as_prompt(tiny_tokenizer, "Why?") == "Why?" and len({*QUESTIONS}) == 20


@pytest.mark.slow
def test_table_and_picture(tmp_path, capsys):
    arguments = ["--model", str(EMBEDDED_DECODER), "--out", str(tmp_path), "--questions", "2", "--new-tokens", "4"]
    main(arguments)
    shown = capsys.readouterr().out
    table = (tmp_path / "table.txt").read_text()
    assert table in shown and len(table.splitlines()) == 6 and "full depth" in table
    rows = list(read_json(tmp_path / "table.json").values())
    assert rows[0]["equal"] == rows[-1]["equal"] == 1
    assert (tmp_path / "prompt_lens.png").stat().st_size > 5_000
