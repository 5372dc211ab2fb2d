"""Time decoding policies against the bound of their own weights and against Hugging Face's generate.

    python src/scripts/benchmark_decoding.py --of depth --batch 1 --tokens 8 --repetitions 3 --no-memory
    python src/scripts/benchmark_decoding.py --model_name_or_path gpt2 --prompt_file prompts.txt --new_tokens 64 \
        --batch 1 --repetitions 3 --policy "--static_exit_layer 6" --policy "--use_early_exit True"

Everything runs in one process, on the same weights and inputs, alternating; each figure is a ratio within one
repetition, printed as median and spread. A bound is measured on the spot: the weight matrices that the policy reads are
multiplied in the policy's order and nothing else. The encoder runs once, before, and is part of no time.

With --model_name_or_path and --prompt_file it is a checkpoint that continues prompts, under every --policy in turn. The
bound of a policy is then made of as many layers and heads as its trace counts; an encoder is part of the time.

Otherwise weights are random, and with them what the layers say. Where that decides what a policy costs it is set: the
head's scale, so that about --several of the exits tried have several plausible tokens, as trained models were seen to
have (what came of it is printed); the confidence that adaptive pruning reads; and which drafts of the lossless decoder
stand.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import argparse
import math
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import torch

from decoding.confidence import CONFIDENCES, Measure, softmax_gap
from decoding.exits import ExitState
from decoding.policy import Policy
from decoding.ranges import COUNT, INNER_SHARE
from decoding.strategies import Strategy
from decoding.verification import VERIFICATIONS, Draft, Verdict, Verification
from scripts import benchmark_prompts
from scripts.benchmark_models import GPT2_SIZES, POSITIONS, SIZES, Workload, make_workload
from util import groups
from util.checks import device_problems
from util.commands import CommandParser, output_file
from util.files import write_json
from util.terminal import terminal

GROUPS = ("depth", "pruning", "contrast", "free", "search")
# Contenders whose peak memory is compared.
PEAKS = ("hf generate", "full depth")
# Confidences that adaptive pruning is timed at.
SCRIPTED = (0.05, 0.5, 0.9)
# Of contrastive generation.
BEAMS = 5

# Of FREE, drafted tokens that are pending before a synchronisation, so that there is one at every eighth token.
PENDING = 7
# Of the lossless decoder: how often a token drafted stands, how many are drafted, and by how large parts of the model.
ACCEPTED, DRAFTED, DRAFT_DEPTHS = 0.8, 3, {"L/12": 1 / 12, "L/6": 1 / 6}


class Passes(NamedTuple):
    """What a policy's weights are multiplied with, token by token, over and over: per token (first layer, layers behind
    it, rows) for every stretch of layers."""

    tokens: list[list[tuple[int, int, int]]]


class Contender(NamedTuple):
    """A policy to time, and the passes whose weights bound it, None where no bound is asked for."""

    policy: Policy
    passes: Passes | None = None


def straight(depth: int) -> Passes:
    """Every token runs `depth` layers."""
    return Passes([[(0, depth, 1)]])


def policies(num_layers: int, groups: Sequence[str]) -> dict[str, Contender]:
    """Name -> policy, of the groups of figures asked for; none of them lets a token leave but half depth."""
    late = max(2, round(0.8 * num_layers))
    half = num_layers // 2
    found = {"full depth": Contender(Policy(), straight(num_layers))}
    if "depth" in groups:
        found["half depth"] = Contender(Policy(static_exit=half), straight(half))
    if {"depth", "pruning", "contrast"} & set(groups):
        found["softmax"] = Contender(Policy(confidence="softmax", first_exit=2))
    if "pruning" in groups:
        found["fixed"] = Contender(Policy(confidence="softmax", vocabulary="fixed", first_exit=2, k=512))
        found["decaying"] = Contender(Policy(confidence="softmax", vocabulary="decaying", first_exit=2))
        for confidence in SCRIPTED:
            name = f"softmax, then {confidence:g}"
            CONFIDENCES[name] = Measure(scripted(confidence), CONFIDENCES["softmax"].elementwise)
            found[f"adaptive at {confidence:g}"] = Contender(
                Policy(confidence=name, vocabulary="adaptive", first_exit=2)
            )
    if "contrast" in groups:
        for label, measure in (("weighted", "reweight_contrastive_decoding"), ("JSD", "JSD_contrastive_confidence")):
            found[label] = Contender(Policy(confidence=measure, first_exit=2))
            found[f"{label}, late"] = Contender(Policy(confidence=measure, first_exit=late))
        found["softmax, late"] = Contender(Policy(confidence="softmax", first_exit=late))
        found["JSD + adaptive"] = Contender(
            Policy(confidence="JSD_contrastive_confidence", vocabulary="adaptive", first_exit=2)
        )
    if "free" in groups:
        shallow = {"confidence": "softmax", "threshold": 0.0, "skipped": "recompute"}
        free = Policy(**shallow, first_exit=half, last_exit=half)
        found["FREE, all shallow"] = Contender(free, straight(half))
        together = [(0, half, 1), (half, num_layers - half, PENDING + 1)]
        passes = Passes([*straight(half).tokens * PENDING, together])
        found["FREE, every 8th deep"] = Contender(replace(free, num_speculations=PENDING), passes)
        VERIFICATIONS["scripted"] = Verification(Script().verify, exact=True)
        for part, share in DRAFT_DEPTHS.items():
            layer = max(1, round(share * num_layers))
            drafting = {
                "verification": "scripted",
                "num_speculations": DRAFTED,
                "first_exit": layer,
                "last_exit": layer,
            }
            found[f"lossless from {part}"] = Contender(Policy(**shallow, **drafting))
            found[f"lossless from {part}, always"] = Contender(Policy(**shallow, **drafting, draft_always=True))
    return found


def scripted(confidence: float) -> Callable[[ExitState], torch.Tensor]:
    """A measure that costs what softmax costs, and says the same of every token."""
    return lambda exit: softmax_gap(exit) * 0 + confidence


class Script:
    """Verification that lets each token stand with probability ACCEPTED, the same ones in every run."""

    def __init__(self):
        self.random = random.Random(0)

    def verify(self, draft: Draft, threshold: float | None) -> Verdict:
        likeliest = draft.deep.argmax(-1).tolist()
        for place, token in enumerate(likeliest):
            if self.random.random() >= ACCEPTED:
                return Verdict(place, token)
        return Verdict(len(likeliest))


def bound(workload: Workload, passes: Passes, batch: int, tokens: int) -> None:
    """The weight matrices of each token's layers and the head, multiplied in order for every token; what the input
    meets, once."""
    layers, head, prompt = workload.layers, workload.head, workload.prompt
    widths = {matrix.shape[0] for matrix in (*layers[0], head)}
    inputs = {
        rows: {width: prompt.new_zeros(batch * rows, width) for width in widths}
        for rows in {1, *(rows for token in passes.tokens for *_, rows in token)}
    }
    source = {width: prompt if width == prompt.shape[1] else prompt.new_zeros(len(prompt), width) for width in widths}
    deepest = max(first + count for token in passes.tokens for first, count, _ in token)
    for matrices in workload.once if workload.prefilled else workload.once[:deepest]:
        for matrix in matrices:
            source[matrix.shape[0]].mm(matrix)
    if workload.prefilled:
        inputs[1][head.shape[0]].mm(head)
    for _, token in zip(range(tokens - workload.prefilled), cycle(passes.tokens), strict=False):
        for first, count, rows in token:
            for matrices in layers[first : first + count]:
                for matrix in matrices:
                    inputs[rows][matrix.shape[0]].mm(matrix)
        inputs[1][head.shape[0]].mm(head)


def contenders(workload: Workload, batch: int, tokens: int, groups: Sequence[str]) -> dict[str, Callable]:
    """Everything that is timed: Hugging Face's generate, each policy, the bounds asked for, and contrastive search."""
    model = workload.model

    def generate(function, **kwargs):
        return function(**workload.inputs(), max_new_tokens=tokens, **kwargs)

    runs = {}
    if {"depth", "free"} & set(groups):
        runs["hf generate"] = lambda: generate(lambda **kw: workload.library.generate(model, **kw))
    for name, (policy, passes) in policies(model.num_exit_layers, groups).items():
        runs[name] = lambda policy=policy: generate(model.generate, policy=policy, return_trace=True)[1]
        if passes is not None and {"depth", "free"} & set(groups):
            runs[f"{name}: bound"] = lambda passes=passes: bound(workload, passes, batch, tokens)
    if "search" in groups:
        strategy = Strategy("contrastive", (model.num_exit_layers - 2,), beams=BEAMS)
        runs["contrastive beams"] = lambda: generate(model.generate, strategy=strategy)
        runs["contrastive beams, no cache"] = lambda: uncached(model, workload.inputs()["input_ids"], strategy, tokens)
    return runs


