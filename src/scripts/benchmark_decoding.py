"""Time decoding policies against the bound of their own weights and against Hugging Face's generate.

    python src/scripts/benchmark_decoding.py --of depth --batch 1 --tokens 8 --repetitions 3 --no-memory
    python src/scripts/benchmark_decoding.py --model_name_or_path gpt2 --prompt_file prompts.txt --new_tokens 64 \
        --batch 1 --repetitions 3 --policy "--static_exit_layer 6" --policy "--use_early_exit True"

Everything runs in one process, on the same weights and inputs, alternating; each figure is a ratio within one
repetition, printed as median and spread. Two bounds are measured on the spot. A policy's own is the library's product
of the weight matrices that it reads, in its order and nothing else; memory's is the shortest time in which the same
threads were seen to read as many bytes, by a sum or by any way to multiply. The encoder runs once, before, and is part
of no time. --of products times policies with the products chosen here against the library's. --threads 1 2 4 says
which number decodes fastest here, and goes on with that.

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
from pathlib import Path
from typing import NamedTuple

import torch

from decoding.confidence import CONFIDENCES, Measure, softmax_gap
from decoding.exits import ExitState
from decoding.policy import Policy
from decoding.ranges import COUNT, INNER_SHARE
from decoding.strategies import Strategy
from decoding.verification import VERIFICATIONS, Draft, Verdict, Verification
from models.choosing import IN_FORCE, LIBRARY
from scripts import benchmark_prompts
from scripts.benchmark_bounds import Passes, bound, memory_seconds, readers, straight
from scripts.benchmark_models import DECODER_SIZES, POSITIONS, SIZES, Workload, make_workload
from util import groups
from util.checks import device_problems
from util.commands import CommandParser, output_file
from util.files import write_json
from util.terminal import terminal

BY_DEFAULT = ("depth", "pruning", "contrast", "free")
GROUPS = (*BY_DEFAULT, "search", "products")
# Policies that are timed with the chosen products and with the library's.
MULTIPLIED = (
    "full depth",
    "half depth",
    "softmax",
    "fixed",
    "JSD",
    "FREE, every 8th deep",
    "lossless from L/6, always",
)
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


class Contender(NamedTuple):
    """A policy to time, and the passes whose weights bound it, None where no bound is asked for."""

    policy: Policy
    passes: Passes | None = None


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


def asked(num_layers: int, groups: Sequence[str]) -> dict[str, Contender]:
    """Name -> policy, of the groups of figures asked for, and those whose products are compared if that is asked."""
    found = policies(num_layers, groups)
    return {name: policies(num_layers, GROUPS)[name] for name in MULTIPLIED if "products" in groups} | found


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


def contenders(workload: Workload, batch: int, tokens: int, groups: Sequence[str]) -> dict[str, Callable]:
    """Everything that is timed: Hugging Face's generate, each policy, the bounds asked for, and contrastive search."""
    model = workload.model

    def generate(function, **kwargs):
        return function(**workload.inputs(), max_new_tokens=tokens, **kwargs)

    def with_library(run: Callable) -> Callable:
        def timed():
            with IN_FORCE.using(LIBRARY):
                run()

        return timed

    runs = {}
    if {"depth", "free", "products"} & set(groups):
        runs["hf generate"] = lambda: generate(lambda **kw: workload.library.generate(model, **kw))
    for name, (policy, passes) in asked(model.num_exit_layers, groups).items():
        runs[name] = run = lambda policy=policy: generate(model.generate, policy=policy, return_trace=True)[1]
        if "products" in groups and name in MULTIPLIED:
            runs[f"{name}: library"] = with_library(run)
        if passes is not None and {"depth", "free"} & set(groups):
            runs[f"{name}: bound"] = lambda passes=passes: bound(workload, passes, batch, tokens)
    if any(name.endswith(": bound") for name in runs) and workload.prompt.device.type == "cpu":
        runs |= readers(workload)
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
    last, below = model.num_exit_layers, strategy.amateurs[0]
    log_p = unembed.logits(states[last]).float().log_softmax(-1)
    amateur = unembed.logits(unembed.normalise(states[below], below)).float()
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
    "full depth / memory's bound": ("full depth", "full depth: memory"),
    "half depth / memory's bound": ("half depth", "half depth: memory"),
    "full depth: bound / memory's bound": ("full depth: bound", "full depth: memory"),
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
    "FREE, all tokens shallow at half depth / memory's bound": ("FREE, all shallow", "FREE, all shallow: memory"),
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
    **{f"{name}: chosen products / the library's": (name, f"{name}: library") for name in MULTIPLIED},
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


