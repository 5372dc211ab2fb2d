"""Where a training starts: from the model, from a checkpoint of an interrupted start, or nowhere since it is done."""

import logging
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerState

from training.checkpoints import STATE, clear_aside, defect, last_whole, model_defect
from util.files import read_json

logger = logging.getLogger(__name__)

SETTINGS = "training_settings.json"


@dataclass(frozen=True)
class Start:
    """`checkpoint` to continue from, or None for the beginning; `complete`: there is nothing left to train."""

    checkpoint: str | None = None
    complete: bool = False


def find_start(args, settings: dict) -> Start:
    """What --resume_from_checkpoint, --overwrite_output_dir and the checkpoints in output_dir come to, of which those
    that are not whole are passed over. What a killed training left aside there is removed.

    Args:
        args: the training arguments.
        settings: what decides that two trainings are one; it was written to `SETTINGS` when the earlier one began.

    Raises:
        ValueError: the named checkpoint is none, or those in output_dir are of a training with other settings.
    """
    folder, named = Path(args.output_dir), str(args.resume_from_checkpoint)
    clear_aside(folder)
    if named.lower() not in ("none", "true", "false"):
        _refuse_defect(named, not args.save_only_model)
        return Start(named)
    anew = named.lower() == "false" or (args.overwrite_output_dir and named.lower() != "true")
    checkpoint = None if anew else last_whole(folder, not args.save_only_model)
    if checkpoint is None:
        return Start()
    _refuse_other_settings(folder, settings)
    return Start(str(checkpoint), _is_complete(folder, checkpoint, args))


def _refuse_defect(checkpoint: str, with_optimizer: bool) -> None:
    problem = defect(checkpoint, with_optimizer) if Path(checkpoint).is_dir() else "there is no such folder"
    if problem is not None:
        raise ValueError(f"{checkpoint} is no checkpoint that training could continue from: {problem}.")


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


def _is_complete(folder: Path, checkpoint: Path, args) -> bool:
    """Whether the earlier training came to its end, which is at least the end asked for now, and saved its model whole;
    its results, written last, are those of that end."""
    try:
        reached = TrainerState.load_from_json(str(folder / STATE))
        results = read_json(folder / "train_results.json")
    except (ValueError, TypeError, OSError):
        return False
    if not isinstance(results, dict) or results.get("epoch") != reached.epoch or model_defect(folder):
        return False
    if reached.global_step < TrainerState.load_from_json(str(checkpoint / STATE)).global_step:
        return False
    if args.max_steps > 0:
        return reached.global_step >= args.max_steps
    return (reached.epoch or 0) >= args.num_train_epochs
