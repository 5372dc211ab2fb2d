"""What a person sees: progress, the table at the end, and the pages of TensorBoard and Weights & Biases."""

import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import datasets
import torch
import transformers
from tqdm import tqdm
from transformers import modeling_gguf_pytorch_utils
from transformers.integrations import TensorBoardCallback, WandbCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from models.choosing import IN_FORCE
from util.checks import raise_together
from util.packages import TRACKERS, package_problems

logger = logging.getLogger(__name__)

LINE_EVERY = 60.0  # seconds


def loading_bar(total: int, label: str, off: bool = False) -> tqdm:
    """The bar of everything that takes time here; what is called with a number of inputs is its `update`."""
    return tqdm(total=total, desc=label, unit=" inputs", dynamic_ncols=True, disable=off)


def only_our_bars() -> None:
    """Have the libraries show no bars of their own, which look another way: of weights, of maps over examples."""
    modeling_gguf_pytorch_utils.tqdm = partial(tqdm, disable=True)  # which asks for no setting
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


@contextmanager
def progress(total: int, label: str, bar: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yields what is called with the number of inputs just done.

    Args:
        bar: True for a bar, False for a line a minute, None for what suits stderr: a bar if it is a terminal.
    """
    if sys.stderr.isatty() if bar is None else bar:
        with loading_bar(total, label) as shown:
            yield shown.update
    else:
        logger.info("%s: %d inputs", label, total)
        yield _lines(total)


def _lines(total: int) -> Callable[[int], None]:
    started = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal last, done
        done += count
        now = time.monotonic()
        if now - last >= LINE_EVERY:
            last = now
            rate = done / (now - started)
            left = (total - done) / rate
            logger.info("%d of %d inputs, %.1f per second, about %.0f minutes left", done, total, rate, left / 60)

    return advance


def environment(device: torch.device) -> dict:
    """Versions, device, commit and ways of multiplying that a run was made with."""
    device_name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "datasets": datasets.__version__,
        "device": f"{device.type} ({device_name})",
        "threads": torch.get_num_threads(),
        "products": IN_FORCE.record(),
        "commit": commit(),
    }


def commit() -> str | None:
    """The commit of this repository, with "+" where files differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def headlines(metrics: dict, flops: bool = False) -> dict:
    """The numbers among the metrics that people and trackers look at: of FLOPs the decoder's per sample, or those of
    every part per sample."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    wanted = "_per_sample" if flops else "decoder_per_sample"
    return {name: value for name, value in numbers.items() if "_flops_" not in name or name.endswith(wanted)}


# What the numbers of a summary are, without "eval_" and "predict_".
MEANINGS = {
    "exact_match": "answers that are right word for word, %",
    "f1": "words shared with the answer, %",
    "rouge1": "words shared with the reference, %",
    "rouge2": "pairs of words shared with the reference, %",
    "rougeL": "longest sequence shared with the reference, %",
    "rougeLsum": "the same line by line, %",
    "bleu": "n-grams shared with the reference, %",
    "perplexity": "of the last layer, lower is better",
    "loss": "cross-entropy, or what else training lowers; lower is better",
    "gen_len": "mean tokens per answer",
    "block_avg": "mean layers per token",
    "layers_run": "mean layer passes per token, those of rejected drafts included",
    "layers_in_turn": "mean layers per token one after the other; tokens that pass a layer together count once",
    "acceptance_rate": "share of the drafted tokens that stood",
    "undrafted_rate": "share of the tokens run at full depth because drafts did not pay",
    "draft_stops": "how often drafting stopped, to be tried again later",
    "flops_decoder_per_sample": "FLOPs of the decoder per example",
    "samples": "examples",
    "generated_tokens": "tokens of all answers",
    "runtime": "seconds, all in all",
    "samples_per_second": "examples per second",
    "steps_per_second": "batches per second",
    "tokens_per_second": "generated tokens per second",
    "starts": "how often the run was started or continued",
    "time_encoder_forward": "seconds in the encoder",
    "time_decoder_forward": "seconds in the decoder",
}


def table(metrics: dict, flops: bool = False) -> str:
    """Three columns: metric, value and what it is; `flops` adds the FLOPs of every part per sample."""
    shown = {name: (_number(name, value), _meaning(name)) for name, value in headlines(metrics, flops).items()}
    width = max(map(len, shown), default=0)
    lines = [f"  {name:<{width}}  {number:>14}  {meaning}" for name, (number, meaning) in shown.items()]
    return "\n".join(map(str.rstrip, lines))


def _meaning(name: str) -> str:
    plain = re.sub("^(eval|predict|train)_", "", name)
    layer = re.fullmatch(r"(loss|accuracy)_layer_(\d+)", plain)
    if layer:
        what = {"loss": "cross-entropy", "accuracy": "share of likeliest tokens that are right, %,"}[layer[1]]
        return f"{what} of the exit after layer {layer[2]}"
    part = re.fullmatch("flops_(.+)_per_sample", plain)
    return MEANINGS.get(plain, "FLOPs of this part per example" if part else "")


def _number(name: str, value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if name.startswith("time_") or name.endswith("_runtime"):
        return in_seconds(value)
    return f"{value:,.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def in_seconds(seconds: float) -> str:
    """Seconds as text; a decimal where they are few."""
    return f"{seconds:.1f}" if round(seconds, 1) < 10 else f"{seconds:,.0f}"


def check_trackers(names: list[str]) -> None:
    """Refuses a --report_to that there is not, or whose package is not installed."""
    problems = []
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            problems.append(f"--report_to {name}: valid are {', '.join(INTEGRATION_TO_CALLBACK)}, all and none.")
        elif name != "kubeflow":  # which is a server
            problems += package_problems(f"--report_to {name}", TRACKERS.get(name, name), "--report_to none")
    raise_together(problems)


def point_trackers(callbacks: list, folder: Path) -> None:
    """Have TensorBoard, if it is among the callbacks, write the next run to a page of its own."""
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback):
            if callback.tb_writer is not None:
                callback.tb_writer.close()
            root = os.environ.get("TENSORBOARD_LOGGING_DIR")
            callback.tb_writer = None
            callback.logging_dir = str(Path(root) / folder.name if root else folder)


def track_settings(callbacks: list, name: str, settings: dict) -> None:
    """Show the settings of a run beside its metrics, which the callbacks have logged already."""
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_text(name, f"```\n{json.dumps(settings, indent=2)}\n```")
            callback.tb_writer.flush()
        if isinstance(callback, WandbCallback) and callback._initialized:
            callback._wandb.config.update({name: settings}, allow_val_change=True)
