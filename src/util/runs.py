"""A run's folder: one per settings, appended to batch by batch, so that a run that is killed continues where it was.

    output_dir/runs/<slug>/
        settings.json                  what the hash in the slug was taken over
        predictions.<process>.jsonl    while it runs: one line per finished batch, and a line per input of each kind
        traces.<process>.jsonl         of detail that is kept: traces, and the views layers and jsds
        predictions.jsonl, traces.jsonl.gz, generated_predictions.txt, <stage>_results.json
        all_results.json               written last: where it is there, with these settings, the run is complete

A batch counts once its line is there, which says where its details end and what they add up to. A run that starts is
brought back to its last whole batch. Nothing outside runs/<slug>/ is ever deleted; the result files alone are also put
into output_dir itself.
"""

import gzip
import hashlib
import json
import logging
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from util.files import (
    append,
    append_jsonl,
    jsonable,
    jsonl,
    locked,
    read_json,
    read_jsonl,
    replacing,
    sync,
    write_json,
    write_text,
)

logger = logging.getLogger(__name__)

# What may be kept of every input, a line each.
DETAILS = ("traces", "layers", "jsds")

# Seconds between two moments at which parts are made sure of: what a machine that fails loses is decoded again.
SYNC_EVERY = 1.0

# Files of a model that hold weights, read in part; the others that shape its output are read whole.
WEIGHTS = (".safetensors", ".bin", ".gguf")
# Of a checkpoint of adapters alone.
ADAPTERS = "adapter_config.json"
WHOLE_UP_TO = 64 * 2**20  # bytes
SAMPLED_EVERY, SAMPLED = 2**20, 4096  # bytes


