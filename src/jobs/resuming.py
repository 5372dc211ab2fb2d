"""Where a training starts: from the model, from a checkpoint of an interrupted start, or nowhere since it is done."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from util.files import read_json

logger = logging.getLogger(__name__)

SETTINGS = "training_settings.json"


@dataclass(frozen=True)
class Start:
    """`checkpoint` to continue from, or None for the beginning; `complete`: there is nothing left to train."""

    checkpoint: str | None = None
    complete: bool = False


def find_start(args, settings: dict) -> Start:
    """What --resume_from_checkpoint, --overwrite_output_dir and the checkpoints in output_dir come to.

    Args:
        args: the training arguments.
        settings: what decides that two trainings are one; it was written to `SETTINGS` when the earlier one began.

    Raises:
        ValueError: the named checkpoint is none, or those in output_dir are of a training with other settings.
    """
    folder, named = Path(args.output_dir), str(args.resume_from_checkpoint)
    if named.lower() not in ("none", "true", "false"):
        state_of(named)
        return Start(named)
    anew = named.lower() == "false" or (args.overwrite_output_dir and named.lower() != "true")
    checkpoint = None if anew or not os.path.isdir(folder) else get_last_checkpoint(folder)
    if checkpoint is None:
        return Start()
    _refuse_other_settings(folder, settings)
    return Start(checkpoint, _is_complete(folder, checkpoint, args))


def state_of(checkpoint: str | Path) -> TrainerState:
    """The state of training in a checkpoint of the Trainer.

    Raises:
        ValueError: it is none.
    """
    path = Path(checkpoint) / "trainer_state.json"
    if not path.is_file():
        raise ValueError(f"{checkpoint} is no checkpoint that training could continue from: it has no {path.name}.")
    return TrainerState.load_from_json(str(path))


def _refuse_other_settings(folder: Path, settings: dict) -> None:
    path = folder / SETTINGS
    held = read_json(path) if path.is_file() else settings
    changed = [
        f"{name} was {held.get(name)}, is {value}" for name, value in settings.items() if held.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"The checkpoints in {folder} are of a training with other settings ({'; '.join(changed)}): give another "
            "--output_dir, or --overwrite_output_dir to start over."
        )


def _is_complete(folder: Path, checkpoint: str, args) -> bool:
    """Whether the earlier training came to its end, which is at least the end asked for now, and saved its model."""
    state = folder / "trainer_state.json"
    if not state.is_file() or not (folder / "train_results.json").is_file():
        return False
    reached = state_of(folder)
    if reached.global_step < state_of(checkpoint).global_step:
        return False
    if args.max_steps > 0:
        return reached.global_step >= args.max_steps
    return (reached.epoch or 0) >= args.num_train_epochs