def uncached(model, prompt: torch.Tensor, strategy: Strategy, tokens: int) -> list[list[int]]:
    """The loop that cached search replaces: every beam of every row by itself, its whole prefix at every step."""
    unembed, answers = model.unembed(), []
    for row in prompt.tolist():
        beams = [(0.0, row)]
        for _ in range(tokens):
            grown = []
            for total, ids in beams:
                states = model(torch.tensor([ids], device=prompt.device), output_hidden_states=True).hidden_states
                last = {layer: states[layer][:, -1] for layer in strategy.layers(model.num_exit_layers)}
                scores = _contrastive_scores(unembed, model, strategy, last)[0]
                best = scores.topk(strategy.beams)
                grown += [(total + float(s), [*ids, int(v)]) for s, v in zip(*best, strict=True)]
            beams = sorted(grown, key=lambda beam: -beam[0])[: strategy.beams]
        answers.append(beams[0][1])
    return answers


def _contrastive_scores(unembed, model, strategy: Strategy, states: dict[int, torch.Tensor]) -> torch.Tensor:
    """Scores from the library's states, of which the last layer's are normed already."""
    last = model.num_exit_layers
    log_p = unembed.logits(states[last]).float().log_softmax(-1)
    amateur = unembed.logits(unembed.normalise(states[strategy.amateurs[0]])).float()
    log_a = (amateur / strategy.temperature).log_softmax(-1)
    outside = log_p < log_p.amax(-1, keepdim=True) + math.log(strategy.alpha)
    return (log_p - strategy.coefficient * log_a).masked_fill(outside, -torch.inf)


