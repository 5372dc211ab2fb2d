"""Time decoding policies against the bound of their own weights and against Hugging Face's generate.

    python src/scripts/benchmark_decoding.py --out benchmark.json

Everything runs in one process, on the same weights and inputs, alternating; each figure is a ratio within one
repetition, printed as median and spread. A bound is measured on the spot: the weight matrices that the policy reads are
multiplied in the policy's order and nothing else. The encoder runs once, before, and is part of no time.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from decoding.policy import Policy
from models import DeployT5ForConditionalGeneration
from util.files import write_json

SIZES = {
    "t5-small": {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "tiny": {"d_model": 64, "d_ff": 128, "num_layers": 4, "num_heads": 4},
}


def build_model(size: str, dtype: torch.dtype, device: str) -> DeployT5ForConditionalGeneration:
    """A T5 of the given size with random weights: time does not depend on what they say. It never ends a sequence."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, d_kv=64, decoder_start_token_id=0, eos_token_id=None, **SIZES[size])
    return DeployT5ForConditionalGeneration(config).eval().to(device=device, dtype=dtype)


def policies(num_layers: int) -> dict[str, tuple[Policy, int]]:
    """Name -> policy and the depth its tokens run."""
    return {
        "full depth": (Policy(), num_layers),
        "half depth": (Policy(static_exit=num_layers // 2), num_layers // 2),
        "softmax, never exiting": (Policy(confidence="softmax", threshold=1.0, first_exit=2), num_layers),
    }


def bound(model, depth: int, source: torch.Tensor, tokens: int) -> None:
    """The weight matrices of `depth` layers and the head, multiplied in order for every token; the source's keys and
    values once. `source` is [B, S, D]."""
    batch, _, width = source.shape
    layers = [_matrices(block) for block in model.decoder.block[:depth]]
    head = model.lm_head.weight
    state = source.new_zeros(batch, width)
    inner = source.new_zeros(batch, model.config.num_heads * model.config.d_kv)
    middle = source.new_zeros(batch, model.config.d_ff)
    inputs = {width: state, inner.shape[1]: inner, middle.shape[1]: middle}
    for _, cross in layers:
        for matrix in cross:
            F.linear(source, matrix)
    for _ in range(tokens):
        for matrices, _ in layers:
            for matrix in matrices:
                F.linear(inputs[matrix.shape[1]], matrix)
        F.linear(state, head)


def _matrices(block) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    own, cross, dense = block.layer[0].SelfAttention, block.layer[1].EncDecAttention, block.layer[-1].DenseReluDense
    feed_forward = [dense.wi.weight] if hasattr(dense, "wi") else [dense.wi_0.weight, dense.wi_1.weight]
    per_token = [own.q, own.k, own.v, own.o, cross.q, cross.o]
    return [*(module.weight for module in per_token), *feed_forward, dense.wo.weight], [cross.k.weight, cross.v.weight]


def contenders(model, source: torch.Tensor, mask: torch.Tensor, tokens: int) -> dict[str, callable]:
    """Everything that is timed: Hugging Face's generate, each policy, and each policy's bound."""

    def generate(function, **kwargs):
        encoded = BaseModelOutput(last_hidden_state=source)
        return function(encoder_outputs=encoded, attention_mask=mask, max_new_tokens=tokens, **kwargs)

    runs = {"hf generate": lambda: generate(lambda **kw: T5ForConditionalGeneration.generate(model, **kw))}
    for name, (policy, depth) in policies(model.num_exit_layers).items():
        runs[name] = lambda policy=policy: generate(model.generate, policy=policy)
        runs[f"{name}: bound"] = lambda depth=depth: bound(model, depth, source, tokens)
    return runs


def measure(runs: dict[str, callable], repetitions: int, device: str) -> dict[str, list[float]]:
    """Seconds per repetition of every contender, run in turn after one warm-up round."""
    seconds = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            _synchronise(device)
            started = time.perf_counter()
            with torch.no_grad():
                run()
            _synchronise(device)
            if repetition:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def ratio(seconds: dict[str, list[float]], faster: str, slower: str) -> dict[str, float]:
    """How many times as fast `faster` is as `slower`, repetition by repetition: median, lowest and highest."""
    ratios = [b / a for a, b in zip(seconds[faster], seconds[slower], strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def figures(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The ratios worth reporting."""
    return {
        "full depth / its own bound": ratio(seconds, "full depth", "full depth: bound"),
        "half depth / its own bound": ratio(seconds, "half depth", "half depth: bound"),
        "full depth / hf generate": ratio(seconds, "full depth", "hf generate"),
        "half depth / hf generate": ratio(seconds, "half depth", "hf generate"),
        "half depth / full depth": ratio(seconds, "half depth", "full depth"),
        "softmax from layer 2, never exiting / no confidence": ratio(seconds, "softmax, never exiting", "full depth"),
    }


def peak_memory(arguments: argparse.Namespace) -> dict[str, float]:
    """Peak resident memory of a whole process that decodes, ours over Hugging Face's, largest batch."""
    peaks = {}
    for name in ("hf generate", "full depth"):
        command = [sys.executable, __file__, "--peak-of", name, "--size", arguments.size]
        command += ["--batch", str(max(arguments.batch)), "--source", str(arguments.source)]
        command += ["--tokens", str(arguments.tokens)]
        peaks[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    return {"ratio": peaks["full depth"] / peaks["hf generate"], **{f"{k} MiB": v for k, v in peaks.items()}}


def peak_while(run: callable) -> float:
    """Peak resident memory in MiB while `run` runs; where Linux cannot reset the peak, of the process so far."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reset.write_text("5")  # building the model took more than decoding will
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def prepare(arguments: argparse.Namespace, batch: int):
    """Model, encoded source [B, S, D] and its mask."""
    model = build_model(arguments.size, getattr(torch, arguments.dtype), arguments.device)
    shape = (batch, arguments.source, model.config.d_model)
    source = torch.randn(shape, dtype=model.dtype, device=arguments.device)
    return model, source, torch.ones(shape[:2], dtype=torch.long, device=arguments.device)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="t5-base")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--source", type=int, default=64, help="encoder tokens")
    parser.add_argument("--tokens", type=int, default=64, help="generated tokens")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", help="where to write the figures as JSON")
    parser.add_argument("--no-memory", action="store_true", help="skip the two processes that measure peak memory")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict:
    arguments = parse(argv)
    if arguments.peak_of:
        model, source, mask = prepare(arguments, arguments.batch[0])
        run = contenders(model, source, mask, arguments.tokens)[arguments.peak_of]
        print(peak_while(run))
        return {}
    report = {
        "size": arguments.size,
        "source_tokens": arguments.source,
        "generated_tokens": arguments.tokens,
        "repetitions": arguments.repetitions,
        "dtype": arguments.dtype,
        "device": torch.cuda.get_device_name() if arguments.device != "cpu" else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batches": {},
    }
    for batch in arguments.batch:
        model, source, mask = prepare(arguments, batch)
        seconds = measure(contenders(model, source, mask, arguments.tokens), arguments.repetitions, arguments.device)
        report["batches"][str(batch)] = figures(seconds)
        print(f"\n{arguments.size}, {arguments.dtype}, batch {batch}: times as fast (median, min to max)")
        for name, found in report["batches"][str(batch)].items():
            print(f"  {name:<55} {found['median']:.2f}  ({found['min']:.2f} to {found['max']:.2f})")
    if arguments.device == "cpu" and not arguments.no_memory:
        report["peak_memory"] = peak_memory(arguments)
        print(f"\npeak memory of a process, full depth / hf generate: {report['peak_memory']['ratio']:.3f}")
    if arguments.out:
        write_json(arguments.out, report)
        print(f"written to {arguments.out}")
    return report


if __name__ == "__main__":
    main()