class Run:
    """The files of one run of one stage; `process` numbers the processes that write to it at the same moment.

    Args:
        output_dir: the folder of the job, shared by runs of other settings.
        name: the readable part of the folder's name.
        settings: everything that shapes the results. Another value is another folder.
        stage: "eval" or "predict".
    """

    def __init__(self, output_dir: str | Path, name: str, settings: dict, stage: str, process: int = 0):
        self.output_dir = Path(output_dir)
        self.settings = jsonable(settings)
        self.stage = stage
        self.process = process
        self.digest = digest(self.settings)
        self.folder = self.output_dir / "runs" / f"{slug(name)}-{self.digest}"
        self._lock = None
        self._synced = 0.0

    @property
    def results(self) -> dict | None:
        """all_results.json of the complete run, None while there is none with its settings in it."""
        if not all((self.folder / name).is_file() for name in ("predictions.jsonl", "generated_predictions.txt")):
            return None
        try:
            held = read_json(self.folder / "all_results.json")
        except ValueError:
            return None
        return held if isinstance(held, dict) and held.items() >= self._described().items() else None

    def prepare(self, overwrite: bool = False) -> None:
        """Make the folder ready to be written by all processes; called by one of them.

        Args:
            overwrite: start over; what this run left of itself is discarded.

        Raises:
            ValueError: another process is at the same run, or the folder cannot be written.
        """
        try:
            self._prepare(overwrite)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written: {error.strerror}.") from error

    def _prepare(self, overwrite: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if overwrite:
            self._discard()
        self._write("settings.json", self.settings)
        if self.results is None:
            self._make_continuable()

    def _make_continuable(self) -> None:
        results = self.folder / "all_results.json"
        if results.exists():
            logger.warning("%s is not the results of this run: they are worked out again.", results)
            results.unlink()
        for process in sorted({path.suffixes[0] for path in self._all_parts()}):
            self._bring_back(process)

    def append(self, line: dict, traces: Iterable[dict] = (), **views: Iterable[dict]) -> None:
        """Record a finished batch. Traces and views, by kind, go first: what has no line of its own does not count."""
        rows = {"traces": list(traces), **views}
        ends = {kind: self._keep(kind, rows[kind]) for kind in rows if rows[kind]}
        append_jsonl(self._part("predictions"), [{**line, "details": ends}])
        if time.monotonic() - self._synced > SYNC_EVERY:
            for path in self._parts("*", self.process):
                sync(path)
            self._synced = time.monotonic()

    def lines(self) -> list[dict]:
        """The lines of all processes so far."""
        lines = [line for path in self._parts("predictions") for line in read_jsonl(path)]
        return [{name: value for name, value in line.items() if name != "details"} for line in lines]

    def details(self, kind: str) -> Iterator[dict]:
        """The lines of a kind of detail so far; those of an input that was decoded twice may come twice."""
        for path in self._parts(kind):
            with path.open("rb") as file:
                yield from map(json.loads, file)

    def finish(
        self, metrics: dict, predictions: list[dict], inputs: Iterable[tuple] = (), summaries: dict | None = None
    ) -> dict:
        """Merge the parts, write the results, and put these into output_dir as well. Returns the results: the metrics
        and the run's settings.

        Args:
            metrics: the results.
            predictions: one dict per example, in order, with its text under "prediction".
            inputs: (id, window) of the inputs in the order in which their details are kept.
            summaries: name -> value of further JSON files.
        """
        results = metrics | self._described()
        with replacing(self.folder / "predictions.jsonl", self.digest) as temporary:
            append_jsonl(temporary, predictions)
        for kind in DETAILS:
            if self._parts(kind):
                self._merge(kind, inputs)
        for name, value in (summaries or {}).items():
            self._write(f"{name}.json", value)
        lines = "".join(" ".join(each["prediction"].split("\n")) + "\n" for each in predictions)
        write_text(self.folder / "generated_predictions.txt", lines, self.digest)
        self._write(f"{self.stage}_results.json", results)
        self._write("all_results.json", results)
        self.publish()
        return results

    @classmethod
    def at(cls, folder: str | Path) -> "Run":
        """The run that a folder holds.

        Raises:
            ValueError: it holds none that is complete.
        """
        folder = Path(folder)
        settings = read_json(folder / "settings.json") if (folder / "settings.json").is_file() else {}
        name = folder.name.removesuffix(f"-{digest(settings)}")
        for stage in ("eval", "predict"):
            run = cls(folder.parent.parent, name, settings, stage)
            run.folder = folder  # which may have been moved
            if settings and run.results is not None:
                return run
        raise ValueError(f"{folder} holds no complete run.")

    def predictions(self) -> list[dict]:
        """The lines of the complete run's predictions.jsonl."""
        return read_jsonl(self.folder / "predictions.jsonl")

    def add_scores(self, scores: dict) -> dict:
        """Put further numbers, named without the stage, into the results of the complete run, and into those of
        output_dir where they are this run's. Returns the results.

        Raises:
            ValueError: another process is writing them.
        """
        results = self.results | {f"{self.stage}_{name}": value for name, value in scores.items()}
        held = self._lock
        if held is None:
            self._take_lock()
        try:
            self._write(f"{self.stage}_results.json", results)
            self._write("all_results.json", results)
            if self._is_published():
                self.publish()
        finally:
            if held is None:
                self.close()
        return results

    def _is_published(self) -> bool:
        path = self.output_dir / f"{self.stage}_results.json"
        try:
            return path.is_file() and read_json(path).items() >= self._described().items()
        except ValueError:
            return False

    def publish(self) -> None:
        """Put the results of the complete run into output_dir, beside those of training, and tidy up: the parts hold
        nothing that is not in the run's files."""
        results = self.results
        for path in self._all_parts():
            path.unlink()
        write_json(self.output_dir / f"{self.stage}_results.json", results, self.digest)
        merge_results(self.output_dir, self.stage, results, self.digest)
        if self.stage == "predict":
            text = (self.folder / "generated_predictions.txt").read_text(encoding="utf-8")
            write_text(self.output_dir / "generated_predictions.txt", text, self.digest)

    def close(self) -> None:
        """Let other processes at this run."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _described(self) -> dict:
        """What the results say of the run's settings: the policy's fields, then the others."""
        others = {name: value for name, value in self.settings.items() if name != "policy"}
        return {f"{self.stage}_policy": self.settings["policy"] | others}

    def _write(self, name: str, value: Any) -> None:
        write_json(self.folder / name, value, self.digest)

    def _part(self, kind: str) -> Path:
        return self.folder / f"{kind}.{self.process}.jsonl"

    def _keep(self, kind: str, rows: Iterable[dict]) -> tuple[int, int]:
        """Record details of a batch; where they end in their part, and their checksum."""
        data = jsonl(rows)
        return append(self._part(kind), data), zlib.crc32(data)

    def _bring_back(self, process: str) -> None:
        """Cut the parts of a process behind its last batch that is whole, line and details."""
        paths = {kind: self.folder / f"{kind}{process}.jsonl" for kind in ("predictions", *DETAILS)}
        parts = {kind: path.open("rb") if path.is_file() else BytesIO() for kind, path in paths.items()}
        ends = dict.fromkeys(parts, 0)
        for line in parts["predictions"]:
            details = _details_of(line)
            if details is None or not all(_is_next(parts[kind], *details[kind]) for kind in details):
                break
            ends |= {kind: end for kind, (end, _) in details.items()}
            ends["predictions"] += len(line)
        for kind, part in parts.items():
            part.close()
            if paths[kind].is_file() and paths[kind].stat().st_size > ends[kind]:
                logger.warning("%s is cut behind its last whole batch; what followed is decoded again.", paths[kind])
                _cut(paths[kind], ends[kind])

    def _parts(self, kind: str, process: int | str = "[0-9]*") -> list[Path]:
        return sorted(self.folder.glob(f"{kind}.{process}.jsonl"))

    def _all_parts(self) -> list[Path]:
        return [path for kind in ("predictions", *DETAILS) for path in self._parts(kind)]

    def _take_lock(self) -> None:
        self._lock = locked(self.folder / ".lock")
        if self._lock is None:
            raise ValueError(f"Another process is writing {self.folder}: wait for it, or give another --output_dir.")

    def _discard(self) -> None:
        for path in self.folder.iterdir():
            if path.name == ".lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _merge(self, kind: str, wanted: Iterable[tuple]) -> None:
        """<kind>.jsonl.gz in the order wanted; line by line, since the whole may be larger than the memory."""
        where: dict[tuple, tuple[Path, int]] = {}
        for path in self._parts(kind):
            for offset, line in _lines_with_offsets(path):
                each = json.loads(line)
                where.setdefault((each["id"], each["window"]), (path, offset))
        files = {path: path.open("rb") for path in self._parts(kind)}
        merged_path = self.folder / f"{kind}.jsonl.gz"
        with replacing(merged_path, self.digest) as temporary, gzip.open(temporary, "wb") as merged:
            for key in wanted:
                path, offset = where[key]
                files[path].seek(offset)
                merged.write(files[path].readline())
        for file in files.values():
            file.close()


def merge_results(output_dir: str | Path, stage: str, results: dict, owner: str | None = None) -> None:
    """Put the results of a stage into all_results.json: those of the stage before it go, other stages' stay.

    Args:
        stage: "train", "eval" or "predict", with which the stage's own keys begin.
        owner: as of `replacing`.
    """
    path = Path(output_dir) / "all_results.json"
    try:
        held = read_json(path) if path.is_file() else {}
    except ValueError:
        held = None  # somebody else's half-written file
    held = held if isinstance(held, dict) else {}
    kept = {name: value for name, value in held.items() if not name.startswith(f"{stage}_")}
    if stage == "eval":
        kept = {name: value for name, value in kept.items() if not name.startswith("time_")}
    # Where two stages were decoded, time_* and environment are those of the evaluation.
    evaluated = stage == "predict" and any(name.startswith("eval_") for name in kept)
    write_json(path, {**kept, **results, **kept} if evaluated else {**kept, **results}, owner)


def slug(text: str) -> str:
    """`text` as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:80]


