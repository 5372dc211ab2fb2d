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
from models.ways import LARGEST, WAYS, Multiply, in_pieces
from util.files import locked, read_json, write_json

AUTO, LIBRARY = "auto", "library"
# What is in force where nothing else is said.
VARIABLE = "EARLY_EXIT_PRODUCTS"

# Numbers of rows that are measured; others go the way of the next above, and more than the last the library's.
ROWS = (1, 2, 3, 4, 8, 16)
# Seconds that measuring may take: of 0.3 for choosing, what files and a product under
# way when the time is over do not need.
BUDGET = 0.25
# A way is taken where it needs at most this share of the library's time; pieces, which are the library's own and what a
# head meets where nothing was measured, where they need less.
CLEARLY, PIECES = 0.95, "pieces"
# How often a way is timed on small samples, and when one is given up: it took so many times as long as the best.
ROUNDS, HOPELESS = 3, 1.5
# The fastest so many are timed against the library, so often, on samples as large as what is multiplied: what wins on a
# small one may lose on a large one, or have won by chance.
FINALISTS, PROOFS = 2, 4
# A way that no time is left to prove is taken where it needed at most this share of the library's time.
DOUBTLESS = 0.75
# Bytes of a small sample: more than the cache of one core holds.
SAMPLE = 2 * 2**20
# Share of the budget in which the finalists are found.
FIRST_PART = 0.75
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
# Shape -> the weights of that shape.
Samples = dict[Shape, list[Tensor]]


class Measured(NamedTuple):
    """What was measured.

    Attributes:
        chosen: The ways found, as far as there was time.
        proved: Those of them that there was time enough for.
    """

    chosen: Chosen
    proved: Chosen


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

    def way_for(self, matrix: Tensor, rows: int, otherwise: str = LIBRARY) -> str:
        """The name of the way for so many rows with a matrix [K, M].

        Args:
            otherwise: The way on a CPU where none was measured, or asked for.
        """
        if matrix.device.type != "cpu":
            return LIBRARY
        mode, name = self.mode, None
        if mode != LIBRARY and rows <= ROWS[-1]:
            name = self._measured(matrix, rows) if mode == AUTO else mode
        if name is None or not WAYS[name].fits(matrix, rows):
            name = otherwise
        return name if WAYS[name].fits(matrix, rows) else LIBRARY

    def _measured(self, matrix: Tensor, rows: int) -> str | None:
        shapes = self._shapes.get(situation_of(matrix.dtype))
        if not shapes:
            return None
        shape = Shape.of(matrix)
        ways = shapes.get(shape) or shapes[min(shapes, key=shape.distance)]
        return ways.get(next(number for number in ROWS if number >= rows))

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
    """Type -> shape -> the weights of that shape on a CPU that tokens meet, layer by layer; no copies."""
    samples: dict[torch.dtype, Samples] = {}
    for matrix in _matrices(model):
        if matrix.device.type == "cpu":
            samples.setdefault(matrix.dtype, {}).setdefault(Shape.of(matrix), []).append(matrix)
    return samples


