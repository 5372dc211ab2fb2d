"""The file generate.py writes: a JSON line per prompt, batch by batch; the same command goes on where it was killed."""

import os
from collections.abc import Sequence
from pathlib import Path

from util.files import append_jsonl, locked, read_jsonl, sync
from util.runs import digest, drop_torn_line

BEGINNING = b'{"prompt": "'


class OutputLines:
    """The lines of a command's prompts, in their order; of a command that was killed, those of whole batches.

    Args:
        settings: everything that shapes a line beside its prompt; what stands for it is in every line.
        size: prompts of a batch.

    Attributes:
        rows: the lines that were there.

    Raises:
        ValueError: the file holds other things than lines of this command, or another process is writing it.
    """

    def __init__(self, path: str | Path, prompts: Sequence[str], settings: dict, size: int):
        self.path, self.settings = Path(path), digest(settings)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.path)
        if self._lock is None:
            raise ValueError(f"Another process is writing {self.path}: wait for it, or give another --out.")
        self._drop_torn()
        self.rows = read_jsonl(self.path)
        for number, row in enumerate(self.rows):
            if number >= len(prompts) or (row.get("prompt"), row.get("settings")) != (prompts[number], self.settings):
                raise self._refusal(f"line {number + 1} is not of this command")
        if len(self.rows) < len(prompts):
            self._keep(len(self.rows) // size * size)

    def append(self, rows: Sequence[dict]) -> None:
        """Record the lines of a batch, which are on the disk then."""
        append_jsonl(self.path, [{**row, "settings": self.settings} for row in rows])
        sync(self.path)

    def close(self) -> None:
        """Let other processes at the file."""
        self._lock.close()

    def _drop_torn(self) -> None:
        last = self.path.read_bytes().rpartition(b"\n")[2]
        if not (last.startswith(BEGINNING) or BEGINNING.startswith(last)):
            raise self._refusal("it does not end in a line of this script")
        drop_torn_line(self.path)

    def _keep(self, count: int) -> None:
        with self.path.open("rb") as file:
            size = sum(len(file.readline()) for _ in range(count))
        os.truncate(self.path, size)
        del self.rows[count:]

    def _refusal(self, reason: str) -> ValueError:
        self.close()
        return ValueError(
            f"{self.path} is not added to, since {reason} (a line names its prompt and stands for the model, the "
            "policy, the strategy and its settings): give another --out, or remove the file."
        )