def measure(runs: dict[str, Callable], repetitions: int, device: str) -> dict[str, list[float]]:
    """Seconds per repetition of every contender, run in turn after one warm-up round: there, and next time back, so
    that a machine that slows down or speeds up favours none of them."""
    seconds = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in list(runs.items())[:: 1 if repetition % 2 else -1]:
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
        torch.accelerator.synchronize(device)


def _name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return device if device != "cpu" else platform.processor() or "cpu"


def ratio(seconds: dict[str, list[float]], faster: str, slower: str) -> dict[str, float]:
    """How many times as fast `faster` is as `slower`, repetition by repetition: median, lowest and highest."""
    ratios = [b / a for a, b in zip(seconds[faster], seconds[slower], strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


# What is reported: name of the figure -> what is timed, and what it is compared with.
FIGURES = {
    f"contrastive generation, {BEAMS} beams / a loop over beams without a cache": (
        "contrastive beams",
        "contrastive beams, no cache",
    ),
    "full depth / its own bound": ("full depth", "full depth: bound"),
    "half depth / its own bound": ("half depth", "half depth: bound"),
    "full depth / hf generate": ("full depth", "hf generate"),
    "half depth / hf generate": ("half depth", "hf generate"),
    "half depth / full depth": ("half depth", "full depth"),
    "softmax from layer 2, never exiting / no confidence": ("softmax", "full depth"),
    "fixed pruning k=512 / no confidence": ("fixed", "full depth"),
    "fixed pruning k=512 / softmax": ("fixed", "softmax"),
    "decaying pruning / softmax": ("decaying", "softmax"),
    **{f"adaptive pruning at {c:g} / softmax": (f"adaptive at {c:g}", "softmax") for c in SCRIPTED},
    "weighted / softmax": ("weighted", "softmax"),
    "JSD / softmax": ("JSD", "softmax"),
    "weighted from 0.8 L / softmax from there": ("weighted, late", "softmax, late"),
    "JSD from 0.8 L / softmax from there": ("JSD, late", "softmax, late"),
    "JSD + adaptive / softmax": ("JSD + adaptive", "softmax"),
    "FREE, all tokens shallow at half depth / its own bound": ("FREE, all shallow", "FREE, all shallow: bound"),
    "FREE, all tokens shallow at half depth / hf generate": ("FREE, all shallow", "hf generate"),
    "FREE, every 8th token deep / its own bound": ("FREE, every 8th deep", "FREE, every 8th deep: bound"),
    "FREE, every 8th token deep / full depth": ("FREE, every 8th deep", "full depth"),
    **{
        f"lossless, {DRAFTED} drafted by {part}, each stands in {ACCEPTED:.0%} / full depth": (
            f"lossless from {part}",
            "full depth",
        )
        for part in DRAFT_DEPTHS
    },
    **{
        f"lossless, drafted by {part} where it pays / always": (
            f"lossless from {part}",
            f"lossless from {part}, always",
        )
        for part in DRAFT_DEPTHS
    },
}


def figures(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The ratios of what was timed."""
    return {
        name: ratio(seconds, faster, slower)
        for name, (faster, slower) in FIGURES.items()
        if faster in seconds and slower in seconds
    }


def plausible_share(trace) -> float:
    """Share of the exits tried at which several tokens were plausible."""
    return float((trace.members > 1).sum() / max(1, (trace.members > 0).sum()))


def crossing(model, batch: int, repetitions: int) -> dict[str, float]:
    """rows * k, over the vocabulary, up to which copying k rows of the head per row and multiplying these alone takes
    no longer than the whole head, when a copy serves one exit; the median over repetitions.
    """
    unembed, size = model.unembed(), model.config.vocab_size
    states = torch.randn(batch, model.config.hidden_size, dtype=model.dtype, device=model.device)
    found = []
    for _ in range(repetitions):
        whole = _seconds(lambda: unembed.logits(states), model)
        pays = 0.0
        for share in (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4):
            k = int(share * size / batch)
            ids = torch.stack([torch.randperm(size, device=model.device)[:k] for _ in range(batch)])
            if _seconds(lambda ids=ids: unembed.logits_on(unembed.rows(ids), states[:, None]), model) > whole:
                break
            pays = share
        found.append(pays)
    return {"median": statistics.median(found), "min": min(found), "max": max(found)}


def _seconds(run: Callable, model) -> float:
    run()
    times = []
    for _ in range(5):
        _synchronise(str(model.device))
        started = time.perf_counter()
        run()
        _synchronise(str(model.device))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_memory(arguments: argparse.Namespace) -> dict[str, float]:
    """Peak resident memory of a whole process that decodes, ours over Hugging Face's, largest batch."""
    peaks = {}
    for name in PEAKS:
        command = [sys.executable, __file__, "--peak-of", name, "--size", arguments.size]
        command += ["--batch", str(max(arguments.batch)), "--source", str(arguments.source)]
        command += ["--tokens", str(arguments.tokens)]
        peaks[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    return {"ratio": peaks["full depth"] / peaks["hf generate"], **{f"{k} MiB": v for k, v in peaks.items()}}


def peak_while(run: Callable) -> float:
    """Peak resident memory in MiB while `run` runs; where Linux cannot reset the peak, of the process so far."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        run()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reset.write_text("5")  # building the model took more than decoding will
    run()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def prepare(arguments: argparse.Namespace, batch: int) -> Workload:
    """What is timed at a batch size."""
    dtype = getattr(torch, arguments.dtype)
    return make_workload(arguments.size, dtype, arguments.device, arguments.several, batch, arguments.source)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    model = parser.add_argument_group(groups.MODEL)
    model.add_argument("--size", choices=SIZES, default="t5-base", help="architecture and sizes; weights are random")
    model.add_argument("--model_name_or_path", help="a checkpoint instead, which continues --prompt_file")
    model.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the weights")
    model.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    prompts = parser.add_argument_group(groups.PROMPTS)
    prompts.add_argument("--prompt_file", help="of a checkpoint: .txt with one per line, or .jsonl, .json, .csv")
    prompts.add_argument(
        "--policy", action="append", help='of a checkpoint, its flags in quotes: "--use_early_exit True"; repeatable'
    )
    timing = parser.add_argument_group(groups.TIMING)
    timing.add_argument("--of", nargs="+", choices=GROUPS, default=list(GROUPS[:-1]), help="groups of figures")
    timing.add_argument("--batch", type=COUNT, nargs="+", default=[1, 8], help="rows decoded together")
    timing.add_argument("--source", type=COUNT, default=64, help="tokens of the encoder, or of the prompt")
    timing.add_argument("--tokens", "--new_tokens", type=COUNT, default=64, help="generated tokens")
    timing.add_argument("--repetitions", type=COUNT, default=9, help="of everything, in turn")
    timing.add_argument("--several", type=INNER_SHARE, default=0.2, help="of exits, with several plausible tokens")
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_file, help="where to write the figures as JSON")
    timing.add_argument("--no-memory", action="store_true", help="skip the two processes that measure peak memory")
    timing.add_argument("--peak-of", choices=PEAKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    problems = device_problems(arguments.device)
    if (arguments.model_name_or_path is None) != (arguments.prompt_file is None):
        problems.append("--model_name_or_path and --prompt_file go together: give both, or --size alone.")
    elif arguments.policy and arguments.prompt_file is None:
        problems.append("--policy is of a checkpoint: give --model_name_or_path and --prompt_file.")
    if "search" in arguments.of and arguments.size not in GPT2_SIZES:
        problems.append(f"--of search needs a decoder-only size: {', '.join(GPT2_SIZES)}.")
    if arguments.size in GPT2_SIZES and arguments.source + arguments.tokens > POSITIONS:
        problems.append(
            f"--source {arguments.source} and --tokens {arguments.tokens} are more than the {POSITIONS} positions of "
            f"{arguments.size}."
        )
    if problems:
        parser.error(" ".join(problems))
    if arguments.prompt_file is not None:
        try:
            arguments.checkpoint = benchmark_prompts.checkpoint(arguments)
        except (ValueError, OSError) as error:
            parser.refuse(error)
    return arguments


def main(argv: list[str] | None = None) -> dict:
    arguments = parse(argv)
    if arguments.prompt_file is not None:
        return written(arguments, benchmark_prompts.report(arguments))
    if arguments.peak_of:
        workload = prepare(arguments, arguments.batch[0])
        run = contenders(workload, arguments.batch[0], arguments.tokens, ["depth"])[arguments.peak_of]
        print(peak_while(run))
        return {}
    report = {
        "size": arguments.size,
        "source_tokens": arguments.source,
        "generated_tokens": arguments.tokens,
        "repetitions": arguments.repetitions,
        "dtype": arguments.dtype,
        "device": _name(arguments.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batches": {},
    }
    for batch in arguments.batch:
        workload = prepare(arguments, batch)
        runs = contenders(workload, batch, arguments.tokens, arguments.of)
        report["batches"][str(batch)] = figures(measure(runs, arguments.repetitions, arguments.device))
        print(f"\n{arguments.size}, {arguments.dtype}, batch {batch}: times as fast (median, min to max)")
        for name, found in report["batches"][str(batch)].items():
            print(f"  {name:<55} {found['median']:.2f}  ({found['min']:.2f} to {found['max']:.2f})")
        report.setdefault("notes", {})[str(batch)] = notes = {}
        if "contrast" in arguments.of:
            notes["exits with several plausible tokens"] = plausible_share(runs["JSD"]())
            notes["the same from 0.8 L"] = plausible_share(runs["JSD, late"]())
        if "pruning" in arguments.of:
            found = crossing(workload.model, batch, arguments.repetitions)
            notes["copying rows pays up to rows * k / V"] = found["median"]
        if "free" in arguments.of:
            counts = runs["lossless from L/6, always"]().counts
            notes["share of all drafted tokens that stood"] = float(counts["accepted"].sum() / counts["drafted"].sum())
        for name, value in notes.items():
            print(f"  {name:<55} {value:.2f}")
    if arguments.device == "cpu" and not arguments.no_memory and "depth" in arguments.of:
        report["peak_memory"] = peak_memory(arguments)
        print(f"\npeak memory of a process, full depth / hf generate: {report['peak_memory']['ratio']:.3f}")
    return written(arguments, report)


def written(arguments: argparse.Namespace, report: dict) -> dict:
    """The report, written where --out says."""
    if arguments.out:
        write_json(arguments.out, report)
        print(f"written to {arguments.out}")
    return report


def command() -> None:
    """The console command."""
    with terminal():
        main()


if __name__ == "__main__":
    command()