def digest(value: Any) -> str:
    """8 hexadecimal digits that stand for a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def drop_torn_line(path: Path) -> None:
    """Cut off what follows the last newline of a file."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n") + 1)


def _details_of(line: bytes) -> dict[str, list[int]] | None:
    """Of a batch's line: kind -> where its details end and their checksum; None where it is no whole line of a run."""
    try:
        details = json.loads(line)["details"]
    except (ValueError, KeyError, TypeError):
        return None
    known = isinstance(details, dict) and set(details) <= set(DETAILS)
    return details if known and line.endswith(b"\n") else None


def _is_next(part: IO[bytes], end: int, checksum: int) -> bool:
    """Whether what follows in a part, up to `end`, is whole; it is read."""
    data = part.read(end - part.tell()) if end > part.tell() else b""
    return part.tell() == end and zlib.crc32(data) == checksum


def _cut(path: Path, size: int) -> None:
    """Leave the first `size` bytes of a file; none is no file."""
    if not size:
        path.unlink()
        return
    with path.open("r+b") as file:
        file.truncate(size)


def fingerprint_model(folder: str | Path) -> str:
    """What stands for the content of a checkpoint, a folder or a GGUF file: another value for other weights or another
    config; of adapters, for another model of theirs too.

    Files of weights above 64 MB are read 4 KB in every MB, so a checkpoint of gigabytes takes a second.
    """
    hashed = hashlib.sha256()
    folder = Path(folder)
    for path in [folder] if folder.is_file() else sorted(folder.iterdir()):
        if path.suffix in WEIGHTS and path.name != "training_args.bin":
            hashed.update(f"{path.name} {path.stat().st_size}".encode())
            _hash_weights(hashed, path)
        elif path.name in ("config.json", "generation_config.json", ADAPTERS):
            hashed.update(path.read_bytes())
    if (folder / ADAPTERS).is_file():
        base = Path(read_json(folder / ADAPTERS)["base_model_name_or_path"])
        hashed.update(fingerprint_model(base).encode() if base.exists() else b"")
    return hashed.hexdigest()[:16]


def named_file(path: str | Path) -> str:
    """A file of weights as settings of runs have it: its name, and what stands for its content."""
    hashed = hashlib.sha256()
    _hash_weights(hashed, Path(path))
    return f"{Path(path).stem}-{hashed.hexdigest()[:8]}"


def _hash_weights(hashed: Any, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_UP_TO:
            hashed.update(file.read())
            return
        for start in range(0, size, SAMPLED_EVERY):
            file.seek(start)
            hashed.update(file.read(SAMPLED))


def _lines_with_offsets(path: Path) -> Iterator[tuple[int, bytes]]:
    offset = 0
    with path.open("rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)
