"""What a person sees at the end of a run, and bars while it goes on."""

import datasets
import pytest
import transformers

from training.reporting import in_seconds, loading_bar, only_our_bars, table


def test_a_summary_says_what_its_keys_are():
    metrics = {"eval_f1": 88.5, "eval_block_avg": 2.25, "eval_samples": 1200, "eval_runtime": 3.14159, "other": 1.5}
    flops = {"eval_flops_decoder_per_sample": 4.4e7, "eval_flops_head_per_sample": 1e3, "eval_flops_total_head": 1e5}
    rows = [line.split(maxsplit=2) for line in table(metrics | flops).splitlines()]
    assert rows[1] == ["eval_block_avg", "2.2500", "mean layers per token"]
    assert rows[2][:2] == ["eval_samples", "1,200"] and rows[3] == ["eval_runtime", "3.1", "seconds, all in all"]
    assert rows[4] == ["other", "1.5000"] and rows[5][0] == "eval_flops_decoder_per_sample" and len(rows) == 6
    assert "FLOPs of this part per example" in table(metrics | flops, flops=True)


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0"), (3.14, "3.1"), (9.96, "10"), (12, "12"), (3601, "3,601")])
def test_few_seconds_have_a_decimal(seconds, text):
    assert in_seconds(seconds) == text


def test_bars_are_ours_alone(capfd):
    datasets.enable_progress_bars()
    transformers.utils.logging.enable_progress_bar()
    only_our_bars()
    assert datasets.are_progress_bars_disabled() and not transformers.utils.logging.is_progress_bar_enabled()
    with loading_bar(3, "Decoding") as bar:
        bar.update(3)
    with loading_bar(3, "Hidden", off=True) as bar:
        bar.update(3)
    shown = capfd.readouterr().err
    assert "Decoding: 100%" in shown and "inputs/s" in shown and "Hidden" not in shown
