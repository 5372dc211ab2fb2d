"""Which way multiplies how many rows with which weight: measured on the model at hand, once a machine, and kept.

`choose` measures, before a call's first token, what this process has not measured or read yet; `way_for` says what was
chosen and measures nothing, so that no call changes its ways.
"""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from models.adjacent import are_adjacent, as_one
from models.ways import WAYS, Multiply, Way
from util.files import locked, read_json, write_json

AUTO, LIBRARY = "auto", "library"
# What is in force where nothing else is said.
VARIABLE = "EARLY_EXIT_PRODUCTS"

# Numbers of rows that are measured; others go the way of the next above, and more than the last the library's.
ROWS = (1, 2, 3, 4, 8, 16)
# Seconds that measuring may take: of 0.3 for choosing, what files and a product under
# way when the time is over do not need.
BUDGET = 0.25
# A way is taken where it needs at most this share of the library's time.
CLEARLY = 0.95
# How often a way is timed, and when one is given up: it took so many times as long as the best, twice.
ROUNDS, HOPELESS = 8, 1.5
# Bytes of a weight that meet the states in one timing: more than the cache of one core holds.
SAMPLE = 2 * 2**20
# Seconds to wait for another process that measures.
PATIENCE = 5.0


class Shape(NamedTuple):
    """A matrix [K, M]: its inputs and outputs, and whether an output's weights lie side by side, as `nn.Linear` has
    them, or an input's."""

    inputs: int
    outputs: int
    by_output: bool

    @classmethod
    def of(cls, matrix: Tensor) -> Shape:
        """That of a matrix [K, M]."""
        inputs, outputs = matrix.shape
        return cls(inputs, outputs, matrix.stride(0) == 1)

    def __str__(self) -> str:
        return f"{self.inputs}x{self.outputs}{'' if self.by_output else ' by input'}"

    def distance(self, other: Shape) -> tuple[bool, int, int]:
        """How little another shape says of this one: of shapes, the least is the nearest."""
        return other.by_output != self.by_output, abs(other.inputs - self.inputs), abs(other.outputs - self.outputs)


# Shape -> rows -> name of the way.
Chosen = dict[Shape, dict[int, str]]
# Shape -> pieces of weights of that shape.
Samples = dict[Shape, list[Tensor]]


class Measured(NamedTuple):
    """What was measured.

    Attributes:
        chosen: The ways found, as far as there was time.
        whole: The shapes of which every way was timed for all numbers of rows.
    """

    chosen: Chosen
    whole: set[Shape]


class Choices:
    """What one process has chosen.

    Args:
        mode: `auto`, or the name of the way that is taken wherever it fits; None for that of the environment.
    """

    def __init__(self, mode: str | None = None):
        self._mode = mode
        self._shapes: dict[str, Chosen] = {}  # by type and threads
        self._known: WeakKeyDictionary[nn.Module, set[tuple]] = WeakKeyDictionary()  # what a model was met with

    @property
    def mode(self) -> str:
        """What is in force.

        Raises:
            ValueError: The environment names no way.
        """
        if self._mode is not None:
            return self._mode
        return valid_mode(os.environ.get(VARIABLE) or AUTO, VARIABLE)

    @property
    def given(self) -> str | None:
        """What `use` was given last."""
        return self._mode

    def use(self, mode: str | None) -> None:
        """Take `auto`, or the way of this name, from the next call on; None leaves it to the environment.

        Raises:
            ValueError: There is no such way.
        """
        self._mode = None if mode is None else valid_mode(mode)
        _ = self.mode  # an environment that names no way is told at once

    @contextmanager
    def using(self, mode: str) -> Iterator[None]:
        """Take `auto`, or the way of this name, for the calls inside."""
        before = self._mode
        self.use(mode)
        try:
            yield
        finally:
            self._mode = before

    def choose(self, model: nn.Module) -> None:
        """See to it that the shapes of a model have their ways on this number of threads; again costs nothing."""
        if self.mode != AUTO:
            return
        weight = next(model.parameters())
        situation = (torch.get_num_threads(), weight.dtype, weight.device)
        if situation in self._known.setdefault(model, set()):
            return
        self._known[model].add(situation)
        for dtype, samples in samples_of(model).items():
            name = situation_of(dtype)
            held = self._shapes.get(name, {})
            wanted = {shape: pool for shape, pool in samples.items() if shape not in held}
            if wanted:  # a new table: another thread may be reading the old one
                self._shapes[name] = held | kept_or_measured(name, wanted)

    def way_for(self, matrix: Tensor, rows: int) -> str:
        """The name of the way for so many rows with a matrix [K, M]."""
        mode = self.mode
        if matrix.device.type != "cpu" or mode == LIBRARY or rows > ROWS[-1]:
            return LIBRARY
        name = self._measured(matrix, rows) if mode == AUTO else mode
        return name if WAYS[name].fits(matrix, rows) else LIBRARY

    def _measured(self, matrix: Tensor, rows: int) -> str:
        shapes = self._shapes.get(situation_of(matrix.dtype))
        if not shapes:
            return LIBRARY
        shape = Shape.of(matrix)
        ways = shapes.get(shape) or shapes[min(shapes, key=shape.distance)]
        return ways.get(next(number for number in ROWS if number >= rows), LIBRARY)

    def record(self) -> dict[str, Any]:
        """For the record of a run: the mode, and what was measured by type and threads."""
        chosen = {each: {str(shape): ways for shape, ways in held.items()} for each, held in self._shapes.items()}
        return {"mode": self.mode, **chosen}


