"""What a person sees: progress, the table at the end, and the pages of TensorBoard and Weights & Biases."""

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import torch
import transformers
from tqdm import tqdm
from transformers.integrations import TensorBoardCallback, WandbCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from util.checks import raise_together
from util.packages import TRACKERS, package_problems

logger = logging.getLogger(__name__)

LINE_EVERY = 60.0  # seconds


@contextmanager
def progress(total: int, label: str, bar: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Yields what is called with the number of inputs just done.

    Args:
        bar: True for a bar, False for a line a minute, None for what suits stderr: a bar if it is a terminal.
    """
    if sys.stderr.isatty() if bar is None else bar:
        with tqdm(total=total, desc=label, unit=" inputs", dynamic_ncols=True) as shown:
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
    """Versions, device and commit a run was made with."""
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


def table(metrics: dict, flops: bool = False) -> str:
    """Two columns: metric and value; `flops` adds the FLOPs of every part per sample."""
    shown = headlines(metrics, flops)
    width = max(map(len, shown), default=0)
    return "\n".join(f"  {name:<{width}}  {_number(value)}" for name, value in shown.items())


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:>14,}"
    return f"{value:>14,.4f}" if abs(value) < 1e6 else f"{value:>14.4g}"


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
