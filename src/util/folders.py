"""Folders that are there whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from util.files import sync, sync_folder


@contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, whose `made` is renamed to it when the block ends well; what else is in
    it goes.

    Whoever reads `path` meanwhile sees no folder, never a part of one. What a killed process left is cleared away.

    Raises:
        ValueError: `path` is there already, or another process makes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.unfinished")
    with _alone_in(path.parent):
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise ValueError(f"{path} is there already: give a folder that is not.")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            (temporary / "made").mkdir(parents=True)
            yield temporary
            for file in (temporary / "made").iterdir():
                sync(file)
            sync_folder(temporary / "made")
            os.replace(temporary / "made", path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other process is here at the same moment; the lock goes with the process, however that ends."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"Another process makes a folder in {folder}: wait until it is done.") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        with suppress(OSError):
            os.close(opened)