def _problems(arguments: argparse.Namespace) -> list[str]:
    """A sentence for each thing that cannot be."""
    problems = device_problems(arguments.device)
    if (arguments.model_name_or_path is None) != (arguments.prompt_file is None):
        problems.append("--model_name_or_path and --prompt_file go together: give both, or --size alone.")
    elif arguments.prompt_file is not None and len(arguments.threads or [1]) > 1:
        problems.append("--threads takes one number with --prompt_file.")
    for name in ("policy", "exit_translators"):
        if getattr(arguments, name) and arguments.prompt_file is None and arguments.model_name_or_path is None:
            problems.append(f"--{name} is of a checkpoint: give --model_name_or_path and --prompt_file.")
    try:
        IN_FORCE.use(arguments.products)
    except ValueError as error:
        problems.append(f"--{error}" if arguments.products else str(error))
    if "search" in arguments.of and arguments.size not in DECODER_SIZES:
        problems.append(f"--of search needs a decoder-only size: {', '.join(DECODER_SIZES)}.")
    if arguments.size in DECODER_SIZES and arguments.source + arguments.tokens > POSITIONS:
        problems.append(
            f"--source {arguments.source} and --tokens {arguments.tokens} are more than the {POSITIONS} positions of "
            f"{arguments.size}."
        )
    return problems


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser(__doc__)
    model = parser.add_argument_group(groups.MODEL)
    model.add_argument("--size", choices=SIZES, default="t5-base", help="architecture and sizes; weights are random")
    model.add_argument("--model_name_or_path", help="a checkpoint instead, which continues --prompt_file")
    model.add_argument("--exit_translators", help="of a checkpoint, the file of its exits' translators")
    model.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the weights")
    model.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    prompts = parser.add_argument_group(groups.PROMPTS)
    prompts.add_argument("--prompt_file", help="of a checkpoint: .txt with one per line, or .jsonl, .json, .csv")
    prompts.add_argument(
        "--policy", action="append", help='of a checkpoint, its flags in quotes: "--use_early_exit True"; repeatable'
    )
    timing = parser.add_argument_group(groups.TIMING)
    timing.add_argument("--of", nargs="+", choices=GROUPS, default=list(BY_DEFAULT), help="groups of figures")
    timing.add_argument("--batch", type=COUNT, nargs="+", default=[1, 8], help="rows decoded together")
    timing.add_argument("--source", type=COUNT, default=64, help="tokens of the encoder, or of the prompt")
    timing.add_argument("--tokens", "--new_tokens", type=COUNT, default=64, help="generated tokens")
    timing.add_argument("--repetitions", type=COUNT, default=9, help="of everything, in turn")
    timing.add_argument("--threads", type=COUNT, nargs="+", help="threads; of several the fastest at full depth")
    model.add_argument("--products", help="how few rows are multiplied, see models/ways.py: auto, library, ...")
    timing.add_argument("--several", type=INNER_SHARE, default=0.2, help="of exits, with several plausible tokens")
    output = parser.add_argument_group(groups.OUTPUT)
    output.add_argument("--out", type=output_file, help="where to write the figures as JSON")
    timing.add_argument("--no-memory", action="store_true", help="skip the two processes that measure peak memory")
    timing.add_argument("--peak-of", choices=PEAKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if problems := _problems(arguments):
        parser.error(" ".join(problems))
    if arguments.prompt_file is not None:
        try:
            arguments.checkpoint = benchmark_prompts.checkpoint(arguments)
        except (ValueError, OSError) as error:
            parser.refuse(error)
    return arguments


def choose_threads(arguments: argparse.Namespace) -> dict[str, float]:
    """Set the number of threads, of several the one whose tokens take least at full depth and the smallest batch; of
    each the milliseconds of a token. Without --threads it stays."""
    counts = arguments.threads or [torch.get_num_threads()]
    if len(counts) == 1:
        torch.set_num_threads(counts[0])
        return {}
    workload = prepare(arguments, min(arguments.batch))
    found = {}
    for count in counts:
        torch.set_num_threads(count)
        runs = {"full depth": contenders(workload, min(arguments.batch), arguments.tokens, [])["full depth"]}
        seconds = measure(runs, arguments.repetitions, arguments.device)["full depth"]
        found[str(count)] = 1000 * min(seconds) / arguments.tokens
    fastest = min(found, key=lambda count: found[count])
    torch.set_num_threads(int(fastest))
    shown = ", ".join(f"{count}: {milliseconds:.1f}" for count, milliseconds in found.items())
    print(f"milliseconds of a token at full depth, by threads: {shown}; {fastest} is taken")
    return found


def timed(workload: Workload, arguments: argparse.Namespace, batch: int, runs: dict[str, Callable]) -> dict:
    """Seconds of everything that is timed at a batch size; memory's bounds among them, the same in every repetition."""
    seconds = measure(runs, arguments.repetitions, arguments.device)
    if any(name.startswith("read: ") for name in seconds):
        for name, (_, passes) in asked(workload.model.num_exit_layers, arguments.of).items():
            if passes is not None:
                least = memory_seconds(workload, passes, batch, arguments.tokens, seconds)
                seconds[f"{name}: memory"] = [least] * arguments.repetitions
    return seconds


def first_difference(arguments: argparse.Namespace, batch: int) -> float:
    """Tokens at full depth before the first that is not float32's, of all: mean over the rows."""
    shares, answers = [], []
    for dtype in (arguments.dtype, "float32"):
        workload = prepare(argparse.Namespace(**{**vars(arguments), "dtype": dtype}), batch)
        answers.append(workload.model.generate(**workload.inputs(), max_new_tokens=arguments.tokens))
    for ours, wide in zip(*(rows[:, -arguments.tokens :].tolist() for rows in answers), strict=True):
        same = [a == b for a, b in zip(ours, wide, strict=True)]
        shares.append((same.index(False) if False in same else len(same)) / len(same))
    return statistics.mean(shares)


def notes_of(workload: Workload, arguments: argparse.Namespace, batch: int, runs: dict[str, Callable]) -> dict:
    """Name -> what else is told at a batch size."""
    notes = {}
    if "contrast" in arguments.of:
        notes["exits with several plausible tokens"] = plausible_share(runs["JSD"]())
        notes["the same from 0.8 L"] = plausible_share(runs["JSD, late"]())
    if "pruning" in arguments.of:
        notes["copying rows pays up to rows * k / V"] = crossing(workload.model, batch, arguments.repetitions)["median"]
    if "free" in arguments.of:
        counts = runs["lossless from L/6, always"]().counts
        notes["share of all drafted tokens that stood"] = float(counts["accepted"].sum() / counts["drafted"].sum())
    if "depth" in arguments.of and arguments.dtype != "float32":
        notes["tokens until the first that is not float32's"] = first_difference(arguments, batch)
    return notes


def main(argv: list[str] | None = None) -> dict:
    arguments = parse(argv)
    if arguments.prompt_file is not None:
        torch.set_num_threads((arguments.threads or [torch.get_num_threads()])[0])
        report = benchmark_prompts.report(arguments) | {"products": IN_FORCE.record()}
        return written(arguments, report)
    if arguments.peak_of:
        workload = prepare(arguments, arguments.batch[0])
        run = contenders(workload, arguments.batch[0], arguments.tokens, ["depth"])[arguments.peak_of]
        print(peak_while(run))
        return {}
    by_threads = choose_threads(arguments)
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
        "milliseconds_per_token": {},
        "notes": {},
    }
    if by_threads:
        report["milliseconds_by_threads"] = by_threads
    for batch in arguments.batch:
        workload = prepare(arguments, batch)
        runs = contenders(workload, batch, arguments.tokens, arguments.of)
        seconds = timed(workload, arguments, batch, runs)
        report["batches"][str(batch)] = figures(seconds)
        least = {name: 1000 * min(times) / arguments.tokens for name, times in seconds.items() if "read: " not in name}
        report["milliseconds_per_token"][str(batch)] = least
        print(f"\n{arguments.size}, {arguments.dtype}, batch {batch}: times as fast (median, min to max)")
        for name, found in report["batches"][str(batch)].items():
            print(f"  {name:<55} {found['median']:.2f}  ({found['min']:.2f} to {found['max']:.2f})")
        report["notes"][str(batch)] = notes = notes_of(workload, arguments, batch, runs)
        for name, value in notes.items():
            print(f"  {name:<55} {value:.2f}")
        report["products"] = IN_FORCE.record()
        if arguments.out:  # what is measured is there, should the rest take too long
            write_json(arguments.out, report)
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