# Those of this process.
IN_FORCE = Choices()


def valid_mode(mode: str, given: str = "products") -> str:
    """`auto`, or the name of a way.

    Raises:
        ValueError: It is neither; the sentence lists what is valid.
    """
    if mode != AUTO and mode not in WAYS:
        raise ValueError(f"{given} is {mode!r}: valid are {', '.join((AUTO, *WAYS))}.")
    return mode


def situation_of(dtype: torch.dtype) -> str:
    """What a choice holds for beside shape and rows, as text: the weight's type, and threads."""
    return f"{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads"


# -------------------------------------------------------------------------------------------------------- measuring
def samples_of(model: nn.Module) -> dict[torch.dtype, Samples]:
    """Type -> shape -> pieces of at most `SAMPLE` bytes of the weights of that shape, of all on a CPU that tokens meet.

    They come layer by layer, so that none is in the cache when its turn comes, if the model is larger than that.
    """
    samples: dict[torch.dtype, Samples] = {}
    for matrix in _matrices(model):
        if matrix.device.type == "cpu":
            columns = max(1, SAMPLE // (matrix.shape[0] * matrix.element_size()))
            whole = [piece for piece in matrix.split(columns, 1) if piece.shape[1] == min(columns, matrix.shape[1])]
            samples.setdefault(matrix.dtype, {}).setdefault(Shape.of(matrix), []).extend(whole)
    return samples


def _matrices(model: nn.Module) -> Iterator[Tensor]:
    """The matrices [K, M] of all linear layers but an encoder's; those that are adjacent in memory as one."""
    group: list[Tensor] = []
    for name, module in model.named_modules():
        if name.startswith("encoder."):
            continue
        if isinstance(module, nn.Linear):
            if group and not are_adjacent([*group, module.weight]):
                yield as_one(group).t()
                group = []
            group.append(module.weight)
        elif isinstance(module, Conv1D):
            yield module.weight
    if group:
        yield as_one(group).t()


class Trial:
    """One way with one shape and so many rows, timed on one sample after the other."""

    def __init__(self, shape: Shape, name: str, way: Way, rows: int, pool: Sequence[Tensor]):
        self.shape, self.name = shape, name
        self.states = torch.ones(rows, shape.inputs, dtype=pool[0].dtype)
        self.way, self.pool = way, pool
        self.bound: dict[int, Multiply] = {}
        self.seconds = float("inf")
        self.rounds = 0

    @property
    def timed(self) -> bool:
        """Whether its time counts: the first makes a way ready."""
        return self.rounds > 1

    def run(self, turn: int, clock: Callable[[], float]) -> None:
        """Time it on a sample that others have not just read."""
        place = turn % len(self.pool)
        if place not in self.bound:
            self.bound[place] = self.way.bind(self.pool[place])
        multiply = self.bound[place]
        started = clock()
        multiply(self.states, None)
        self.seconds = min(self.seconds, clock() - started)
        self.rounds += 1


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile, as in timeit: with a library's modules alive that takes most of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@torch.inference_mode()
@_uncollected()
def measure(samples: Samples, budget: float = BUDGET, clock: Callable[[], float] = time.perf_counter) -> Measured:
    """Of each shape and number of rows the way that took the least time, the library's where none is clearly faster.

    Args:
        samples: As of `samples_of`.
        budget: Seconds it may take; what no time is left for, as on a machine that others use, is left out.
        clock: Seconds, from any moment on.
    """
    found: Chosen = {shape: {} for shape in samples}
    whole = set(samples)
    end = clock() + budget
    for place, rows in enumerate(ROWS):
        now = clock()
        share = now + (end - now) / min(3, len(ROWS) - place)  # the fewest rows matter most, should time be short
        trials = [
            Trial(shape, name, way, rows, pool)
            for shape, pool in samples.items()
            for name, way in WAYS.items()
            if way.fits(pool[0], rows)
        ]
        _time(trials, share, clock)
        for shape in samples:
            name = best_of([trial for trial in trials if trial.shape == shape])
            if name is not None:
                found[shape][rows] = name
        whole -= {trial.shape for trial in trials if not trial.timed}
    return Measured(found, whole)


def _time(trials: Sequence[Trial], end: float, clock: Callable[[], float]) -> None:
    """Run the trials in turn until the time is over, or each has been timed often enough."""
    turn = 0
    for _ in range(ROUNDS):
        best: dict[Shape, float] = {}
        for trial in trials:
            best[trial.shape] = min(trial.seconds, best.get(trial.shape, float("inf")))
        for trial in trials:
            if trial.timed and trial.seconds > HOPELESS * best[trial.shape]:
                continue
            if clock() >= end:
                return
            trial.run(turn, clock)
            turn += 1


def best_of(trials: Sequence[Trial]) -> str | None:
    """The name of the fastest way timed, the library's where none is clearly faster; None where that is not timed."""
    timed = {trial.name: trial.seconds for trial in trials if trial.timed}
    if LIBRARY not in timed:
        return None
    name = min(timed, key=lambda each: timed[each])
    return name if timed[name] < CLEARLY * timed[LIBRARY] else LIBRARY


# ----------------------------------------------------------------------------------------------------- what is kept
def cache_folder() -> Path:
    """The user's folder for what can be worked out again."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not base.is_absolute():
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # nobody's home: where nothing can be written
            base = Path(os.devnull)
    return base / "early-exit"


@cache
def machine() -> dict[str, Any]:
    """What the choice depends on beside `situation_of`: the processor, what torch makes of it, and the ways there
    are."""
    name, flags = platform.processor() or platform.machine(), ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    for line in text.split("\n\n")[0].splitlines():
        field, _, value = line.partition(":")
        if field.strip() == "model name":
            name = value.strip()
        elif field.strip() in ("flags", "Features"):
            flags = hashlib.sha256(value.encode()).hexdigest()[:16]
    return {
        "processor": name,
        "flags": flags,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "ways": list(WAYS),
    }


def cache_file() -> Path:
    """The file of this machine; a folder shared by several holds one for each."""
    digest = hashlib.sha256(repr(machine()).encode()).hexdigest()[:12]
    return cache_folder() / f"products-{digest}.json"


def kept_or_measured(
    situation: str,
    samples: Samples,
    measured: Callable[[Samples], Measured] | None = None,
) -> Chosen:
    """Shape -> rows -> way, of the file where it has them, else measured now and kept there.

    Of two processes that come at once, one measures and the other waits for what it finds. What cannot be read counts
    as not there, and where nothing can be written nothing is.
    """
    path = cache_file()
    found = _kept(path, situation, samples)
    if len(found) == len(samples):
        return found
    lock = _lock(path)
    try:
        found = _kept(path, situation, samples)
        missing = {shape: pool for shape, pool in samples.items() if shape not in found}
        if missing:
            fresh = (measured or measure)(missing)
            found |= fresh.chosen
            _keep(path, situation, {shape: fresh.chosen[shape] for shape in fresh.whole})
    finally:
        if lock is not None:
            lock.close()
    return found


def _lock(path: Path):
    """A lock on the file; None where there can be none, or another process has it for longer than measuring takes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + PATIENCE
        while (lock := locked(path.with_suffix(".lock"))) is None and time.monotonic() < until:
            time.sleep(0.02)
    except OSError:
        return None
    return lock


def _kept(path: Path, situation: str, shapes: Samples) -> Chosen:
    """Those of the shapes that the file has; of a file that is torn, or of something else, none."""
    held = _read(path).get(situation)
    held = held if isinstance(held, dict) else {}
    found = {}
    for shape in shapes:
        ways = held.get(str(shape))
        if (
            isinstance(ways, dict)
            and set(ways) == set(map(str, ROWS))
            and all(isinstance(way, str) and way in WAYS for way in ways.values())
        ):
            found[shape] = {int(rows): way for rows, way in ways.items()}
    return found


def _read(path: Path) -> dict:
    """Situation -> shape -> rows -> way of the file, as far as it is this machine's."""
    try:
        held = read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(held, dict) or held.get("machine") != machine() or not isinstance(held.get("chosen"), dict):
        return {}
    return held["chosen"]


def _keep(path: Path, situation: str, found: Chosen) -> None:
    """Add what was measured whole to the file, which is there whole or not at all."""
    held = _read(path)
    old = held.get(situation)
    texts = {str(shape): {str(rows): way for rows, way in ways.items()} for shape, ways in found.items()}
    held[situation] = (old if isinstance(old, dict) else {}) | texts
    try:
        write_json(path, {"machine": machine(), "chosen": held})
    except OSError:
        return
