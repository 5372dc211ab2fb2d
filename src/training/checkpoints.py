"""Checkpoints of a training: when one is whole, which was the last, and how one comes to its name and goes.

A folder named checkpoint-<step> is put there by one renaming, after it was written aside and its files are on the disk;
what it holds is noted in it. Checkpoints that the library alone wrote carry no such note: what cannot be read in them
to its end, or is not there, tells.
"""

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import sort_checkpoints

from util.files import read_json, sync, sync_folder, write_json

logger = logging.getLogger(__name__)

# Where a folder of checkpoints has what is being written or removed; a training that begins clears it.
ASIDE = ".saving"
# Of a checkpoint: the size of every other file in it.
SIZES = "saved_files.json"
STATE = "trainer_state.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_STEMS = {name.split(".")[0] for name in WEIGHTS}
SHARD = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
OF_WEIGHTS = re.compile(rf"{SHARD.pattern}|adapter_(model|config)\..+")
NAME = re.compile(r"checkpoint-(\d+)")


# ------------------------------------------------------------------------------------------------------------ wholeness
def last_whole(folder: str | Path, with_optimizer: bool = True) -> Path | None:
    """The checkpoint of most steps in a folder that training can continue from; a warning for each passed over.

    Args:
        with_optimizer: as of `defect`.
    """
    found = [path for path in Path(folder).glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]
    for path in sorted(found, key=lambda path: int(NAME.fullmatch(path.name)[1]), reverse=True):
        problem = defect(path, with_optimizer)
        if problem is None:
            return path
        logger.warning("%s is passed over: %s.", path, problem)
    return None


def defect(checkpoint: str | Path, with_optimizer: bool = True) -> str | None:
    """Why training cannot continue from a folder, in a few words; None where it can.

    Args:
        with_optimizer: whether the state of optimiser, schedule and random numbers has to be there, which it is not
            with --save_only_model.
    """
    folder = Path(checkpoint)
    needed = [STATE]
    if with_optimizer and not _sharded(folder):
        needed += ["optimizer.pt", "scheduler.pt", "rng_state*.pth"]
    missing = [name for name in needed if not any(folder.glob(name))]
    if missing:
        return f"it has no {missing[0]}"
    return model_defect(folder)


def model_defect(folder: str | Path) -> str | None:
    """The same of a model and the files beside it: its weights are there, and every file is whole."""
    folder = Path(folder)
    sizes = _noted_sizes(folder)
    if sizes is None:
        return f"its {SIZES} cannot be read"
    wrong = next((name for name, size in sizes.items() if _size(folder / name) != size), None)
    if wrong is not None:
        return f"its {wrong} is not as it was saved"
    held = sorted(path for path in folder.iterdir() if path.is_file())
    torn = next((path.name for path in held if not WHOLE.get(path.suffix, Path.exists)(path)), None)
    if torn is not None:
        return f"its {torn} is not whole"
    return None if _sharded(folder) else _missing_weights(folder)


def _missing_weights(folder: Path) -> str | None:
    if any((folder / name).is_file() for name in WEIGHTS):
        return None
    indices = [folder / name for name in INDICES if (folder / name).is_file()]
    if not indices:
        return "it has no weights"
    shards = sorted(set(read_json(indices[0]).get("weight_map", {}).values())) or ["weights"]
    absent = [name for name in shards if not (folder / name).is_file()]
    return f"it has no {absent[0]}" if absent else None


def _sharded(folder: Path) -> bool:
    """Whether DeepSpeed or FSDP wrote it: weights and optimiser are in folders and files of their own."""
    return any(any(folder.glob(pattern)) for pattern in ("global_step*", "pytorch_model_fsdp*"))


def _noted_sizes(folder: Path) -> dict[str, int] | None:
    """The sizes that were noted, none in a checkpoint of others; None where the note is torn."""
    if not (folder / SIZES).is_file():
        return {}
    try:
        return dict(read_json(folder / SIZES))
    except (ValueError, TypeError):
        return None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _is_safetensors(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):  # compares the size of the file with what its head says
            return True
    except SafetensorError:
        return False


def _is_archive(path: Path) -> bool:
    """Whether it is a file of torch.save, whose directory stands at its end."""
    try:
        with zipfile.ZipFile(path):
            return True
    except zipfile.BadZipFile:
        return False


# Ending of a file -> whether such a file is whole.
WHOLE: dict[str, Callable[[Path], bool]] = {
    ".json": _is_json,
    ".safetensors": _is_safetensors,
    **dict.fromkeys((".bin", ".pt", ".pth"), _is_archive),
}


# -------------------------------------------------------------------------------------------------------------- writing
def put_in_place(aside: Path, named: Path) -> None:
    """Give a checkpoint that was written aside its name; one that had it before goes."""
    files = [path for path in aside.rglob("*") if path.is_file()]
    for path in files:
        sync(path)
    write_json(aside / SIZES, {path.relative_to(aside).as_posix(): path.stat().st_size for path in sorted(files)})
    if named.exists():
        remove(named)
    aside.rename(named)
    sync_folder(named.parent)


def drop_old(folder: Path, limit: int | None, kept: set[str]) -> None:
    """Leave `limit` checkpoints of a folder, the newest and those in `kept`; None leaves all of them."""
    named = sort_checkpoints(str(folder), use_mtime=True)
    superfluous = len(named) - max(limit if limit and limit > 0 else len(named), len(kept))
    for checkpoint in [each for each in named if each not in kept][: max(0, superfluous)]:
        remove(Path(checkpoint))


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, which loses its name first: none is ever half there."""
    gone = checkpoint.parent / ASIDE / f"removed-{checkpoint.name}"
    shutil.rmtree(gone, ignore_errors=True)
    gone.parent.mkdir(exist_ok=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def clear_aside(folder: str | Path) -> None:
    """Remove what was written aside and never put in place."""
    shutil.rmtree(Path(folder) / ASIDE, ignore_errors=True)


def move_in(aside: Path, folder: Path) -> None:
    """Put the files of a model that was written aside into a folder, each whole, its weights last: a model without
    weights is none. Weights that were there under other names go."""
    files = sorted(aside.iterdir(), key=lambda path: (path.name.split(".")[0] in WEIGHT_STEMS, path.name))
    for path in files:
        sync(path)
        path.replace(folder / path.name)
    new = {path.name for path in files}
    if any(SHARD.fullmatch(name) for name in new):  # adapters leave a whole model alone
        for path in [path for path in folder.iterdir() if OF_WEIGHTS.fullmatch(path.name) and path.name not in new]:
            path.unlink()
    sync_folder(folder)