def cut(pool: Sequence[Tensor], size: int) -> list[Tensor]:
    """Pieces of at most about so many bytes of weights [K, M], in their order; so that none is in the cache when its
    turn comes, if the model is larger than that."""
    return [piece for matrix in pool for piece in in_pieces(matrix, size)]


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
    """One way with so many rows, timed on one sample after the other.

    Attributes:
        seconds: That it took, each time but those that made it ready.
    """

    def __init__(self, name: str, rows: int, pool: Sequence[Tensor], ready: bool = False):
        self.name, self.pool = name, pool
        self.states = torch.ones(rows, pool[0].shape[0], dtype=pool[0].dtype)
        self.seconds: list[float] = []
        self._bound: dict[int, Multiply] = {}
        self._ready = ready

    @property
    def least(self) -> float:
        """The shortest time, infinite before there is one."""
        return min(self.seconds, default=float("inf"))

    @property
    def usual(self) -> float:
        """The median of the times, the lower one of two; infinite before there is one."""
        return sorted(self.seconds)[(len(self.seconds) - 1) // 2] if self.seconds else float("inf")

    def run(self, turn: int, clock: Callable[[], float]) -> None:
        """Time it on a sample that others have not just read."""
        place = turn % len(self.pool)
        if place not in self._bound:
            self._bound[place] = WAYS[self.name].bind(self.pool[place])
        multiply = self._bound[place]
        started = clock()
        multiply(self.states, None)
        seconds = clock() - started
        if self._ready:
            self.seconds.append(seconds)
        self._ready = True


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


class Race:
    """The ways of one shape and number of rows.

    Attributes:
        trials: Of all ways, on small samples.
        finals: The library's and the finalists', on samples as large as what is multiplied.
        ended: Whether there was time for all of it.
    """

    def __init__(self, shape: Shape, rows: int, small: Sequence[Tensor], large: Sequence[Tensor]):
        self.shape, self.rows, self.large = shape, rows, large
        self.trials = [Trial(name, rows, small) for name, way in WAYS.items() if way.fits(small[0], rows)]
        self.finals: list[Trial] = []
        self.ended = False

    def hold_finals(self, end: float, clock: Callable[[], float]) -> None:
        """Time the finalists against the library, until the time is over."""
        times = {trial.name: trial.least for trial in self.trials}
        faster = [name for name in times if times[name] < CLEARLY * times[LIBRARY]]
        finalists = sorted(faster, key=lambda name: times[name])[:FINALISTS]
        finalists += [name for name, way in WAYS.items() if name not in times and way.fits(self.large[0], self.rows)]
        names = [LIBRARY, *finalists] if finalists else []
        self.finals = [Trial(name, self.rows, self.large, ready=True) for name in names]
        self.ended = all(trial.seconds for trial in self.trials) and _time([self.finals], PROOFS, end, clock)

    def winner(self) -> str | None:
        """The name of the fastest way that was proved to be faster than the library's, else the library's; None where
        nothing was proved, nor needs to be."""
        if self.ended:
            return best_of(self.finals, CLEARLY) if self.finals else LIBRARY
        name = best_of(self.trials, DOUBTLESS)
        return None if name == LIBRARY else name


@torch.inference_mode()
@_uncollected()
def measure(
    samples: Samples,
    known: Chosen | None = None,
    budget: float = BUDGET,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Of each shape and number of rows the way that took the least time, the library's where none is clearly faster.

    Args:
        samples: As of `samples_of`.
        known: What need not be measured.
        budget: Seconds it may take; what no time is left for, as on a machine that others use, is left out.
        clock: Seconds, from any moment on.
    """
    end = clock() + budget
    pieces = {shape: (cut(pool, SAMPLE), cut(pool, LARGEST)) for shape, pool in samples.items()}
    found: Chosen = {shape: {} for shape in samples}
    proved: Chosen = {shape: {} for shape in samples}
    for place, rows in enumerate(ROWS):
        races = [Race(shape, rows, *pieces[shape]) for shape in samples if rows not in (known or {}).get(shape, {})]
        now = clock()
        until = now + (end - now) / min(3, len(ROWS) - place)  # the fewest rows matter most, should time be short
        _time([race.trials for race in races], ROUNDS, now + FIRST_PART * (until - now), clock)
        for race in races:
            race.hold_finals(until, clock)
            winner = race.winner()
            if winner is not None:
                found[race.shape][rows] = winner
                if race.ended:
                    proved[race.shape][rows] = winner
    return Measured(found, proved)


def _time(races: Sequence[Sequence[Trial]], rounds: int, end: float, clock: Callable[[], float]) -> bool:
    """Run the trials of each in turn, so often, those that are hopeless once; whether the time sufficed."""
    turn = 0
    for _ in range(rounds):
        for trials in races:
            best = min((trial.least for trial in trials), default=0.0)
            for trial in trials:
                if trial.seconds and trial.least > HOPELESS * best:
                    continue
                if clock() >= end:
                    return False
                trial.run(turn, clock)
                turn += 1
    return True


def best_of(trials: Sequence[Trial], share: float) -> str | None:
    """The name of the fastest of the ways that need at most this share of the library's time, by their least times and
    by their usual ones, else the library's; None where that is not timed."""
    timed = {trial.name: trial for trial in trials if trial.seconds}
    library = timed.get(LIBRARY)
    if library is None:
        return None

    def is_faster(trial: Trial) -> bool:
        limit = max(share, 1.0 if trial.name == PIECES else 0.0)
        return trial.least < limit * library.least and trial.usual < limit * library.usual

    faster = [trial for trial in timed.values() if is_faster(trial)]
    return min(faster, key=lambda trial: trial.usual).name if faster else LIBRARY


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
    situation: str, samples: Samples, measured: Callable[[Samples, Chosen], Measured] | None = None
) -> Chosen:
    """Shape -> rows -> way, of the file where it has them, else measured now and kept there.

    Of two processes that come at once, one measures and the other waits for what it finds. What cannot be read counts
    as not there, and where nothing can be written nothing is. What there was no time for is measured by the next.
    """
    path = cache_file()
    found = _kept(path, situation, samples)
    if _is_whole(found):
        return found
    lock = _lock(path)
    try:
        found = _kept(path, situation, samples)
        if not _is_whole(found):
            missing = {shape: pool for shape, pool in samples.items() if not _is_whole({shape: found[shape]})}
            fresh = (measured or measure)(missing, found)
            _keep(path, situation, _joined(found, fresh.proved))
            found = _joined(found, fresh.chosen)
    finally:
        if lock is not None:
            lock.close()
    return found


def _is_whole(chosen: Chosen) -> bool:
    """Whether every shape has a way for all numbers of rows."""
    return all(set(ways) == set(ROWS) for ways in chosen.values())


def _joined(one: Chosen, other: Chosen) -> Chosen:
    """What either holds."""
    return {shape: one.get(shape, {}) | other.get(shape, {}) for shape in {**one, **other}}


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
    """What the file has of these shapes; of a file that is torn, or of something else, nothing."""
    held = _read(path).get(situation)
    held = held if isinstance(held, dict) else {}
    found: Chosen = {}
    for shape in shapes:
        ways = held.get(str(shape))
        ways = ways if isinstance(ways, dict) else {}
        told = {rows: ways.get(str(rows)) for rows in ROWS}
        found[shape] = {rows: way for rows, way in told.items() if isinstance(way, str) and way in WAYS}
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
    """Add what was proved to the file, which is there whole or not at all."""
    held = _read(path)
    old = held.get(situation)
    texts = {str(shape): {str(rows): way for rows, way in ways.items()} for shape, ways in found.items() if ways}
    held[situation] = (old if isinstance(old, dict) else {}) | texts
    try:
        write_json(path, {"machine": machine(), "chosen": held})
    except OSError:
        return
